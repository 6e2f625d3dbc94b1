"""Connections to PostgreSQL for the writer: asyncpg, which waits for nothing without a deadline.

SQLAlchemy's engine is made around them for the migrations only; rows go to the driver directly. Statements are never
named, neither by asyncpg nor by SQLAlchemy's adapter, so that PgBouncer may give each transaction another server.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any
from urllib.parse import urlencode

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from autopack.database.postgres_urls import IN_DSN, Address, PostgresUrl
from autopack.telemetry.event.schema import Kind, Row, Table
from autopack.telemetry.stores.postgres.errors import translate

CONNECT_TIMEOUT_S = 5.0  # for each server
STATEMENT_TIMEOUT_SHARE = 0.8  # of the command's timeout: the server's own end of it says more than our giving up
UPGRADE_TIMEOUT_S = 600.0  # the rows of a large table are rewritten

_APPLICATION_NAME = "autopack"
_TYPE_OF: dict[Kind, str] = {
    "text": "text",
    "paths": "text",
    "tags": "text",
    "count": "bigint",
    "truth": "boolean",
    "instant": "timestamptz",
}


@cache
def insert_statement(table: Table) -> str:
    """Writes a batch: one array for each column, so that the number of parameters does not depend on the rows.

    Its status says how many rows were new. The conflict is named: a unique index of the user's own must not make
    another event vanish as a duplicate.
    """
    arrays = ", ".join(f"${number}::{_TYPE_OF[column.kind]}[]" for number, column in enumerate(table.columns, 1))
    return (
        f"INSERT INTO {table.name} ({_quoted(table.names)}) SELECT * FROM unnest({arrays}) "  # noqa: S608 (our own names)
        f"ON CONFLICT ({', '.join(table.key)}) DO NOTHING"
    )


def insert_arrays(rows: Sequence[Row], table: Table) -> list[Sequence[Any]]:
    """The arguments of `insert_statement`: the values of each column; the driver takes an instant as an object."""
    return [
        [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in values] if column.kind == "instant" else values
        for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)
    ]


@cache
def type_check_statement(table: Table) -> str:
    """Writes nothing, and fails where a column for numbers, instants or truth has got a type that takes none of them.
    Columns for text are left out: whether text can be read as what they have become depends on the text.
    """
    checked = {column.name: _TYPE_OF[column.kind] for column in table.columns if _TYPE_OF[column.kind] != "text"}
    values = ", ".join(f"NULL::{type_}" for type_ in checked.values())
    return f"INSERT INTO {table.name} ({_quoted(checked)}) SELECT {values} WHERE false"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


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
        "dsn": "postgresql://?" + urlencode({k: v for k, v in options.items() if k in IN_DSN and not _is_system(k, v)}),
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
