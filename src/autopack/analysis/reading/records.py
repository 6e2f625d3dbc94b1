"""One event as the read side hands it out: the plan's export record, and what autopack adds to it.

Values come from a database that may hold anything (SQLite stores text in an integer column), so a record is
what was found, not a promise of types; what cannot be written as JSON at all becomes None and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from autopack.estimation.metrics import accuracy

# The columns that a record is made of. A table may lack those that are not in PLAN_COLUMNS.
PLAN_COLUMNS = (
    "run_id",
    "phase_id",
    "timestamp",
    "category",
    "complexity",
    "deliverable_count",
    "deliverables_json",
    "predicted_output_tokens",
    "actual_output_tokens",
    "selected_budget",
    "success",
    "truncated",
    "stop_reason",
    "model",
    "smape_percent",
    "waste_ratio",
    "underestimated",
)
ADDED_COLUMNS = ("event_uid", "actual_max_tokens", "input_tokens", "duration_ms", "existing_json", "attributes_json")
COLUMNS = PLAN_COLUMNS + ADDED_COLUMNS

SIMULATED_PREFIX = "simulated"
"""What the name of a model begins with whose replies are none of a real one."""

T = TypeVar("T")

_NUMBER = frozenset({int, float})
_decode = msgspec.json.Decoder().decode


class EventRecord(msgspec.Struct, frozen=True, gc=False):
    """An event in the plan's order and form: `timestamp` in ISO 8601 with its zone, `waste_ratio` as a factor
    (1.5), the JSON columns decoded. `deliverables`, `existing` and `attributes` are None where nothing readable
    is stored.
    """

    run_id: Any
    phase_id: Any
    timestamp: str | None
    category: Any
    complexity: Any
    deliverable_count: Any
    deliverables: Any
    predicted_output_tokens: Any
    actual_output_tokens: Any
    selected_budget: Any
    success: Any
    truncated: Any
    stop_reason: Any
    model: Any
    smape_percent: Any
    waste_ratio: Any
    underestimated: Any
    event_uid: Any
    actual_max_tokens: Any
    input_tokens: Any
    duration_ms: Any
    existing: Any
    attributes: Any


class Unreadable:
    """Counts the rows that hold something unreadable; such a row is handed out with None in that place."""

    def __init__(self) -> None:
        self.rows = 0


def record_of(row: Sequence[Any], unreadable: Unreadable) -> EventRecord:
    """The record of a database row whose values are those of `COLUMNS`, as the driver gave them."""
    run_id, phase_id, timestamp, category, complexity, count, deliverables, predicted, actual, budget = row[:10]
    success, truncated, stop_reason, model, smape, waste, underestimated, uid = row[10:18]
    ceiling, input_tokens, duration_ms, existing, attributes = row[18:]
    instant = utc_text(timestamp)
    problems = [] if instant is not None else ["timestamp"]
    record = EventRecord(
        run_id,
        phase_id,
        instant,
        category,
        complexity,
        count,
        _decoded(deliverables, problems),
        predicted,
        actual,
        budget,
        bool(success) if type(success) is int else success,
        bool(truncated) if type(truncated) is int else truncated,
        stop_reason,
        model,
        smape,
        waste / 100.0 if type(waste) in _NUMBER else None,
        bool(underestimated) if type(underestimated) is int else underestimated,
        uid,
        ceiling,
        input_tokens,
        duration_ms,
        None if existing is None else _decoded(existing, problems),
        None if attributes is None else _decoded(attributes, problems),
    )
    unreadable.rows += bool(problems)
    return record


def with_metrics_recomputed(row: Sequence[Any]) -> tuple[Any, ...]:
    """The row with the three derived columns made anew from its counts, as autopack stores them.

    For tables from before autopack's migrations, where they may be floats and the ratio not in percent.
    """
    predicted, actual = row[7], row[8]
    if isinstance(predicted, int) and isinstance(actual, int):
        return (*row[:14], *accuracy(predicted, actual), *row[17:])
    return (*row[:14], None, None, None, *row[17:])


def converted(records: Iterable[EventRecord], kind: type[T]) -> Iterator[T | None]:
    """The records as a `kind`; None is one whose values are not those of that kind."""
    for record in records:
        try:
            yield msgspec.convert(record, kind, from_attributes=True)
        except msgspec.ValidationError:
            yield None


def utc_text(value: Any) -> str | None:
    """A stored instant in ISO 8601 with its zone; None where it cannot be read."""
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    if instant.tzinfo is None:
        return f"{instant.isoformat()}+00:00"  # stored UTC; a tenth of the time of an aware isoformat()
    return instant.astimezone(UTC).isoformat()


def _decoded(value: Any, problems: list[str]) -> Any:
    if value is None:
        return None
    try:
        return _decode(value)
    except (msgspec.MsgspecError, TypeError, RecursionError):
        problems.append("json")
        return None
