"""What a captured call knows beside its counts: provider, attempt and turn, reasoning, cache, the estimator.

Only nullable columns are added, so that a writer of revision 0001 goes on writing, and no row is rewritten. A column
that is there already, under the same name, stays as it is.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context, op

from autopack.database.migrations.events_table import TABLE

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS: dict[str, type[sa.types.TypeEngine[Any]]] = {
    "provider": sa.String,
    "call_id": sa.String,
    "attempt": sa.BigInteger,
    "turn": sa.BigInteger,
    "reasoning_tokens": sa.BigInteger,
    "reasoning_level": sa.String,
    "cache_read_tokens": sa.BigInteger,
    "cache_write_tokens": sa.BigInteger,
    "estimator": sa.String,
}


def upgrade() -> None:
    present = _present()
    for name, type_ in COLUMNS.items():
        if name not in present:
            op.add_column(TABLE, sa.Column(name, type_(), nullable=True))


def downgrade() -> None:
    for name in COLUMNS.keys() & _present():
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
