"""The table, read as a stream.

One transaction sees one moment: the count and the rows agree, also while the database is being written. Rows are
fetched in blocks, so memory does not depend on how many there are. A SQLite file in WAL mode, which is what
autopack makes, is read without holding up its writer; a reader that pauses for long only lets the WAL grow.

The file is opened with `mode=rw` and `query_only`, not with `mode=ro`: a read-only connection to a WAL database
leaves its `-wal` and `-shm` files behind, a writable one takes them away when it is the last to close. Neither
creates a database. Only where that is not permitted (a read-only directory) and no WAL exists is the file read
as immutable: nobody can be writing to it there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    and_,
    create_engine,
    func,
    inspect,
    null,
    select,
    type_coerce,
)
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import NullType

from autopack.analysis.errors import ReadError
from autopack.analysis.records import (
    COLUMNS,
    PLAN_COLUMNS,
    EventRecord,
    Unreadable,
    record_of,
    utc_text,
    with_metrics_recomputed,
)
from autopack.analysis.selection import EVERYTHING, Selection
from autopack.database import Destination
from autopack.models import TokenEstimationV2Event

BLOCK_ROWS = 1_000
_TABLE = TokenEstimationV2Event.metadata.tables[TokenEstimationV2Event.__tablename__]
_BUSY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Events:
    """The selected events of one moment, newest first: how many, and the records, to be taken once.

    `unreadable` counts, while they are taken, the records that lack something which could not be read.
    """

    total: int
    records: Iterator[EventRecord]
    unreadable: Unreadable


@contextmanager
def open_events(destination: Destination, selection: Selection = EVERYTHING) -> Iterator[Events]:
    """The selected events of a database, as long as the context lasts.

    Raises:
        ReadError: there is no database, no table in it, or it cannot be read; also while records are taken.

    """
    with _connected(destination) as connection:
        present = _columns(connection, destination)
        conditions = _conditions(selection)
        found = connection.execute(select(func.count()).select_from(_TABLE).where(*conditions)).scalar_one()
        total = found if selection.limit is None else min(found, selection.limit)
        unreadable = Unreadable()
        query = _query(present).where(*conditions)
        records = _records(connection, query, selection.limit, unreadable, recompute="event_uid" not in present)
        yield Events(total, records, unreadable)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some columns of the selected events: how many, and the values as they are stored, in blocks, to be taken once."""

    total: int
    blocks: Iterator[Sequence[Row[*tuple[Any, ...]]]]


@contextmanager
def open_columns(
    destination: Destination, columns: Mapping[str, int | None], selection: Selection = EVERYTHING
) -> Iterator[Rows]:
    """Some columns of the selected events, in no order: what is not asked for is not read.

    A column that the table lacks is None. One with a number is cut to that many characters. Raises `ReadError`, as
    `open_events` does.
    """
    with _connected(destination) as connection:
        present = _columns(connection, destination)
        conditions = _conditions(selection)
        found = connection.execute(select(func.count()).select_from(_TABLE).where(*conditions)).scalar_one()
        query = _query(present, columns).where(*conditions)
        if selection.limit is None:
            query = query.order_by(None)  # a limit means the newest; without one, sorting would only take time
        total = found if selection.limit is None else min(found, selection.limit)
        yield Rows(total, _blocks(connection, query, selection.limit))


def count_and_newest(destination: Destination) -> tuple[int, str | None]:
    """How many events the database holds, and when the newest of them happened, in ISO 8601 with its zone.

    None: there are no events, or what is stored as the newest time is none. Raises `ReadError`.
    """
    with _connected(destination) as connection:
        _columns(connection, destination)
        newest = func.max(type_coerce(_TABLE.c.timestamp, NullType()))  # as stored, or one bad value would raise
        rows, stored = connection.execute(select(func.count(), newest)).one()
    return rows, utc_text(stored)


@contextmanager
def _connected(destination: Destination) -> Iterator[Connection]:
    engine = _engine(destination)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection
    except SQLAlchemyError as exc:
        raise ReadError(f"{destination} cannot be read: {_reason(exc)}") from exc
    finally:
        engine.dispose()


def _engine(destination: Destination) -> Engine:
    if destination.path is None:
        raise ReadError("a database in memory is gone with its process; set DATABASE_URL to a file")
    if not _exists(destination):
        raise ReadError(f"there is no database at {destination.path}; record some events first "
                        "(TELEMETRY_DB_ENABLED=1), or set DATABASE_URL to where they are")  # fmt: skip
    return create_engine(
        "sqlite://", creator=partial(_connect, destination.path), poolclass=NullPool, hide_parameters=True
    )


