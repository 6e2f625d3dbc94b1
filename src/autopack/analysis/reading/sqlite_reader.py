"""SQLite for the read side: a file, opened so that reading it changes nothing and holds no writer up.

The file is opened with `mode=rw` and `query_only`, not with `mode=ro`: a read-only connection to a WAL database
leaves its `-wal` and `-shm` files behind, a writable one takes them away when it is the last to close. Neither
creates a database. Only where that is not permitted (a read-only directory) and no WAL exists is the file read
as immutable: no program can be writing to it there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import ColumnElement, Connection, Engine, Select, create_engine, inspect, type_coerce
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import NullType

from autopack.analysis.reading.reader import BLOCK_ROWS, Block
from autopack.database.destination import Destination
from autopack.errors import ReadError

_BUSY_TIMEOUT_S = 5.0


@contextmanager
def connected(destination: Destination) -> Iterator[Connection]:
    """A connection that reads one snapshot. Raises `ReadError`, also for what goes wrong in its block."""
    engine = _engine(destination)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection
    except (SQLAlchemyError, sqlite3.Error) as exc:
        reason = exc if isinstance(exc, sqlite3.Error) else exc.__cause__ or type(exc).__name__
        raise ReadError(f"{destination} cannot be read: {reason}") from exc
    finally:
        engine.dispose()


def column_names(connection: Connection, table: str) -> frozenset[str]:
    """The columns of a table; none where there is no such table."""
    inspector = inspect(connection)
    if not inspector.has_table(table):
        return frozenset()
    return frozenset(column["name"] for column in inspector.get_columns(table))


def as_stored(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column without SQLAlchemy's conversions: they fail a whole result for one bad value."""
    return type_coerce(column, NullType())


def blocks(connection: Connection, query: Select[*tuple[Any, ...]], limit: int | None) -> Generator[Block, None, None]:
    """The rows in blocks. Text is read as the UTF-8 that it should be, without a call per text, which takes a third of
    an export's time; from the first block on that holds other bytes, with one. The transaction sees the same rows.
    """
    driver: Any = connection.connection.driver_connection
    driver.text_factory = str
    done = 0
    try:
        for block in _fetched(connection, query.limit(limit)):
            done += len(block)
            yield block
    except sqlite3.OperationalError:
        driver.text_factory = _text
        rest = query.limit(None if limit is None else limit - done).offset(done)
        yield from _fetched(connection, rest)


def _fetched(connection: Connection, query: Select[*tuple[Any, ...]]) -> Iterator[Block]:
    """The rows as the driver makes them: SQLAlchemy's own take a quarter more time, and nothing is to be converted."""
    with connection.execute(query) as result:
        cursor: Any = result.cursor
        while block := cursor.fetchmany(BLOCK_ROWS):
            yield block


def estimated_rows(connection: Connection, table: str) -> int:
    """The span of the row numbers: the number of rows where none was deleted in between."""
    last, first = (
        connection.exec_driver_sql(f"SELECT {which}(rowid) FROM {table}").scalar_one()  # noqa: S608 (our own name)
        for which in ("max", "min")  # one statement for each, so that each is one look into the table
    )
    return 0 if last is None else int(last - first + 1)


def _engine(destination: Destination) -> Engine:
    if destination.path is None:
        raise ReadError("a database in memory is gone with its process; set DATABASE_URL to a file")
    if not _exists(destination):
        raise ReadError(
            f"there is no database at {destination.path}; record some events first "
            "(TELEMETRY_DB_ENABLED=1), or name another database (DATABASE_URL)"
        )
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
