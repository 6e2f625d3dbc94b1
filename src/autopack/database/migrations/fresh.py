"""The schema of a SQLite database that has none yet, as statements: making it needs neither SQLAlchemy nor Alembic.

They follow from the declaration of an event. A test holds what they make against what the migrations make.
"""

from __future__ import annotations

from autopack.database.migrations import HEAD, VERSION_TABLE
from autopack.database.migrations.names import INDEX, UNIQUE
from autopack.telemetry.event import TABLE, Column, Kind

_TYPES: dict[Kind, str] = {
    "text": "VARCHAR",
    "paths": "TEXT",
    "tags": "TEXT",
    "count": "BIGINT",
    "truth": "BOOLEAN",
    "instant": "DATETIME",
}
_EVENT_UID = "VARCHAR(36) DEFAULT (lower(hex(randomblob(16))))"


def _definition(column: Column) -> str:
    type_ = _EVENT_UID if column.name == "event_uid" else _TYPES[column.kind]
    return f"{column.name} {type_}{'' if column.nullable else ' NOT NULL'}"


SQLITE = (
    f"CREATE TABLE {VERSION_TABLE} "
    f"(version_num VARCHAR(32) NOT NULL, CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))",
    f"CREATE TABLE {TABLE.name} (event_id INTEGER, {', '.join(map(_definition, TABLE.columns))}, "
    f"PRIMARY KEY (event_id), CONSTRAINT {UNIQUE} UNIQUE ({', '.join(TABLE.key)}))",
    f"CREATE INDEX {INDEX} ON {TABLE.name} (timestamp)",
    f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{HEAD}')",  # noqa: S608 (our own names)
)
