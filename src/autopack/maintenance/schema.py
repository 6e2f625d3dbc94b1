"""The schema of a database against this program's: compared without a change, or brought to it and back."""

from __future__ import annotations

import os
from typing import Literal

from autopack._util.files import make_folders, open_private
from autopack.analysis.reading.rows import reader_of
from autopack.database import engine_for, migrations
from autopack.database.destination import Destination
from autopack.errors import SchemaError
from autopack.models import TokenEstimationV2Event

SchemaState = Literal["current", "none", "older", "newer", "no table"]
_TABLE = TokenEstimationV2Event.__tablename__


def state_of(destination: Destination) -> tuple[str | None, SchemaState]:
    """The revision, None where there is none, and how it compares with this program's. Creates and changes nothing.

    `older` is also a table from before autopack's migrations, `no table` a revision without its table, which an
    upgrade makes again. Raises `ReadError`.
    """
    if not destination.exists():
        return None, "none"
    reader = reader_of(destination)
    with reader.connected(destination) as connection:
        revision = migrations.current_revision(connection)
        there = bool(reader.column_names(connection, _TABLE))
    return revision, _state(revision, there=there)


def upgrade(destination: Destination) -> None:
    """Bring the schema to this program's; a SQLite file that is not there is made, for its owner alone.

    Raises:
        SchemaError: it is newer than this program, and its table lacks a column that is written.
        sqlalchemy.exc.SQLAlchemyError: the database cannot be reached or refuses it. Nothing of it is done then.
        OSError: the file cannot be made.

    """
    if destination.path is not None and not destination.path.exists():
        make_folders(destination.path.parent)
        os.close(open_private(destination.path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
    with engine_for(destination).connect() as connection:
        if destination.path is not None:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        migrations.ensure(connection)


def downgrade(destination: Destination) -> None:
    """Bring the table back to the host system's form, see `migrations.downgrade`.

    Raises:
        SchemaError: there is no schema of autopack's, or a view shows the table.
        sqlalchemy.exc.SQLAlchemyError: the database cannot be reached or refuses it. Nothing of it is done then.

    """
    if not destination.exists():
        raise SchemaError("there is no such file; set DATABASE_URL to the database that is meant")
    with engine_for(destination).connect() as connection:
        if destination.path is not None:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        migrations.downgrade(connection)


def _state(revision: str | None, *, there: bool) -> SchemaState:
    if revision is None:
        return "older" if there else "none"
    if not there:
        return "no table"
    if revision > migrations.HEAD:
        return "newer"
    return "current" if revision == migrations.HEAD else "older"
