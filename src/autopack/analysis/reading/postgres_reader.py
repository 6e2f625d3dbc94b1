"""PostgreSQL for the read side: one read-only transaction, and a cursor on the server.

The transaction is REPEATABLE READ: the count and the rows that come after it are of one snapshot, and no writer waits.
The cursor lives in it, so that PgBouncer may pool transactions. Instants come as the text of their UTC wall clock, as
SQLite has them: the driver's own conversion would fail a whole result for one `infinity`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, DateTime, Engine, Select, Text, cast, func, text, type_coerce
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import NullType

from autopack.analysis.reading.reader import Block, streamed
from autopack.database import engine_for
from autopack.database.destination import Destination
from autopack.database.driver_errors import describe_driver_error
from autopack.errors import DatabaseUrlError, ReadError
from autopack.models import UtcDateTime


@contextmanager
def connected(destination: Destination) -> Iterator[Connection]:
    """A connection that reads one snapshot. Raises `ReadError`, also for what goes wrong in its block."""
    engine = _engine(destination)
    try:
        with engine.connect() as fresh:
            connection = fresh.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            for setting in ("TimeZone = 'UTC'", "DateStyle = 'ISO'"):
                connection.exec_driver_sql(f"SET LOCAL {setting}")
            yield connection
    except SQLAlchemyError as exc:
        raise ReadError(f"{destination} cannot be read: {describe_driver_error(exc)}") from exc


def column_names(connection: Connection, table: str) -> frozenset[str]:
    """The columns of a table; none where there is no such table. From the catalogue: SQLAlchemy's inspection warns of
    every type that it does not know.
    """
    found = connection.execute(
        text("""
            SELECT attname FROM pg_attribute
            WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped
        """),
        {"table": table},
    )
    return frozenset(found.scalars())


def as_stored(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column as SQLite would give it: an instant as its UTC wall clock, JSON as text, whatever type holds it."""
    if isinstance(column.type, UtcDateTime | DateTime):
        return func.split_part(cast(column, Text), "+", 1)
    if isinstance(column.type, Text):
        return cast(column, Text)
    return type_coerce(column, NullType())


def blocks(connection: Connection, query: Select[*tuple[Any, ...]], limit: int | None) -> Generator[Block, None, None]:
    """The rows in blocks, fetched from the server one at a time."""
    return streamed(connection, query.limit(limit))


def estimated_rows(connection: Connection, table: str) -> int:
    """What the last ANALYZE or VACUUM counted; -1 before the first."""
    statement = text("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(:table)")
    return int(connection.execute(statement, {"table": table}).scalar_one())


def _engine(destination: Destination) -> Engine:
    try:
        return engine_for(destination)
    except DatabaseUrlError as exc:
        raise ReadError(f"{destination} cannot be read: {exc}") from exc