def _exists(destination: Destination) -> bool:
    try:
        return destination.exists()
    except OSError as exc:
        raise ReadError(f"{destination} cannot be read: {exc.strerror}") from exc


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _opened(path, "mode=rw")
    except sqlite3.OperationalError:
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise
        return _opened(path, "mode=ro&immutable=1")


def _opened(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?{options}", uri=True, timeout=_BUSY_TIMEOUT_S)
    try:
        connection.text_factory = _text
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # opening a file reads nothing of it
    except BaseException:
        connection.close()
        raise
    return connection


def _text(stored: bytes) -> str:
    """Other programs store anything as text; by default one bad byte would fail the whole result."""
    return stored.decode("utf-8", "replace")


def _columns(connection: Connection, destination: Destination) -> frozenset[str]:
    inspector = inspect(connection)
    if not inspector.has_table(_TABLE.name):
        raise ReadError(f"{destination} has no table {_TABLE.name}; record some events first (TELEMETRY_DB_ENABLED=1), "
                        "or set DATABASE_URL to where they are")  # fmt: skip
    present = frozenset(column["name"] for column in inspector.get_columns(_TABLE.name))
    if missing := set(PLAN_COLUMNS) - present:
        raise ReadError(f"{destination}: the table {_TABLE.name} has no column {', '.join(sorted(missing))}; "
                        "run once with TELEMETRY_DB_ENABLED=1, which upgrades it")  # fmt: skip
    return present


def _conditions(selection: Selection) -> list[ColumnElement[bool]]:
    columns = _TABLE.c
    conditions: list[ColumnElement[bool]] = [and_(True)]
    for column, wanted in (
        (columns.run_id, selection.run_ids),
        (columns.category, selection.categories),
        (columns.model, selection.models),
    ):
        if wanted:
            conditions.append(column.in_(wanted))
    if selection.since is not None:
        conditions.append(columns.timestamp >= selection.since)
    if selection.until is not None:
        conditions.append(columns.timestamp < selection.until)
    return conditions


def _query(
    present: frozenset[str], columns: Mapping[str, int | None] = dict.fromkeys(COLUMNS)
) -> Select[*tuple[Any, ...]]:
    """The columns, newest first, without SQLAlchemy's conversions: they fail a whole result for one bad value."""
    tie_break = next((name for name in ("event_uid", "event_id") if name in present), "phase_id")
    return select(
        *(_column(name, length) if name in present else null().label(name) for name, length in columns.items())
    ).order_by(_TABLE.c.timestamp.desc(), _TABLE.c[tie_break].desc())


def _column(name: str, length: int | None) -> ColumnElement[Any]:
    column = _TABLE.c[name]
    return type_coerce(column if length is None else func.substr(column, 1, length), NullType())


def _records(
    connection: Connection,
    query: Select[*tuple[Any, ...]],
    limit: int | None,
    unreadable: Unreadable,
    *,
    recompute: bool,
) -> Iterator[EventRecord]:
    for block in _blocks(connection, query, limit):
        for row in block:
            yield record_of(with_metrics_recomputed(row) if recompute else row, unreadable)


def _blocks(
    connection: Connection, query: Select[*tuple[Any, ...]], limit: int | None
) -> Iterator[Sequence[Row[*tuple[Any, ...]]]]:
    """The rows in blocks. Text is read as the UTF-8 that it should be, without a call per text, which takes a third of
    an export's time; from the first block on that holds other bytes, with one. The transaction sees the same rows.
    """
    driver: Any = connection.connection.driver_connection
    driver.text_factory = str
    done = 0
    try:
        for block in _executed(connection, query.limit(limit)):
            done += len(block)
            yield block
    except OperationalError:
        driver.text_factory = _text
        rest = query.limit(None if limit is None else limit - done).offset(done)
        yield from _executed(connection, rest)


def _executed(connection: Connection, query: Select[*tuple[Any, ...]]) -> Iterator[Sequence[Row[*tuple[Any, ...]]]]:
    return connection.execution_options(yield_per=BLOCK_ROWS).execute(query).partitions()


def _reason(exc: SQLAlchemyError) -> str:
    return str(exc.__cause__ or type(exc).__name__)
