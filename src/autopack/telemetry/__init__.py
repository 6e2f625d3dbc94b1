"""The write side: `record()` never waits and never raises; a background worker writes to the user's own database.

An event travels `Telemetry.record` → `Buffer` → `Worker` → `Store`, and what no database takes becomes a dead letter.
"""

from autopack.telemetry.errors import ConfigError, TelemetryError
from autopack.telemetry.recorder import Telemetry, TelemetryStats
from autopack.telemetry.shared import get_telemetry

__all__ = ["ConfigError", "Telemetry", "TelemetryError", "TelemetryStats", "get_telemetry"]
