"""Where the events of a verdict come from: the database, an export, a log. None stands for an unreadable one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from autopack.analysis.logs import TAG, LogRecord, parse_line
from autopack.analysis.samples import Event

COLUMNS: Mapping[str, int | None] = {
    "run_id": None,
    "phase_id": None,
    "event_uid": None,
    "model": None,
    "category": None,
    "complexity": None,
    "deliverable_count": None,
    "predicted_output_tokens": None,
    "actual_output_tokens": None,
    "selected_budget": None,
    "success": None,
    "truncated": None,
    "timestamp": None,
    "deliverables_json": 8,  # enough to see whether there is one: the paths themselves are not needed
    "attributes_json": None,
}

_MAX_COUNT = 2**53
_TEXT, _COUNT = frozenset({str}), frozenset({int})
_FLAG = frozenset({bool, int})
_decode = msgspec.json.Decoder().decode


def from_rows(blocks: Iterable[Sequence[Sequence[Any]]]) -> Iterator[Event | None]:
    """The events in blocks of rows whose values are those of `COLUMNS`, as the driver gave them."""
    for block in blocks:
        for row in block:
            yield _of_row(row)


def from_ndjson(lines: Iterable[bytes]) -> Iterator[Event | None]:
    """The events in an export, ours or the plan's; empty lines and headers (`#`) are no records."""
    decoder = msgspec.json.Decoder(_Exported)
    for line in lines:
        if line.strip() and not line.startswith(b"#"):
            try:
                yield _of_export(decoder.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                yield None


def from_log(lines: Iterable[bytes]) -> Iterator[Event | None]:
    """The events in the `[TokenEstimationV2]` lines of a log, whose clock is taken to be UTC; each is a phase."""
    tag = TAG.encode()
    for line in lines:
        if tag in line:
            record = parse_line(line.decode("utf-8", "replace"))
            yield None if record is None else _of_log(record)


class _Exported(msgspec.Struct, frozen=True, gc=False):
    """What an exported record must hold, and what it may."""

    run_id: str
    phase_id: str
    category: str
    complexity: str
    predicted_output_tokens: int
    actual_output_tokens: int
    selected_budget: int
    success: bool
    truncated: bool
    model: str
    deliverable_count: int = 0
    deliverables: list[str] | None = None
    timestamp: str | None = None
    event_uid: str | None = None
    attributes: Any = None


def _of_row(row: Sequence[Any]) -> Event | None:
    (run, phase, uid, model, category, complexity, count, predicted, actual, budget, success, truncated, at, paths,
     attributes) = row  # fmt: skip
    if not (
        {type(model), type(category), type(complexity)} == _TEXT
        and {type(count), type(predicted), type(actual), type(budget)} == _COUNT
        and {type(success), type(truncated)} <= _FLAG
        and 0 <= predicted <= _MAX_COUNT
        and 0 <= actual <= _MAX_COUNT
        and 0 <= budget <= _MAX_COUNT
    ):
        return None
    return Event(
        run if type(run) is str else None,
        phase if type(phase) is str else None,
        uid if type(uid) is str else None,
        _seconds(at),
        category,
        complexity,
        count,
        _holds_a_path(paths),
        predicted,
        actual,
        budget,
        bool(success),
        bool(truncated),
        model,
        attributes is not None and _says_total(attributes),
    )


def _of_export(record: _Exported) -> Event | None:
    counts = (record.predicted_output_tokens, record.actual_output_tokens, record.selected_budget)
    if min(counts) < 0 or max(counts) > _MAX_COUNT:
        return None
    return Event(
        record.run_id,
        record.phase_id,
        record.event_uid,
        _seconds(record.timestamp),
        record.category,
        record.complexity,
        record.deliverable_count,
        bool(record.deliverables),
        *counts,
        record.success,
        record.truncated,
        record.model,
        _is_total(record.attributes),
    )


def _of_log(record: LogRecord) -> Event:
    return Event(
        None,
        None,
        None,
        math.inf if record.at is None else _seconds(record.at),
        record.category,
        record.complexity,
        record.deliverable_count,
        False,
        record.predicted_output_tokens,
        record.actual_tokens,
        record.selected_budget,
        record.success,
        record.truncated,
        record.model,
        record.actual_is_total,
    )


def _seconds(value: Any) -> float:
    """A stored instant, UTC where it names no zone; infinite where it cannot be read."""
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return math.inf


def _holds_a_path(beginning: Any) -> bool:
    """Whether a JSON text that begins so is a list with a text in it."""
    return isinstance(beginning, str) and beginning.lstrip()[:1] == "[" and beginning.lstrip()[1:].lstrip()[:1] == '"'


def _says_total(stored: Any) -> bool:
    if not isinstance(stored, str) or "total" not in stored:
        return False
    try:
        return _is_total(_decode(stored))
    except (msgspec.MsgspecError, RecursionError):
        return False  # tags of a user that cannot be read are none of ours


def _is_total(attributes: Any) -> bool:
    return isinstance(attributes, dict) and attributes.get("usage") == "total"
