"""Revision 0001 on SQLite: the table is made, or an older one is rebuilt in place.

An older table (foreign keys, float metrics, columns of its own, no `event_uid`) is copied row by row, in SQL, into a
new one under a temporary name, which then takes its place: SQLite cannot drop a foreign key otherwise. Columns that
autopack does not fill stay, with a default, so that rows without them can be written. The caller holds the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from autopack.database.migrations.events_table import INDEX, TABLE, UNIQUE, columns, default_for, is_integer

EVENT_UID_DEFAULT = "(lower(hex(randomblob(16))))"
REBUILT = "autopack_rebuilt_token_estimation_v2_events"

# A UUID of version 7 for a row that has none: 48 bits of milliseconds from its timestamp, the rest random.
_EVENT_UID = """
    printf('%s-%s-7%s-8%s-%s',
        substr(printf('%012x', max(0, coalesce(julianday("timestamp") - 2440587.5, 0)) * 86400000), 1, 8),
        substr(printf('%012x', max(0, coalesce(julianday("timestamp") - 2440587.5, 0)) * 86400000), 9, 4),
        substr(lower(hex(randomblob(2))), 2), substr(lower(hex(randomblob(2))), 2), lower(hex(randomblob(6))))
"""
# SQLite compares text with numbers without complaint, and says that it is the larger.
_BOTH_POSITIVE = """typeof(predicted_output_tokens) = 'integer' AND typeof(actual_output_tokens) = 'integer'
    AND predicted_output_tokens > 0 AND actual_output_tokens > 0"""
# Computed again for an older row, whatever these columns held before.
_COMPUTED = {
    "smape_percent": f"""CASE WHEN {_BOTH_POSITIVE} THEN CAST(abs(actual_output_tokens - predicted_output_tokens)
        / max(1.0, (actual_output_tokens + predicted_output_tokens) / 2.0) * 100 AS INTEGER) END""",
    "waste_ratio": f"""CASE WHEN {_BOTH_POSITIVE} THEN
        CAST(CAST(predicted_output_tokens AS REAL) / actual_output_tokens * 100 AS INTEGER) END""",
}


def upgrade() -> None:
    """Make the table, or rebuild the one that is there."""
    bind = op.get_bind()
    if sa.inspect(bind).has_table(TABLE):
        _rebuild(bind)
        if not _schema_of(bind, "name = :name", name=INDEX):
            op.create_index(INDEX, TABLE, ["timestamp"])
    else:
        create()


def create() -> None:
    """Make the table where there is none."""
    op.create_table(TABLE, *_keyed(columns(EVENT_UID_DEFAULT), "event_id"))
    op.create_index(INDEX, TABLE, ["timestamp"])


def _keyed(columns: list[sa.Column[Any]], key: str) -> Iterator[sa.schema.SchemaItem]:
    """Yield the columns, SQLite's row number as `key`, and the identity of a row."""
    yield from columns
    yield sa.PrimaryKeyConstraint(key)
    yield sa.UniqueConstraint("run_id", "event_uid", name=UNIQUE)


def _rebuild(bind: sa.Connection) -> None:
    inspector = sa.inspect(bind)
    old = {column["name"].lower(): column for column in inspector.get_columns(TABLE)}
    keys = [name.lower() for name in inspector.get_pk_constraint(TABLE)["constrained_columns"]]
    wanted = {column.name: column for column in columns(EVENT_UID_DEFAULT)}
    renamed = {"event_id": "former_event_id"} if "event_id" in old and not is_integer(old["event_id"]["type"]) else {}
    foreign = {name: column for name, column in old.items() if name not in wanted or name in renamed}
    for name, column in wanted.items():
        if name in old and name not in keys:
            column.nullable = old[name]["nullable"]
    key = next((name for name in keys if is_integer(old[name]["type"]) and len(keys) == 1), "event_id")
    extra = [with_default(renamed.get(name, column["name"]), column) for name, column in foreign.items()]
    replace(bind, _keyed([*wanted.values(), *extra], key), _sources(bind, wanted, old, renamed))


def replace(bind: sa.Connection, items: Iterable[sa.schema.SchemaItem], sources: Mapping[str, str]) -> None:
    """Put a table of these columns and constraints in the place of the one that is there, with its rows, indexes and
    triggers. `sources`: for each column the expression over the old table that fills it.
    """
    replace_by(bind, lambda: op.create_table(REBUILT, *items), sources)


def replace_by(bind: sa.Connection, create: Callable[[], object], sources: Mapping[str, str]) -> None:
    """The same with the table that `create` makes, under the name `REBUILT`."""
    statements = _schema_of(bind, "tbl_name = :table AND type IN ('index', 'trigger')", table=TABLE)
    create()
    _copy(bind, sources)
    op.drop_table(TABLE)
    # As SQLite did before 3.26: views and triggers that mention the table are left as they are, and find it again.
    bind.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    op.rename_table(REBUILT, TABLE)
    bind.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
    for statement in statements:
        bind.exec_driver_sql(statement)


def _sources(
    bind: sa.Connection,
    wanted: Mapping[str, sa.Column[Any]],
    old: Mapping[str, Mapping[str, Any]],
    renamed: Mapping[str, str],
) -> dict[str, str]:
    """Return for each column of the new table the expression over the old one that fills it."""
    quote = bind.dialect.identifier_preparer.quote
    sources = {renamed.get(name, column["name"]): quote(column["name"]) for name, column in old.items()}
    for name, column in wanted.items():
        if name not in old and not column.nullable:
            sources[name] = default_for(column.type)
    sources["event_uid"] = f"coalesce({quote('event_uid')}, {_EVENT_UID})" if "event_uid" in old else _EVENT_UID
    both = {"predicted_output_tokens", "actual_output_tokens"} <= old.keys()
    return sources | (_COMPUTED if both else {})


def _copy(bind: sa.Connection, sources: Mapping[str, str]) -> None:
    quote = bind.dialect.identifier_preparer.quote
    columns, values = ", ".join(map(quote, sources)), ", ".join(sources.values())
    bind.exec_driver_sql(f"INSERT INTO {REBUILT} ({columns}) SELECT {values} FROM {TABLE}")  # noqa: S608 (constants)


def with_default(name: str, column: Mapping[str, Any]) -> sa.Column[Any]:
    """Return a column of the older table: as it was, and with a default if it requires a value."""
    # A column without a type holds anything, and so does a BLOB.
    type_ = sa.LargeBinary() if isinstance(column["type"], sa.types.NullType) else column["type"]
    default = None if column["default"] is None else sa.text(column["default"])
    if default is None and not column["nullable"]:
        default = sa.text(default_for(type_))
    return sa.Column(name, type_, nullable=column["nullable"], server_default=default)


def _schema_of(bind: sa.Connection, where: str, **parameters: str) -> list[str]:
    """Return the statements that made parts of the schema. Not by reflection, which warns of indexes on expressions."""
    rows = bind.execute(sa.text(f"SELECT sql FROM sqlite_master WHERE sql NOT NULL AND {where}"), parameters)  # noqa: S608
    return [row.sql for row in rows]
