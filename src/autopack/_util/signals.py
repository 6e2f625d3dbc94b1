"""SIGINT and SIGTERM for programs that own their process: exit at once, or ask a run to stop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

import anyio

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def exiting_at_signals() -> Iterator[None]:
    """While open, let SIGINT and SIGTERM end the program with 130 or 143 as `sys.exit` does: what is open gets closed.

    Without it SIGTERM leaves half-written files behind. Outside the main thread, where Python allows no handlers,
    nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _exit_at_once) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _exit_at_once(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class StopSignals:
    """While open, keeps the first SIGINT or SIGTERM in `signum` and cancels a scope, if one is bound.

    Later signals change nothing: a second Ctrl-C does not cut short a flush that has a deadline anyway. A handler that
    was installed before is called too (but that of `exiting_at_signals`), and is back in place afterwards. Outside the
    main thread, where Python allows no handlers, nothing is installed.
    """

    signum: int | None = None

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._wake: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    @contextmanager
    def cancelling(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Cancel `scope`, of the running loop, at the signal; at once where it has come already."""
        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(scope.cancel)  # the handler runs between any two instructions
        if self.signum is not None:
            scope.cancel()
        try:
            yield
        finally:
            self._wake = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = number
        if self._wake is not None:
            self._wake()
        previous = self._previous.get(number)
        if callable(previous) and previous not in {signal.default_int_handler, _exit_at_once}:
            previous(number, frame)
