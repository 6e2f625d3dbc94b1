"""What replay and calibration need of an event, wherever it was read; None stands for an unreadable record. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec

from autopack.analysis.reading.logs import LogRecord, logged
from autopack.estimation.metrics import is_whole_call
from autopack.estimation.stop_reasons import is_complete, is_cut

MAX_SYNTHETIC = 10_000

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Observation(msgspec.Struct, frozen=True, gc=False):
    """What replay needs of an event. The ids are None in a log; `deliverables` and `existing` are None where they
    were not recorded. `actual_is_total`, or an attribute `usage` of `total`: the count is of the whole call, not of
    its output.
    """

    category: str
    complexity: str
    deliverable_count: Count
    predicted_output_tokens: Count
    actual_output_tokens: Count
    truncated: bool
    model: str
    deliverables: list[str] | None = None
    existing: list[str] | None = None
    run_id: str | None = None
    phase_id: str | None = None
    event_uid: str | None = None
    stop_reason: str | None = None
    actual_is_total: bool = False
    attributes: Any = None


class Exported(Observation, frozen=True, gc=False, kw_only=True):
    """An exported record must name its run and phase."""

    run_id: str
    phase_id: str


def from_log(lines: Iterable[bytes]) -> Iterator[Observation | None]:
    """The observations in the `[TokenEstimationV2]` lines of a log; other lines are no records."""
    for record in logged(lines):
        yield None if record is None else _observation(record)


def is_total(observation: Observation) -> bool:
    """Whether its count is of the whole call."""
    return observation.actual_is_total or is_whole_call(observation.attributes)


def is_incomplete(observation: Observation) -> bool:
    """Whether its reply says that it ended neither of the model's accord nor at a ceiling: refused, or paused."""
    reason = observation.stop_reason
    return reason is not None and not (observation.truncated or is_complete(reason) or is_cut(reason))


def is_synthetic(observation: Observation) -> bool:
    """Whether its deliverables have to be made up: there were some, and none is recorded."""
    return not observation.deliverables and observation.deliverable_count > 0


def is_beyond_synthesis(observation: Observation) -> bool:
    """Whether it claims more deliverables than anybody would make up: a forged count must not take the memory."""
    return observation.deliverable_count > MAX_SYNTHETIC and is_synthetic(observation)


def deliverables_of(observation: Observation) -> list[str]:
    """Those recorded, else the host system's synthetic ones, as many as were counted."""
    if is_synthetic(observation):
        return [f"src/file{number}.py" for number in range(observation.deliverable_count)]
    return observation.deliverables or []


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
