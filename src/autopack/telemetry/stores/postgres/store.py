"""PostgreSQL, and what speaks its protocol: one statement and no transaction around it, per batch.

A single statement is a transaction of its own, so that there is nothing to roll back and nothing in between that could
fail: it was done, or it was not, and when the answer is lost the retry finds the rows there. After any error but one of
the data the connection is dropped, and the next write begins with another one.

The statement is COPY, which costs the server a third of what `INSERT … ON CONFLICT` costs it, and fails as a whole when
one row is there already. That happens after a lost answer or a crash only: then the batch goes the slower way, which
leaves out what is there, and so do the next ones until one is all new.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopack.database.destination import Destination
from autopack.database.postgres_urls import PostgresUrl
from autopack.errors import DataRejectedError, StoreUnusableError
from autopack.telemetry import lifecycle, log
from autopack.telemetry.event.schema import TABLE, Row, Table
from autopack.telemetry.stores.base import LEFT_OUT
from autopack.telemetry.stores.postgres.binary import copy_statement, encoder
from autopack.telemetry.stores.postgres.copy import copy_text
from autopack.telemetry.stores.postgres.errors import translate

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

COMMAND_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 1.0
_DUPLICATE = "23505"
# Row-level security allows no COPY, a view takes none, and some servers that speak the protocol have none.
_NO_COPY = frozenset({"0A000", "42601", "42809"})
# What the binary format may fail with although the text of the same rows would not: data and syntax, access and types.
_ONLY_BINARY = frozenset({"0A", "22", "42"})
_OTHER_BYTES = "22P03"  # so does a column of four bytes
_BINARY_FROM_ROWS = 100  # a process that records less is not to import psycopg for it, which takes 60 ms
# A value that its column cannot read. As our values have types, it may be the column that has another one.
_UNREADABLE = frozenset({"22P02", "22007"})


class PostgresStore:
    """One database on a PostgreSQL server, through one connection at a time.

    command_timeout_s: how long the answer to a batch is waited for; the server gives up a little earlier.
    """

    max_batch_rows = 2_000
    is_remote = True

    def __init__(
        self, destination: Destination, table: Table = TABLE, *, command_timeout_s: float = COMMAND_TIMEOUT_S
    ) -> None:
        assert destination.server is not None  # noqa: S101 (for the type checker; `by_url` chose this store for it)
        self._destination = destination
        self._table = table
        self._server: PostgresUrl = destination.server
        self._command_timeout_s = command_timeout_s
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._all_new_expected = True
        self._may_copy = True
        self._encode: Callable[[Sequence[Row]], bytes] | None = None
        self._may_encode = True

    @property
    def telemetry_dir(self) -> Path | None:
        """A folder for this database in the user's state directory."""
        return self._destination.telemetry_dir

    @property
    def identity(self) -> str | None:
        """Servers and database, without credentials."""
        return self._destination.identity

    def load(self) -> None:
        """SQLAlchemy, asyncpg and Alembic, with what they import late."""
        from autopack.database import migrations
        from autopack.telemetry.stores.postgres import connection as connections

        migrations.load()
        self._engine = self._engine or connections.make_engine(self._server, command_timeout_s=self._command_timeout_s)

    async def write(self, rows: Sequence[Row]) -> int:
        if self._driver is None:
            await self._connect()
        try:
            if self._may_copy and self._all_new_expected and (copied := await self._copy(rows)) is not None:
                return copied
            new = await self._insert(rows)
        except Exception as exc:
            error = translate(exc)
            if not isinstance(error, DataRejectedError):
                await self._disconnect(gracefully=False)
            raise error from exc
        self._all_new_expected = new == len(rows)
        return new

    async def _copy(self, rows: Sequence[Row]) -> int | None:
        """How many there are now, all rows being new, but for those that a trigger of the user's left out; None: it
        cannot be done, and nothing was written. Raises the driver's errors.
        """
        try:
            status = await self._copy_binary(rows) or await self._copy_text(rows)
        except Exception as exc:
            if not await self._may_insert(getattr(exc, "sqlstate", None)):
                raise
            return None
        return _count_in(status)

    async def _copy_text(self, rows: Sequence[Row]) -> str:
        source, table = _whole(copy_text(rows, self._table)), self._table
        return str(await self._driver.copy_to_table(table.name, source=source, columns=table.names))

    async def _copy_binary(self, rows: Sequence[Row]) -> str | None:
        """The status; None: it cannot be done, and nothing was written. Raises the driver's errors."""
        encoded = self._encoded(rows)
        if encoded is None:
            return None
        try:
            return str(await self._driver._copy_in(copy_statement(self._table), _whole(encoded), None))  # noqa: SLF001 (`copy_to_table` takes no WHERE)
        except Exception as exc:
            sqlstate = str(getattr(exc, "sqlstate", None))
            if sqlstate[:2] not in _ONLY_BINARY:
                raise
            self._may_encode = sqlstate[:2] == "22" and sqlstate != _OTHER_BYTES
        return None

    def _encoded(self, rows: Sequence[Row]) -> bytes | None:
        """The rows in the binary format, where it is worth it, and they and the table can be had in it."""
        if not self._may_encode or len(rows) < _BINARY_FROM_ROWS:
            return None
        if self._encode is None:
            with lifecycle.importing():
                self._encode = encoder(self._table)
        if self._encode is None or not hasattr(self._driver, "_copy_in"):
            self._may_encode = False
            return None
        try:
            return self._encode(rows)
        except Exception:  # noqa: BLE001 (a value that has not the type of its column: of text the server judges)
            return None

    async def _may_insert(self, sqlstate: str | None) -> bool:
        """Whether what COPY failed with says nothing about the slower way. Raises the driver's error where it is the
        table that is wrong, and no row.
        """
        if sqlstate in _NO_COPY:
            self._may_copy = False
        if sqlstate in _UNREADABLE:
            from autopack.telemetry.stores.postgres.connection import type_check_statement

            await self._driver.execute(type_check_statement(self._table))
        return not self._may_copy or sqlstate == _DUPLICATE

    async def _insert(self, rows: Sequence[Row]) -> int:
        """How many were new; the others are left out. Raises the driver's errors."""
        from autopack.telemetry.stores.postgres.connection import insert_arrays, insert_statement

        status = await self._driver.execute(insert_statement(self._table), *insert_arrays(rows, self._table))
        return _count_in(status)

    async def absent(self, rows: Sequence[Row]) -> list[int]:
        absent: list[int] = await self._ask(lambda driver: self._absent(driver, rows))
        return absent

    async def _absent(self, driver: Any, rows: Sequence[Row]) -> list[int]:
        positions = [self._table.names.index(name) for name in self._table.key]
        keys = [tuple(row[position] for position in positions) for row in rows]
        names = ", ".join(f'"{name}"' for name in self._table.key)
        arrays = ", ".join(f"${number}::text[]" for number in range(1, len(positions) + 1))
        query = (
            f"SELECT {names} FROM unnest({arrays}) AS wanted({names}) "  # noqa: S608 (our own names)
            f"WHERE EXISTS (SELECT 1 FROM {self._table.name} AS found WHERE "
            + " AND ".join(f'found."{name}" = wanted."{name}"' for name in self._table.key)
            + ")"
        )
        present = set(map(tuple, await driver.fetch(query, *zip(*keys, strict=True))))
        return [number for number, key in enumerate(keys) if key not in present]

    async def refusal(self, row: Row) -> str | None:
        from autopack.telemetry.stores.postgres.connection import insert_arrays, insert_statement

        async def insert_and_roll_back(driver: Any) -> list[int]:
            transaction = driver.transaction()
            await transaction.start()
            try:
                await driver.execute(insert_statement(self._table), *insert_arrays([row], self._table))
                return await self._absent(driver, [row])
            finally:
                await transaction.rollback()

        try:
            absent = await self._ask(insert_and_roll_back)
        except DataRejectedError as exc:
            return exc.code
        return LEFT_OUT if absent else None

    async def _ask(self, question: Callable[[Any], Awaitable[Any]]) -> Any:
        """The driver's answer. Raises StoreError; after any but one of the data the connection is dropped."""
        if self._driver is None:
            await self._connect()
        try:
            return await question(self._driver)
        except Exception as exc:
            error = translate(exc)
            if not isinstance(error, DataRejectedError):
                await self._disconnect(gracefully=False)
            raise error from exc

    async def close(self, *, final: bool = True) -> None:  # noqa: ARG002 (a server outlives its connections)
        await self._disconnect(gracefully=True)

    def reset_in_child(self) -> PostgresStore:
        lifecycle.keep_uncollected(self)  # closing a copy of its connection would end the parent's session
        return PostgresStore(self._destination, self._table, command_timeout_s=self._command_timeout_s)

    async def _connect(self) -> None:
        try:
            if not await self._open():
                # Not beside the first connection: a role, or a pooler, may allow one at a time.
                await self._disconnect(gracefully=True)
                await self._upgrade()
                await self._open()
        except Exception as exc:
            await self._disconnect(gracefully=False)
            error = translate(exc)
            # No row is the reason when there is no connection yet, whatever an upgrade in place stumbled over.
            raise StoreUnusableError(error.code) if isinstance(error, DataRejectedError) else error from exc

    async def _open(self) -> bool:
        """Connect; returns whether the schema is this program's."""
        from autopack.database import migrations

        self.load()
        assert self._engine is not None  # noqa: S101 (for the type checker; `load` made it)
        self._connection = await self._engine.connect()
        self._driver = (await self._connection.get_raw_connection()).driver_connection
        self._may_encode = True
        current = await self._connection.run_sync(migrations.is_current)
        await self._connection.commit()
        return current

    async def _upgrade(self) -> None:
        """Make or upgrade the schema, which may take longer than any batch, on a connection with a longer deadline."""
        from autopack.database import migrations
        from autopack.telemetry.stores.postgres import connection as connections

        engine = connections.make_engine(self._server, command_timeout_s=connections.UPGRADE_TIMEOUT_S)
        async with engine.connect() as connection:
            told = await connection.run_sync(migrations.ensure)
        if told:
            log.warning("%s", told)

    async def _disconnect(self, *, gracefully: bool) -> None:
        """Close the connection; if not gracefully, without a word to a server that may never answer."""
        driver, self._driver = self._driver, None
        connection, self._connection = self._connection, None
        if driver is not None and not gracefully:
            driver.terminate()
        elif driver is not None:
            await _let_go(driver.close(timeout=_CLOSE_TIMEOUT_S))
        if connection is not None:
            await _let_go(connection.close())


def _count_in(status: str) -> int:
    """Of `INSERT 0 7`, or `COPY 7`."""
    return int(status.rpartition(" ")[2])


async def _let_go(closing: Awaitable[None]) -> None:
    """Whatever comes of it: the next write opens anew, and the engine must get back what it lent all the same."""
    try:
        await closing
    except Exception as exc:  # noqa: BLE001 (what cannot be closed is gone already)
        log.info("A connection could not be closed: %s", type(exc).__name__)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    """What asyncpg takes as a source of bytes that is no file and no path."""
    yield data
