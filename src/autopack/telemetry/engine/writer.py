"""The background writer as other threads see it: started once, flushed, closed, held still for a fork.

Its process is open → closing → closed. Closing lets nothing in any more, then the worker drains to the deadline; what
slips in between was accepted, and is counted as pending if it is not written any more. The thread is a daemon, so that
the interpreter never waits for it without a deadline; `process` closes every live writer at exit.
"""

from __future__ import annotations

import _thread
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from autopack.telemetry import lifecycle, log
from autopack.telemetry.counters import Drops
from autopack.telemetry.engine.control import Orders, Progress
from autopack.telemetry.engine.dead_letters import DeadLetterFile, DeadLetterSink, MemoryDeadLetters
from autopack.telemetry.engine.queue import Buffer, MemoryBuffer
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal.journal import Journal, fingerprint_of
from autopack.telemetry.stores.base import Store

if TYPE_CHECKING:
    from autopack.telemetry.engine.worker import Worker

_GRACE_S = 0.5  # after the deadline, for the worker to notice it and to close its connection
_MAX_RESTART_DELAY_S = 30.0
_CLOSING_DELAY_S = 0.25
_START_PAUSE_S = 0.25  # a thread that is refused costs a failing system call, which not every event shall pay for


class Writer:
    """Buffer, worker and thread of one `Telemetry`; a forked child gets another one."""

    def __init__(self, store: Store, settings: Settings, journal_folder: Path | None) -> None:
        self.buffer = self._make_buffer(store, settings, journal_folder)
        self.progress = Progress()
        self.drops = Drops()
        self.dead_letters: DeadLetterSink = (
            MemoryDeadLetters() if store.telemetry_dir is None else DeadLetterFile(store.telemetry_dir)
        )
        self._store = store
        self._settings = settings
        self._orders = Orders()
        self._working = threading.Lock()
        self._close_may_work = True  # itself, in its own thread: no worker has begun, and no close has ended
        self._thread_id: int | None = None
        self._may_start_s = 0.0  # on the monotonic clock: when the next event may try to start the thread
        self._close_once = threading.Lock()
        self._report_once = threading.Lock()

    def _make_buffer(self, store: Store, settings: Settings, journal_folder: Path | None) -> Buffer:
        if journal_folder is not None and store.identity is not None:
            try:
                return Journal(journal_folder, fingerprint_of(store.identity), settings, self.wake)
            except OSError as exc:
                lifecycle.warn_once(
                    f"No journal in {journal_folder} ({exc.strerror or exc}): events are in memory only"
                )
        return MemoryBuffer(settings.queue_size, settings.queue_bytes)

    def forget(self) -> None:
        """In a forked child: let go of what the parent shares with it."""
        self.buffer.forget()

    def wake(self) -> None:
        """There is a batch to write. Called from the hot path: never waits, never raises."""
        if self.progress.running:
            self.buffer.disarm()
            self._orders.bell.ring()
        else:
            self.ensure_thread()

    def ensure_thread(self) -> None:
        """Start the thread if there is none, unless that was refused a moment ago: then the next event asks again.

        Called from the hot path, also for an event that a full buffer refuses. Never waits, never raises.
        """
        if self.progress.running or self.closing:
            return
        if time.monotonic() < self._may_start_s:
            self.buffer.arm(1)
        else:
            self._start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that is accepted now is settled; returns whether it is."""
        target = self.buffer.accepted_here
        if self._settled(target) or threading.get_ident() == self._thread_id:
            return self._settled(target)
        if not (self.progress.running or self.closing):
            self._start()
        self._orders.flush(target)
        return self.progress.wait_for(lambda: self._settled(target), timeout_s)

    def begin_close(self, timeout_s: float) -> None:
        """Let nothing in any more and ask the worker to drain and stop. Does not wait; only the first call counts."""
        if self._close_once.acquire(blocking=False):
            self.buffer.refuse()
            self._orders.close(timeout_s)
            self.progress.announce()

    def close(self, timeout_s: float) -> None:
        """Close, and wait for it, at most to the deadline of the first call."""
        self.begin_close(timeout_s)
        if threading.get_ident() == self._thread_id:
            return
        end_s = time.monotonic() + self._orders.seconds_left() + _GRACE_S
        for _ in range(2):  # a thread that was begun may turn out, meanwhile, not to have been startable
            if not self.progress.running and not self._end_without_thread():
                return
            self.progress.wait_for(lambda: not self.progress.running, max(0.0, end_s - time.monotonic()))
        if not self.progress.running:
            self.buffer.close()
            self._close_may_work = False  # what is left now is left to the next process
        if self._report_once.acquire(blocking=False):
            lifecycle.live.discard(self)
            self._report()

    def _end_without_thread(self) -> bool:
        """Where events have come and no thread could be started, as at the interpreter's exit: work here.

        Returns False where that has to wait for the close at exit, since a loop runs in this thread.
        """
        if not self._close_may_work or not (self.buffer.backlog or self.buffer.has_stragglers):
            return True
        if _loop_runs_here():
            return False
        self._work()
        return True

    @property
    def shutdown_timeout_s(self) -> float:
        """How long a close waits where nobody says otherwise."""
        return self._settings.shutdown_timeout_s

    @property
    def closing(self) -> bool:
        """Whether a close has begun."""
        return self._close_once.locked()

    def hold_still(self) -> None:
        """Ask the worker to close its connections and wait, until `go_on`."""
        self._orders.pausing.set()
        self._orders.bell.ring()

    def is_still(self, timeout_s: float) -> bool:
        """Wait until the worker has done so; False if it has not within the time."""
        until_s = time.monotonic() + timeout_s
        is_held = self.buffer.hold(timeout_s)
        if not self.progress.running or threading.get_ident() == self._thread_id:
            return is_held
        return self._orders.paused.wait(max(0.0, until_s - time.monotonic())) and is_held

    def go_on(self) -> None:
        """The end of `hold_still`."""
        self.buffer.go_on()
        self._orders.pausing.clear()
        self._orders.bell.ring()

    def _settled(self, target: int) -> bool:
        return self.buffer.settled_through >= target

    def _start(self) -> None:
        """Start the thread, by way of a bare one.

        `Thread.start` takes a lock of `threading` that is not re-entrant: a signal handler that records the first event
        while it interrupts another `Thread.start` would wait for itself. Two may be here at once, or one twice, when a
        signal handler raises out of it: the thread that comes second finds the first at work.
        """
        try:
            self.progress.running = True
            lifecycle.live.add(self)
            lifecycle.close_with_multiprocessing()
            _thread.start_new_thread(self._launch, ())
        except RuntimeError as exc:
            self._not_started(exc)
        except BaseException as exc:
            # A signal handler raises out of here. If the thread is on its way all the same, `_launch` says so.
            self._not_started(exc)
            raise

    def _launch(self) -> None:
        self.progress.running = True
        try:
            threading.Thread(target=self._work, name="autopack-telemetry", daemon=True).start()
        except RuntimeError as exc:
            self._not_started(exc)

    def _not_started(self, exc: BaseException) -> None:
        """No thread can be started now: the process is at its limit, or exits.

        An event after a pause tries again, a flush at once; else `close` will write what there is.
        """
        self.progress.last_error = type(exc).__name__
        self.progress.running = self._working.locked()
        self._may_start_s = time.monotonic() + _START_PAUSE_S
        self.buffer.arm(1)
        self.progress.announce()

    def _work(self) -> None:
        if not self._working.acquire(blocking=False):
            return  # begun twice: an exception of a signal handler came between the thread and the note that it began
        self._close_may_work = False
        self._thread_id = threading.get_ident()
        self.progress.running = True
        try:
            self._store.load()
            self._run_until_closed()
        except BaseException as exc:  # noqa: BLE001 (nobody else would ever hear of it)
            self.progress.last_error = type(exc).__name__
            kept_in = self.buffer.kept_in or "memory until the process ends"
            log.exception("The telemetry writer ended; what is not written stays in %s", kept_in)
        finally:
            if self._orders.closing:
                self.buffer.close()
            self.progress.running = False
            self._thread_id = None
            self._working.release()
            self.progress.announce()

    def _run_until_closed(self) -> None:
        import anyio

        while True:
            try:
                anyio.run(self._make_worker().run)
            except Exception as exc:  # noqa: BLE001 (a bug of ours must not end the recording)
                self.progress.restarts.add()
                self.progress.last_error = type(exc).__name__
                log.exception("The telemetry writer died of a bug and starts again")
                self._wait_before_restart()
            else:
                return
            if self._orders.closing and not self._orders.seconds_left():
                return

    def _wait_before_restart(self) -> None:
        """Wait a random time that grows with the restarts; an order to close cuts it short."""
        import random

        limit_s = min(_MAX_RESTART_DELAY_S, 0.1 * 2 ** min(self.progress.restarts.value, 16))
        if self._orders.closing:
            limit_s = min(limit_s, _CLOSING_DELAY_S, self._orders.seconds_left())
        was_closing = self._orders.closing
        with self.progress.changed:
            self.progress.changed.wait_for(
                lambda: self._orders.closing and not was_closing,
                random.uniform(0, limit_s),  # noqa: S311 (jitter, no secret)
            )

    def _make_worker(self) -> Worker:
        from autopack.telemetry.engine.worker import Worker

        return Worker(
            buffer=self.buffer,
            store=self._store,
            dead_letters=self.dead_letters,
            settings=self._settings,
            orders=self._orders,
            progress=self.progress,
        )

    def _report(self) -> None:
        """One line at the end, if there is anything that did not go as it should."""
        account = self.buffer.account()
        kept_in = self.buffer.kept_in
        facts = {
            f"not written, {f'kept in {kept_in}' if kept_in else 'LOST with this process'}": account.pending,
            "in the dead letters": account.dead_lettered,
            "of these without a place in the file": self.progress.dead_letters_lost.value,
            "damaged in the journal": account.damaged,
            **{f"dropped as {reason}": count for reason, count in self.drops.snapshot().items()},
        }
        said = ", ".join(f"{count} {fact}" for fact, count in facts.items() if count)
        if said:
            error = self.progress.last_error
            log.warning("Closed; of %d accepted event(s): %s (last error: %s)", account.accepted, said, error)


def _loop_runs_here() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
