"""Revision 0003 on SQLite: the default of `event_uid` is written into the definition of the table, as it stands.

SQLite's documentation names this way for a change that touches no row ("Making Other Kinds Of Table Schema Changes"):
the table is not copied, so that it takes no time and no room, and each index, foreign key, trigger and view stays. The
caller holds the transaction.
"""

from __future__ import annotations

import re

from alembic import op

from autopack.database.migrations.events_table import TABLE
from autopack.database.migrations.events_table.sqlite import EVENT_UID_DEFAULT

# As revision 0001 has always written it.
_COLUMN = re.compile(r"""(\bevent_uid["`\]]?\s+VARCHAR\(36\))(?!\s+DEFAULT\b)""", re.IGNORECASE)


def upgrade() -> None:
    """Add the default, where the column has none."""
    bind = op.get_bind()
    columns = {row.name.lower(): row.dflt_value for row in bind.exec_driver_sql(f"PRAGMA table_info({TABLE})")}
    if columns["event_uid"] is not None:
        return
    found = "SELECT sql FROM sqlite_master WHERE type = 'table' AND lower(name) = ?"
    definition = str(bind.exec_driver_sql(found, (TABLE,)).scalar_one())
    changed, count = _COLUMN.subn(rf"\1 DEFAULT {EVENT_UID_DEFAULT}", definition)
    if count != 1:
        return  # a definition of the user's own
    version = bind.exec_driver_sql("PRAGMA schema_version").scalar_one()
    bind.exec_driver_sql("PRAGMA writable_schema = ON")
    try:
        bind.exec_driver_sql(
            "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND lower(name) = ?", (changed, TABLE)
        )
        bind.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    finally:
        bind.exec_driver_sql("PRAGMA writable_schema = OFF")


def downgrade() -> None:
    """The default goes with its column."""
