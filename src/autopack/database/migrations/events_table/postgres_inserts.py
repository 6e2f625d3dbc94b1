"""Revision 0003 on PostgreSQL: no row is rewritten. The caller holds the transaction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from autopack.database.migrations.events_table import TABLE
from autopack.database.migrations.events_table.postgres import EVENT_UID_DEFAULT

SEQUENCE = f"{TABLE}_event_id_seq"  # as a column of the type SERIAL names it


def upgrade() -> None:
    """Add the defaults."""
    bind = op.get_bind()
    bind.exec_driver_sql(f"ALTER TABLE {TABLE} ALTER COLUMN event_uid SET DEFAULT {EVENT_UID_DEFAULT}")
    if bind.execute(sa.text("SELECT to_regclass(:name)"), {"name": SEQUENCE}).scalar() is None:
        return
    bind.exec_driver_sql(
        f"SELECT setval('{SEQUENCE}', greatest(nextval('{SEQUENCE}'), coalesce(max(event_id), 0) + 1), false) "  # noqa: S608 (constants)
        f"FROM {TABLE}"
    )
    bind.exec_driver_sql(f"ALTER TABLE {TABLE} ALTER COLUMN event_id SET DEFAULT nextval('{SEQUENCE}')")


def downgrade() -> None:
    """Drop them. What numbers the host system's rows is made by what follows."""
    bind = op.get_bind()
    bind.exec_driver_sql(f"ALTER TABLE {TABLE} ALTER COLUMN event_uid DROP DEFAULT, ALTER COLUMN event_id DROP DEFAULT")
