"""What passes between the worker and the other threads: orders one way, progress the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from autopack.telemetry.counters import AtomicCounter
from autopack.telemetry.engine.wakeup import Bell

_SLICE_S = 0.25  # of a wait: an announcement that could not be made is missed for no longer
_PATIENCE_S = 0.05


class Lockable(Protocol):
    """A lock, or a condition."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it."""

    def release(self) -> None:
        """Give it back."""


@contextmanager
def politely(lock: Lockable) -> Iterator[bool]:
    """Hold a lock if it is to be had within a moment, else go on without it; yields whether it is held.

    For what stays right without the lock, and only looks more consistent with it. Who holds it may be a thread that was
    interrupted, by a signal handler or by the collector running a `__del__`, which now waits for us in turn.
    """
    held = lock.acquire(timeout=_PATIENCE_S)
    try:
        yield held
    finally:
        if held:
            lock.release()


class Orders:
    """What other threads ask of the worker. Plain attributes, so that giving an order takes no lock."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.flush_through = 0
        self.deadline_s: float | None = None  # on the monotonic clock; once set: drain, then stop
        self.pausing = threading.Event()
        self.paused = threading.Event()

    @property
    def closing(self) -> bool:
        """Whether the worker is to drain and stop."""
        return self.deadline_s is not None

    def seconds_left(self) -> float:
        """Until the deadline of a close; 0 when it is over, or where none was ordered."""
        return 0.0 if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())

    def flush(self, through: int) -> None:
        """Write at once what is waiting, up to the event of this number."""
        self.flush_through = max(self.flush_through, through)
        self.bell.ring()

    def close(self, timeout_s: float) -> None:
        """Drain, then stop, within so many seconds."""
        self.deadline_s = time.monotonic() + timeout_s
        self.bell.ring()


class Progress:
    """What the worker tells: counters, the last error, and when something was settled or it has ended.

    `changed` is re-entrant: a signal handler may call `flush()` or `close()` while it interrupts one of them.
    """

    def __init__(self) -> None:
        self.retries = AtomicCounter()
        self.restarts = AtomicCounter()
        self.dead_letters_lost = AtomicCounter()
        self.last_error: str | None = None
        self.running = False
        self.changed = threading.Condition(threading.RLock())

    def announce(self) -> None:
        """Wake those who wait for a change."""
        with politely(self.changed) as held:
            if held:
                self.changed.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the predicate holds, at most so long; returns whether it does. A dead worker ends the wait."""
        end_s = time.monotonic() + min(timeout_s, threading.TIMEOUT_MAX)
        while not predicate() and self.running and (left_s := end_s - time.monotonic()) > 0:
            with politely(self.changed) as held:
                if held:
                    self.changed.wait_for(lambda: predicate() or not self.running, min(left_s, _SLICE_S))
        return predicate()
