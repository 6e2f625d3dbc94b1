"""The real client: whole calls over loopback HTTP with telemetry off, on, and on with a database that is locked.

The server runs in a process of its own. The three take turns in an order that is drawn anew each round. Whether the
distributions differ is asked with the Mann-Whitney test (two-sided) over the calls; with 50 concurrent calls, which
disturb one another, over the medians of waves. A large p-value alone proves nothing, so the difference of the medians
stands beside it with its interval of 95 %.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from random import Random
from time import perf_counter_ns

from benchmarks.machine import ROOT
from benchmarks.report import Line, Options, Section, Table, Target
from benchmarks.rows import make_database
from benchmarks.samples import mann_whitney_p, median_difference, quantile

from autopack.anthropic_clients import AnthropicBuilderClient, open_loopback_client
from autopack.telemetry import Telemetry
from autopack.telemetry.recorder import DisabledTelemetry

OFF, ON, DEAD = "off", "on", "on, database locked"
_PHASE = {
    "run_id": "nightly-42",
    "phase_id": "p3",
    "category": "implementation",
    "complexity": "medium",
    "description": "A module and its tests",
    "deliverables": ["src/app.py", "tests/test_app.py"],
}
_WAVE = 50

Clients = Mapping[str, AnthropicBuilderClient]


def run(options: Options) -> Section:
    """Measure one call at a time, then 50."""
    singles, waves = (60, 20) if options.quick else (700, 80)
    with tempfile.TemporaryDirectory() as folder, anthropic_server() as url, _telemetries(Path(folder)) as telemetries:
        alone, together = asyncio.run(_measure(url, telemetries, singles, waves))
        lines = [_counts(name, telemetry) for name, telemetry in telemetries.items()]
    return Section(
        title="Real client: whole calls",
        tables=[
            _table(f"One call at a time, {singles} rounds", alone, "the test is over calls"),
            _table(f"{_WAVE} calls at a time, {waves} rounds", together, "the test is over the medians of waves"),
            Table("What became of the events", ["accepted", "written", "waiting in the journal", "dropped"], lines),
        ],
        targets=[
            Target(
                f"whole calls, {title}: p of '{name}' against 'off' (must: not significant at 0.01; aim: at 0.05)",
                mann_whitney_p(samples[name], samples[OFF]),
                None,
                None,
                "at least",
                0.01,
                0.05,
                "",
            )
            for title, samples in (("1 at a time", alone), (f"{_WAVE} at a time", together))
            for name in (ON, DEAD)
        ],
    )


@contextmanager
def anthropic_server() -> Iterator[str]:
    """The URL of a server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.messages_child"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.stdin.close()


@contextmanager
def _telemetries(folder: Path) -> Iterator[dict[str, Telemetry]]:
    locked = folder / "locked.db"
    url = make_database(locked)
    with ExitStack() as stack:
        lock = stack.enter_context(closing(sqlite3.connect(locked, isolation_level=None)))
        lock.execute("BEGIN EXCLUSIVE")
        yield {
            OFF: DisabledTelemetry(),
            ON: stack.enter_context(Telemetry(f"sqlite:///{folder / 'on.db'}")),
            DEAD: stack.enter_context(Telemetry(url, shutdown_timeout_s=0.1)),
        }


async def _measure(
    url: str, telemetries: Mapping[str, Telemetry], singles: int, waves: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    async with _clients(url, telemetries) as clients:
        for client in clients.values():
            await _wave(client, 10)
        alone = await _rounds(clients, singles, 1)
        together = await _rounds(clients, waves, _WAVE)
    return alone, together


@asynccontextmanager
async def _clients(url: str, telemetries: Mapping[str, Telemetry]) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(open_loopback_client(url, telemetry=telemetry))
            for name, telemetry in telemetries.items()
        }


async def _rounds(clients: Clients, rounds: int, concurrent: int) -> dict[str, list[float]]:
    """The median latency, in ms, of each wave of each client."""
    random = Random(rounds)  # noqa: S311 (an order)
    order = list(clients)
    samples: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            samples[name].append(statistics.median(await _wave(clients[name], concurrent)))
    return samples


async def _wave(client: AnthropicBuilderClient, concurrent: int) -> list[float]:
    async def call() -> float:
        begin = perf_counter_ns()
        result = await client.execute_phase(_PHASE)
        assert result.success, result.error
        return (perf_counter_ns() - begin) / 1e6

    return await asyncio.gather(*(call() for _ in range(concurrent)))


def _table(title: str, samples: Mapping[str, list[float]], note: str) -> Table:
    def line(name: str, found: list[float]) -> Line:
        figures: list[float | int | str | None] = [round(quantile(found, q), 3) for q in (0.1, 0.5, 0.9, 0.99)]
        if name == OFF:
            return Line(name, [*figures, None, None, None])
        difference, low, high = (round(1000 * value, 1) for value in median_difference(found, samples[OFF]))
        return Line(name, [*figures, difference, f"{low:g} – {high:g}", round(mann_whitney_p(found, samples[OFF]), 3)])

    columns = ["p10 ms", "p50 ms", "p90 ms", "p99 ms", "median over 'off' µs", "95 % interval µs", "p (Mann-Whitney)"]
    return Table(title, columns, [line(name, found) for name, found in samples.items()], f"In this table {note}.")


def _counts(name: str, telemetry: Telemetry) -> Line:
    if name == ON:
        telemetry.flush(30)
    stats = telemetry.stats()
    dropped = {reason: count for reason, count in stats.dropped.items() if reason != "disabled"}
    return Line(name, [stats.accepted, stats.written, stats.pending, sum(dropped.values())])
