"""Revision 0003 on SQLite: the default of `event_uid` is written into the definition of the table, as it stands.

SQLite's documentation names this way for a change that touches no row ("Making Other Kinds Of Table Schema Changes"):
the table is not copied, so that it takes no time and no room, and each index, foreign key, trigger and view stays. A
build that protects its schema (`SQLITE_DBCONFIG_DEFENSIVE`, as that of macOS) refuses it, and so may a definition that
would not be read again: then the table is copied into one that has the default. The caller holds the transaction.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

from autopack.database.migrations.events_table import TABLE
from autopack.database.migrations.events_table.sqlite import EVENT_UID_DEFAULT, REBUILT, replace_by

# As revision 0001 has always written it.
_COLUMN = re.compile(r"""(\bevent_uid["`\]]?\s+VARCHAR\(36\))(?!\s+DEFAULT\b)""", re.IGNORECASE)
_NAME = re.compile(rf"""^(CREATE\s+TABLE\s+)["`\[]?{TABLE}["`\]]?""", re.IGNORECASE)
_STEP = "autopack_event_uid_default"


def upgrade() -> None:
    """Add the default, where the column has none."""
    bind = op.get_bind()
    if _has_default(bind):
        return
    found = "SELECT sql FROM sqlite_master WHERE type = 'table' AND lower(name) = ?"
    definition = str(bind.exec_driver_sql(found, (TABLE,)).scalar())
    changed, count = _COLUMN.subn(rf"\1 DEFAULT {EVENT_UID_DEFAULT}", definition)
    if count != 1:
        return  # a definition of the user's own
    if not _is_edited(bind, changed):
        _copy_into(bind, changed)


def downgrade() -> None:
    """The default goes with its column."""


def _has_default(bind: sa.Connection) -> bool:
    """Also where there is no such column, to which nothing is to be added."""
    columns = {row.name.lower(): row.dflt_value for row in bind.exec_driver_sql(f"PRAGMA table_info({TABLE})")}
    return columns.get("event_uid", "") is not None


def _is_edited(bind: sa.Connection, definition: str) -> bool:
    """Put this definition in the place of the table's; returns whether SQLite has taken it, else all is as it was."""
    version = bind.exec_driver_sql("PRAGMA schema_version").scalar_one()
    bind.exec_driver_sql(f"SAVEPOINT {_STEP}")
    edited = False
    try:
        bind.exec_driver_sql("PRAGMA writable_schema = ON")
        bind.exec_driver_sql(
            "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND lower(name) = ?", (definition, TABLE)
        )
        bind.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")  # other connections read the schema again
        bind.exec_driver_sql("PRAGMA writable_schema = RESET")  # and so does this one
        edited = _has_default(bind)
    except DBAPIError:
        edited = False  # it is copied instead, which says what is wrong if there is more
    finally:
        if not edited:
            bind.exec_driver_sql(f"ROLLBACK TO {_STEP}")
        bind.exec_driver_sql(f"RELEASE {_STEP}")
        bind.exec_driver_sql("PRAGMA writable_schema = RESET")
    return edited


def _copy_into(bind: sa.Connection, definition: str) -> None:
    quote = bind.dialect.identifier_preparer.quote
    listed = bind.exec_driver_sql(f"PRAGMA table_xinfo({TABLE})")
    stored = [quote(row.name) for row in listed if not row.hidden]  # the others are computed
    create = _NAME.sub(rf"\g<1>{REBUILT}", definition, count=1)
    replace_by(bind, lambda: bind.exec_driver_sql(create), {name: name for name in stored})
