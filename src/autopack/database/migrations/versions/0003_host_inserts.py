"""The host system's own inserts, which name no `event_uid`, are taken again: the column gets a default.

On PostgreSQL `event_id`, by which the host system's mapper finds the row that it has just inserted, is filled from the
sequence again where the upgrade has left one. Rows and other parts of the schema stay as they are.
"""

from __future__ import annotations

from types import ModuleType

from alembic import context

from autopack.database.migrations.events_table import postgres_inserts, sqlite_inserts

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not context.is_offline_mode():  # a table that is made now has the default from the start
        _of_dialect().upgrade()


def downgrade() -> None:
    _of_dialect().downgrade()


def _of_dialect() -> ModuleType:
    return sqlite_inserts if context.get_context().dialect.name == "sqlite" else postgres_inserts
