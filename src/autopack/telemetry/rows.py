"""From an accepted event to its row: what is still to be refused, sanitised and computed. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from autopack.deliverables import flatten_deliverables
from autopack.identifiers import event_uid
from autopack.telemetry.events import Attributes, Event, Row
from autopack.telemetry.metrics import accuracy

MAX_DELIVERABLES = 20
MAX_DELIVERABLE_LENGTH = 200
_MAX_DEPTH = 31  # of nesting that `flatten_deliverables` reads in full
_TEXT = frozenset({str})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_to_json = msgspec.json.Encoder().encode


def to_row(event: Event) -> Row:
    """The row of an event. Raises ValueError with the reason for what the types alone could not refuse."""
    if event.unknown:
        raise ValueError(f"unknown field {next(iter(event.unknown))!r}")
    _refuse_nul(event)
    deliverables = _paths("deliverables", event.deliverables)
    metrics = accuracy(event.predicted_output_tokens, event.actual_output_tokens)
    return Row(
        event_uid=event_uid(event.timestamp_ns, event.sequence),
        run_id=event.run_id,
        phase_id=event.phase_id,
        timestamp=_EPOCH + timedelta(microseconds=event.timestamp_ns // 1000),
        category=event.category,
        complexity=event.complexity,
        deliverable_count=len(deliverables),
        deliverables_json=_json(_shortened(deliverables)),
        predicted_output_tokens=event.predicted_output_tokens,
        actual_output_tokens=event.actual_output_tokens,
        selected_budget=event.selected_budget,
        actual_max_tokens=event.actual_max_tokens,
        success=event.success,
        truncated=event.truncated,
        stop_reason=event.stop_reason,
        model=event.model,
        smape_percent=metrics.smape_percent,
        waste_ratio=metrics.waste_ratio_percent,
        underestimated=metrics.underestimated,
        input_tokens=event.input_tokens,
        duration_ms=event.duration_ms,
        existing_json=None if event.existing is None else _json(_shortened(_paths("existing", event.existing))),
        attributes_json=_attributes_json(event.attributes),
    )


def _refuse_nul(event: Event) -> None:
    """PostgreSQL cannot store NUL in text and SQLite can: decided here, so that both end with the same rows."""
    texts = (event.run_id, event.phase_id, event.category, event.complexity, event.model, event.stop_reason or "")
    if "\0" in "".join(texts):
        names = ("run_id", "phase_id", "category", "complexity", "model", "stop_reason")
        raise ValueError(f"{next(n for n, t in zip(names, texts, strict=True) if chr(0) in t)}: a NUL character in it")


def _paths(field: str, value: Any) -> list[str]:
    # A list of text is what nearly every event brings; one pass in C tells.
    if type(value) is not list or not set(map(type, value)) <= _TEXT:
        _refuse_what_is_no_path(field, value, _MAX_DEPTH)
        value = flatten_deliverables(value)
    if "\0" in "".join(value):
        path = next(path for path in value if "\0" in path)
        raise ValueError(f"{field}: a NUL character in {path[:MAX_DELIVERABLE_LENGTH]!r}")
    return list(value)


def _refuse_what_is_no_path(field: str, value: Any, depth: int) -> None:
    if isinstance(value, list | tuple | dict):
        if depth == 0:
            raise ValueError(f"{field}: nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_what_is_no_path(field, item, depth - 1)
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{field}: {type(value).__name__} is no path")


def _shortened(paths: list[str]) -> list[str]:
    """The plan's limits: the first 20; over 200 characters the first 197 and `...`."""
    cut = MAX_DELIVERABLE_LENGTH - 3
    return [path if len(path) <= MAX_DELIVERABLE_LENGTH else path[:cut] + "..." for path in paths[:MAX_DELIVERABLES]]


def _attributes_json(attributes: Attributes | None) -> str | None:
    if attributes is None:
        return None
    for name, value in attributes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"attributes: {name!r} is {value}, which JSON does not have")
        if "\0" in name or (isinstance(value, str) and "\0" in value):
            raise ValueError(f"attributes: a NUL character in {name!r}")
    return _json(attributes)


def _json(value: Any) -> str:
    return _to_json(value).decode()
