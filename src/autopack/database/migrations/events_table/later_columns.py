"""Columns that a revision after 0001 adds: those that are there already, under the same name, stay as they are.

A fresh SQLite database has all of them from the start (`fresh`), and so may a user's own table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import context, op

from autopack.database.migrations.events_table import TABLE

Columns = Mapping[str, type[sa.types.TypeEngine[Any]]]


def add_missing(columns: Columns) -> None:
    """Add those that the table has not, nullable: no row is rewritten, and a former writer goes on writing."""
    present = _present()
    for name, type_ in columns.items():
        if name not in present:
            op.add_column(TABLE, sa.Column(name, type_(), nullable=True))


def drop_present(columns: Columns) -> None:
    """Drop those that the table has."""
    for name in columns.keys() & _present():
        op.drop_column(TABLE, name)


def _present() -> set[str]:
    """The columns that the table has; none are known where the statements are only written down."""
    if context.is_offline_mode():
        return set()
    bind = op.get_bind()
    if bind.dialect.name == "sqlite":
        return {row.name.lower() for row in bind.exec_driver_sql(f"PRAGMA table_info({TABLE})")}
    # The catalogue itself: SQLAlchemy's inspection warns of every type that it does not know.
    found = bind.execute(
        sa.text("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND NOT attisdropped"),
        {"table": TABLE},
    )
    return set(found.scalars())
