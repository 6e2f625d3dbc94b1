"""Revision 0001 undone on PostgreSQL: the table gets the host system's form; rows are rewritten once, no trigger fires.

`event_id` is numbered on where it is empty, in the order in which the rows lie, and is the key again, filled by a
sequence, as SQLAlchemy makes it of the host system's model; where another key had to stay it stays. Instants are UTC
without a zone again. What the user has added stays. The caller holds the transaction.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from autopack.database.migrations.events_table import ADDED, TABLE, UNIQUE
from autopack.database.migrations.events_table.postgres import KEY, altered, columns_of, refuse_views
from autopack.database.migrations.events_table.postgres_inserts import SEQUENCE


def downgrade() -> None:
    """Bring the table back to the host system's form. Raises SchemaError where a view shows it."""
    bind = op.get_bind()
    refuse_views(bind)
    for statement in _statements(bind):
        bind.exec_driver_sql(statement)


def _statements(bind: sa.Connection) -> Iterator[str]:
    yield from altered([f"DROP CONSTRAINT IF EXISTS {name}" for name in (KEY, UNIQUE)])
    found = {column.name: column for column in columns_of(bind)}
    changes = [f"DROP COLUMN {name}" for name in sorted(ADDED)]
    if not found["event_id"].filled:
        yield from _sequence()
        changes += [
            f"ALTER COLUMN event_id TYPE bigint USING coalesce(event_id, nextval('{SEQUENCE}'))",
            f"ALTER COLUMN event_id SET DEFAULT nextval('{SEQUENCE}')",
            "ALTER COLUMN event_id SET NOT NULL",
        ]
    if found["timestamp"].type == "timestamp with time zone":
        changes.append("""ALTER COLUMN "timestamp" TYPE timestamp USING "timestamp" AT TIME ZONE 'UTC'""")
    if not any(column.key for column in found.values()):
        changes.append("ADD PRIMARY KEY (event_id)")
    yield from altered(changes)


def _sequence() -> Iterator[str]:
    """The one that numbers the rows, behind the highest number that is there; the upgrade may have left it."""
    yield f"CREATE SEQUENCE IF NOT EXISTS {SEQUENCE}"
    yield f"ALTER SEQUENCE {SEQUENCE} AS bigint OWNED BY {TABLE}.event_id"
    yield (
        f"SELECT setval('{SEQUENCE}', coalesce(max(event_id), 0) + 1, false) "  # noqa: S608 (constants)
        f"FROM {TABLE}"
    )
