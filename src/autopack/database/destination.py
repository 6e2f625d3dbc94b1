"""Which database this is: the one place that turns `DATABASE_URL` into a destination.

Nothing is bound at import: the environment is read when a destination is asked for, because a module that binds
`DATABASE_URL` while it is imported sends events to the wrong file.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autopack._util.text import mask
from autopack.errors import DatabaseUrlError, require

if TYPE_CHECKING:
    from sqlalchemy import URL

    from autopack.database.postgres_urls import PostgresUrl

DEFAULT_DATABASE_URL = "sqlite:///autopack.db"

_SQLITE_SCHEMES = frozenset({"sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"})
_POSTGRES_SCHEMES = frozenset(
    {"postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2"}
)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Destination:
    """A database, named independently of the working directory: a relative path is already absolute here.

    `path` is the SQLite file, None for a database in memory or on a server. `query` is what followed the `?` of a
    SQLite URL, without it. `server` is what a PostgreSQL URL names, None for SQLite.
    """

    dialect: Literal["sqlite", "postgresql"]
    path: Path | None
    query: str = ""
    server: PostgresUrl | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the database lives no longer than the connection to it."""
        return self.path is None and self.server is None

    def sqlalchemy_url(self, driver: Literal["pysqlite", "aiosqlite"]) -> URL:
        """Return the URL for an engine on SQLite, made from parts: `?` and `%` have no meaning in a path."""
        from urllib.parse import parse_qsl

        from sqlalchemy import URL

        path = None if self.path is None else str(self.path)
        return URL.create(f"{self.dialect}+{driver}", database=path, query=dict(parse_qsl(self.query)))

    @property
    def telemetry_dir(self) -> Path | None:
        """Where this destination's journal and dead letters live: beside a SQLite file; for a server in the user's
        state directory, `$XDG_STATE_HOME` or `~/.local/state`, under a name that is made of the identity.

        None for a database in memory, and for a server where the user has no home.
        """
        if self.path is not None:
            return self.path.with_name(self.path.name + ".telemetry")
        state = None if self.server is None else _state_directory()
        return None if state is None else state / "autopack" / _folder_name(self.server, self.identity)

    @property
    def identity(self) -> str | None:
        """What tells this database from others, without credentials: the file that the path resolves to, or the
        servers and the database on them. None in memory.
        """
        if self.server is not None:
            return self.server.identity
        return None if self.path is None else f"{self.dialect}:{os.path.realpath(self.path)}"

    def exists(self) -> bool:
        """Whether there is something to read from, as far as can be told without asking a server; creates nothing."""
        return self.server is not None or (self.path is not None and _is_file(self.path))

    def __str__(self) -> str:
        if self.server is not None:
            return mask(str(self.server))
        if self.path is None:
            return f"{self.dialect}://"
        return mask(f"{self.dialect}:///{self.path}" + (f"?{self.query}" if self.query else ""))


def _is_file(path: Path) -> bool:
    """As `Path.is_file` until Python 3.13: an OSError that does not say "there is none" is raised."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except ValueError:  # a zero byte
        return False
    except OSError as exc:
        if exc.errno in {errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP}:
            return False
        raise


def parse_database_url(url: str) -> Destination:
    """Return the destination that a URL names.

    `sqlite://` and `sqlite:///:memory:` are in memory, `sqlite:///x.db` is relative to the present working
    directory, `sqlite:////x.db` absolute; `sqlite+aiosqlite:` and `sqlite+pysqlite:` mean the same. A URL of PostgreSQL
    is one for libpq, with its options and several hosts; `postgres:` and `postgresql+<driver>:` mean the same.

    Raises:
        DatabaseUrlError: the URL cannot be read, or names a database that autopack does not write to.

    """
    match = _URL.fullmatch(url.strip())
    if match is None:
        raise DatabaseUrlError(f"{mask(url)!r} is not a database URL; use for example sqlite:///autopack.db")
    scheme = match["scheme"].lower()
    if scheme in _POSTGRES_SCHEMES:
        return _parse_postgres(match["rest"], url)
    if scheme not in _SQLITE_SCHEMES:
        known = ", ".join(sorted(_SQLITE_SCHEMES | _POSTGRES_SCHEMES))
        raise DatabaseUrlError(f"{mask(url)!r}: {scheme!r} is not supported; use one of {known}")
    return _parse_sqlite(match["rest"], url)


def _parse_postgres(rest: str, url: str) -> Destination:
    from autopack.database.postgres_urls import parse_postgres_url

    try:
        return Destination("postgresql", None, server=parse_postgres_url(rest))
    except ValueError as exc:
        raise DatabaseUrlError(f"{mask(url)!r}: {exc}") from None


def _parse_sqlite(rest: str, url: str) -> Destination:
    location, _, query = rest.partition("?")
    if location in ("", "/", "/:memory:"):
        return Destination("sqlite", None)
    if not location.startswith("/"):
        raise DatabaseUrlError(
            f"{mask(url)!r}: a SQLite URL has three slashes before a relative path, four before an absolute one"
        )
    if location.startswith("/file:"):
        raise DatabaseUrlError(f"{mask(url)!r}: SQLite's file: URIs are not supported; give the path itself")
    if "\0" in location:
        raise DatabaseUrlError("a path in a database URL cannot hold a NUL character")
    try:
        path = os.path.abspath(location[1:])  # noqa: PTH100 (keeps links as they are)
    except OSError as exc:
        raise DatabaseUrlError(f"{mask(url)!r}: the path is relative, and the working directory is gone") from exc
    return Destination("sqlite", Path(path), query)


def database_url(environ: Mapping[str, str] | None = None) -> str:
    """Return `DATABASE_URL` as the environment has it now, or the default; an empty value counts as not set."""
    return (os.environ if environ is None else environ).get("DATABASE_URL", "").strip() or DEFAULT_DATABASE_URL


def current_destination() -> Destination:
    """Return the destination that the environment names now. Raises `DatabaseUrlError`."""
    return parse_database_url(database_url())


def describe_database() -> str:
    """Return the present destination for display: the URL with an absolute path and without its password."""
    try:
        return str(current_destination())
    except DatabaseUrlError as exc:
        return f"no usable database: {exc}"


def require_driver(name: Literal["asyncpg", "psycopg"]) -> None:
    """Check that a driver of PostgreSQL is installed, without importing it. Raises `MissingExtraError`."""
    require(name, "postgres", "PostgreSQL")


def _state_directory() -> Path | None:
    given = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):  # noqa: PTH117 (a relative one counts as not set, says the specification)
        return Path(given)
    home = os.path.expanduser("~")  # noqa: PTH111 (Path.home() raises where there is none)
    return Path(home) / ".local" / "state" if os.path.isabs(home) else None  # noqa: PTH117 (as above)


def _folder_name(server: PostgresUrl | None, identity: str | None) -> str:
    """Return a name that a person recognises, followed by part of a hash: similar names stay apart."""
    from hashlib import sha256

    shown = "" if server is None else f"{server.addresses[0].host}-{server.database}"
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", shown).strip("-.")[:60]
    return "-".join(filter(None, ["postgresql", slug, sha256((identity or "").encode()).hexdigest()[:12]]))
