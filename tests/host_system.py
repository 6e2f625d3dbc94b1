"""The table of the host system as its own SQLAlchemy models make it: what an upgrade in place meets."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    Engine,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    make_url,
)
from sqlalchemy.orm import Session, registry
from sqlalchemy.schema import CreateIndex, CreateTable
from tests.write_side import TABLE

_METADATA = MetaData()
_RUNS = Table("runs", _METADATA, Column("id", String, primary_key=True))
_PHASES = Table(
    "phases", _METADATA, Column("run_id", String, primary_key=True), Column("phase_id", String, primary_key=True)
)
EVENTS = Table(
    TABLE,
    _METADATA,
    Column("event_id", Integer, primary_key=True),
    Column("run_id", String, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("phase_id", String, nullable=False),
    Column("timestamp", DateTime, nullable=False, index=True),
    Column("category", String, nullable=False),
    Column("complexity", String, nullable=False),
    Column("deliverable_count", Integer, nullable=False),
    Column("deliverables_json", Text, nullable=False),
    Column("predicted_output_tokens", Integer, nullable=False),
    Column("actual_output_tokens", Integer, nullable=False),
    Column("selected_budget", Integer, nullable=False),
    Column("actual_max_tokens", Integer),
    Column("success", Boolean, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("stop_reason", String),
    Column("model", String, nullable=False),
    Column("smape_percent", Float),
    Column("waste_ratio", Float),
    Column("underestimated", Boolean),
    # What autopack never fills.
    Column("is_truncated_output", Boolean, nullable=False),
    Column("context_quality", String),
    Column("created_at", DateTime, nullable=False),
    ForeignKeyConstraint(
        ["run_id", "phase_id"],
        ["phases.run_id", "phases.phase_id"],
        name="fk_token_est_v2_run_phase",
        ondelete="CASCADE",
    ),
)


def _statements(dialect: Dialect) -> str:
    indexes = sorted(EVENTS.indexes, key=lambda index: str(index.name))
    made: list[CreateTable | CreateIndex] = [*map(CreateTable, _METADATA.sorted_tables), *map(CreateIndex, indexes)]
    return "".join(f"{str(statement.compile(dialect=dialect)).strip()};\n" for statement in made)


ON_SQLITE = _statements(make_url("sqlite://").get_dialect()())
ON_POSTGRESQL = _statements(make_url("postgresql://").get_dialect()())


def row() -> dict[str, Any]:
    """The values with which its own writer inserts a row: they name no `event_uid`."""
    now = datetime(2026, 1, 1)  # noqa: DTZ001 (as the host system has it)
    texts = {"run_id": "run", "phase_id": "own", "category": "docs", "complexity": "low", "model": "m"}
    counts = dict.fromkeys(
        ("deliverable_count", "predicted_output_tokens", "actual_output_tokens", "selected_budget"), 1
    )
    truths = dict.fromkeys(("success", "truncated", "is_truncated_output"), False)
    return {**texts, **counts, **truths, "deliverables_json": "[]", "timestamp": now, "created_at": now}


def insert_by_its_mapper(engine: Engine, values: dict[str, Any]) -> None:
    """What its own writer does: a mapped object, which has to find the key of its row after the insert."""
    mapped: Any = type("TokenEstimationV2Event", (), {})
    registry().map_imperatively(mapped, EVENTS)
    with Session(engine) as session:
        row = mapped()
        for name, value in values.items():
            setattr(row, name, value)
        session.add(row)
        session.commit()
        assert row.event_id is not None
