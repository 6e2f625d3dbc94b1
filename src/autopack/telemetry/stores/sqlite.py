"""SQLite: one statement with many rows, and one hop to the connection's thread, per batch.

*One hop.* Row by row, `executemany` gives up the GIL at every step and waits up to 5 ms to get it back while the main
thread is busy: some hundred rows a second. And each hop between the loop and aiosqlite's thread costs such a wait too.
So the whole transaction, BEGIN IMMEDIATE to COMMIT, runs as one call on aiosqlite's thread. `sqlite3` offers the way
in: aiosqlite's `executemany` calls the connection's own, and that class is this module's.

*A lean start.* A process that records one event must not pay for SQLAlchemy and Alembic. The connection is aiosqlite's
own; it is opened, and the schema looked at, in the one call that aiosqlite makes on its thread to connect. A database
that is new gets its tables from statements that are written down (`migrations.fresh`). SQLAlchemy and Alembic are
loaded only where an older schema has to be upgraded.

*The files are the ones that the path names.* In WAL mode a commit into a file that was deleted or replaced succeeds,
and so does one into a write-ahead log whose name is gone (`rm x.db-wal x.db-shm; cp backup x.db`): no reader would ever
see it. All three files are compared before each write, and again before it counts. A connection whose files are gone
is closed without the copying of its log that SQLite does at the last close: it would go into what stands there now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autopack._util import os_threads
from autopack._util.files import make_folders
from autopack.database.destination import Destination
from autopack.errors import DataRejectedError, SchemaError, StoreError, StoreUnusableError, TransientStoreError
from autopack.telemetry import lifecycle, log
from autopack.telemetry.event.schema import TABLE, Row, Table
from autopack.telemetry.stores.base import LEFT_OUT

if TYPE_CHECKING:
    import aiosqlite

# Nothing can interrupt SQLite's own wait for a lock, so it is short; longer waits are the retry's, which shutdown ends.
BUSY_TIMEOUT_MS = 250
_THREAD_END_S = 1.0  # of a thread that has nothing more to do; before aiosqlite 0.22 it notices that after up to 0.1 s
_MAX_VARIABLES = 32_766  # of SQLite since 3.32
_STATEMENTS = 8  # kept, each for its number of rows and columns

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
    name = f"{type(cause).__name__} {getattr(cause, 'sqlite_errorname', code)}"
    return DataRejectedError(name, _subject_of(cause, code)) if kind is DataRejectedError else kind(name)


def _subject_of(exc: BaseException, code: int) -> str | None:
    """The column that the refusal is about. Of other refusals the message may hold anything."""
    if code != sqlite3.SQLITE_CONSTRAINT_NOTNULL:
        return None
    return f"column {str(exc).rpartition('.')[2]}"


class _BulkConnection(sqlite3.Connection):
    """A connection whose `executemany` is one transaction and one statement, into the files that its path names.

    files: what it was opened with; None in memory.
    """

    files: _Files | None = None

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """Run `sql` once: it has a place for every value of every row of `parameters`."""
        try:
            values = list(chain.from_iterable(parameters))
            self._check_files()
            self.execute("BEGIN IMMEDIATE")
            cursor = self.execute(sql, values)
            self.execute("COMMIT")
            self._check_files()
        except (OverflowError, UnicodeError, TypeError, ValueError) as exc:
            self._abandon()
            raise DataRejectedError(type(exc).__name__) from exc
        except BaseException:
            self._abandon()
            raise
        return cursor

    def close(self) -> None:
        """Close it, and let SQLite copy its write-ahead log only into the database that the log belongs to."""
        if self.files is None or self.files.are_in_place():
            super().close()
            return
        with _no_checkpoint(self, self.files):
            super().close()

    def _check_files(self) -> None:
        if self.files is not None and not self.files.are_in_place():
            raise TransientStoreError("database file replaced")

    def _abandon(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")


@lru_cache(maxsize=_STATEMENTS)
def _insert(table: Table, width: int, row_count: int) -> str:
    """Writes so many rows, the first `width` columns of each."""
    # The conflict is named: a unique index of the user's own must not make another event vanish as a duplicate.
    return (
        f"INSERT INTO {table.name} ({', '.join(table.names[:width])}) VALUES {_places(width, row_count)} "  # noqa: S608 (our own names)
        f"ON CONFLICT ({', '.join(table.key)}) DO NOTHING"
    )


def _places(width: int, row_count: int) -> str:
    return ",".join([f"({','.join('?' * width)})"] * row_count)


def _used_width(rows: Sequence[Row]) -> int:
    """How many columns are left where the last ones, NULL in all of the rows, are left out.

    Nearly every row ends with the columns that only a captured call fills, and to write NULL costs SQLite as much as to
    write anything else.
    """
    width = _width(rows[0])
    nulls = (None,) * (len(rows[0]) - width)
    are_alike = [*map(itemgetter(slice(width, None)), rows)].count(nulls) == len(rows)  # nearly always, and in C
    return width if are_alike else max(map(_width, rows))


def _width(row: Row) -> int:
    width = len(row)
    while width > 1 and row[width - 1] is None:
        width -= 1
    return width


class SqliteStore:
    """One SQLite file, or a database in memory that lives as long as its connection."""

    is_remote = False

    def __init__(self, destination: Destination, table: Table = TABLE) -> None:
        self.max_batch_rows = _MAX_VARIABLES // len(table.columns)
        self._table = table
        self._destination = destination
        self._connection: aiosqlite.Connection | None = None
        self._direct: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None  # of the connection
        self._raw: _BulkConnection | None = None  # what it consists of, while it is open
        self._at_work = 0  # calls that may be inside SQLite
        self._tainted = False  # by a fork: SQLite in this process believes that it holds its parent's locks

    @property
    def telemetry_dir(self) -> Path | None:
        """`<database file>.telemetry`, or None in memory."""
        return self._destination.telemetry_dir

    @property
    def identity(self) -> str | None:
        """The real path of the file; None in memory."""
        return self._destination.identity

    def load(self) -> None:
        """Aiosqlite."""
        import aiosqlite  # noqa: F401

    async def write(self, rows: Sequence[Row]) -> int:
        try:
            cursor = await self._executemany(rows)
        except Exception as exc:
            error = translate(exc)
            if not isinstance(error, DataRejectedError):
                await self.close(final=False)
            raise error from exc
        return int(cursor.rowcount)

    async def absent(self, rows: Sequence[Row]) -> list[int]:
        names = self._table.names
        positions = [names.index(name) for name in self._table.key]
        keys = [tuple(row[position] for position in positions) for row in rows]
        query = (
            f"WITH wanted({', '.join(self._table.key)}) AS (VALUES {_places(len(positions), len(keys))}) "  # noqa: S608 (our own names)
            f"SELECT {', '.join(self._table.key)} FROM wanted NATURAL JOIN {self._table.name}"
        )
        try:
            found = set(map(tuple, await self._fetch(query, list(chain.from_iterable(keys)))))
        except Exception as exc:
            raise translate(exc) from exc
        return [number for number, key in enumerate(keys) if key not in found]

    async def refusal(self, row: Row) -> str | None:
        try:
            await self._fetch("BEGIN IMMEDIATE")
            try:
                await self._fetch(_insert(self._table, len(row), 1), list(row))
                absent = await self.absent([row])
            finally:
                with contextlib.suppress(sqlite3.OperationalError):  # a trigger may have done so itself
                    await self._fetch("ROLLBACK")
        except Exception as exc:
            error = translate(exc)
            if isinstance(error, DataRejectedError):
                return error.code
            raise error from exc
        return LEFT_OUT if absent else None

    async def close(self, *, final: bool = True) -> None:
        """A database in memory lives as long as its connection."""
        if final or self._destination.path is not None:
            await self._disconnect()
        if self._connection is None and self._thread is not None:
            lifecycle.join_until_gone(self._thread, _THREAD_END_S)  # a fork may follow
            self._thread = None

    def reset_in_child(self) -> SqliteStore:
        """See `Store.reset_in_child`.

        SQLite notes in the process's memory which locks it holds, and a fork copies the note without the locks. After a
        fork that ran no hook the parent's connection is still open here: it is closed, which clears the note, and
        touches nothing of the parent's. Where the fork came in the middle of its work it cannot be, and this process
        must not use SQLite at all.
        """
        lifecycle.keep_uncollected(self)
        child = SqliteStore(self._destination, self._table)
        child._tainted = self._tainted or (self._destination.path is not None and not self._let_go())
        if child._tainted:
            lifecycle.warn_once("This process was forked while its parent used SQLite: it writes nothing itself")
        return child

    def _let_go(self) -> bool:
        """Close the connection that was inherited; False where its thread was at work with it."""
        if self._at_work:
            return False
        if (inherited := self._raw) is not None and inherited.files is not None:
            with contextlib.suppress(sqlite3.Error, OSError), _no_checkpoint(inherited, inherited.files):
                sqlite3.Connection.close(inherited)
        return True

    @contextlib.contextmanager
    def _at_work_in_sqlite(self) -> Iterator[None]:
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def _executemany(self, rows: Sequence[Row]) -> Any:
        width = _used_width(rows)
        insert = _insert(self._table, width, len(rows))
        used = map(itemgetter(slice(width)), rows)
        with self._at_work_in_sqlite():
            await self._open()
            if self._connection is not None:
                return await self._connection.executemany(insert, cast("Iterable[Any]", used))
            assert self._direct is not None  # noqa: S101 (for the type checker; `_open` made one of the two)
            return self._direct.executemany(insert, used)

    async def _fetch(self, sql: str, parameters: Sequence[Any] = ()) -> Iterable[Any]:
        with self._at_work_in_sqlite():
            await self._open()
            if self._connection is not None:
                return await self._connection.execute_fetchall(sql, parameters)
            assert self._direct is not None  # noqa: S101 (for the type checker; `_open` made one of the two)
            return self._direct.execute(sql, parameters).fetchall()

    async def _open(self) -> None:
        if self._connection is not None or self._direct is not None:
            return
        if self._tainted:
            raise TransientStoreError("forked while SQLite was in use")
        try:
            await self._connect()
        except Exception as exc:
            # No row is the reason when there is no connection yet, whatever an upgrade in place stumbled over.
            error = translate(exc)
            raise StoreUnusableError(error.code) if isinstance(error, DataRejectedError) else error from exc

    async def _connect(self) -> None:
        import aiosqlite

        _create_private(self._destination.path)
        if os_threads.threads_are_patched():
            # aiosqlite would hand each call to a "thread" that the worker's own thread had to run.
            self._direct = self._opened()
            return
        connection = aiosqlite.Connection(self._opened, iter_chunk_size=64)
        # A connection that hangs must not keep the interpreter from ending. Before 0.22 it is its own thread.
        thread: Any = getattr(connection, "_thread", connection)
        thread.daemon = True
        try:
            self._connection = await connection
            self._thread = thread
        except RuntimeError:
            # From Python 3.12 on no thread can be started while the interpreter exits, and aiosqlite needs one. This is
            # the last chance to write, and nothing else is left to be kept from running: do it in this thread.
            self._direct = self._opened()
        except BaseException:
            # aiosqlite has asked the thread to end, and does not wait: it would tell a loop that is closed by then.
            thread.join(_THREAD_END_S)
            raise

    def _opened(self) -> sqlite3.Connection:
        self._raw = _opened(self._destination, self._table)
        return self._raw

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        direct, self._direct = self._direct, None
        try:
            with self._at_work_in_sqlite():
                if direct is not None:
                    direct.close()
                if connection is not None:
                    await connection.close()
            self._raw = None
        except Exception as exc:  # noqa: BLE001 (what cannot be closed is let go of: the next write opens anew)
            log.info("A connection could not be closed: %s", type(exc).__name__)


def _opened(destination: Destination, table: Table) -> _BulkConnection:
    """A connection to a database that has our table. Called on the thread that uses it."""
    connection = sqlite3.connect(
        ":memory:" if destination.path is None else destination.path,
        factory=_BulkConnection,
        # Autocommit, as the transaction is written out above; a prepared statement of 32,000 variables is worth keeping
        # only while a backlog makes every batch the same size.
        isolation_level=None,
        timeout=BUSY_TIMEOUT_MS / 1000,
        cached_statements=_STATEMENTS,
        check_same_thread=False,  # a forked child closes it in the thread that is left
    )
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
        # Looked at again before what a migration imports: another process may have made the tables meanwhile.
        if not (_is_current(connection, table) or _made_fresh(connection) or _is_current(connection, table)):
            _migrate(destination)
        connection.files = None if destination.path is None else _Files(destination.path)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_current(connection: sqlite3.Connection, table: Table) -> bool:
    """Whether the table is there with all of our columns, in a schema of this program's version or a later one."""
    from autopack.database.migrations import HEAD, VERSION_TABLE

    if not _tables(connection) >= {VERSION_TABLE, table.name}:
        return False
    revision = connection.execute(f"SELECT max(version_num) FROM {VERSION_TABLE}").fetchone()[0]  # noqa: S608 (our own name)
    columns = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table.name})")}
    return revision is not None and revision >= HEAD and columns >= set(table.names)


