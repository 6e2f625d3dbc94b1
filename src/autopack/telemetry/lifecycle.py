"""What concerns the whole process: its exit, its forks, and the locks that both have to get past.

# Exit

`atexit` calls `close_all`. It begins to close every live writer first and waits for them afterwards, so that their
deadlines run at the same time and the exit takes as long as the longest; what the deadline is, `engine/writer` says. A
child of `multiprocessing` leaves by `os._exit`, without `atexit`; there the same runs as a finalizer of
`multiprocessing.util`.

# Fork

A fork copies one thread and everything that all of them held. Three things must therefore be true at that moment:

1. No import is under way: a child that is forked in the middle of an import can never import that module again.
   `importing()` holds a lock that the fork waits for.
2. No worker has a connection open. SQLite keeps the locks of a process in that process's memory, and a child that
   inherited them would believe that it holds them. So each worker closes its connections, and its thread ends: from
   Python 3.12 on a fork beside other threads is a warning. A batch that is waiting is written first, if it is the last.
   Afterwards the next event starts the thread; the fork does where anything is unsettled.
3. No journal segment is being made. A child that inherits its file keeps the file's lock alive when the parent is dead.

Each object that takes part has the same three methods, called in this order:

| method | where | does |
|---|---|---|
| `prepare_fork` | in the parent, before | brings the object to rest; returns whether that succeeded in time |
| `resume_after_fork` | in the parent, after | undoes it |
| `reset_in_child` | in the child | lets go of what the parent shares with it, without changing it |

A fork waits at most `FORK_WAIT_S` in all, then goes ahead and logs that the child may not be able to write. In the
child each instance is empty and has a new queue, worker and store. The parent's are kept and never collected
(`keep_uncollected`): to collect a connection closes it, and that would write into the parent's files.

A fork that is made in C runs none of these. Its child notices at its first call (`autopack._util.forks`), and only then
begins anew; what the three points above ask for was not asked for then.

# Locks

- No lock is needed for an event to be accepted, or for a count to become right in the end.
- `best_effort` acquires a lock that only makes a snapshot consistent. It gives up after 50 ms, since the holder may be
  a frame that this very thread has interrupted.
- `ForkSafeLock` is a lock of the process rather than of an instance. It is free in every child.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING

from autopack._util import forks, os_threads
from autopack.telemetry import log

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from types import ModuleType

    from autopack.telemetry.engine.writer import Writer
    from autopack.telemetry.recorder import Telemetry

FORK_WAIT_S = 5.0  # how long a fork waits for the workers to finish a batch, or for an import
_IMPORT_WAIT_S = 1.0
_BEST_EFFORT_WAIT_S = 0.05
_GONE_WAIT_S = 0.05


@contextlib.contextmanager
def best_effort(lock: os_threads.RLock, timeout_s: float = _BEST_EFFORT_WAIT_S) -> Iterator[bool]:
    """Acquire `lock`, waiting at most 50 ms, and yield whether it was acquired. The body runs either way.

    Only where the lock improves consistency and correctness does not need it: the holder may be a frame that this very
    thread has interrupted, by a signal handler or by the garbage collector that runs a `__del__`.
    """
    held = lock.acquire(timeout=timeout_s)
    try:
        yield held
    finally:
        if held:
            lock.release()


def join_until_gone(thread: threading.Thread | os_threads.Thread, timeout_s: float) -> None:
    """Wait until a thread has ended, and the kernel does not count it any more.

    Python counts threads as the kernel does when it warns of a fork; up to 3.12 `join` returns a little earlier.
    """
    thread.join(max(0.0, timeout_s))
    until_s = time.monotonic() + _GONE_WAIT_S
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < until_s:  # noqa: PTH110 (lean)
        os_threads.sleep(_GONE_WAIT_S / 100)


class ForkSafeLock:
    """A re-entrant lock of the process that is free in a forked child, whichever thread held it in the parent.

    fork_waits: whether a fork waits for it, at most `FORK_WAIT_S`, so that no child sees what it guards half done.
    """

    def __init__(self, *, fork_waits: bool = False) -> None:
        self._lock = os_threads.RLock()
        self._fork_waits = fork_waits
        _locks.append(self)

    @contextlib.contextmanager
    def hold(self, timeout_s: float = os_threads.TIMEOUT_MAX) -> Iterator[bool]:
        """Like `best_effort`; without a timeout the lock is held for certain."""
        with best_effort(self._lock, timeout_s) as held:  # this one, also if a fork in the body replaces it in a child
            yield held

    def acquire(self, timeout_s: float) -> None:
        """Wait at most this long. For a fork, which goes ahead either way."""
        self._lock.acquire(timeout=timeout_s)

    def release(self) -> None:
        """The end of `acquire`."""
        with contextlib.suppress(RuntimeError):  # another thread held it for longer than the wait
            self._lock.release()

    def prepare_fork(self) -> None:
        """Acquire it, if a fork waits for it."""
        if self._fork_waits:
            self.acquire(FORK_WAIT_S)

    def resume_after_fork(self) -> None:
        """The end of `prepare_fork`."""
        if self._fork_waits:
            self.release()

    def reset_in_child(self) -> None:
        """Begin anew: its owner may be a thread that does not exist here."""
        self._lock = os_threads.RLock()


_locks: list[ForkSafeLock] = []
_importing = ForkSafeLock(fork_waits=True)
# One fork at a time: the end of one must not resume the writers while another is about to come.
_forking = ForkSafeLock()

instances: weakref.WeakSet[Telemetry] = weakref.WeakSet()
live: set[Writer] = set()  # those with a thread; the thread keeps its instance alive anyway
_paused: set[Writer] = set()  # during a fork
_inherited: list[object] = []
_warned: set[str] = set()
_registered: list[bool] = []  # not empty once `pause_writers_at_forks` has registered its hooks


def warn_once(message: str) -> None:
    """Log a warning, the first time that it is said in this process."""
    if message not in _warned:
        _warned.add(message)
        log.warning(message)


def importing() -> contextlib.AbstractContextManager[bool]:
    """Around what is imported when the first instance is made: a fork in another thread waits until it is over.

    Goes on without the lock after one second: its owner may be a frame that this thread has interrupted.
    """
    return _importing.hold(_IMPORT_WAIT_S)


def keep_uncollected(inherited: object) -> None:
    """In a forked child: hold what belongs to the parent for ever, since collecting it would close what is open."""
    _inherited.append(inherited)


def close_all() -> None:
    """Close every live writer: the deadlines run at the same time, so the exit waits for the longest only."""
    forks.notice()
    writers = _writers()
    for writer in writers:
        writer.begin_close()
    for writer in writers:
        writer.close()


def close_with_the_process() -> None:
    """Close the writers of this process where it leaves by `os._exit`, without `atexit`, as far as it tells anyone.

    A child of `multiprocessing` runs the finalizers of its `util` first, one of `billiard` those of its own, and a
    worker of Celery's pool, which is a fork of `billiard`'s that does not, tells by a signal. Each only where it is
    imported already.
    """
    for package in ("multiprocessing", "billiard"):
        util, process = (sys.modules.get(f"{package}.{name}") for name in ("util", "process"))
        if util is not None and process is not None and _has_parent(process):
            util.Finalize(None, close_all, exitpriority=0)
    if (signals := sys.modules.get("celery.signals")) is not None:
        signals.worker_process_shutdown.connect(_close_with_celery, weak=False)


def _has_parent(process: ModuleType) -> bool:
    if hasattr(process, "parent_process"):
        return process.parent_process() is not None
    return getattr(process.current_process(), "_parent_pid", None) is not None  # billiard's


def _close_with_celery(**_told: object) -> None:
    close_all()


def is_about_to_fork() -> bool:
    """Whether this is uWSGI's master, which loads the application and then forks its workers in C, without a hook.

    It starts no thread: what a thread holds at such a fork (the GIL's own mutex, a module that it imports, a connection
    to SQLite) is held for ever in the workers. What the master accepts is in its journal, and is written when it ends;
    a flush there returns False at once.
    """
    uwsgi = sys.modules.get("uwsgi")
    try:
        return uwsgi is not None and uwsgi.masterpid() == os.getpid() and uwsgi.worker_id() == 0
    except Exception:  # noqa: BLE001 (a module of that name that is not uWSGI's)
        return False


def warn_where_threads_stand_still() -> None:
    """UWSGI without `--enable-threads` keeps the GIL between requests: the writer's thread runs by chance only."""
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if isinstance(options, dict) and not {"enable-threads", "threads"} & {str(name) for name in options}:
        warn_once(
            "uWSGI runs without --enable-threads: events stay in the journal, and nothing is certain to be written "
            "until the process ends"
        )


