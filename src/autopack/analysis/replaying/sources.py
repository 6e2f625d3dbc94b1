"""Observations from an export and from a log. None stands for an unreadable record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from autopack.analysis.reading.logs import LogRecord, logged
from autopack.analysis.replaying.replay import Observation


class Exported(Observation, frozen=True, gc=False, kw_only=True):
    """An exported record must name its run and phase."""

    run_id: str
    phase_id: str


def from_log(lines: Iterable[bytes]) -> Iterator[Observation | None]:
    """The observations in the `[TokenEstimationV2]` lines of a log; other lines are no records."""
    for record in logged(lines):
        yield None if record is None else _observation(record)


def _observation(record: LogRecord) -> Observation:
    return Observation(
        category=record.category,
        complexity=record.complexity,
        deliverable_count=record.deliverable_count,
        predicted_output_tokens=record.predicted_output_tokens,
        actual_output_tokens=record.actual_tokens,
        truncated=record.truncated,
        model=record.model,
        stop_reason=record.stop_reason,
        actual_is_total=record.actual_is_total,
    )
