"""What passes between the worker and the other threads: a wake-up and commands one way, its state the other.

The worker waits in `LoopWaker.wait`. Any other thread gives a command by setting a plain attribute and then waking it,
so that neither needs a lock. What the worker reports is read without a lock, too; `WorkerState.wait_for` is for threads
that wait until it changes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from autopack._util import os_threads
from autopack.telemetry.counters import AtomicCounter

if TYPE_CHECKING:
    import asyncio

    import anyio


class LoopWaker:
    """Wakes one event loop from any thread. Wake-ups before the loop waits again count as one.

    `wake` takes no lock and is safe in a signal handler. It costs a system call, so the call site wakes for a full
    batch only. `attach` and `wait` belong to the loop and import what they need: an instance that never starts its
    thread imports nothing.
    """

    def __init__(self) -> None:
        self._woken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: anyio.Event | None = None

    def attach(self) -> None:
        """Wake the running loop from now on."""
        import asyncio

        import anyio

        self._event = anyio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Wake the loop now, or at once when it next waits."""
        self._woken = True
        if (loop := self._loop) is not None:
            # RuntimeError: the loop is closed. The worker has ended, and every thread that waits has a deadline.
            with contextlib.suppress(RuntimeError, MemoryError):  # the latter: it looks by itself twice a second
                loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if self._event is not None:
            self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when `wake` is called, or was called since the last `wait`, or after the timeout."""
        import anyio

        if not self._woken and self._event is not None:
            with anyio.move_on_after(timeout_s):
                await self._event.wait()
        self._woken = False
        self._event = anyio.Event()


class WorkerCommands:
    """What other threads ask of the worker. Plain attributes, so that giving a command takes no lock."""

    def __init__(self) -> None:
        self.waker = LoopWaker()
        self.flush_through = 0
        self.deadline_s: float | None = None  # on the monotonic clock; once set: drain, then stop
        self._may_shorten = False  # the deadline is that of the settings, and counts from when the worker is loaded
        self.fork_expected = False

    @property
    def closing(self) -> bool:
        """Whether the worker is to drain and stop."""
        return self.deadline_s is not None

    def seconds_left(self) -> float:
        """Until the deadline of a close; 0 when it has passed, or where no close was commanded."""
        return 0.0 if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())

    def flush(self, through: int) -> None:
        """Write at once what is waiting, up to the event of this number."""
        self.flush_through = max(self.flush_through, through)
        self.waker.wake()

    def close(self, timeout_s: float, *, until_loaded: bool = False) -> None:
        """Drain, then stop, within this many seconds. until_loaded: `shorten_close` will follow."""
        self._may_shorten = until_loaded
        self.deadline_s = time.monotonic() + timeout_s
        self.waker.wake()

    def shorten_close(self, timeout_s: float) -> None:
        """Where a close was commanded that is to be shortened: end it at most this many seconds from now."""
        if self.deadline_s is not None and self._may_shorten:
            self.deadline_s = min(self.deadline_s, time.monotonic() + timeout_s)

    def expect_fork(self) -> None:
        """Close the connections and end, whatever is unsettled."""
        self.fork_expected = True
        self.waker.wake()

    def forget_fork(self) -> None:
        """The end of `expect_fork`."""
        self.fork_expected = False


class WorkerState:
    """What the worker reports: counters, the last error, and when it has settled events or has ended."""

    def __init__(self) -> None:
        self.retries = AtomicCounter()
        self.restarts = AtomicCounter()
        self.waiting_letters = 0
        self.last_error: str | None = None
        self.running = False
        self.loaded = False  # all that the worker imports
        self._changes = os_threads.Changes()

    def announce(self) -> None:
        """Wake the threads that wait for a change."""
        self._changes.announce()

    def pause(self, timeout_s: float) -> None:
        """Wait until the worker runs, at most so long. A greenlet that waits lets the others run."""
        wait_for = os_threads.poll if os_threads.threads_are_patched() else self._changes.wait_for
        wait_for(lambda: self.running, timeout_s)

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the predicate holds, at most `timeout_s`; returns whether it does. A dead worker ends the wait.

        A greenlet that waits lets the others run.
        """
        wait_for = os_threads.poll if os_threads.threads_are_patched() else self._changes.wait_for
        wait_for(lambda: predicate() or not self.running, timeout_s)
        return predicate()

    def wait_in_thread(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the predicate holds, at most `timeout_s`; returns whether it does. No greenlet runs meanwhile."""
        return self._changes.wait_for(predicate, timeout_s)
