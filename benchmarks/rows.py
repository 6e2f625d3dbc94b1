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

from autopack._util.ids import event_uid
from autopack.telemetry import Telemetry
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import FIELD_NAMES, Rejected, Row, as_read
from autopack.telemetry.event.schema import TABLE as SCHEMA
from autopack.telemetry.event.wire import encode
from autopack.telemetry.stores.by_url import store_for

COLUMNS = SCHEMA.names
TABLE = SCHEMA.name

MAX_BATCH_ROWS = store_for("sqlite://").max_batch_rows

_decode = Decoder()
_sequence = itertools.count(1 << 40)
_VALUES = (*FIELDS.values(), *[None] * (len(FIELD_NAMES) - len(FIELDS)))


def make_rows(count: int) -> list[Row]:
    """New rows as the worker makes them of recorded events; `sqlite3` takes them with nothing left to convert."""
    rows = [_decode(encode((time.time_ns(), next(_sequence), *_VALUES))) for _ in range(count)]
    assert not any(isinstance(row, Rejected) for row in rows)
    return rows


def with_instants(rows: list[Row]) -> list[Row]:
    """Rows as drivers take them that want an instant as an object."""
    return [tuple(as_read(row)) for row in rows]


def ready_mappings(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as SQLAlchemy's `insert()` takes them."""
    return [as_read(row)._asdict() for row in rows]


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
    """The limit: `executemany` of ready tuples, of the first columns or of all, in one transaction."""
    width = len(tuples[0])
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        f"INSERT INTO {TABLE} ({', '.join(COLUMNS[:width])}) VALUES ({', '.join('?' * width)})", tuples
    )
    connection.execute("COMMIT")


def fill(path: Path, count: int) -> None:
    """A database of so many varied events, as quickly as they can be put there."""
    make_database(path)
    connection = connect(path)
    for start in range(0, count, 10_000):
        insert_ready(connection, list(_varied(start, min(10_000, count - start))))
    connection.close()


def _varied(start: int, count: int) -> Iterator[tuple[Any, ...]]:
    template = dict(zip(COLUMNS, make_rows(1)[0], strict=True))
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
