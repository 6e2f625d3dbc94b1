"""The write side: `record()` never waits and never raises; a background worker writes to the user's own database.

Public names: `Telemetry`, `TelemetryStats`, `get_telemetry`, `is_enabled`, `ConfigError`, `TelemetryError`; and
`MemoryStore` in `autopack.telemetry.stores`.

# Reading path

An event enters these modules, in this order, on its way from `record()` to its row; ten minutes lead through them.

1. `recorder`: `Telemetry.record` accepts the event; what is uncommon goes to `engine.slow_path`.
2. `event.wire`: the encoder that turns it into bytes at the call site.
3. `journal`: the theory of the write-ahead log, with its invariants and its bytes.
4. `journal.journal`: `append` copies the bytes into a file; `read` and `acknowledge` are the worker's.
5. `journal.appender`, `journal.segment`, `journal.medium`, `journal.format`: the writing end of a file, the file, how
   it is written, its bytes.
6. `engine.journal_queue` (`engine.queue` where there is no journal): hands events to the worker under keys.
7. `engine.ledger`: the account, what is in flight and what became of the rest.
8. `engine.control`: the wake-up and commands for the worker, and its state.
9. `engine.worker`: takes a batch, writes it, settles it.
10. `event.decode`: turns bytes into a row, or into the reason for a rejection.
11. `stores.sqlite`: writes the rows in one transaction.

`engine.writer` starts, flushes and closes the worker. `lifecycle` has the theory of exit and fork.

# Layers

Lowest first: `counters log lifecycle | event | journal stores | engine | recorder | default`. What lies directly in
this package imports the standard library, `autopack.errors` and `autopack._util` only, so that telemetry which is off
loads nothing else. The sub-packages are loaded with the first live instance.
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

if not TYPE_CHECKING:  # a type checker that sees it accepts every name

    def __getattr__(name: str) -> Any:
        """`TelemetryStats`, once it is asked for: this package imports only what telemetry that is off needs."""
        if name == "TelemetryStats":
            from autopack.telemetry.engine.stats import TelemetryStats

            return TelemetryStats
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
