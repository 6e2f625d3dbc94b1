"""The table, read as a stream.

One transaction sees one moment: the count and the rows agree, also while the database is being written. Rows are
fetched in blocks, so memory does not depend on how many there are. A SQLite file in WAL mode, which is what
autopack makes, is read without holding up its writer; a reader that pauses for long only lets the WAL grow. What is
peculiar to a kind of database stands in `sqlite_reader` and `postgres_reader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal_column, null, select

from autopack.analysis.reading import sqlite_reader
from autopack.analysis.reading.reader import Block, Reader
from autopack.analysis.reading.records import (
    COLUMNS,
    EventRecord,
    Unreadable,
    records_of,
    utc_text,
    with_metrics_recomputed,
)
from autopack.analysis.reading.selection import EVERYTHING, Selection
from autopack.database.destination import Destination
from autopack.errors import ReadError
from autopack.models import TokenEstimationV2Event
from autopack.telemetry.event import HOST_COLUMNS

_TABLE = TokenEstimationV2Event.metadata.tables[TokenEstimationV2Event.__tablename__]
_ROW_NUMBER: ColumnElement[int] = literal_column("rowid")  # of SQLite only
_NOT_BY_NUMBER: ColumnElement[int] = literal_column("+rowid")
_COUNTED_ROWS = 10_000  # up to which an exact number costs next to nothing


def reader_of(destination: Destination) -> Reader:
    """How a database is read; the driver of a server is imported only for one."""
    if destination.server is None:
        return sqlite_reader
    from autopack.analysis.reading import postgres_reader

    return postgres_reader


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
    reader = reader_of(destination)
    with reader.connected(destination) as connection:
        present = _columns(reader, connection, destination)
        conditions = _conditions(selection)
        total = _count(connection, conditions, selection.limit)
        unreadable = Unreadable()
        query = _query(reader, present).where(*conditions)
        with closing(reader.blocks(connection, query, selection.limit)) as blocks:
            records = _records(blocks, unreadable, recompute="event_uid" not in present)
            yield Events(total, records, unreadable)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some columns of the selected events: how many, and the values as they are stored, in blocks, to be taken once.

    `total` is None where counting them would read the whole table a second time.
    """

    total: int | None
    blocks: Iterator[Block]


@contextmanager
def open_columns(
    destination: Destination, columns: Mapping[str, int | None], selection: Selection = EVERYTHING
) -> Iterator[Rows]:
    """Some columns of the selected events, in no order: what is not asked for is not read.

    A column that the table lacks is None. One with a number is cut to that many characters. Raises `ReadError`, as
    `open_events` does.
    """
    reader = reader_of(destination)
    with reader.connected(destination) as connection:
        present = _columns(reader, connection, destination)
        conditions = _conditions(selection)
        total = None if _scans_table(selection) else _count(connection, conditions, selection.limit)
        query = _query(reader, present, columns).where(*conditions)
        if selection.limit is None:
            query = query.order_by(None)  # a limit means the newest; without one, sorting would only take time
        with closing(reader.blocks(connection, query, selection.limit)) as blocks:
            yield Rows(total, blocks)


@contextmanager
def open_newest(destination: Destination, selection: Selection) -> Iterator[Iterator[EventRecord]]:
    """The records of the selected events without their number, which would take a look at each: newest first where the
    selection has a limit, in no order where it has none. Raises `ReadError`, as `open_events` does.
    """
    reader = reader_of(destination)
    with reader.connected(destination) as connection:
        present = _columns(reader, connection, destination)
        query = _query(reader, present).where(*_conditions(selection))
        if selection.limit is None:
            query = query.order_by(None)
        with closing(reader.blocks(connection, query, selection.limit)) as blocks:
            yield _records(blocks, Unreadable(), recompute="event_uid" not in present)


class RowCount(NamedTuple):
    """How many rows there are; `exact` False: the database's own estimate."""

    rows: int
    exact: bool


