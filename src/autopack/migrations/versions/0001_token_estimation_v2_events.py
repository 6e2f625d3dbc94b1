"""The events table: made where there is none, upgraded in place where an older system's is."""

from __future__ import annotations

from types import ModuleType

from alembic import context

from autopack.migrations.events_table import postgres, sqlite

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    table: ModuleType = sqlite if context.get_context().dialect.name == "sqlite" else postgres
    if context.is_offline_mode():
        table.create()
    else:
        table.upgrade()


def downgrade() -> None:
    raise NotImplementedError("There is no version before the first; drop the table yourself if that is meant.")
