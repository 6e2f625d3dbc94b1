"""The write side: `record()` never waits and never raises; a background worker writes to the user's own database.

An event travels `Telemetry.record` → `Buffer` → `Worker` → `Store`, and what no database takes becomes a dead letter.
"""

from typing import TYPE_CHECKING, Any

from autopack.errors import ConfigError, TelemetryError
from autopack.telemetry.counters import not_recorded, unattributed_calls
from autopack.telemetry.default import get_telemetry
from autopack.telemetry.lifecycle import warn_once
from autopack.telemetry.recorder import Telemetry, is_enabled

if TYPE_CHECKING:
    from autopack.telemetry.engine.stats import TelemetryStats

__all__ = [
    "ConfigError",
    "Telemetry",
    "TelemetryError",
    "TelemetryStats",
    "get_telemetry",
    "is_enabled",
    "not_recorded",
    "unattributed_calls",
    "warn_once",
]


def __getattr__(name: str) -> Any:
    """`TelemetryStats`, once it is asked for: this package imports only what telemetry that is off needs."""
    if name == "TelemetryStats":
        from autopack.telemetry.engine.stats import TelemetryStats

        return TelemetryStats
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
