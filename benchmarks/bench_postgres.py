"""Drain into PostgreSQL, beside asyncpg's `copy_records_to_table` of ready tuples into a table with the same indexes.

Both sides have a database of their own on one server, which grows alike; windows are interleaved. The limit has nothing
to do but to hand tuples to COPY: no decoding, no validation, no account, and it could not be repeated safely, since a
conflict fails the whole COPY. CPU is that of the client, in all of its threads: the server is another process. The
server is the one in `TEST_POSTGRES_URL`, or one from a wheel that is started here.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter_ns, process_time_ns
from typing import Any

from benchmarks.call_site import FIELDS
from benchmarks.candidates import JOURNAL, MEMORY
from benchmarks.queue_drain import drain_rate, rate_table
from benchmarks.report import Line, Options, Section, Table
from benchmarks.rows import COLUMNS, TABLE, make_rows, with_instants
from benchmarks.samples import at_least, at_most, ratio_of_medians
from tests import postgres

from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry
from autopack.telemetry.event.schema import Row
from autopack.telemetry.stores.postgres.store import PostgresStore

BACKLOG = 20_000
COPY = "asyncpg, copy_records_to_table of ready tuples"
EXECUTEMANY = "asyncpg, executemany of ready tuples"
STORE = "autopack, the store alone, rows ready"
_INSERT = (
    f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) "
    f"VALUES ({', '.join(f'${number + 1}' for number in range(len(COLUMNS)))})"
)

Writing = Callable[[list[Row]], Awaitable[None]]


def run(options: Options) -> Section:
    """Measure the drain of a full queue, the store alone, and the limits."""
    with _state_folder(), _servers_database("autopack") as url, _servers_database("limit") as limit_url:
        rates, cpu = asyncio.run(_rates(url, limit_url, 5 if options.quick else 18))
    return Section(
        title="Drain into PostgreSQL, main thread idle",
        tables=[rate_table(rates, COPY, BACKLOG), _cpu_table(cpu)],
        targets=[
            at_least(
                f"drain into PostgreSQL: {side} over {COPY}",
                *ratio_of_medians(rates[side], rates[COPY]),
                must=0.5,
                aim=0.6,
            )
            for side in (MEMORY, JOURNAL)
        ]
        + [
            at_most(
                f"CPU of the client: {STORE} over {COPY}", *ratio_of_medians(cpu[STORE], cpu[COPY]), must=1, aim=0.7
            )
        ],
        remarks=[
            "Client and server share two cores here; with a server of its own the client's part decides. The server "
            "runs without fsync and with synchronous_commit off, for both sides."
        ],
    )


def _cpu_table(cpu: dict[str, list[float]]) -> Table:
    lines = [Line(title, [round(statistics.median(found), 2)]) for title, found in cpu.items()]
    return Table("CPU of the client, ready rows", ["µs/row, median"], lines)


async def _rates(url: str, limit_url: str, windows: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Rows/s of all sides, and the CPU of those that write ready rows, in µs per row."""
    import asyncpg

    store = PostgresStore(parse_database_url(url))
    await store.write(make_rows(1))
    limit = PostgresStore(parse_database_url(limit_url))
    await limit.write(make_rows(1))  # makes the table
    await limit.close()
    connection = await asyncpg.connect(limit_url)
    with ExitStack() as stack:
        memory = stack.enter_context(Telemetry(url, journal_dir=None, queue_size=2 * BACKLOG))
        journal = stack.enter_context(Telemetry(url))
        for telemetry in (memory, journal):
            telemetry.record(**FIELDS)
            assert telemetry.flush(30)
        drains = {MEMORY: memory, JOURNAL: journal}
        writes: dict[str, Writing] = {
            STORE: lambda rows: _store(store, rows),
            COPY: lambda rows: _copy(connection, rows),
            EXECUTEMANY: lambda rows: _executemany(connection, rows),
        }
        rates: dict[str, list[float]] = {title: [] for title in (*drains, *writes)}
        cpu: dict[str, list[float]] = {title: [] for title in writes}
        for _ in range(windows):
            for title, telemetry in drains.items():
                rates[title].append(drain_rate(telemetry, BACKLOG))
            for title, write in writes.items():
                rows = make_rows(BACKLOG)
                rate, cpu_us = await _written(write, rows if title == STORE else with_instants(rows))
                rates[title].append(rate)
                cpu[title].append(cpu_us)
    await connection.close()
    await store.close()
    return rates, cpu


async def _written(write: Writing, rows: list[Row]) -> tuple[float, float]:
    size = PostgresStore.max_batch_rows
    begin_ns, begin_cpu_ns = perf_counter_ns(), process_time_ns()
    for start in range(0, len(rows), size):
        await write(rows[start : start + size])
    elapsed_ns, cpu_ns = perf_counter_ns() - begin_ns, process_time_ns() - begin_cpu_ns
    return len(rows) / (elapsed_ns / 1e9), cpu_ns / len(rows) / 1000


async def _store(store: PostgresStore, rows: list[Row]) -> None:
    assert await store.write(rows) == len(rows)


async def _copy(connection: Any, rows: list[Row]) -> None:
    await connection.copy_records_to_table(TABLE, records=rows, columns=COLUMNS)


async def _executemany(connection: Any, rows: list[Row]) -> None:
    await connection.executemany(_INSERT, rows)


@contextmanager
def _servers_database(name: str) -> Iterator[str]:
    """A new database on the server; the last one to be left ends a server that was started here."""
    postgres.begin_run()
    try:
        with postgres.new_database(postgres.server_url()) as database:
            yield database.url
    finally:
        if name == "autopack":
            postgres.end_run()


@contextmanager
def _state_folder() -> Iterator[None]:
    """The journal of a PostgreSQL database lies in the user's state directory: not in the real one."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        yield
