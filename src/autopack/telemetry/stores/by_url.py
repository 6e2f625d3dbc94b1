"""Which store a database URL means. Each is imported only where it is the one."""

from __future__ import annotations

from autopack.database.destination import Destination, parse_database_url, require_driver
from autopack.errors import ConfigError, DatabaseUrlError, MissingExtraError
from autopack.telemetry.stores.base import Store


def store_for(url: str) -> Store:
    """The store of a database URL. Raises ConfigError."""
    try:
        return store_of(parse_database_url(url))
    except (DatabaseUrlError, MissingExtraError) as exc:
        raise ConfigError(f"database URL: {exc}") from exc


def store_of(destination: Destination) -> Store:
    """The store of a destination. Raises MissingExtraError where its driver is not installed."""
    if destination.server is not None:
        from autopack.telemetry.stores.postgres.store import PostgresStore

        require_driver("asyncpg")
        return PostgresStore(destination)
    from autopack.telemetry.stores.sqlite import SqliteStore

    return SqliteStore(destination)