def pause_writers_at_forks() -> None:
    """Have every fork from now on wait for the writers. Called for each instance before it starts anything.

    This is the second of the two registrations, and it comes this late because `logging` takes its lock in a fork, too,
    and the worker needs that lock to come to rest. The hook that was registered last runs first, so `logging` has to be
    there before this one; a process in which telemetry is off never imports it.
    """
    import logging  # noqa: F401

    if not _registered:
        _registered.append(True)
        os.register_at_fork(before=_prepare_fork, after_in_parent=_resume_after_fork)
        forks.in_child(_reset_in_child)


def _writers() -> set[Writer]:
    """All of them: one without a thread may be making its first file."""
    return {*live, *(telemetry.writer for telemetry in instances)}


def _prepare_fork() -> None:
    forks.notice()
    deadline_s = time.monotonic() + FORK_WAIT_S
    _forking.acquire(FORK_WAIT_S)
    writers = _writers()
    _paused.update(writers)
    for writer in writers:
        writer.begin_prepare_fork()
    for writer in writers:
        if not writer.prepare_fork(max(0.0, deadline_s - time.monotonic())):
            log.warning("Forking while the telemetry writer is busy: the child may not be able to write")


def _resume_after_fork() -> None:
    while _paused:
        _paused.pop().resume_after_fork()
    _forking.release()


def _reset_in_child() -> None:
    _inherited.extend(live)
    live.clear()
    _paused.clear()
    for telemetry in list(instances):
        telemetry.reset_in_child()


def _prepare_locks() -> None:
    forks.notice()
    for lock in _locks:
        lock.prepare_fork()


def _resume_locks() -> None:
    for lock in _locks:
        lock.resume_after_fork()


def _reset_locks() -> None:
    for lock in _locks:
        lock.reset_in_child()


atexit.register(close_all)
os.register_at_fork(before=_prepare_locks, after_in_parent=_resume_locks)
forks.in_child(_reset_locks)
