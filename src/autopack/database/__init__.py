"""The user's database: which one it is (`destination`), its schema (`migrations`), and sessions on it.

Nothing is bound at import: a session is on the database that `DATABASE_URL` names when the session is asked for.
SQLAlchemy is imported only by the functions that need an engine, so that naming a database costs nothing.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from autopack.database.destination import Destination, current_destination, require_driver

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from autopack.database.postgres_urls import PostgresUrl

__all__ = ["SessionLocal", "engine_for"]


def SessionLocal() -> Session:  # noqa: N802 (the host system's name)
    """Open a synchronous SQLAlchemy session on the database that `DATABASE_URL` names now.

    Close it, or use it in a `with`. It creates neither file nor table by itself until it is written to.
    Raises `DatabaseUrlError`, and `MissingExtraError` where the driver for it is not installed.
    """
    from sqlalchemy.orm import Session

    return Session(engine_for(current_destination()))


@lru_cache(maxsize=16)
def engine_for(destination: Destination) -> Engine:
    """Return the synchronous engine of a destination. Connections are opened per session and closed with it, so that
    nothing is left open at exit or handed to a forked child.

    Raises:
        MissingExtraError: the database is on a server, and the driver for it is not installed.

    """
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    if destination.server is not None:
        require_driver("psycopg")
        connect = partial(_connect_psycopg, destination.server)
        return create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool, hide_parameters=True)
    url = destination.sqlalchemy_url("pysqlite")
    if destination.in_memory:
        return create_engine(url, hide_parameters=True)
    return create_engine(url, poolclass=NullPool, hide_parameters=True)


def _connect_psycopg(server: PostgresUrl) -> Any:
    """Open a connection that works behind PgBouncer, too: no prepared statement outlives its transaction."""
    import psycopg

    from autopack.database.postgres_urls import psycopg_arguments

    return psycopg.connect(**psycopg_arguments(server), prepare_threshold=None)  # type: ignore[arg-type]
