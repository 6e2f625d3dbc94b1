"""The background writer as other threads see it: started once, flushed, closed, brought to rest for a fork.

# States

open → closing → closed. Closing accepts nothing more; then the worker drains until the deadline. What is appended by a
call that was admitted before counts as accepted, and as pending if it is not written any more.

# The deadline

A timeout that the caller or a setting gives bounds the whole close. The default one is meant for the database, not for
a machine that is so busy that the worker is still importing its libraries: it begins to count when these are loaded. A
close with the default ends after `load_timeout_s` at the latest, and says that it waits once the usual time is over.

# The thread

It is a daemon, so that the interpreter never waits for it without a deadline; `lifecycle` closes every live writer at
exit. It starts with the first event. Where no thread can be started (the process is at its limit, or exits), an event
tries again after a pause, a flush at once, and `close` writes what there is in the thread that calls it.

A worker that dies of a bug is replaced by another one in the same thread, after a random pause that grows.

Before a fork the thread ends. Afterwards the next event starts another one, or the fork itself where events are
unsettled; until then `state.running` stays true for the threads that wait for the worker. Which of two threads goes on
(the one that forked, or the worker's own where the fork did not wait for it to end) is decided by one `list.pop`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from autopack._util import os_threads
from autopack.telemetry import lifecycle, log
from autopack.telemetry.counters import Drops, has_gil
from autopack.telemetry.engine.control import WorkerCommands, WorkerState
from autopack.telemetry.engine.dead_letters import DeadLetterFile, DeadLetterSink, MemoryDeadLetters
from autopack.telemetry.engine.journal_queue import JournalQueue
from autopack.telemetry.engine.queue import MemoryQueue, Queue
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal.journal import fingerprint_of
from autopack.telemetry.stores.base import Store

if TYPE_CHECKING:
    from autopack.telemetry.engine.worker import Worker

_THREAD_NAME = "autopack-telemetry"
_THREAD_END_S = 0.25  # of a thread that has nothing more to do
_GRACE_S = 0.5  # after the deadline, for the worker to notice it and to close its connection
_MAX_RESTART_DELAY_S = 30.0
_CLOSING_DELAY_S = 0.25
_START_PAUSE_S = 0.25  # between tries to start the thread: each costs a failing system call


class Writer:
    """Queue, worker and thread of one `Telemetry`; a forked child gets another one."""

    def __init__(self, store: Store, settings: Settings, journal_folder: Path | None) -> None:
        self.queue = _make_queue(store, settings, journal_folder)
        self.state = WorkerState()
        self.drops = Drops()
        self.dead_letters: DeadLetterSink = (
            MemoryDeadLetters()
            if store.telemetry_dir is None
            else DeadLetterFile(store.telemetry_dir, max_bytes=settings.dead_letter_bytes)
        )
        self._store = store
        self._settings = settings
        self._commands = WorkerCommands()
        self._working = os_threads.Lock()
        self._close_may_work = True  # itself, in its own thread: no worker has begun, and no close has ended
        self._thread: os_threads.Thread | None = None  # the last one
        self._working_ident: int | None = None  # of the thread that works now
        self._worker: Worker | None = None
        self._ended_for_fork: list[bool] = []  # not empty from the end of the thread until it is decided how to go on
        self._store_is_open = False  # and no worker is there to close it
        self._may_start_s = 0.0  # on the monotonic clock: when the next event may try to start the thread
        self._close_once = os_threads.Lock()
        self._report_once = os_threads.Lock()

    def wake(self) -> None:
        """There is a batch to write. Called from the hot path: never waits, never raises."""
        if self.state.running:
            self.queue.clear_wake_threshold()
            self._commands.waker.wake()
        else:
            self.ensure_thread()

    def ensure_thread(self) -> None:
        """Start the thread if there is none, unless that failed less than 0.25 s ago: then the next event asks again.

        Called from the hot path, also for an event that a full queue refuses. Never waits, never raises.
        """
        if self.state.running or self.closing:
            return
        if time.monotonic() < self._may_start_s or lifecycle.is_about_to_fork():
            lifecycle.warn_where_threads_stand_still()
            self.queue.set_wake_threshold(1)
        else:
            self._start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that is accepted now is settled; returns whether it is."""
        target = self.queue.accepted_through
        if self._settled(target) or self._runs_here():
            return self._settled(target)
        end_s = time.monotonic() + timeout_s
        for _ in range(2):  # the thread may be about to end for a fork
            if not (self.state.running or self.closing):
                self._start()
            self._commands.flush(target)
            if self.state.wait_for(lambda: self._settled(target), end_s - time.monotonic()):
                return True
        return False

    def begin_close(self, timeout_s: float | None = None) -> None:
        """Accept nothing more and ask the worker to drain and stop. Does not wait; only the first call counts.

        timeout_s None: that of the settings, which begins to count when the worker is loaded.
        """
        if self._close_once.acquire(blocking=False):
            self.queue.close_to_new()
            self._commands.close(self._longest_close_s if timeout_s is None else timeout_s)
            if timeout_s is None and self.state.loaded:
                self._commands.shorten_close(self._settings.shutdown_timeout_s)
            self.state.announce()

    def close(self, timeout_s: float | None = None) -> None:
        """Close, and wait for it, at most to the deadline of the first call, and at most so long."""
        longest_s = self._longest_close_s if timeout_s is None else timeout_s
        end_s = time.monotonic() + longest_s + _GRACE_S
        self.begin_close(timeout_s)
        if self._runs_here():
            return
        for _ in range(2):  # a thread that was begun may turn out, meanwhile, not to have been startable
            if not self.state.running and not self._end_without_thread():
                return
            if timeout_s is None:
                self._wait_until_loaded()
            left_s = min(end_s - time.monotonic(), self._commands.seconds_left() + _GRACE_S)
            self.state.wait_for(lambda: not self.state.running, max(0.0, left_s))
        if not self.state.running:
            self.queue.close()
            self._close_may_work = False  # what is left now is left to the next process
            if self._thread is not None and not self._runs_here():
                lifecycle.join_until_gone(self._thread, _THREAD_END_S)  # a fork may follow
        if self._report_once.acquire(blocking=False):
            lifecycle.live.discard(self)
            self._report()

    def _wait_until_loaded(self) -> None:
        """Where the worker is still importing, wait for that; say so once the usual time of a close is over."""

        def is_over() -> bool:
            return self.state.loaded or not self.state.running

        usual_s = min(self._settings.shutdown_timeout_s, self._commands.seconds_left())
        if not self.state.wait_for(is_over, usual_s) and (left_s := self._commands.seconds_left()):
            text = waiting_text(self.queue.account().pending, left_s, self.queue.durable_path)
            log.warning("The telemetry writer is still loading: %s", text)
            self.state.wait_for(is_over, left_s)

    def _end_without_thread(self) -> bool:
        """Where events have come and no thread could be started, as at the interpreter's exit: work here.

        Returns False where that has to wait for the close at exit, since an event loop runs in this thread.
        """
        has_events = self.queue.backlog or self.queue.has_in_progress_appends
        if not self._close_may_work or not (has_events or self._store_is_open):
            return True
        if _loop_runs_here():
            return False
        self._work(None)
        return True

    @property
    def _longest_close_s(self) -> float:
        """How long a close without a timeout of its own waits, in all."""
        return max(self._settings.shutdown_timeout_s, self._settings.load_timeout_s)

    @property
    def closing(self) -> bool:
        """Whether a close has begun."""
        return self._close_once.locked()

    @property
    def close_seconds_left(self) -> float:
        """Until the deadline of the close; 0 where none has begun."""
        return self._commands.seconds_left()

    def begin_prepare_fork(self) -> None:
        """Ask the worker to close its connections and to end."""
        self._commands.expect_fork()

    def prepare_fork(self, timeout_s: float) -> bool:
        """Wait until the worker and the queue are at rest; False if they are not within the time."""
        until_s = time.monotonic() + timeout_s
        queue_rests = self.queue.prepare_fork(timeout_s)
        if not self.state.running or self._runs_here():
            return queue_rests
        self.state.wait_in_thread(
            lambda: bool(self._ended_for_fork) or not self.state.running, until_s - time.monotonic()
        )
        if self._ended_for_fork and self._thread is not None:
            lifecycle.join_until_gone(self._thread, min(_THREAD_END_S, until_s - time.monotonic()))
        return bool(self._ended_for_fork or not self.state.running) and queue_rests

    def resume_after_fork(self) -> None:
        """The end of `prepare_fork`."""
        self.queue.resume_after_fork()
        self._commands.forget_fork()
        self._go_on_after_fork()

    def _go_on_after_fork(self) -> None:
        """Start the thread again if there is something to do, else have the next event start it."""
        try:
            self._ended_for_fork.pop()
        except IndexError:
            return  # the thread goes on, there was none, or another caller was here first
        self._close_may_work = True
        if not self.closing and self._settled(self.queue.accepted_through):
            self.queue.set_wake_threshold(0)
            self._store_is_open = self._store.identity is None  # what is in memory only outlives its worker
            self.state.running = False
            # In this order: a call under way now has appended its event by the second look, or will wake for it.
            if not self.queue.has_in_progress_appends and self._settled(self.queue.accepted_through):
                return
        self._start()

    def reset_in_child(self) -> None:
        """Let go of what the parent shares with the child, which gets a writer of its own."""
        self.queue.reset_in_child()

    def _runs_here(self) -> bool:
        """Whether this is the worker's own thread."""
        return os_threads.get_ident() == self._working_ident

    def _settled(self, target: int) -> bool:
        return self.queue.settled_through >= target

    def _start(self) -> None:
        """Start the thread, by way of a bare one.

        `Thread.start` takes a lock of `threading` that is not re-entrant: a signal handler that records the first event
        while it interrupts another `Thread.start` would wait for itself. Two may be here at once, or one twice, when a
        signal handler raises out of it: the thread that comes second finds the first at work.
        """
        try:
            self.state.running = True
            lifecycle.live.add(self)
            lifecycle.close_with_the_process()
            lifecycle.warn_where_threads_stand_still()
            os_threads.start_new_thread(self._launch, ())
        except RuntimeError as exc:
            self._not_started(exc)
        except BaseException as exc:
            # A signal handler raises out of here. If the thread is on its way all the same, `_launch` says so.
            self._not_started(exc)
            raise

    def _launch(self) -> None:
        self.state.running = True
        try:
            os_threads.Thread(self._work, _THREAD_NAME).start()
        except RuntimeError as exc:
            self._not_started(exc)

    def _not_started(self, exc: BaseException) -> None:
        """No thread can be started now: the process is at its limit, or exits.

        An event after a pause tries again, a flush at once; else `close` will write what there is.
        """
        self.state.last_error = type(exc).__name__
        self.state.running = self._working.locked()
        self._may_start_s = time.monotonic() + _START_PAUSE_S
        self.queue.set_wake_threshold(1)
        self.state.announce()

    def _work(self, thread: os_threads.Thread | None) -> None:
        """thread: the one that this is, None if it is the caller's."""
        if not self._working.acquire(blocking=False):
            return  # begun twice: an exception of a signal handler came between the start and the note of it
        self._close_may_work = False
        self._store_is_open = False
        self._thread = thread
        self._working_ident = os_threads.get_ident()
        self.state.running = True
        ended_for_fork = False
        try:
            self._store.load()
            ended_for_fork = self._run_until_closed()
        except BaseException as exc:  # noqa: BLE001 (a daemon thread has no caller that would see it)
            self.state.last_error = type(exc).__name__
            stays_in = self.queue.durable_path or "memory until the process ends"
            log.exception("The telemetry writer ended; what is not written stays in %s", stays_in)
        finally:
            self._end(for_fork=ended_for_fork)

    def _end(self, *, for_fork: bool) -> None:
        if self._commands.closing and not for_fork:
            self.queue.close()
        self.state.running = for_fork
        self._working_ident = None
        self._working.release()
        if for_fork:
            self._ended_for_fork.append(True)
            if not self._commands.fork_expected:  # the fork did not wait, and is over
                self._go_on_after_fork()
        self.state.announce()

    def _run_until_closed(self) -> bool:
        """Run workers until one ends; returns whether it only ended for a fork."""
        import anyio

        from autopack.telemetry.engine.loop import make_loop

        while True:
            try:
                self._worker = self._worker or self._make_worker()
                return not anyio.run(self._worker.run, backend_options={"loop_factory": make_loop})
            except Exception as exc:  # noqa: BLE001 (a bug of the worker must not end the recording)
                self._worker = None
                self.state.restarts.add()
                self.state.last_error = type(exc).__name__
                log.exception("The telemetry writer died of a bug and starts again")
                self._wait_before_restart()
            if self._commands.closing and not self._commands.seconds_left():
                return False

    def _wait_before_restart(self) -> None:
        """Wait a random time that grows with the restarts; a command to close cuts it short."""
        import random

        limit_s = min(_MAX_RESTART_DELAY_S, 0.1 * 2 ** min(self.state.restarts.value, 16))
        if self._commands.closing:
            limit_s = min(limit_s, _CLOSING_DELAY_S, self._commands.seconds_left())
        was_closing = self._commands.closing
        self.state.wait_in_thread(
            lambda: self._commands.closing and not was_closing,
            random.uniform(0, limit_s),  # noqa: S311 (jitter, no secret)
        )

    def _make_worker(self) -> Worker:
        from autopack.telemetry.engine.worker import Worker

        return Worker(
            queue=self.queue,
            store=self._store,
            dead_letters=self.dead_letters,
            settings=self._settings,
            commands=self._commands,
            state=self.state,
        )

    def _report(self) -> None:
        """One line at the end, if there is anything that was not written."""
        account = self.queue.account()
        kept_in = self.queue.durable_path
        facts = {
            f"not written, {f'kept in {kept_in}' if kept_in else 'LOST with this process'}": account.pending,
            "in the dead letters": account.dead_lettered,
            "of the former refused, without room in the dead letters": self.state.waiting_letters,
            "damaged in the journal": account.damaged,
            **{f"dropped as {reason}": count for reason, count in self.drops.snapshot().items()},
        }
        said = ", ".join(f"{count} {fact}" for fact, count in facts.items() if count)
        if said:
            error = self.state.last_error
            log.warning("Closed; of %d accepted event(s): %s (last error: %s)", account.accepted, said, error)


def _make_queue(store: Store, settings: Settings, journal_folder: Path | None) -> Queue:
    if journal_folder is not None and store.identity is not None and has_gil():
        try:
            return JournalQueue(journal_folder, fingerprint_of(store.identity), settings)
        except OSError as exc:
            lifecycle.warn_once(f"No journal in {journal_folder} ({exc.strerror or exc}): events are in memory only")
    elif journal_folder is not None and not has_gil():
        lifecycle.warn_once("No journal on a Python without the GIL, which it relies on: events are in memory only")
    return MemoryQueue(settings.queue_size, settings.queue_bytes)


def waiting_text(events: int, left_s: float, durable_path: str | Path | None) -> str:
    """Say for what a program waits that wants to end, how long at most, and what a signal would do."""
    fate = "LOSES them" if durable_path is None else "leaves them in the journal, for the next run to write"
    return f"waiting up to {left_s:.0f} s for {events} event(s) to be written; Ctrl-C {fate}"


def _loop_runs_here() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
