"""Threads, locks and sleeps of the operating system, whatever gevent or eventlet has patched.

Both replace functions of the standard library by ones that switch to another greenlet: what looks like a thread then
runs in the thread that called for it, and a call that really waits, in C, stops all of them. The writer has to work
beside them, in a thread of its own. They may patch before this module is imported, or at any time after it.

- What is patched is a module's attribute, never the function in C behind it. `_real` takes the function while the
  attribute still is one, else from a second copy of the module in C, which nothing has patched.
- Classes of `threading` look their locks up when they are used: none of them is, except that a `Thread` starts one of
  them, for the sake of its name, where nothing is patched.
- eventlet also searches all that it can reach from the modules for locks of the type `RLock`, and replaces them. It
  does not look into slots.
- A thread that waits for the writer may be many greenlets. `poll` lets the others run meanwhile.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType, ModuleType, TracebackType
from typing import Any

_SLICE_S = 0.25  # of a wait: the longest time for which an announcement that was cut off by a signal goes unnoticed
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


def is_patched(module: ModuleType, name: str) -> bool:
    """Whether a function that the interpreter has in C was replaced."""
    return not isinstance(getattr(module, name, None), BuiltinFunctionType)


def real_module(name: str) -> ModuleType:
    """A second copy of a module that is written in C."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def threads_are_patched() -> bool:
    """Whether what looks like a thread may be a greenlet. Not what a debugger does, which patches the start alone."""
    return is_patched(_thread, "allocate_lock")


_threads: Any = real_module("_thread") if threads_are_patched() else _thread
Lock: Callable[[], _thread.LockType] = _threads.allocate_lock
start_new_thread: Callable[[Callable[[], object], tuple[()]], int] = _threads.start_new_thread
get_ident: Callable[[], int] = _threads.get_ident
get_native_id: Callable[[], int] = _threads.get_native_id
TIMEOUT_MAX: float = _threads.TIMEOUT_MAX
_make_rlock: Callable[[], Any] = _threads.RLock
sleep: Callable[[float], None] = (real_module("time") if is_patched(time, "sleep") else time).sleep


class RLock:
    """A re-entrant lock. Greenlets of one thread do not exclude each other: it is for what never switches to another.

    acquire, release: those of `threading.RLock`.
    """

    __slots__ = ("acquire", "release")

    def __init__(self) -> None:
        lock = _make_rlock()
        self.acquire: Callable[..., bool] = lock.acquire
        self.release: Callable[[], None] = lock.release

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


_own: set[int] = set()  # the threads that were started here and have not ended


def shares_no_locks() -> bool:
    """Whether this is a `Thread` beside greenlets of eventlet: a lock that both acquire stops them for ever."""
    return get_ident() in _own and _thread.allocate_lock.__module__.startswith("eventlet")


class Thread:
    """A thread that never is a greenlet. It keeps no process from ending.

    target: is called in it, and given the thread. native_id: the kernel's, once it runs.
    """

    def __init__(self, target: Callable[[Thread], object], name: str) -> None:
        self.native_id: int | None = None
        self._target = target
        self._name = name
        self._running = Lock()

    def start(self) -> None:
        """Begin to run. Raises RuntimeError where no thread can be started."""
        self._running.acquire()
        if threads_are_patched():
            start_new_thread(self._run, ())
        else:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    @property
    def runs(self) -> bool:
        """Whether it was started and has not run to its end."""
        return self._running.locked()

    def join(self, timeout_s: float) -> None:
        """Wait until it has run to its end, at most so long."""
        if self._running.acquire(timeout=timeout_s):
            self._running.release()

    def _run(self) -> None:
        self.native_id = get_native_id()
        _own.add(get_ident())
        try:
            self._target(self)
        finally:
            _own.discard(get_ident())
            self._running.release()


class Changes:
    """What threads wait for: that something holds which another thread brings about, and then announces.

    Takes no lock that two threads share, so that a signal handler may call either method while it interrupts one.
    """

    def __init__(self) -> None:
        self._waiting: deque[_thread.LockType] = deque()  # one for each thread, which waits to acquire it again

    def announce(self) -> None:
        """Have every thread that waits look again."""
        with contextlib.suppress(IndexError):
            while True:
                self._waiting.popleft().release()

    def wait_for(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until it holds, at most `timeout_s`; returns whether it does. Stops every greenlet of the thread."""
        end_s = time.monotonic() + timeout_s
        while not holds():
            if (left_s := end_s - time.monotonic()) <= 0:
                return False
            self._wait(holds, min(left_s, _SLICE_S))
        return True

    def _wait(self, holds: Callable[[], bool], timeout_s: float) -> None:
        waiting = Lock()
        waiting.acquire()
        self._waiting.append(waiting)
        if not holds():  # what was announced before this thread was there
            waiting.acquire(timeout=timeout_s)
        with contextlib.suppress(ValueError, IndexError):  # announced; or another thread changes the queue meanwhile
            self._waiting.remove(waiting)


def poll(holds: Callable[[], bool], timeout_s: float) -> bool:
    """Like `Changes.wait_for`, where threads are patched: lets the other greenlets run, and looks every 1 to 50 ms."""
    end_s = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not holds():
        if (left_s := end_s - time.monotonic()) <= 0:
            return False
        try:
            time.sleep(min(pause_s, left_s))
        except (AssertionError, RuntimeError):  # this is the greenlet that switches to the others, in a signal handler
            sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return True
