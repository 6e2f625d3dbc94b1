"""Ready rows and databases for the benchmarks that write or read in bulk."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.call_site import FIELDS
from msgspec.structs import astuple

from autopack._util.ids import event_uid
from autopack.telemetry import Telemetry
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import Row
from autopack.telemetry.event.wire import encode

COLUMNS = Row.__struct_fields__
TABLE = "token_estimation_v2_events"
INSERT = f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"

_decode = Decoder()
_sequence = itertools.count(1 << 40)
_VALUES = (*FIELDS.values(), None, None)


def make_rows(count: int) -> list[Row]:
    """New rows as the worker makes them of recorded events."""
    rows = [_decode(encode((time.time_ns(), next(_sequence), *_VALUES))) for _ in range(count)]
    assert all(isinstance(row, Row) for row in rows)
    return rows  # type: ignore[return-value]


def ready_tuples(rows: list[Row]) -> list[tuple[Any, ...]]:
    """Rows as `sqlite3` takes them, with nothing left to convert."""
    at = COLUMNS.index("timestamp")

    def ready(row: Row) -> tuple[Any, ...]:
        values = astuple(row)
        text = row.timestamp.replace(tzinfo=None).isoformat(" ", "microseconds")
        return (*values[:at], text, *values[at + 1 :])

    return [ready(row) for row in rows]


def ready_mappings(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as SQLAlchemy's `insert()` takes them."""
    return [dict(zip(COLUMNS, astuple(row), strict=True)) for row in rows]


def make_database(path: Path) -> str:
    """A database with the events table in it, made by autopack itself, and its URL."""
    url = f"sqlite:///{path}"
    with Telemetry(url, journal_dir=None) as telemetry:
        telemetry.record(**FIELDS)
    return url


def connect(path: Path) -> sqlite3.Connection:
    """A connection set up as the store's is: WAL, synchronous NORMAL, transactions by hand; usable in any thread."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def insert_ready(connection: sqlite3.Connection, tuples: list[tuple[Any, ...]]) -> None:
    """The limit: `executemany` of ready tuples in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, tuples)
    connection.execute("COMMIT")


def fill(path: Path, count: int) -> None:
    """A database of so many varied events, as quickly as they can be put there."""
    make_database(path)
    connection = connect(path)
    for start in range(0, count, 10_000):
        insert_ready(connection, list(_varied(start, min(10_000, count - start))))
    connection.close()


def _varied(start: int, count: int) -> Iterator[tuple[Any, ...]]:
    template = dict(zip(COLUMNS, ready_tuples(make_rows(1))[0], strict=True))
    for number in range(start, start + count):
        at = datetime.fromtimestamp(1_700_000_000 + number, UTC).replace(tzinfo=None)
        varied = {
            "event_uid": event_uid(time.time_ns(), next(_sequence)),
            "run_id": f"nightly-{number % 97}",
            "phase_id": f"p{number % 1009}",
            "timestamp": at.isoformat(" ", "microseconds"),
            "actual_output_tokens": 500 + number % 7919,
            "deliverables_json": f'["src/module_{number % 499}.py","tests/test_module_{number % 499}.py"]',
        }
        yield tuple((template | varied).values())
