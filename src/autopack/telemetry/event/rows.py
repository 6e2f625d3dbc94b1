"""From an accepted event to its row: what is still to be refused, sanitised and computed. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import astuple

from autopack._util.ids import event_uid
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.metrics import accuracy
from autopack.telemetry.event.schema import Attributes, Event, Row

MAX_DELIVERABLES = 20
MAX_DELIVERABLE_LENGTH = 200
_MAX_DEPTH = 31  # of nesting that `flatten_deliverables` reads in full
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_to_json = msgspec.json.Encoder().encode


def to_row(event: Event) -> Row:
    """The row of an event. Raises ValueError with the reason for what the types alone could not refuse.

    Runs once for every row under the GIL, where it costs about half of what SQLite does: hence by position, and with
    the common case first.
    """
    # In the order of Event's fields.
    (
        timestamp_ns,
        sequence,
        run_id,
        phase_id,
        category,
        complexity,
        deliverables,
        predicted,
        actual,
        budget,
        success,
        truncated,
        stop_reason,
        model,
        max_tokens,
        input_tokens,
        duration_ms,
        existing,
        attributes,
        unknown,
    ) = astuple(event)
    if unknown:
        raise ValueError(f"unknown field {next(iter(unknown))!r}")
    # PostgreSQL cannot store NUL in text and SQLite can: decided here, so that both end with the same rows.
    if "\0" in f"{run_id}{phase_id}{category}{complexity}{model}{stop_reason}":
        raise ValueError(_reason_of_nul(event))
    count, deliverables_json = _count_and_json("deliverables", deliverables)
    smape_percent, waste_ratio, underestimated = accuracy(predicted, actual)
    # In the order of Row's fields.
    return Row(
        event_uid(timestamp_ns, sequence),
        run_id,
        phase_id,
        # In parts: a timedelta of so many microseconds alone takes twice the time.
        _EPOCH + timedelta(0, timestamp_ns // 1_000_000_000, timestamp_ns // 1000 % 1_000_000),
        category,
        complexity,
        count,
        deliverables_json,
        predicted,
        actual,
        budget,
        max_tokens,
        success,
        truncated,
        stop_reason,
        model,
        smape_percent,
        waste_ratio,
        underestimated,
        input_tokens,
        duration_ms,
        None if existing is None else _count_and_json("existing", existing)[1],
        None if attributes is None else _attributes_json(attributes),
    )


def _reason_of_nul(event: Event) -> str:
    names = ("run_id", "phase_id", "category", "complexity", "model", "stop_reason")
    return f"{next(name for name in names if chr(0) in (getattr(event, name) or ''))}: a NUL character in it"


def _count_and_json(field: str, value: Any) -> tuple[int, str]:
    """How many paths there are, and what is stored of them: the plan's first 20 with at most 200 characters each."""
    text = _joined(value)
    if text is None:
        _refuse_what_is_no_path(field, value, _MAX_DEPTH)
        value = flatten_deliverables(value)
        text = "".join(value)
    if "\0" in text:
        path = next(path for path in value if "\0" in path)
        raise ValueError(f"{field}: a NUL character in {path[:MAX_DELIVERABLE_LENGTH]!r}")
    if len(value) > MAX_DELIVERABLES or len(text) > MAX_DELIVERABLE_LENGTH:
        return len(value), _json([_shortened(path) for path in value[:MAX_DELIVERABLES]])
    return len(value), _json(value)


def _joined(value: Any) -> str | None:
    """All paths in one text, where they are a list of texts, as nearly every event brings them; None for all else."""
    if type(value) is not list:
        return None
    try:
        return "".join(value)
    except TypeError:
        return None


def _shortened(path: str) -> str:
    return path if len(path) <= MAX_DELIVERABLE_LENGTH else path[: MAX_DELIVERABLE_LENGTH - 3] + "..."


def _refuse_what_is_no_path(field: str, value: Any, depth: int) -> None:
    if isinstance(value, list | tuple | dict):
        if depth == 0:
            raise ValueError(f"{field}: nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_what_is_no_path(field, item, depth - 1)
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{field}: {type(value).__name__} is no path")


def _attributes_json(attributes: Attributes) -> str:
    for name, value in attributes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"attributes: {name!r} is {value}, which JSON does not have")
        if "\0" in name or (isinstance(value, str) and "\0" in value):
            raise ValueError(f"attributes: a NUL character in {name!r}")
    return _json(attributes)


def _json(value: Any) -> str:
    return _to_json(value).decode()