def count_and_newest(destination: Destination, *, exact: bool = True) -> tuple[RowCount, str | None]:
    """How many events the database holds, and when the newest of them happened, in ISO 8601 with its zone.

    None: there are no events, or what is stored as the newest time is none. `exact` False: beyond 10,000 rows their
    number is estimated, so that it costs the same for any number. Raises `ReadError`.
    """
    reader = reader_of(destination)
    with reader.connected(destination) as connection:
        _columns(reader, connection, destination)
        newest = reader.as_stored(func.max(_TABLE.c.timestamp))  # or one bad value would raise
        stored = connection.execute(select(newest)).scalar_one()  # apart from the count: so an index answers it
        count = _exact_count(connection) if exact else _quick_count(reader, connection)
    return count, utc_text(stored)


def _exact_count(connection: Connection) -> RowCount:
    return RowCount(_count(connection, [], None), exact=True)


def _quick_count(reader: Reader, connection: Connection) -> RowCount:
    first = select(literal_column("1")).select_from(_TABLE).limit(_COUNTED_ROWS + 1).subquery()
    rows: int = connection.execute(select(func.count()).select_from(first)).scalar_one()
    if rows <= _COUNTED_ROWS:
        return RowCount(rows, exact=True)
    return RowCount(max(rows, reader.estimated_rows(connection, _TABLE.name)), exact=False)


def rows_landed(destination: Destination) -> int:
    """The number that SQLite gave the row that landed last; 0 in an empty table. Raises `ReadError`."""
    reader = reader_of(destination)
    with reader.connected(destination) as connection:
        _columns(reader, connection, destination)
        largest: int | None = connection.execute(select(func.max(_ROW_NUMBER)).select_from(_TABLE)).scalar_one()
    return largest or 0


def _columns(reader: Reader, connection: Connection, destination: Destination) -> frozenset[str]:
    present = reader.column_names(connection, _TABLE.name)
    if not present:
        raise ReadError(
            f"{destination} has no table {_TABLE.name}; record some events first (TELEMETRY_DB_ENABLED=1), "
            "or name another database (DATABASE_URL)"
        )
    if missing := set(HOST_COLUMNS) - present:
        raise ReadError(
            f"{destination}: the table {_TABLE.name} has no column {', '.join(sorted(missing))}; "
            "autopack db upgrade mends that"
        )
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
    if selection.landed is not None:
        after, through = selection.landed
        # The newest of many are found by the index of times. The sign keeps SQLite from taking the row numbers for
        # more selective than they are: it would sort the whole table (619 ms at a million rows, 0.04 ms so).
        number = _ROW_NUMBER if selection.limit is None else _NOT_BY_NUMBER
        conditions += [after < number, through >= number]
    return conditions


def _scans_table(selection: Selection) -> bool:
    """Whether no index answers which events these are."""
    return bool(selection.categories or selection.models)


def _count(connection: Connection, conditions: Sequence[ColumnElement[bool]], limit: int | None) -> int:
    found: int = connection.execute(select(func.count()).select_from(_TABLE).where(*conditions)).scalar_one()
    return found if limit is None else min(found, limit)


def _query(
    reader: Reader, present: frozenset[str], columns: Mapping[str, int | None] = dict.fromkeys(COLUMNS)
) -> Select[*tuple[Any, ...]]:
    """The columns, newest first."""
    tie_break = next((name for name in ("event_uid", "event_id") if name in present), "phase_id")
    return select(
        *(
            _column(reader, name, length) if name in present and name in _TABLE.c else null().label(name)
            for name, length in columns.items()
        )
    ).order_by(_TABLE.c.timestamp.desc(), _TABLE.c[tie_break].desc())


def _column(reader: Reader, name: str, length: int | None) -> ColumnElement[Any]:
    stored = reader.as_stored(_TABLE.c[name])
    return stored if length is None else func.substr(stored, 1, length)


def _records(blocks: Iterator[Block], unreadable: Unreadable, *, recompute: bool) -> Iterator[EventRecord]:
    for block in blocks:
        yield from records_of(list(map(with_metrics_recomputed, block)) if recompute else block, unreadable)
