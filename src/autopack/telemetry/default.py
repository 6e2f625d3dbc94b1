"""The instance that a whole process shares: one per database, for the environment as it is at the call."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING

from autopack.telemetry import lifecycle
from autopack.telemetry.recorder import DisabledTelemetry, Telemetry, is_enabled

if TYPE_CHECKING:
    from collections.abc import Callable

    from autopack.database.destination import Destination

_shared: dict[Destination, Telemetry] = {}
_disabled = DisabledTelemetry()
_replacing = lifecycle.ForkSafeLock()
_meanings: dict[str, Destination | None] = {}  # of each URL the first; None once it was said that it has another


def get_telemetry() -> Telemetry:
    """The instance that the whole process shares, for the environment as it is at this call.

    There is one per database: when `DATABASE_URL` changes, the former one drains in the background. Where telemetry is
    off, or its settings are impossible, the answer is a disabled one, which is not kept: switching on works at any
    time. Never raises: what else keeps it from working is warned of once, by the name of its class.
    """
    if not is_enabled():
        return _disabled
    try:
        return _enabled()
    except Exception as exc:  # noqa: BLE001 (see below)
        # A signal handler that interrupts the first import of the writer, in its own thread, finds modules that are
        # half there: this call is answered with a disabled one, which counts, and the next is served. The message of
        # an exception may hold a password.
        lifecycle.warn_once(f"Telemetry is off as long as this is so: {type(exc).__name__}")
        return _disabled


def _enabled() -> Telemetry:
    current_destination, no_destination = _database()
    try:
        # The first one imports what reads its kind of URL.
        with contextlib.nullcontext() if _shared else lifecycle.importing():
            destination = current_destination()
    except (no_destination, OSError):
        return Telemetry.from_env()
    found = _shared.get(destination)
    return found if found is not None and not found.closed else _replace(destination)


@cache
def _database() -> tuple[Callable[[], Destination], type[ValueError]]:
    """What names the present database, and what it raises. Only the first import needs the lock that a fork waits for;
    one that was interrupted is not kept.
    """
    with lifecycle.importing():
        from autopack.database.destination import current_destination
        from autopack.errors import DatabaseUrlError
    return current_destination, DatabaseUrlError


def _replace(destination: Destination) -> Telemetry:
    with _replacing.hold():
        _warn_of_another_meaning(destination)
        found = _shared.get(destination)
        if found is None or found.closed:
            found = Telemetry.from_env()
            if found.enabled:
                for former in _shared.values():
                    former.begin_close()
                _shared.clear()
                _shared[destination] = found
        return found


def _warn_of_another_meaning(destination: Destination) -> None:
    """Warn, once for each URL, where a relative one means another file since the working directory has changed."""
    from autopack.database.destination import database_url

    url = database_url()
    former = _meanings.setdefault(url, destination)
    if former is not None and former != destination:
        _meanings[url] = None
        lifecycle.warn_once(
            f"The working directory has changed, and DATABASE_URL is relative to it: events now go to {destination}, "
            f"earlier ones went to {former}; an absolute path (four slashes) always means the same file"
        )
