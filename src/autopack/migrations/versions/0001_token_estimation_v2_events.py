"""The events table: made where there is none, rebuilt in place where an older system's is.

An older table (foreign keys, float metrics, columns of its own, no `event_uid`) is copied row by row, in SQL, into one
of our form under a temporary name, which then takes its place: SQLite cannot drop a foreign key otherwise. Columns that
we do not fill stay, with a default, so that rows without them can be written. The caller holds the transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLE = "token_estimation_v2_events"
REBUILT = "autopack_rebuilt_token_estimation_v2_events"

INDEX = "ix_token_estimation_v2_events_timestamp"
UNIQUE = "uq_token_estimation_v2_events_run_uid"

# A UUID of version 7 for a row that has none: 48 bits of milliseconds from its timestamp, the rest random.
_EVENT_UID = """
    printf('%s-%s-7%s-8%s-%s',
        substr(printf('%012x', max(0, coalesce(julianday("timestamp") - 2440587.5, 0)) * 86400000), 1, 8),
        substr(printf('%012x', max(0, coalesce(julianday("timestamp") - 2440587.5, 0)) * 86400000), 9, 4),
        substr(lower(hex(randomblob(2))), 2), substr(lower(hex(randomblob(2))), 2), lower(hex(randomblob(6))))
"""
_BOTH_POSITIVE = "predicted_output_tokens > 0 AND actual_output_tokens > 0"
# What a column of ours gets for an older row; a column that the older table has keeps its value.
_COMPUTED = {
    "event_uid": _EVENT_UID,
    "smape_percent": f"""CASE WHEN {_BOTH_POSITIVE} THEN CAST(abs(actual_output_tokens - predicted_output_tokens)
        / max(1.0, (actual_output_tokens + predicted_output_tokens) / 2.0) * 100 AS INTEGER) END""",
    "waste_ratio": f"""CASE WHEN {_BOTH_POSITIVE} THEN
        CAST(CAST(predicted_output_tokens AS REAL) / actual_output_tokens * 100 AS INTEGER) END""",
}


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=True),
        sa.Column("event_uid", sa.String(36), nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("phase_id", sa.String, nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("category", sa.String, nullable=False),
        sa.Column("complexity", sa.String, nullable=False),
        sa.Column("deliverable_count", sa.BigInteger, nullable=False),
        sa.Column("deliverables_json", sa.Text, nullable=False),
        sa.Column("predicted_output_tokens", sa.BigInteger, nullable=False),
        sa.Column("actual_output_tokens", sa.BigInteger, nullable=False),
        sa.Column("selected_budget", sa.BigInteger, nullable=False),
        sa.Column("actual_max_tokens", sa.BigInteger),
        sa.Column("success", sa.Boolean, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("stop_reason", sa.String),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("smape_percent", sa.BigInteger),
        sa.Column("waste_ratio", sa.BigInteger),
        sa.Column("underestimated", sa.Boolean),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("existing_json", sa.Text),
        sa.Column("attributes_json", sa.Text),
    ]


def upgrade() -> None:
    bind = op.get_bind()
    if sa.inspect(bind).has_table(TABLE):
        _rebuild(bind)
    else:
        op.create_table(TABLE, *_keyed(_columns(), "event_id"))
    existing = {index["name"] for index in sa.inspect(bind).get_indexes(TABLE)}
    if INDEX not in existing:
        op.create_index(INDEX, TABLE, ["timestamp"])


def downgrade() -> None:
    raise NotImplementedError("There is no version before the first; drop the table yourself if that is meant.")


def _keyed(columns: list[sa.Column[Any]], key: str) -> Iterator[sa.schema.SchemaItem]:
    """The columns with SQLite's row number as `key`, and the identity of a row."""
    yield from columns
    yield sa.PrimaryKeyConstraint(key)
    yield sa.UniqueConstraint("run_id", "event_uid", name=UNIQUE)


def _rebuild(bind: sa.Connection) -> None:
    old = sa.Table(TABLE, sa.MetaData(), autoload_with=bind, resolve_fks=False)
    ours = {column.name: column for column in _columns()}
    foreign = [_with_default(column) for column in old.columns if column.name not in ours]
    for column in ours.values():
        if column.name in old.columns and not old.columns[column.name].primary_key:
            column.nullable = bool(old.columns[column.name].nullable)
    key = next((column.name for column in old.primary_key if _is_row_number(column)), "event_id")
    statements = _indexes_and_triggers(bind)
    op.create_table(REBUILT, *_keyed([*ours.values(), *foreign], key))
    _copy(bind, [column.name for column in old.columns])
    op.drop_table(TABLE)
    op.rename_table(REBUILT, TABLE)
    for statement in statements:
        bind.exec_driver_sql(statement)


def _copy(bind: sa.Connection, old_columns: list[str]) -> None:
    quote = bind.dialect.identifier_preparer.quote
    sources = {name: quote(name) for name in old_columns}
    sources |= {name: value for name, value in _COMPUTED.items() if name != "event_uid" or name not in old_columns}
    columns, values = ", ".join(map(quote, sources)), ", ".join(sources.values())
    bind.exec_driver_sql(f"INSERT INTO {REBUILT} ({columns}) SELECT {values} FROM {TABLE}")  # noqa: S608 (our own names)


def _with_default(column: sa.Column[Any]) -> sa.Column[Any]:
    """A column of the older system's: as it was, and with a default if it insists on a value."""
    default: Any = getattr(column.server_default, "arg", None)
    if default is None and not column.nullable and not column.primary_key:
        default = sa.text(_default_for(column.type))
    return sa.Column(column.name, column.type, nullable=column.nullable, server_default=default)


def _default_for(type_: sa.types.TypeEngine[Any]) -> str:
    if isinstance(type_, sa.DateTime | sa.Date | sa.Time):
        return "CURRENT_TIMESTAMP"
    return "0" if isinstance(type_, sa.Numeric | sa.Integer | sa.Boolean) else "''"


def _is_row_number(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.Integer)


def _indexes_and_triggers(bind: sa.Connection) -> list[str]:
    rows = bind.execute(
        sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = :t AND type IN ('index', 'trigger') AND sql NOT NULL"),
        {"t": TABLE},
    )
    return [row.sql for row in rows]
