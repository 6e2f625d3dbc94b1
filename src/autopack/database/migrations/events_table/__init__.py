"""The events table as revision 0001 makes it, on every kind of database. What later revisions change stands there."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from autopack.database.migrations.names import INDEX, UNIQUE

__all__ = ["ADDED", "INDEX", "TABLE", "UNIQUE", "columns", "default_for", "is_integer"]

TABLE = "token_estimation_v2_events"

# Added by autopack, dropped on the way back. Not `actual_max_tokens`: the host system has it today.
ADDED = frozenset({"event_uid", "input_tokens", "duration_ms", "existing_json", "attributes_json"})


def columns(event_uid_default: str | None = None) -> list[sa.Column[Any]]:
    """The columns. event_uid_default: an expression that gives a row of the host system's an id."""
    default = None if event_uid_default is None else sa.text(event_uid_default)
    return [
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=True),
        sa.Column("event_uid", sa.String(36), nullable=False, server_default=default),
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


def default_for(type_: sa.types.TypeEngine[Any]) -> str:
    if isinstance(type_, sa.DateTime | sa.Date | sa.Time):
        return "CURRENT_TIMESTAMP"
    if isinstance(type_, sa.Numeric | sa.Integer | sa.Boolean):
        return "0"
    return "'[]'" if isinstance(type_, sa.Text) else "'unknown'"


def is_integer(type_: sa.types.TypeEngine[Any]) -> bool:
    """Whether a column of this type holds whole numbers."""
    return isinstance(type_, sa.Integer)
