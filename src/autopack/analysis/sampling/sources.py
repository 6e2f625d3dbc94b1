"""Where the events of a verdict come from: the database, an export, a log.

Each gives blocks of events and counts those that cannot be read.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, islice, repeat
from operator import sub
from typing import Any

import msgspec

from autopack.analysis.reading.lines import exported
from autopack.analysis.reading.logs import LogRecord, logged
from autopack.analysis.reading.records import Unreadable
from autopack.analysis.sampling.samples import Block, Event
from autopack.estimation.metrics import is_whole_call

COLUMNS: Mapping[str, int | None] = {
    "run_id": None,
    "phase_id": None,
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
    "deliverables_json": None,
    "attributes_json": None,
    "estimator": None,
    "attempt": None,
    "turn": None,
}
"""What is read of a row, in the order of `Event`; a number cuts the text to that length. A column that the table lacks
is read as None.
"""

_BLOCK_EVENTS = 1_000
_MAX_COUNT = 2**53
_TEXT, _COUNT, _FLAG, _NOTHING = frozenset({str}), frozenset({int}), frozenset({bool, int}), frozenset({None})
_MAYBE_TEXT, _MAYBE_COUNT = frozenset({str, type(None)}), frozenset({int, type(None)})
_TRUTHS = frozenset({0, 1})
_REMEMBERED_LENGTH = 500
_LISTS = frozenset({'["', "[ ", "[\n", "[\r", "[\t"})  # an empty list is written without a blank
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (UTC, as the stored times without a zone are)
_decode = msgspec.json.Decoder().decode
_decode_texts = msgspec.json.Decoder(list[str]).decode


def from_rows(blocks: Iterable[Sequence[Sequence[Any]]], unreadable: Unreadable) -> Iterator[Block]:
    """The events in blocks of rows whose values are those of `COLUMNS`, as the driver gave them.

    A block whose columns hold what they should is taken as columns; of another, each row is looked at.
    """
    for rows in blocks:
        columns = tuple(zip(*rows, strict=True))
        clean = _clean(columns)
        if clean is None:
            yield from blocks_of(map(_of_row, rows), unreadable)
        else:
            yield clean


def from_ndjson(lines: Iterable[bytes], unreadable: Unreadable) -> Iterator[Block]:
    """The events in an export, autopack's or the host system's; empty lines and headers (`#`) are no records."""
    return blocks_of(map(_of_export, exported(lines, _Exported)), unreadable)


def from_log(lines: Iterable[bytes], unreadable: Unreadable) -> Iterator[Block]:
    """The events in the `[TokenEstimationV2]` lines of a log; a clock without a zone is UTC, and each is a phase."""
    return blocks_of(map(_of_log, logged(lines)), unreadable)


def blocks_of(events: Iterator[Event | None], unreadable: Unreadable) -> Iterator[Block]:
    """The events in blocks; None is one that could not be read, and is counted."""
    while found := list(islice(events, _BLOCK_EVENTS)):
        readable = [event for event in found if event is not None]
        unreadable.rows += len(found) - len(readable)
        if readable:
            yield Block(*zip(*readable, strict=True))


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
    attributes: Any = None
    estimator: str | None = None
    attempt: int | None = None
    turn: int | None = None


def _clean(columns: Sequence[Sequence[Any]]) -> Block | None:
    """The columns as a block; None where one of them holds what it should not."""
    *texts, count, predicted, actual, budget, success, truncated, at, paths, attributes, made_by, attempt, turn = (
        columns
    )
    try:
        counts = [array("q", column) for column in (predicted, actual, budget)]  # takes integers only
    except (TypeError, OverflowError):
        return None
    if not (
        set(map(type, chain(*texts))) == _TEXT
        and set(map(type, count)) == _COUNT
        and set(map(type, chain(success, truncated))) <= _FLAG
        and set(success) | set(truncated) <= _TRUTHS
        and set(map(type, made_by)) <= _MAYBE_TEXT
        and set(map(type, chain(attempt, turn))) <= _MAYBE_COUNT
        and min(map(min, counts)) >= 0
        and max(map(max, counts)) <= _MAX_COUNT
    ):
        return None
    has_paths, works = _all_works(paths)
    return Block._make(
        (
            *(*texts, count, *counts, success, truncated, _all_seconds(at), has_paths, _all_totals(attributes)),
            *(works, made_by, attempt, turn),
        )
    )


def _of_row(row: Sequence[Any]) -> Event | None:
    run, phase, *others = row
    ids = (run if isinstance(run, str) else "", phase if isinstance(phase, str) else "")
    block = _clean([[value] for value in (*ids, *others)])
    return None if block is None else Event._make(column[0] for column in block)


def _of_export(record: _Exported | None) -> Event | None:
    if record is None:
        return None
    counts = (record.predicted_output_tokens, record.actual_output_tokens, record.selected_budget)
    if min(counts) < 0 or max(counts) > _MAX_COUNT:
        return None
    return Event(
        record.run_id,
        record.phase_id,
        record.model,
        record.category,
        record.complexity,
        record.deliverable_count,
        *counts,
        record.success,
        record.truncated,
        seconds_of(record.timestamp),
        bool(record.deliverables),
        is_whole_call(record.attributes),
        work_of(record.deliverables or ()),
        record.estimator,
        record.attempt,
        record.turn,
    )


def _of_log(record: LogRecord | None) -> Event | None:
    if record is None:
        return None
    return Event(
        None,
        None,
        record.model,
        record.category,
        record.complexity,
        record.deliverable_count,
        record.predicted_output_tokens,
        record.actual_tokens,
        record.selected_budget,
        record.success,
        record.truncated,
        seconds_of(record.at),
        has_paths=False,
        is_total=record.actual_is_total,
    )


def _all_seconds(values: Sequence[Any]) -> list[float]:
    """As `seconds_of`, in half the time where all are as SQLite has them: text, without a zone."""
    try:
        instants = map(datetime.fromisoformat, values)
        return list(map(timedelta.total_seconds, map(sub, instants, repeat(_EPOCH))))
    except (TypeError, ValueError, OverflowError):
        return list(map(seconds_of, values))


def seconds_of(value: Any) -> float:
    """A stored instant, UTC where it names no zone; infinite where it cannot be read."""
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return math.inf


def work_of(deliverables: Iterable[str]) -> int:
    """A digest of the sorted deliverables, the same within this process; 0 of none."""
    ordered = sorted(deliverables)
    return hash(tuple(ordered)) if ordered else 0


def _all_works(stored: Sequence[Any]) -> tuple[Sequence[bool], Sequence[int]]:
    """Whether there is a deliverable, and the digest of all of them; a text is decoded once a block at most."""
    known = {text: _work(text) for text in set(stored)}
    has_paths, works = zip(*map(known.__getitem__, stored), strict=True)
    return has_paths, works


def _work(stored: Any) -> tuple[bool, int]:
    if not isinstance(stored, str) or stored[:2] not in _LISTS:
        return False, 0
    # The same phases come again every night; what is remembered takes some 4 MiB at most.
    return _remembered_work(stored) if len(stored) <= _REMEMBERED_LENGTH else _decoded_work(stored)


def _decoded_work(stored: str) -> tuple[bool, int]:
    try:
        return True, work_of(_decode_texts(stored))
    except (msgspec.MsgspecError, RecursionError):
        return True, hash(stored)


_remembered_work = lru_cache(maxsize=4096)(_decoded_work)


def _all_totals(stored: Sequence[Any]) -> list[bool]:
    return [False] * len(stored) if set(stored) == _NOTHING else list(map(_says_total, stored))


def _says_total(stored: Any) -> bool:
    if not isinstance(stored, str) or "total" not in stored:
        return False
    try:
        return is_whole_call(_decode(stored))
    except (msgspec.MsgspecError, RecursionError):
        return False  # tags that cannot be read are a user's
