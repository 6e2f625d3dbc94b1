"""Which database this is: the one place that turns `DATABASE_URL` into a destination, engines and sessions.

Nothing is bound at import: the environment is read when a session or a destination is asked for, because a
module that binds `DATABASE_URL` while it is imported sends events to the wrong file. SQLAlchemy is imported
only by the functions that need an engine, so that naming a database costs nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from sqlalchemy.orm import Session

DEFAULT_DATABASE_URL = "sqlite:///autopack.db"

_SCHEMES: Mapping[str, Literal["sqlite"]] = {
    "sqlite": "sqlite",
    "sqlite+aiosqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>.*)", re.DOTALL)
# To the last @, whatever is in between: real passwords hold `/`, `@` and blanks, and real users `@` (user@server).
_USERINFO = re.compile(r"(?P<user>://[^:]*):.*@", re.DOTALL)
_BROKEN_USERINFO = re.compile(r"(?P<user>[^\s:@]+):(?!//)[^\s@]+@")
_SECRET = r"[\w%.\-]*(?:pass|pwd|secret|token|key)[\w%.\-]*"  # noqa: S105 (a pattern)
_SECRET_OPTION = re.compile(rf"(?P<name>{_SECRET})=[^&\s#]*", re.IGNORECASE)
_ENCODED_OPTION = re.compile(r"(?P<name>[\w.\-]*%[\w%.\-]*)=[^&\s#]*")


class DatabaseUrlError(ValueError):
    """The text is not a database URL that autopack can write to; the message says why, without a password."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A database, named once and for all: a relative path is already absolute here.

    `path` is the SQLite file, None for a database in memory. `query` is what followed the `?`, without it.
    """

    dialect: Literal["sqlite"]
    path: Path | None
    query: str = ""

    def sqlalchemy_url(self, driver: Literal["pysqlite", "aiosqlite"]) -> URL:
        """The URL for an engine, made from parts: a path may hold `?` or `%` without meaning anything."""
        from urllib.parse import parse_qsl

        from sqlalchemy import URL

        path = None if self.path is None else str(self.path)
        return URL.create(f"{self.dialect}+{driver}", database=path, query=dict(parse_qsl(self.query)))

    @property
    def telemetry_dir(self) -> Path | None:
        """Where this destination's dead letters live; None for a database in memory."""
        return None if self.path is None else self.path.with_name(self.path.name + ".telemetry")

    @property
    def identity(self) -> str | None:
        """What tells this database from others, without credentials: the file that the path really leads to.

        None in memory.
        """
        return None if self.path is None else f"{self.dialect}:{os.path.realpath(self.path)}"

    def exists(self) -> bool:
        """Whether there is a database file to read; asking does not create one."""
        return self.path is not None and self.path.is_file()

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.dialect}://"
        return mask(f"{self.dialect}:///{self.path}" + (f"?{self.query}" if self.query else ""))


def parse_database_url(url: str) -> Destination:
    """The destination that a URL names.

    `sqlite://` and `sqlite:///:memory:` are in memory, `sqlite:///x.db` is relative to the present working
    directory, `sqlite:////x.db` absolute; `sqlite+aiosqlite:` and `sqlite+pysqlite:` mean the same.

    Raises:
        DatabaseUrlError: the URL cannot be read, or names a database that autopack does not write to.

    """
    match = _URL.fullmatch(url.strip())
    if match is None:
        raise DatabaseUrlError(f"{mask(url)!r} is not a database URL; use for example sqlite:///autopack.db")
    scheme = match["scheme"].lower()
    if scheme not in _SCHEMES:
        known = ", ".join(sorted(_SCHEMES))
        raise DatabaseUrlError(f"{mask(url)!r}: {scheme!r} is not supported; use one of {known}")
    return _parse_sqlite(match["rest"], url)


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


def mask(text: str) -> str:
    """The text without the passwords of URLs in it, in the userinfo or the query, well-formed or not.

    Rather hides too much: in a text that holds several URLs, what lies between the first password and the last `@`.
    """
    masked = _USERINFO.sub(r"\g<user>:***@", text)
    if masked == text:
        masked = _BROKEN_USERINFO.sub(r"\g<user>:***@", text)
    return _ENCODED_OPTION.sub(_mask_encoded, _SECRET_OPTION.sub(r"\g<name>=***", masked))


def _mask_encoded(option: re.Match[str]) -> str:
    """An option whose name is percent-encoded is a secret if the name that is meant is one."""
    from urllib.parse import unquote

    secret = re.fullmatch(_SECRET, unquote(option["name"]), re.IGNORECASE)
    return f"{option['name']}=***" if secret else option[0]


def database_url(environ: Mapping[str, str] | None = None) -> str:
    """`DATABASE_URL` as the environment has it now, or the default; an empty value counts as not set."""
    return (os.environ if environ is None else environ).get("DATABASE_URL", "").strip() or DEFAULT_DATABASE_URL


def current_destination() -> Destination:
    """The destination that the environment names now. Raises `DatabaseUrlError`."""
    return parse_database_url(database_url())


def describe_database() -> str:
    """The present destination for people: the URL with an absolute path and without its password."""
    try:
        return str(current_destination())
    except DatabaseUrlError as exc:
        return f"no usable database: {exc}"


def SessionLocal() -> Session:  # noqa: N802 (the plan's name)
    """A synchronous SQLAlchemy session on the database that `DATABASE_URL` names now.

    Close it, or use it in a `with`. It creates neither file nor table by itself until it is written to.
    Raises `DatabaseUrlError`.
    """
    from sqlalchemy.orm import Session

    return Session(engine_for(current_destination()))


@lru_cache(maxsize=16)
def engine_for(destination: Destination) -> Engine:
    """The synchronous engine of a destination. Connections are opened per session and closed with it, so that
    nothing is left open at exit or handed to a forked child.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    url = destination.sqlalchemy_url("pysqlite")
    if destination.path is None:
        return create_engine(url, hide_parameters=True)
    return create_engine(url, poolclass=NullPool, hide_parameters=True)
