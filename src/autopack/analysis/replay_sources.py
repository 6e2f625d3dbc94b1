"""Where replay's observations come from: the database, an export, a log. None stands for an unreadable record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import msgspec

from autopack.analysis.logs import TAG, LogRecord, parse_line
from autopack.analysis.records import EventRecord
from autopack.analysis.replay import Observation

LONGEST_LINE_BYTES = 2 << 20  # an event is recorded in at most 256 KiB; all of it as \u escapes is six times that


def from_events(records: Iterable[EventRecord]) -> Iterator[Observation | None]:
    """The observations in the records of the database."""
    for record in records:
        try:
            yield msgspec.convert(record, Observation, from_attributes=True)
        except msgspec.ValidationError:
            yield None


def from_ndjson(lines: Iterable[bytes]) -> Iterator[Observation | None]:
    """The observations in an export, ours or the plan's; empty lines and headers (`#`) are no records."""
    decoder = msgspec.json.Decoder(_Exported)
    for line in lines:
        if line.strip() and not line.startswith(b"#"):
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                yield None


def from_log(lines: Iterable[bytes]) -> Iterator[Observation | None]:
    """The observations in the `[TokenEstimationV2]` lines of a log; other lines are no records."""
    tag = TAG.encode()
    for line in lines:
        if tag in line:
            record = parse_line(line.decode("utf-8", "replace"))
            yield None if record is None else _observation(record)


def bounded_lines(readline: Callable[[int], bytes]) -> Iterator[bytes]:
    """The lines that a stream's `readline` gives. One that is longer than 2 MiB comes cut to that: it is no record
    of ours, and must not take the memory.
    """
    read_line = partial(readline, LONGEST_LINE_BYTES)
    while line := read_line():
        yield line
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = read_line()


class _Exported(Observation, frozen=True, gc=False, kw_only=True):
    """An exported record must name its run and phase."""

    run_id: str
    phase_id: str


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
