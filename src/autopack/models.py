"""The table as SQLAlchemy sees it: the first columns by name, for type checkers; later ones from the schema."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, DateTime, Dialect, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from autopack._util.ids import new_event_uid
from autopack.telemetry.event import TABLE, Kind


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware UTC in Python. SQLite has no time zones, there it is the UTC wall clock without one,
    as the host system's tables hold it. A naive value is taken to be UTC.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        instant = value if value.tzinfo else value.replace(tzinfo=UTC)
        return instant.astimezone(UTC).replace(tzinfo=None) if dialect.name == "sqlite" else instant

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (inherited)
        """From the database."""
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The declarative base, under the host system's name."""


class TokenEstimationV2Event(Base):
    """One model call: what was predicted, what came, and for which deliverables.

    `smape_percent` and `waste_ratio` are integers, as the host system stores them, the latter in percent (150 = 1.5 ×);
    exact values follow from the raw token counts. NULL in both, and in `underestimated`, where a count is 0.
    """

    __tablename__ = TABLE.name

    # The host system's key: SQLite fills it with its row number, other databases leave it empty (a sequence would be
    # a point of contention in a distributed table). The identity of a row is (run_id, event_uid).
    event_id: Mapped[int | None] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), nullable=True)
    event_uid: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_event_uid)
    run_id: Mapped[str] = mapped_column(String, primary_key=True)
    phase_id: Mapped[str] = mapped_column(String)
    timestamp: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))
    category: Mapped[str] = mapped_column(String)
    complexity: Mapped[str] = mapped_column(String)
    deliverable_count: Mapped[int] = mapped_column(BigInteger)
    deliverables_json: Mapped[str] = mapped_column(Text)
    predicted_output_tokens: Mapped[int] = mapped_column(BigInteger)
    actual_output_tokens: Mapped[int] = mapped_column(BigInteger)
    selected_budget: Mapped[int] = mapped_column(BigInteger)
    actual_max_tokens: Mapped[int | None] = mapped_column(BigInteger)
    success: Mapped[bool] = mapped_column(Boolean)
    truncated: Mapped[bool] = mapped_column(Boolean)
    stop_reason: Mapped[str | None] = mapped_column(String)
    model: Mapped[str] = mapped_column(String)
    smape_percent: Mapped[int | None] = mapped_column(BigInteger)
    waste_ratio: Mapped[int | None] = mapped_column(BigInteger)
    underestimated: Mapped[bool | None] = mapped_column(Boolean)

    input_tokens: Mapped[int | None] = mapped_column(BigInteger)
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    existing_json: Mapped[str | None] = mapped_column(Text)
    attributes_json: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        UniqueConstraint("run_id", "event_uid", name="uq_token_estimation_v2_events_run_uid"),
        Index("ix_token_estimation_v2_events_timestamp", "timestamp"),
    )


_TYPES: dict[Kind, type[TypeEngine[Any]]] = {
    "text": String,
    "paths": Text,
    "tags": Text,
    "count": BigInteger,
    "truth": Boolean,
    "instant": UtcDateTime,
}

# What the schema declares beyond the columns above: one more optional field needs nothing here.
for _column in TABLE.columns:
    if _column.name not in TokenEstimationV2Event.__table__.c:
        setattr(TokenEstimationV2Event, _column.name, mapped_column(_TYPES[_column.kind], nullable=_column.nullable))
