"""SQLite: one statement with many rows, and one hop to the connection's thread, per batch.

Row by row, `executemany` gives up the GIL at every step and waits up to 5 ms to get it back while the main thread is
busy: some hundred rows a second. And each hop between the loop and aiosqlite's thread costs such a wait too. So the
whole transaction, BEGIN IMMEDIATE to COMMIT, runs as one call on aiosqlite's thread. `sqlite3` offers the way in:
aiosqlite's `executemany` calls the connection's own, and the connection's class is an argument of `connect`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autopack._util.files import make_folders
from autopack.database.destination import Destination
from autopack.errors import DataRejectedError, SchemaError, StoreError, StoreUnusableError, TransientStoreError
from autopack.telemetry import lifecycle, log
from autopack.telemetry.event.schema import TABLE, Row, Table

if TYPE_CHECKING:
    import aiosqlite
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# Nothing can interrupt SQLite's own wait for a lock, so it is short; longer waits are the retry's, which shutdown ends.
BUSY_TIMEOUT_MS = 250
_MAX_VARIABLES = 32_766  # of SQLite since 3.32

_TRANSIENT = {"BUSY", "LOCKED", "NOMEM", "INTERRUPT", "IOERR", "FULL", "CANTOPEN", "PROTOCOL", "SCHEMA"}
_DATA = {"TOOBIG", "CONSTRAINT", "MISMATCH", "RANGE"}
_UNUSABLE = {"ERROR", "PERM", "READONLY", "CORRUPT", "NOTADB", "AUTH", "NOLFS", "FORMAT", "INTERNAL", "MISUSE"}
_KIND_OF_CODE: dict[int, type[StoreError]] = {
    getattr(sqlite3, f"SQLITE_{name}"): kind
    for kind, names in (
        (TransientStoreError, _TRANSIENT),
        (DataRejectedError, _DATA),
        (StoreUnusableError, _UNUSABLE),
    )
    for name in names
}


def translate(exc: BaseException) -> StoreError:
    """What to do about an exception that came up while writing, decided by type and code, never by its text.

    What is not known counts as transient: nothing is given up for it.
    """
    cause = getattr(exc, "orig", None) or exc
    if isinstance(cause, StoreError):
        return cause
    if isinstance(cause, SchemaError):
        return StoreUnusableError(str(cause))
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:
        return TransientStoreError(type(cause).__name__)
    kind = _KIND_OF_CODE.get(code & 0xFF, TransientStoreError)
    return kind(f"{type(cause).__name__} {getattr(cause, 'sqlite_errorname', code)}")


class _BulkConnection(sqlite3.Connection):
    """A connection whose `executemany` is one transaction and one statement."""

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """Run `sql`, an INSERT with its rows as `{rows}`, for all rows of `parameters` at once."""
        rows: Sequence[Row] = list(parameters)
        placeholders = f"({','.join('?' * len(rows[0]))})"
        statement = sql.format(rows=",".join([placeholders] * len(rows)))
        try:
            values = list(chain.from_iterable(rows))
            self.execute("BEGIN IMMEDIATE")
            cursor = self.execute(statement, values)
            self.execute("COMMIT")
        except (OverflowError, UnicodeError, TypeError, ValueError) as exc:
            self._abandon()
            raise DataRejectedError(type(exc).__name__) from exc
        except BaseException:
            self._abandon()
            raise
        return cursor

    def _abandon(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")


@cache
def _insert_template(table: Table) -> str:
    # The conflict is named: a unique index of the user's own must not make another event vanish as a duplicate.
    return (
        f"INSERT INTO {table.name} ({', '.join(table.names)}) VALUES {{rows}} "  # noqa: S608 (our own names)
        f"ON CONFLICT ({', '.join(table.key)}) DO NOTHING"
    )


class SqliteStore:
    """One SQLite file, or a database in memory that lives as long as its connection."""

    is_remote = False

    def __init__(self, destination: Destination, table: Table = TABLE) -> None:
        self.max_batch_rows = _MAX_VARIABLES // len(table.columns)
        self._table = table
        self._destination = destination
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self._driver: aiosqlite.Connection | None = None
        self._direct: Connection | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def telemetry_dir(self) -> Path | None:
        """`<database file>.telemetry`, or None in memory."""
        return self._destination.telemetry_dir

    @property
    def identity(self) -> str | None:
        """The real path of the file; None in memory."""
        return self._destination.identity

    def load(self) -> None:
        """SQLAlchemy, aiosqlite and Alembic, with what they import late."""
        from autopack.database import migrations

        migrations.load()
        self._engine = self._engine or self._make_engine()

    async def write(self, rows: Sequence[Row]) -> int:
        """See `Store.write`."""
        try:
            cursor = await self._write(rows)
        except Exception as exc:
            error = translate(exc)
            if not isinstance(error, DataRejectedError):
                await self.close(final=False)
            raise error from exc
        if self._inode != _inode_of(self._destination.path):
            # In WAL mode a commit into a file that was deleted or replaced succeeds, and nobody will ever see it.
            await self.close(final=False)
            raise TransientStoreError("database file replaced")
        return int(cursor.rowcount)

    async def close(self, *, final: bool = True) -> None:
        """See `Store.close`. A database in memory lives as long as its connection."""
        if final or self._destination.path is not None or self._driver is None:
            await self._disconnect()

    def reset_in_child(self) -> SqliteStore:
        """See `Store.reset_in_child`."""
        lifecycle.keep_uncollected(self)  # closing a copy of its connection would write into the parent's files
        return SqliteStore(self._destination, self._table)

    async def _write(self, rows: Sequence[Row]) -> Any:
        if self._driver is None and self._direct is None:
            try:
                await self._connect()
            except Exception as exc:
                # No row is the reason when there is no connection yet, whatever an upgrade in place stumbled over.
                error = translate(exc)
                raise StoreUnusableError(error.code) if isinstance(error, DataRejectedError) else error from exc
        if self._driver is not None:
            return await self._driver.executemany(_insert_template(self._table), cast("Iterable[Any]", rows))
        return self._direct_driver().executemany(_insert_template(self._table), cast("Iterable[Any]", rows))

    async def _connect(self) -> None:
        _create_private(self._destination.path)
        self._engine = self._engine or self._make_engine()
        try:
            self._connection = await self._engine.connect()
        except RuntimeError:
            # From Python 3.12 on no thread can be started while the interpreter exits, and aiosqlite needs one. This is
            # the last chance to write, and nothing else is left to be kept from running: do it in this thread.
            self._direct = self._make_direct_engine().connect()
            _prepare(self._direct)
        else:
            await self._connection.run_sync(_prepare)
            self._driver = (await self._connection.get_raw_connection()).driver_connection
        self._inode = _inode_of(self._destination.path)

    async def _disconnect(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        direct, self._direct = self._direct, None
        engine, self._engine = self._engine, None
        try:
            if direct is not None:
                direct.close()
            if connection is not None:
                await connection.close()
            if engine is not None:
                await engine.dispose()
        except Exception as exc:  # noqa: BLE001 (what cannot be closed is let go of: the next write opens anew)
            log.info("A connection could not be closed: %s", type(exc).__name__)

    def _direct_driver(self) -> sqlite3.Connection:
        assert self._direct is not None  # noqa: S101 (for the type checker; `_connect` made one of the two)
        return cast("sqlite3.Connection", self._direct.connection.driver_connection)

    def _make_engine(self) -> AsyncEngine:
        from sqlalchemy.ext.asyncio import create_async_engine

        url = self._destination.sqlalchemy_url("aiosqlite")
        return create_async_engine(url, connect_args=_CONNECT_ARGS, hide_parameters=True)

    def _make_direct_engine(self) -> Engine:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        url = self._destination.sqlalchemy_url("pysqlite")
        return create_engine(url, connect_args=_CONNECT_ARGS, poolclass=NullPool, hide_parameters=True)


# Autocommit, as the transaction is written out above; a prepared statement of 32,000 variables is worth keeping only
# while a backlog makes every batch the same size.
_CONNECT_ARGS = {
    "factory": _BulkConnection,
    "isolation_level": None,
    "timeout": BUSY_TIMEOUT_MS / 1000,
    "cached_statements": 8,
}


def _prepare(connection: Connection) -> None:
    from autopack.database import migrations

    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"busy_timeout = {BUSY_TIMEOUT_MS}"):
        connection.exec_driver_sql(f"PRAGMA {pragma}")
    migrations.ensure(connection)
    connection.commit()


def _create_private(path: Path | None) -> None:
    """A database that does not exist yet is made for its owner alone; SQLite gives its other files the same mode."""
    if path is None or path.exists():
        return
    make_folders(path.parent)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _inode_of(path: Path | None) -> tuple[int, int] | None:
    """Which file the path leads to now; None where there is none, or none is meant."""
    try:
        found = os.stat(path) if path is not None else None  # noqa: PTH116 (once per batch)
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)
