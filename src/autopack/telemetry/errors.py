"""One class per decision that somebody can take.

TelemetryError
├── ConfigError              the caller's setting is impossible: change it
└── StoreError               a batch was not written, and this says what to do with it
    ├── TransientStoreError      try the whole transaction again
    ├── DataRejectedError        some row in it is the reason: bisect
    └── StoreUnusableError       no row is the reason and no retry helps until a person acts: keep everything
"""

from __future__ import annotations


class TelemetryError(Exception):
    """The root of what autopack.telemetry raises."""


class ConfigError(TelemetryError, ValueError):
    """A setting is impossible; the message names the setting, its value and what would do."""


class StoreError(TelemetryError):
    """A store could not write. `code` is the driver's own code, without any text that might embed a row.

    `transient`: waiting may help, nobody has to act.
    """

    transient = False

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class TransientStoreError(StoreError):
    """Locked, full, away, interrupted, or unknown: the same transaction may go through later."""

    transient = True


class DataRejectedError(StoreError):
    """The database, or its driver, refused a value. Nothing of the batch was written."""


class StoreUnusableError(StoreError):
    """The table is missing, the file is no database, it is read-only: retrying cannot help, bisecting neither."""
