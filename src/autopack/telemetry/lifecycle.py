"""What concerns the whole process: its exit, its forks, and the instance that everybody in it shares."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from autopack.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator


class Writes(Protocol):
    """A background writer, as far as the process is concerned."""

    @property
    def shutdown_timeout_s(self) -> float:
        """How long its close waits."""

    def begin_close(self, timeout_s: float) -> None:
        """Let nothing in any more, and drain in the background."""

    def close(self, timeout_s: float) -> None:
        """Wait for that."""

    def hold_still(self) -> None:
        """Close what must not be open in a fork."""

    def is_still(self, timeout_s: float) -> bool:
        """Wait for that; whether it is done."""

    def go_on(self) -> None:
        """The fork is over."""


class Records(Protocol):
    """An instance with a writer of its own."""

    @property
    def writer(self) -> Writes:
        """The present one."""

    def start_afresh(self) -> None:
        """Begin again, empty, in a forked child."""


class _Releasable(Protocol):
    """A lock, as far as giving it back is concerned."""

    def release(self) -> None:
        """Give it back."""


# A fork waits at most so long for the writers to finish a batch, or an import: a child that is forked in the middle of
# an import can never import that module again.
FORK_WAIT_S = 5.0
_IMPORT_PATIENCE_S = 1.0

instances: weakref.WeakSet[Records] = weakref.WeakSet()
live: set[Writes] = set()  # those with a thread; the thread keeps its instance alive anyway
_held: set[Writes] = set()  # during a fork
_inherited: list[object] = []  # of the parent's: never used, never collected
_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning, the first time that it is said in this process."""
    if message not in _warned:
        _warned.add(message)
        log.warning(message)


def close_all() -> None:
    """Close every live writer: the deadlines run at the same time, so the exit waits for the longest only."""
    writers = _writers()
    for writer in writers:
        writer.begin_close(writer.shutdown_timeout_s)
    for writer in writers:
        writer.close(writer.shutdown_timeout_s)


def _writers() -> set[Writes]:
    """All of them: one without a thread may be making its first file."""
    return {*live, *(telemetry.writer for telemetry in instances)}


def close_with_multiprocessing() -> None:
    """A child of `multiprocessing` leaves by `os._exit`, without `atexit`, but runs its own finalizers first."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, close_all, exitpriority=0)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around what is imported when the first instance is made: a fork in another thread waits until that is over.

    Whoever cannot have the lock within a moment goes on without it: its owner may be a thread that was interrupted.
    """
    lock = _importing
    held = lock.acquire(timeout=_IMPORT_PATIENCE_S)
    try:
        yield
    finally:
        if held:
            lock.release()


def keep(parents: object) -> None:
    """In a forked child: hold what belongs to the parent for ever, since collecting it would close what is open."""
    _inherited.append(parents)


# One fork at a time: the end of one must not let the writers go on while another is about to happen.
_forking = threading.RLock()
_importing = threading.RLock()


_attached = False


def attach() -> None:
    """Have every fork from now on wait for the writers. For the first instance, before it starts anything.

    `logging` takes its lock in a fork, too, and the worker needs that lock while we wait for it. The hook that was
    registered last runs first, so `logging` has to be there before ours.
    """
    global _attached  # noqa: PLW0603 (the hooks are the process's)
    import logging  # noqa: F401

    if not _attached:
        _attached = True
        os.register_at_fork(
            before=_hold_writers, after_in_parent=_let_writers_go_on, after_in_child=_start_instances_afresh
        )


def _hold_writers() -> None:
    deadline_s = time.monotonic() + FORK_WAIT_S
    _forking.acquire(timeout=FORK_WAIT_S)
    writers = _writers()
    _held.update(writers)
    for writer in writers:
        writer.hold_still()
    for writer in writers:
        if not writer.is_still(max(0.0, deadline_s - time.monotonic())):
            log.warning("Forking while the telemetry writer is busy: the child may not be able to write")


def _let_writers_go_on() -> None:
    while _held:
        _held.pop().go_on()
    _release(_forking)


def _start_instances_afresh() -> None:
    global _forking  # noqa: PLW0603 (the former is held, and its owner may not be this thread)
    _forking = threading.RLock()
    _inherited.extend(live)
    live.clear()
    _held.clear()
    for telemetry in list(instances):
        telemetry.start_afresh()


def _wait_for_imports() -> None:
    _importing.acquire(timeout=FORK_WAIT_S)


def _go_on_importing() -> None:
    _release(_importing)


def _import_afresh() -> None:
    global _importing  # noqa: PLW0603 (the same)
    _importing = threading.RLock()


def _release(lock: _Releasable) -> None:
    # RuntimeError: the other thread took longer than the wait for it.
    with contextlib.suppress(RuntimeError):
        lock.release()


atexit.register(close_all)
os.register_at_fork(before=_wait_for_imports, after_in_parent=_go_on_importing, after_in_child=_import_afresh)
