"""The schema of the database: its version, its upgrade to autopack's, and the way back. Alembic, packaged.

Alembic's own table is `autopack_telemetry_version`, since the user's database may have an `alembic_version` already.
Importing Alembic costs half a second, so it is imported only when there is something to upgrade.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autopack._util.forks import in_child
from autopack.errors import SchemaError
from autopack.telemetry.event import TABLE

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

VERSION_TABLE = "autopack_telemetry_version"
HEAD = "0003"

_ADVISORY_LOCK = 0x6175746F7061636B  # "autopack"
_NO_ADVISORY_LOCKS = frozenset({"0A000", "42883"})  # not supported, no such function
# A table, a constraint or a row of the catalogue that another upgrade has just made; or a conflict with that upgrade.
_LOST_RACE = frozenset({"42P07", "42710", "23505", "40001", "42701"})


def load() -> None:
    """Import everything that `ensure` may need."""
    import alembic.command
    import alembic.context
    import alembic.ddl.postgresql
    import alembic.ddl.sqlite
    import alembic.op  # noqa: F401

    import autopack.models  # noqa: F401


def ensure(connection: Connection) -> str | None:
    """Bring the schema to `HEAD`, in one transaction; nothing happens where it is there.

    Returns what the user should be told, None where there is nothing to tell: a table that was removed, while the
    version of its schema stayed, is made again, empty. Several processes may do this at once: the second finds it done.
    With SQLite the connection must be in autocommit mode, with PostgreSQL it must not.

    Raises:
        SchemaError: the schema is newer than this program, and its table lacks a column that is written.

    """
    if is_current(connection):
        return None
    try:
        _begin_alone(connection)
        told = None
        if not is_current(connection):
            told = _forget_removed_table(connection)
            _upgrade(connection)
        connection.commit()
    except BaseException as exc:
        connection.rollback()
        if not (isinstance(exc, Exception) and _is_lost_race(exc) and is_current(connection)):
            raise
        return None
    return told


def _forget_removed_table(connection: Connection) -> str | None:
    """Where the schema has a version but no table: begin anew."""
    revision = current_revision(connection)
    if revision is None or columns_of(connection):
        return None
    connection.exec_driver_sql(f"DELETE FROM {VERSION_TABLE}")  # noqa: S608 (our own name)
    return f"The table {TABLE.name} was removed, and is made again"


def downgrade(connection: Connection) -> None:
    """Bring the table back to the host system's form, in one transaction.

    Every row stays, and so does every column that the host system has or a user added. All columns that only
    autopack fills (docs/origin.md) are dropped, `event_uid` with them. An upgrade gives each row a new one, so a row
    that a journal still holds is then written a second time. A writer upgrades when it connects or meets the host
    system's form: end all of them before. The connection is to be as for `ensure`.

    Raises:
        SchemaError: the schema is not this program's, or a view shows the table.

    """
    try:
        _begin_alone(connection)
        _downgrade(connection)
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def is_current(connection: Connection) -> bool:
    """Whether this program can write to the schema as it is: at `HEAD`, or newer with every column that is written.

    Raises SchemaError as `ensure` does.
    """
    revision = current_revision(connection)
    if revision is None or not (columns := columns_of(connection)):
        return False
    if revision <= HEAD:
        return revision == HEAD
    if missing := sorted(set(TABLE.names) - columns):
        raise SchemaError(
            f"schema {revision} is newer than this program's {HEAD}, and its table has no column {', '.join(missing)}"
        )
    return True


def columns_of(connection: Connection) -> set[str]:
    """The columns of the events table; none where it is not there."""
    from sqlalchemy import inspect

    if not inspect(connection).has_table(TABLE.name):
        return set()
    # Not by inspection, which warns of every type that SQLAlchemy does not know.
    return set(connection.exec_driver_sql(f"SELECT * FROM {TABLE.name} WHERE 1 = 0").keys())  # noqa: S608 (our own name)


def current_revision(connection: Connection) -> str | None:
    """Return the version of the schema, None where there is none."""
    from sqlalchemy import inspect

    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    row = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").first()  # noqa: S608 (a constant)
    return None if row is None else str(row[0])


def alembic_config() -> Config:
    """Return Alembic's configuration for the packaged migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade_sql(dialect: Literal["sqlite", "postgresql"]) -> str:
    """Return the statements that make the schema in an empty database, for a person to read and to run."""
    from io import StringIO

    from alembic import command

    config = alembic_config()
    config.attributes |= {"dialect": dialect, "output": (output := StringIO())}
    with _one_at_a_time:
        command.upgrade(config, "head", sql=True)
    return f"BEGIN;\n\n{output.getvalue().strip()}\n\nCOMMIT;\n"


def _begin_alone(connection: Connection) -> None:
    """Begin a transaction that excludes other upgrades of this database."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.rollback()
    # Wait 10 s at most for a table in use: every other client would wait behind. The rewrite itself may take its time.
    for setting in ("lock_timeout = '10s'", "statement_timeout = 0", "TimeZone = 'UTC'"):
        connection.exec_driver_sql(f"SET LOCAL {setting}")
    _lock(connection)


def _lock(connection: Connection) -> None:
    """Take the upgrade's advisory lock, where the server has such. Elsewhere `ensure` looks again after a lost race."""
    from sqlalchemy.exc import DBAPIError

    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
    except DBAPIError as exc:
        if getattr(exc.orig, "sqlstate", None) not in _NO_ADVISORY_LOCKS:
            raise


def _is_lost_race(exc: Exception) -> bool:
    """Whether another upgrade may have been faster, on a server without advisory locks."""
    return getattr(getattr(exc, "orig", None), "sqlstate", None) in _LOST_RACE


def _upgrade(connection: Connection) -> None:
    from alembic import command

    config = alembic_config()
    config.attributes["connection"] = connection
    with _one_at_a_time:
        command.upgrade(config, "head")


def _downgrade(connection: Connection) -> None:
    from alembic import command

    if not is_current(connection):
        raise SchemaError(f"there is no schema {HEAD} to go back from")
    config = alembic_config()
    config.attributes["connection"] = connection
    with _one_at_a_time:
        command.downgrade(config, "base")


# Alembic's `op` and `context` are proxies of the whole process: two upgrades at once would write into each other's
# database.
_one_at_a_time = threading.Lock()


def _fresh_lock() -> None:
    global _one_at_a_time  # noqa: PLW0603 (a thread of the parent may hold the former for ever)
    _one_at_a_time = threading.Lock()


in_child(_fresh_lock)
