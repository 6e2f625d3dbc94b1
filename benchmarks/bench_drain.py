"""Drain: events/s from a full queue to committed rows, beside `sqlite3`'s `executemany` of tuples that are ready.

The limit has nothing to do but to hand tuples to SQLite: no decoding, no validation, no metrics, no JSON, no account of
what was accepted. It writes every column; a second one leaves out those that autopack does not write either, being NULL
in the whole batch. Windows are interleaved; each side has a file of its own that grows alike.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any

import anyio
from benchmarks.call_site import FIELDS
from benchmarks.candidates import JOURNAL, MEMORY
from benchmarks.queue_drain import drain_rate, rate_table
from benchmarks.report import Line, Options, Section, Table
from benchmarks.rows import COLUMNS, MAX_BATCH_ROWS, connect, insert_ready, make_database, make_rows
from benchmarks.samples import at_least, ratio_of_medians

from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry
from autopack.telemetry.event.schema import Row
from autopack.telemetry.stores.sqlite import SqliteStore

BACKLOG = 10_000
LIMIT = "sqlite3, executemany of ready tuples"
SHORT_LIMIT = "the same, without the columns that are NULL in every row"
_USED = COLUMNS.index("duration_ms") + 1
_SIZES = (1, 10, 100, 500, MAX_BATCH_ROWS)


def run(options: Options) -> Section:
    """Measure the queue, the sizes of batches and the growth of the table."""
    with tempfile.TemporaryDirectory() as folder:
        rates = _rates(Path(folder), 7 if options.quick else 25)
    with tempfile.TemporaryDirectory() as folder:
        sizes = anyio.run(_by_size, Path(folder), 2 if options.quick else 15)
    with tempfile.TemporaryDirectory() as folder:
        growth = anyio.run(_by_growth, Path(folder), 10_000 if options.quick else 100_000, 4 if options.quick else 10)
    return Section(
        title="Drain: from the queue to committed rows, main thread idle",
        tables=[rate_table(rates, LIMIT, BACKLOG), sizes, growth],
        targets=[
            at_least(
                f"drain, main thread idle: {own} over {LIMIT}",
                *ratio_of_medians(rates[own], rates[LIMIT]),
                must=0.68,
                aim=0.75,
            )
            for own in (MEMORY, JOURNAL)
        ],
        chart=(0, 0),
    )


def _rates(folder: Path, windows: int) -> dict[str, list[float]]:
    for name in ("limit.db", "short.db"):
        make_database(folder / name)
    with ExitStack() as stack:
        connection = stack.enter_context(closing(connect(folder / "limit.db")))
        short = stack.enter_context(closing(connect(folder / "short.db")))
        memory = stack.enter_context(
            Telemetry(f"sqlite:///{folder / 'memory.db'}", journal_dir=None, queue_size=2 * BACKLOG)
        )
        journal = stack.enter_context(Telemetry(f"sqlite:///{folder / 'journal.db'}"))
        methods: dict[str, Callable[[], float]] = {
            MEMORY: lambda: drain_rate(memory, BACKLOG),
            JOURNAL: lambda: drain_rate(journal, BACKLOG),
            LIMIT: lambda: _insert_ready(connection, len(COLUMNS)),
            SHORT_LIMIT: lambda: _insert_ready(short, _USED),
        }
        for telemetry in (memory, journal):
            telemetry.record(**FIELDS)
            telemetry.flush(30)
        rates: dict[str, list[float]] = {title: [] for title in methods}
        for _ in range(windows):
            for title, method in methods.items():
                rates[title].append(method())
        return rates


def _insert_ready(connection: Any, width: int) -> float:
    tuples = [row[:width] for row in make_rows(BACKLOG)]
    begin = perf_counter_ns()
    for start in range(0, len(tuples), MAX_BATCH_ROWS):
        insert_ready(connection, tuples[start : start + MAX_BATCH_ROWS])
    return len(tuples) / ((perf_counter_ns() - begin) / 1e9)


async def _by_size(folder: Path, repetitions: int) -> Table:
    """The store alone, rows ready, by the number of rows in a batch."""
    store = SqliteStore(parse_database_url(f"sqlite:///{folder / 'store.db'}"))
    limit = folder / "limit.db"
    make_database(limit)
    await store.write(make_rows(1))
    through_store: dict[int, list[float]] = {size: [] for size in _SIZES}
    raw: dict[int, list[float]] = {size: [] for size in _SIZES}
    with closing(connect(limit)) as connection:
        for _ in range(repetitions):
            for size in _SIZES:
                through_store[size].append(await _store_rate(store, size))
                raw[size].append(_raw_rate(connection, size))
    await store.close()
    lines = []
    for size in _SIZES:
        value = ratio_of_medians(through_store[size], raw[size])[0]
        medians = (round(statistics.median(rates[size])) for rates in (through_store, raw))
        lines.append(Line(f"{size:,} rows", [*medians, round(value, 2)]))
    return Table("By the size of a batch, the store alone", ["the store, rows/s", "executemany, rows/s", "×"], lines)


def _batches(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _rows_of_size(size: int) -> list[Row]:
    return make_rows(min(5 * size + 50, 5_000))


async def _store_rate(store: SqliteStore, size: int) -> float:
    rows = _rows_of_size(size)
    begin = perf_counter_ns()
    for batch in _batches(rows, size):
        await store.write(batch)
    return len(rows) / ((perf_counter_ns() - begin) / 1e9)


def _raw_rate(connection: Any, size: int) -> float:
    tuples = _rows_of_size(size)
    begin = perf_counter_ns()
    for batch in _batches(tuples, size):
        insert_ready(connection, batch)
    return len(tuples) / ((perf_counter_ns() - begin) / 1e9)


async def _by_growth(folder: Path, slice_rows: int, slices: int) -> Table:
    """The store as its table grows."""
    store = SqliteStore(parse_database_url(f"sqlite:///{folder / 'growth.db'}"))
    await store.write(make_rows(1))
    lines = []
    for number in range(slices):
        elapsed_ns = cpu_ns = 0
        for _ in range(0, slice_rows, 10_000):
            rows = make_rows(10_000)
            begin, cpu_begin = perf_counter_ns(), process_time_ns()
            for batch in _batches(rows, store.max_batch_rows):
                await store.write(batch)
            elapsed_ns += perf_counter_ns() - begin
            cpu_ns += process_time_ns() - cpu_begin
        figures = [round(slice_rows / (elapsed_ns / 1e9)), round(cpu_ns / slice_rows / 1000, 2)]
        lines.append(Line(f"up to {(number + 1) * slice_rows:,} rows", [*figures]))
    await store.close()
    return Table("As the table grows, the store alone", ["rows/s", "CPU µs/row"], lines)
