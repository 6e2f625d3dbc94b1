"""What a captured call knows beside its counts: provider, attempt and turn, reasoning, cache, the estimator.

Only nullable columns are added, so that a writer of revision 0001 goes on writing, and no row is rewritten. A column
that is there already, under the same name, stays as it is.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from autopack.database.migrations.events_table.later_columns import add_missing, drop_present

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
    add_missing(COLUMNS)


def downgrade() -> None:
    drop_present(COLUMNS)
