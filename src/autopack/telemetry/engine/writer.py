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
exit. It starts with the first event.

# Nothing that fails at the start fails for good

| what cannot be had now | until it can |
|---|---|
| a segment of the journal (disk, inodes, descriptors, rights) | `record()` says False, and tries again after 0.25 s |
| a thread, or memory to start it | an event tries again after 0.25 s, a flush as well, and `close` writes in its own |
| a library, an event loop, a connection | the thread tries again after a random pause that grows, up to 2 s |

A worker that dies of a bug is replaced by another one in the same thread, after such a pause, up to 30 s. Events are in
memory only where the file system can have no journal by its nature, which is said once.

# Forks

Before a fork the thread ends. Afterwards the next event starts another one, or the fork itself where events are
unsettled; until then `state.running` stays true for the threads that wait for the worker. Which of two threads goes on
(the one that forked, or the worker's own where the fork did not wait for it to end) is decided by one `list.pop`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
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
from autopack.telemetry.journal.segment_maker import check_folder
from autopack.telemetry.stores.base import Store

if TYPE_CHECKING:
    from autopack.telemetry.engine.worker import Worker

_THREAD_NAME = "autopack-telemetry"
_THREAD_END_S = 0.25  # of a thread that has nothing more to do
_GRACE_S = 0.5  # after the deadline, for the worker to notice it and to close its connection
_MAX_RESTART_DELAY_S = 30.0
_MAX_LOAD_DELAY_S = 2.0
_CLOSING_DELAY_S = 0.25
_BEGIN_WAIT_S = 1.0  # for a thread that was begun: its launch may die in a way that it tells no caller
_START_PAUSE_S = 0.25  # between tries to start the thread: each costs a failing system call

# What a file system says that has no locks or no shared mappings. Anything else may heal.
_NEVER = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.ENODEV, errno.EINVAL}


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
        self._begun_by_s = 0.0  # on the monotonic clock: when a thread that was begun has to be at work
        self._may_start_s = 0.0  # on the monotonic clock: when the next event may try to start the thread
        self._close_once = os_threads.Lock()
        self._report_once = os_threads.Lock()

    def wake(self) -> None:
        """There is a batch to write. Called from the hot path: never waits, never raises."""
        if self._working.locked():
            self.queue.clear_wake_threshold()
            self._commands.waker.wake()
        else:
            self.ensure_thread()

    @property
    def is_running(self) -> bool:
        """Whether the thread runs, or is on its way: one that was begun and has not come within a second never will.

        Between the end of a thread for a fork and what follows it, the state says so although there is none.
        """
        is_on_its_way = self._working.locked() or self._commands.fork_expected or self._ended_for_fork
        return self.state.running and bool(is_on_its_way or time.monotonic() < self._begun_by_s)

    def ensure_thread(self) -> None:
        """Start the thread if there is none, unless that failed less than 0.25 s ago: then the next event asks again.

        Called from the hot path, also for an event that a full queue refuses. Never waits, never raises.
        """
        if self.is_running or self.closing:
            return
        if time.monotonic() < self._may_start_s or lifecycle.is_about_to_fork():
            lifecycle.warn_where_threads_stand_still()
            self.queue.set_wake_threshold(1)
        else:
            self._start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that is accepted now is settled; returns whether it is."""
        try:
            return self._flush(timeout_s)
        finally:
            log.emit_deferred()

    def _flush(self, timeout_s: float) -> bool:
        target = self.queue.accepted_through
        if self._settled(target) or self._runs_here():
            return self._settled(target)
        if not self.is_running and lifecycle.is_about_to_fork():
            return False  # as no event starts a thread there, and nothing else will settle it
        end_s = time.monotonic() + timeout_s
        while True:  # the thread may be about to end for a fork, or not to be had now
            if not (self.is_running or self.closing):
                self._start()
            self._commands.flush(target)
            left_s = end_s - time.monotonic()
            if self.state.wait_for(lambda: self._settled(target), min(left_s, _BEGIN_WAIT_S)):
                return True
            if left_s <= _BEGIN_WAIT_S and time.monotonic() >= end_s:
                return False
            if not self.state.running:
                if self.closing:
                    return False
                self.state.pause(min(_START_PAUSE_S, end_s - time.monotonic()))

    def begin_close(self, timeout_s: float | None = None) -> None:
        """Accept nothing more and ask the worker to drain and stop. Does not wait; only the first call counts.

        timeout_s None: that of the settings, which begins to count when the worker is loaded.
        """
        if self._close_once.acquire(blocking=False):
            self.queue.close_to_new()
            self._commands.close(
                self._longest_close_s if timeout_s is None else timeout_s, until_loaded=timeout_s is None
            )
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
            if not self.is_running and not self._end_without_thread():
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
        log.emit_deferred()
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
        has_events = self.queue.has_in_progress_appends or self.queue.account().pending
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
        self._restart_after_fork()

    def _restart_after_fork(self) -> None:
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
            if os_threads.threads_are_patched():
                self._load_here()
            self._begun_by_s = time.monotonic() + _BEGIN_WAIT_S
            self.state.running = True
            lifecycle.live.add(self)
            lifecycle.close_with_the_process()
            lifecycle.warn_where_threads_stand_still()
            os_threads.start_new_thread(self._launch, ())
        except Exception as exc:  # noqa: BLE001 (no thread, no memory: whatever it is, it is tried again)
            self._not_started(exc)
        except BaseException as exc:
            # A signal handler raises out of here. If the thread is on its way all the same, `_launch` says so.
            self._not_started(exc)
            raise

    def _load_here(self) -> None:
        """Import what the worker needs. Where threads are patched, so are the locks of an import, and greenlets that
        import the same would not wait for another thread but fail.
        """
        with contextlib.suppress(Exception):  # the thread comes to it again, and says so
            import anyio._backends._asyncio  # noqa: F401

            from autopack.database.migrations import fresh  # noqa: F401
            from autopack.telemetry.engine import loop, worker  # noqa: F401

            self._store.load()

    def _launch(self) -> None:
        self.state.running = True
        try:
            os_threads.Thread(self._work, _THREAD_NAME).start()
        except BaseException as exc:  # noqa: BLE001 (nothing stands above it that would see it)
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
        elif not for_fork:  # it died of what nothing can catch: the next event starts another one, or a flush, or close
            self._close_may_work = True
            self._may_start_s = time.monotonic() + _START_PAUSE_S
            self.queue.set_wake_threshold(1)
        self.state.running = for_fork
        self._working_ident = None
        self._working.release()
        if for_fork:
            self._ended_for_fork.append(True)
            if not self._commands.fork_expected:  # the fork did not wait, and is over
                self._restart_after_fork()
        self.state.announce()

    def _run_until_closed(self) -> bool:
        """Run workers until one ends; returns whether it only ended for a fork."""
        for failures in itertools.count(1):
            try:
                return not self._run_worker()
            except Exception as exc:  # noqa: BLE001 (no file is free for an import, or a bug: the recording must go on)
                self._worker = None
                self.state.last_error = type(exc).__name__
                with contextlib.suppress(Exception):  # of what says so: there may be no memory for it
                    self._say_failed(exc)
            if not self.state.loaded:  # a close waits longer for a machine that is busy, not for this
                self._commands.shorten_close(self._settings.shutdown_timeout_s)
            if self._commands.closing and not self._commands.seconds_left():
                return False
            self._wait_before_restart(failures)
        raise AssertionError

    def _run_worker(self) -> bool:
        """Load what it needs, where that has not succeeded before, and run it; returns whether it ended for good."""
        self._store.load()
        import anyio

        from autopack.telemetry.engine.loop import make_loop

        self._worker = self._worker or self._make_worker()
        return anyio.run(self._worker.run, backend_options={"loop_factory": make_loop})

    def _say_failed(self, exc: BaseException) -> None:
        if self.state.loaded:
            self.state.restarts.add()
            log.exception("The telemetry writer died of a bug and starts again")
        else:
            lifecycle.warn_once(
                f"The telemetry writer cannot start now ({type(exc).__name__}): events wait, and it is tried again"
            )

    def _wait_before_restart(self, failures: int) -> None:
        """Wait a random time that grows with the failures; a command to close cuts it short."""
        limit_s = min(_MAX_RESTART_DELAY_S if self.state.loaded else _MAX_LOAD_DELAY_S, 0.1 * 2 ** min(failures, 16))
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
        durable_path = self.queue.durable_path
        facts = {
            f"not written, {f'kept in {durable_path}' if durable_path else 'LOST with this process'}": account.pending,
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
    in_memory = MemoryQueue(settings.queue_size, settings.queue_bytes)
    if journal_folder is None or store.identity is None:
        return in_memory
    if not has_gil():
        lifecycle.warn_once("No journal on a Python without the GIL, which it relies on: events are in memory only")
        return in_memory
    try:
        check_folder(journal_folder)
    except (OSError, MemoryError, RuntimeError) as exc:
        reason = getattr(exc, "strerror", None) or type(exc).__name__
        problem = f"No journal in {journal_folder} ({reason})"
        if getattr(exc, "errno", None) in _NEVER:
            lifecycle.warn_once(f"{problem}: events are in memory only")
            return in_memory
        lifecycle.warn_once(f"{problem}: no event is accepted until there is one; TELEMETRY_JOURNAL_DIR names another")
    return JournalQueue(journal_folder, fingerprint_of(store.identity), settings)


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
