"""What the writer logs, to the logger `autopack.telemetry`.

A logging handler is the user's: it may raise, for example when standard error is closed. That must not stop the writer,
so it is caught here, and counted. `logging` is imported with the first line that is logged; telemetry that is off logs
nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from autopack.telemetry.counters import AtomicCounter

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

failures = AtomicCounter()


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


def _log(level: str, message: str, args: tuple[object, ...], *, with_exception: bool = False) -> None:
    try:
        logger = _logger()
        getattr(logger, level.lower())(message, *args, exc_info=with_exception)
    except Exception:  # noqa: BLE001 (see above)
        failures.add()


def _logger() -> logging.Logger:
    import logging

    return logging.getLogger("autopack.telemetry")
