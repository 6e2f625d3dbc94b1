"""The events table: made where there is none, upgraded in place where an older system's is, and back."""

from __future__ import annotations

from types import ModuleType

from alembic import context

from autopack.database.migrations.events_table import postgres, postgres_back, sqlite, sqlite_back

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    table: ModuleType = sqlite if _is_sqlite() else postgres
    if context.is_offline_mode():
        table.create()
    else:
        table.upgrade()


def downgrade() -> None:
    back: ModuleType = sqlite_back if _is_sqlite() else postgres_back
    back.downgrade()


def _is_sqlite() -> bool:
    return context.get_context().dialect.name == "sqlite"
