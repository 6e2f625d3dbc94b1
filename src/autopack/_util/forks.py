"""Forks, as a forked child sees them: also those that run none of Python's hooks.

`os.register_at_fork` runs for `os.fork` and for what calls it. A fork that is made in C runs nothing of Python:
uWSGI's workers by default, `ctypes.PyDLL(None).fork()`, some extension modules. Such a child must notice by itself,
before it writes to what it shares with its parent.

# How it notices

`mark[0]` is not 0 in the process that set it, and 0 in each child of it. On Linux the mark is a page of memory that the
kernel wipes at every fork (`madvise`, advice 18, since 4.14); to read it costs some 18 ns and no system call. Elsewhere
the process id is asked for each time: 1 µs on a machine where the page cost 28 ns, both measured under load.

# Invariants

1. What a child has to undo is named once, by `in_child`, and is done once at each fork, all at a time, by `notice`.
   Python's hook calls it, or whatever records before that hook runs. Only then is the mark set.
2. A child that noticed by itself has begun anew before it writes anything.
3. A thread of the parent does not exist in the child, so a call that reads the mark and then writes is not divided by a
   fork, unless the fork is made by a signal handler or a finalizer inside that very call.

What cannot be undone afterwards: a lock that a thread of the parent held at the fork, such as that of a module that was
being imported, stays held in the child.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable

from autopack._util import os_threads

_WIPE_ON_FORK = 18  # the `mmap` of Python 3.11 has no name for it


class ProcessNumber:
    """A mark for systems that wipe no memory at a fork: it asks for the process id whenever it is read."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        """1 in the process that set it, else 0."""
        return os.getpid() == self._pid

    def __setitem__(self, index: int, value: int, /) -> None:
        """Set it for this process."""
        self._pid = os.getpid()


def make_mark() -> mmap.mmap | ProcessNumber:
    """The mark that is the cheapest to read here."""
    if sys.platform == "linux":
        try:
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(_WIPE_ON_FORK)
        except (OSError, ValueError):  # an older kernel, or one that only looks like Linux
            return ProcessNumber()
        page[0] = 1
        return page
    return ProcessNumber()


mark = make_mark()
_undo: list[Callable[[], object]] = []
_noticing = os_threads.RLock()
_noticed_by: list[int] = []


def in_child(undo: Callable[[], object]) -> None:
    """Call this in every forked child, in the order of these calls: at the fork, or when the child notices."""
    _undo.append(undo)


def notice() -> bool:
    """Begin anew in a child whose fork ran no hook; returns whether this process is one that has its mark.

    False: a signal handler has interrupted this very step, and nothing must be written yet.
    """
    if mark[0]:
        return True
    with _noticing:
        if mark[0]:
            return True
        if _noticed_by == [os_threads.get_ident()]:
            return False
        _noticed_by[:] = [os_threads.get_ident()]
        try:
            if not mark[0]:  # a signal handler that came before the line above has done it all
                for undo in _undo:
                    undo()
                mark[0] = 1
        finally:
            _noticed_by.clear()
    return True


def _begin_anew() -> None:
    global _noticing  # noqa: PLW0603 (a thread of the parent may hold the former for ever)
    if not mark[0]:  # no hook of the user's and no signal handler was here before, and recorded
        _noticing = os_threads.RLock()
        _noticed_by.clear()
        notice()


os.register_at_fork(after_in_child=_begin_anew)
