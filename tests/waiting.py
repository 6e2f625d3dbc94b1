"""Waiting for what a writer does in its own thread, by what its counts say, without a look inside it."""

import threading
import time
from collections.abc import Callable

from autopack.telemetry import Telemetry, TelemetryStats

_BETWEEN_LOOKS_S = 0.002


def wait_for(
    telemetry: Telemetry,
    condition: Callable[[TelemetryStats], bool] = lambda _: True,
    *,
    timeout_s: float = 30,
    **at_least: int,
) -> TelemetryStats:
    """The first counts that fulfil the condition and reach these numbers; an `AssertionError` at the deadline.

    `wait_for(telemetry, written=3)` returns when three events at least are written.
    """
    pause = threading.Event()
    deadline_s = time.monotonic() + timeout_s
    while True:
        stats = telemetry.stats()
        if condition(stats) and all(getattr(stats, name) >= number for name, number in at_least.items()):
            return stats
        assert time.monotonic() < deadline_s, stats
        pause.wait(_BETWEEN_LOOKS_S)


def wait_for_error(telemetry: Telemetry, begins: str) -> TelemetryStats:
    """The counts when the writer, asked to write at once, has told of an error that begins so."""
    telemetry.flush(0)
    return wait_for(telemetry, lambda stats: (stats.last_error or "").startswith(begins))
