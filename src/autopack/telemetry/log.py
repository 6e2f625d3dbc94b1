"""What the writer says of itself, to the logger `autopack.telemetry`.

A logging handler is the user's: it may raise, for example when standard error is closed. That must not stop the writer,
so it is caught here, and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from autopack.telemetry.counters import AtomicCounter

_logger = logging.getLogger("autopack.telemetry")
failures = AtomicCounter()


def info(message: str, *args: object) -> None:
    """Say what is only worth knowing when something is looked for."""
    _say(logging.INFO, message, args)


def warning(message: str, *args: object) -> None:
    """Say what somebody should look at."""
    _say(logging.WARNING, message, args)


def exception(message: str, *args: object) -> None:
    """Say that something failed, with the exception that is being handled."""
    _say(logging.ERROR, message, args, with_exception=True)


@contextmanager
def only_errors() -> Iterator[None]:
    """For a command that reports itself what the writer would warn of."""
    level = _logger.level
    _logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _logger.setLevel(level)


def _say(level: int, message: str, args: tuple[object, ...], *, with_exception: bool = False) -> None:
    try:
        _logger.log(level, message, *args, exc_info=with_exception)
    except Exception:  # noqa: BLE001 (see above)
        failures.add()
