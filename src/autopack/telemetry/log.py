"""What the writer logs, to the logger `autopack.telemetry`.

A logging handler is the user's: it may raise, for example when standard error is closed. That must not stop the writer,
so it is caught here, and counted. `logging` is imported with the first line that is logged; telemetry that is off logs
nothing.

Where eventlet has patched the locks of the handlers, a greenlet that waits for one which another thread holds is never
woken. There the lines of the writer's thread are logged with the next `flush()` or `close()`.
"""

from __future__ import annotations

import sys
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from autopack._util import os_threads
from autopack.telemetry.counters import AtomicCounter

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

failures = AtomicCounter()
_MOST_DEFERRED = 100
_deferred: deque[tuple[str, str, tuple[object, ...], Any]] = deque(maxlen=_MOST_DEFERRED)  # the last lines


def info(message: str, *args: object) -> None:
    """Log what is worth knowing only when a cause is looked for."""
    _log("INFO", message, args)


def warning(message: str, *args: object) -> None:
    """Log what a person should look at."""
    _log("WARNING", message, args)


def exception(message: str, *args: object) -> None:
    """Log that something failed, with the exception that is being handled."""
    _log("ERROR", message, args, with_exception=True)


@contextmanager
def only_errors() -> Iterator[None]:
    """For a command whose own output says what the writer would warn of."""
    logger = _logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def emit_deferred() -> None:
    """Log what the writer's thread could not. Called by what a program calls, `flush()` and `close()`."""
    with suppress(IndexError):
        while True:
            level, message, args, exc_info = _deferred.popleft()
            _emit(level, message, args, exc_info)


def _log(level: str, message: str, args: tuple[object, ...], *, with_exception: bool = False) -> None:
    exc_info = sys.exc_info() if with_exception else None
    if os_threads.shares_no_locks():
        _deferred.append((level, message, args, exc_info))
    else:
        _emit(level, message, args, exc_info)


def _emit(level: str, message: str, args: tuple[object, ...], exc_info: Any) -> None:
    try:
        getattr(_logger(), level.lower())(message, *args, exc_info=exc_info)
    except Exception:  # noqa: BLE001 (see above)
        failures.add()


def _logger() -> logging.Logger:
    import logging

    return logging.getLogger("autopack.telemetry")
