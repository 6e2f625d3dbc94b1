"""Connections to PostgreSQL for the writer: asyncpg, which waits for nothing without a deadline.

SQLAlchemy's engine is made around them for the migrations only; rows go to the driver directly. Statements are never
named, neither by asyncpg nor by SQLAlchemy's adapter, so that PgBouncer may give each transaction another server.
"""

from __future__ import annotations

import ssl
from functools import cache, partial
from typing import Any
from urllib.parse import urlencode

import asyncpg
from sqlalchemy import Column
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from autopack.database.postgres_urls import Address, PostgresUrl
from autopack.models import TokenEstimationV2Event
from autopack.telemetry.event.schema import Row
from autopack.telemetry.stores.postgres.errors import translate

CONNECT_TIMEOUT_S = 5.0  # for each server
STATEMENT_TIMEOUT_SHARE = 0.8  # of the command's timeout: the server's own end of it says more than our giving up
UPGRADE_TIMEOUT_S = 600.0  # the rows of a large table are rewritten

_APPLICATION_NAME = "autopack"
# What asyncpg reads from a DSN, and only from there.
_IN_DSN = frozenset(
    {
        "passfile",
        "service",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslnegotiation",
        "sslcrl",
        "sslpassword",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
    }
)
_ARRAY_OF = {"VARCHAR": "text[]", "TEXT": "text[]", "BIGINT": "bigint[]", "BOOLEAN": "boolean[]"}


@cache
def insert_statement() -> str:
    """Writes a batch: one array for each column, so that the number of parameters does not depend on the rows.

    Its status says how many rows were new. The conflict is named: a unique index of the user's own must not make
    another event vanish as a duplicate.
    """
    table = TokenEstimationV2Event.metadata.tables[TokenEstimationV2Event.__tablename__]
    columns = [table.c[name] for name in Row.__struct_fields__]
    arrays = ", ".join(f"${number}::{_array_type(column)}" for number, column in enumerate(columns, 1))
    names = ", ".join(f'"{column.name}"' for column in columns)
    return (
        f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({arrays}) "  # noqa: S608 (our own names)
        "ON CONFLICT (run_id, event_uid) DO NOTHING"
    )


@cache
def type_check_statement() -> str:
    """Writes nothing, and fails where a column for numbers, instants or truth has got a type that takes none of them.
    Columns for text are left out: whether text can be read as what they have become depends on the text.
    """
    table = TokenEstimationV2Event.metadata.tables[TokenEstimationV2Event.__tablename__]
    kinds = {name: _array_type(table.c[name]).removesuffix("[]") for name in Row.__struct_fields__}
    checked = {name: kind for name, kind in kinds.items() if kind != "text"}
    names, values = ", ".join(f'"{name}"' for name in checked), ", ".join(f"NULL::{kind}" for kind in checked.values())
    return f"INSERT INTO {table.name} ({names}) SELECT {values} WHERE false"


def _array_type(column: Column[Any]) -> str:
    return _ARRAY_OF.get(str(column.type).partition("(")[0], "timestamptz[]")


def make_engine(server: PostgresUrl, *, command_timeout_s: float) -> AsyncEngine:
    """An engine for `autopack.database.migrations`, each connection of which is opened anew."""
    arguments = {
        "async_creator_fn": partial(connect, server, command_timeout_s=command_timeout_s),
        "prepared_statement_cache_size": 0,
    }
    return create_async_engine(
        "postgresql+asyncpg://", connect_args=arguments, poolclass=NullPool, hide_parameters=True
    )


async def connect(server: PostgresUrl, *, command_timeout_s: float) -> asyncpg.Connection[Any]:
    """A connection to the first server that takes one and, where there are several, that can be written.

    Each has its own time to answer: a dead one must not use up that of the next.
    """
    *others, last = server.addresses
    for address in others:
        try:
            return await _connect_to(address, server, command_timeout_s)
        except Exception as exc:
            if not translate(exc).transient:
                raise
    return await _connect_to(last, server, command_timeout_s)


async def _connect_to(address: Address, server: PostgresUrl, command_timeout_s: float) -> asyncpg.Connection[Any]:
    arguments = _arguments(address, server, command_timeout_s)
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(**arguments)
    except asyncpg.ProtocolViolationError:
        # PgBouncer refuses settings that it does not know; our own deadline remains.
        if arguments["server_settings"].pop("statement_timeout", None) is None:
            raise
        connection = await asyncpg.connect(**arguments)
    return connection


def _arguments(address: Address, server: PostgresUrl, command_timeout_s: float) -> dict[str, Any]:
    options = dict(server.options)
    arguments: dict[str, Any] = {
        "dsn": "postgresql://?"
        + urlencode({k: v for k, v in options.items() if k in _IN_DSN and not _is_system(k, v)}),
        "host": address.host or None,
        "port": address.port,
        "database": server.database or None,
        "user": server.user,
        "password": server.password,
        "timeout": float(options.get("connect_timeout", 0)) or CONNECT_TIMEOUT_S,
        "command_timeout": command_timeout_s,
        "statement_cache_size": 0,
        "server_settings": _server_settings(options, command_timeout_s),
        "target_session_attrs": options.get(
            "target_session_attrs", "any" if len(server.addresses) == 1 else "read-write"
        ),
    }
    if options.get("sslrootcert") == "system":
        arguments["ssl"] = ssl.create_default_context()
    return arguments


def _is_system(name: str, value: str) -> bool:
    """Whether the certificates of the system are meant, in libpq's words, and the host's name checked against them."""
    return (name, value) == ("sslrootcert", "system")


def _server_settings(options: dict[str, str], command_timeout_s: float) -> dict[str, str]:
    settings = {
        "application_name": options.get("application_name")
        or options.get("fallback_application_name")
        or _APPLICATION_NAME,
        "statement_timeout": str(int(1000 * STATEMENT_TIMEOUT_SHARE * command_timeout_s)),
    }
    if given := options.get("options"):
        settings["options"] = given
        if "statement_timeout" in given:
            del settings["statement_timeout"]
    return settings
