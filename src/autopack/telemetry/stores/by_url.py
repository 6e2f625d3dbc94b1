"""Which store a database URL means. Each is imported only where it is the one."""

from __future__ import annotations

from autopack.database import DatabaseUrlError, parse_database_url
from autopack.telemetry.errors import ConfigError
from autopack.telemetry.stores.base import Store


def store_for(url: str) -> Store:
    """The store of a database URL. Raises ConfigError."""
    try:
        destination = parse_database_url(url)
    except DatabaseUrlError as exc:
        raise ConfigError(f"database URL: {exc}") from exc
    from autopack.telemetry.stores.sqlite import SqliteStore

    return SqliteStore(destination)