def _made_fresh(connection: sqlite3.Connection) -> bool:
    """Make our tables, and return True, where the database has none of them and no table of the host system."""
    from autopack.database.migrations import VERSION_TABLE, fresh

    connection.execute("BEGIN IMMEDIATE")
    try:
        is_new = not _tables(connection) & {VERSION_TABLE, TABLE.name}
        if is_new:
            for statement in fresh.SQLITE:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return is_new


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}


def _migrate(destination: Destination) -> None:
    """Upgrade an older schema, on a connection of SQLAlchemy's. Another process may have done so meanwhile."""
    with lifecycle.importing():
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        from autopack.database import migrations

        migrations.load()
    arguments = {"isolation_level": None, "timeout": BUSY_TIMEOUT_MS / 1000}
    url = destination.sqlalchemy_url("pysqlite")
    engine = create_engine(url, connect_args=arguments, poolclass=NullPool, hide_parameters=True)
    with engine.connect() as connection:
        told = migrations.ensure(connection)
        connection.commit()
    if told:
        log.warning("%s", told)


class _Files:
    """The files of a database as they were when it was opened: itself, its write-ahead log, its shared memory."""

    def __init__(self, path: Path) -> None:
        self._paths = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]
        self._seen = list(map(_inode_of, self._paths))

    def opened_again(self) -> int | None:
        """The database itself, by way of a file that this process has open; None where it cannot be had that way."""
        for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():  # noqa: PTH112, PTH208
            with contextlib.suppress(OSError):
                if _inode_of(path := Path("/proc/self/fd", name)) == self._seen[0]:
                    return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        return None

    def are_in_place(self) -> bool:
        """Whether each path still leads to the same file; one that came into being since counts from now on."""
        now = list(map(_inode_of, self._paths))
        if any(seen is not None and seen != found for seen, found in zip(self._seen, now, strict=True)):
            return False
        self._seen = now
        return True


def _inode_of(path: Path) -> tuple[int, int] | None:
    """Which file the path leads to now; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a few times per batch)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _no_checkpoint(connection: sqlite3.Connection, files: _Files) -> Iterator[None]:
    """While open, closing this connection copies nothing into its database and deletes no file by name.

    From Python 3.12 on SQLite is told so. Before, a lock on the open database keeps the connection from being the last
    one that uses it: one of the kind that belongs to the open file and not to the process, which Linux has.
    """
    if hasattr(connection, "setconfig"):
        connection.setconfig(_NO_CHECKPOINT_ON_CLOSE, True)
        yield
        return
    file = files.opened_again()
    if file is None:
        yield
        return
    lock_type = fcntl.F_RDLCK
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(lock_type, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0))
    yield
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0))
    # Not closed: that would drop the locks that other connections of this process have on the same database.
    lifecycle.keep_uncollected(file)


_NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE
# The bytes that each user of a database holds a shared lock on (sqlite3's os.h), and Linux's `struct flock`.
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_FLOCK = struct.Struct("hhqqi4x")


def _create_private(path: Path | None) -> None:
    """A database that does not exist yet is made for its owner alone; SQLite gives its other files the same mode."""
    if path is None or path.exists():
        return
    make_folders(path.parent)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
