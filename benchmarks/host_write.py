"""The host system's synchronous write, as it has it: a session and a commit at the call site."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import DateTime, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

logger = logging.getLogger(__name__)


class Base(DeclarativeBase):
    """The host system's declarative base."""


class TokenEstimationV2Event(Base):
    """The host system's table: an autoincremented key and no further uniqueness."""

    __tablename__ = "token_estimation_v2_events"
    event_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(index=True)
    phase_id: Mapped[str]
    timestamp: Mapped[datetime] = mapped_column(DateTime, default=lambda: datetime.now(UTC), index=True)
    category: Mapped[str]
    complexity: Mapped[str]
    deliverable_count: Mapped[int]
    deliverables_json: Mapped[str]
    predicted_output_tokens: Mapped[int]
    actual_output_tokens: Mapped[int]
    selected_budget: Mapped[int]
    success: Mapped[bool]
    truncated: Mapped[bool]
    stop_reason: Mapped[str | None]
    model: Mapped[str]
    smape_percent: Mapped[int | None]
    waste_ratio: Mapped[int | None]
    underestimated: Mapped[bool | None]


def host_sessions(path: Path) -> sessionmaker[Session]:
    """The host system's `SessionLocal`, on a new file with the host system's table in it."""
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    return sessionmaker(bind=engine, autocommit=False, autoflush=False)


def host_write(SessionLocal: Callable[[], Session]) -> Callable[..., None]:  # noqa: N803 (the host system's name)
    """The host system's `_write_token_estimation_v2_telemetry`."""

    def write(  # noqa: PLR0917 (the host system's interface)
        run_id: str,
        phase_id: str,
        category: str,
        complexity: str,
        deliverables: list[str],
        predicted_output_tokens: int,
        actual_output_tokens: int,
        selected_budget: int,
        success: bool,
        truncated: bool,
        stop_reason: str | None,
        model: str,
    ) -> None:
        if os.environ.get("TELEMETRY_DB_ENABLED", "").lower() not in {"1", "true", "yes"}:
            return
        try:
            if actual_output_tokens > 0 and predicted_output_tokens > 0:
                denom = (abs(actual_output_tokens) + abs(predicted_output_tokens)) / 2
                smape: float | None = abs(actual_output_tokens - predicted_output_tokens) / max(1, denom) * 100
                waste_ratio: float | None = predicted_output_tokens / actual_output_tokens
                underestimated: bool | None = actual_output_tokens > predicted_output_tokens
            else:
                smape = None
                waste_ratio = None
                underestimated = None
            clean = [str(d)[:197] + "..." if len(str(d)) > 200 else str(d) for d in deliverables[:20]]
            session = SessionLocal()
            try:
                event = TokenEstimationV2Event(
                    run_id=run_id,
                    phase_id=phase_id,
                    category=category,
                    complexity=complexity,
                    deliverable_count=len(deliverables),
                    deliverables_json=json.dumps(clean),
                    predicted_output_tokens=predicted_output_tokens,
                    actual_output_tokens=actual_output_tokens,
                    selected_budget=selected_budget,
                    success=success,
                    truncated=truncated,
                    stop_reason=stop_reason,
                    model=model,
                    smape_percent=int(smape) if smape is not None else None,
                    waste_ratio=int(waste_ratio * 100) if waste_ratio is not None else None,
                    underestimated=underestimated,
                )
                session.add(event)
                session.commit()
            finally:
                session.close()
        except Exception as e:  # noqa: BLE001 (the host system's)
            logger.warning("[TokenEstimationV2] Failed to write DB telemetry: %s", e)

    return write
