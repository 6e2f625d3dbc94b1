"""What the benchmarks of a drain share: emptying a full queue, and the table of rates beside their limit."""

from __future__ import annotations

import statistics
from time import perf_counter_ns

from benchmarks.call_site import FIELDS
from benchmarks.report import Line, Table

from autopack.telemetry import Telemetry


def drain_rate(telemetry: Telemetry, backlog: int) -> float:
    """Rows/s from the moment when so many are queued. What was written while the queue filled up counts neither way."""
    for _ in range(backlog):
        assert telemetry.record(**FIELDS)
    waiting = telemetry.stats().pending
    begin = perf_counter_ns()
    assert telemetry.flush(60)
    return waiting / ((perf_counter_ns() - begin) / 1e9)


def rate_table(rates: dict[str, list[float]], limit: str, backlog: int) -> Table:
    """The rates of each side, in rows/s, one of them per window, beside the one that is called the limit."""
    limit_rate = statistics.median(rates[limit])
    lines = [
        Line(
            title,
            [
                round(statistics.median(found)),
                f"{min(found):,.0f} – {max(found):,.0f}",
                round(statistics.median(found) / limit_rate, 2),
            ],
        )
        for title, found in rates.items()
    ]
    return Table(
        f"{backlog:,} events waiting, {len(rates[limit])} windows",
        ["rows/s, median", "smallest – largest", "× the limit"],
        lines,
    )
