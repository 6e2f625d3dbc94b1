"""Revision 0001 undone on SQLite: the table is rebuilt in the host system's form, under the key that it has.

`event_id` is filled where another key has left it empty. What the user has added stays. The caller holds the
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from autopack.database.migrations.events_table import ADDED, TABLE, columns
from autopack.database.migrations.events_table.sqlite import replace, with_default

_EVENT_ID = f"""coalesce(event_id, (SELECT coalesce(max(event_id), 0) FROM {TABLE})
    + row_number() OVER (ORDER BY "timestamp", event_uid))"""  # noqa: S608 (constants)


def downgrade() -> None:
    """Bring the table back to the host system's form."""
    bind = op.get_bind()
    inspector = sa.inspect(bind)
    kept = {column["name"]: column for column in inspector.get_columns(TABLE) if column["name"] not in ADDED}
    wanted = {column.name: column for column in columns()}
    quote = bind.dialect.identifier_preparer.quote
    replace(
        bind,
        [
            *(_column(name, found, wanted.get(name)) for name, found in kept.items()),
            sa.PrimaryKeyConstraint(*inspector.get_pk_constraint(TABLE)["constrained_columns"]),
        ],
        {name: quote(name) for name in kept} | {"event_id": _EVENT_ID},
    )


def _column(name: str, found: Mapping[str, Any], wanted: sa.Column[Any] | None) -> sa.Column[Any]:
    if wanted is None:
        return with_default(name, found)
    wanted.nullable = found["nullable"]
    return wanted
