"""Which recorded events are samples: the evidence that a verdict may rest on. Pure.

A sample is the first attempt of a phase: of all events with its `run_id` and `phase_id` the one that happened first.
Later attempts are no further samples: they depend on how the first one went. An event without a phase id, such as a
line of a log, is a phase of its own; imported log lines have got an id each, from their content and occurrence.

A sample is real: simulated replies are set aside before anything else, and its deliverables are known. A log says
only how many there were; the predictions in it were made from real ones all the same, so a log line counts where it
says at least one, unless that is switched off. Where the first attempt cannot be used, its phase gives no sample: a
second attempt would not be what it stands for.

Events may come in any order and give the same samples: of two attempts at the same instant, the one with the larger
values is the first.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

IMPORTED_PREFIX = "imported"


class Event(NamedTuple):
    """What there is to know of an event in order to judge its prediction.

    at_s            when it happened, in seconds since 1970; infinite where that cannot be read
    has_paths       at least one of its deliverables is recorded by its path
    is_total        the count of actual tokens is of the whole call, not of its output
    """

    run_id: str | None
    phase_id: str | None
    model: str
    category: str
    complexity: str
    deliverable_count: int
    predicted: int
    actual: int
    budget: int
    success: bool
    truncated: bool
    at_s: float
    has_paths: bool
    is_total: bool


class Block(NamedTuple):
    """Several events, at least one, as the columns of `Event`: a column is checked and kept in a fifth of the time of
    one value after another.
    """

    run_id: Sequence[str | None]
    phase_id: Sequence[str | None]
    model: Sequence[str]
    category: Sequence[str]
    complexity: Sequence[str]
    deliverable_count: Sequence[int]
    predicted: Sequence[int]
    actual: Sequence[int]
    budget: Sequence[int]
    success: Sequence[int]
    truncated: Sequence[int]
    at_s: Sequence[float]
    has_paths: Sequence[bool]
    is_total: Sequence[bool]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events: `read` is every one, `used` are the samples.

    Left out: `unreadable`, `simulated`, `repeated` (later attempts of a phase, and the same event again), and first
    attempts of which only the tokens of the whole call are known (`totals`), with a count of 0 (`without_counts`), or
    whose deliverables are not known (`without_deliverables`). Of those used: `imported` are log lines, `failed` did not
    succeed, `truncated` stopped at their ceiling.
    """

    read: int
    unreadable: int
    simulated: int
    repeated: int
    totals: int
    without_counts: int
    without_deliverables: int
    used: int
    imported: int
    failed: int
    truncated: int


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples in parallel columns; `stratum` is an index into `strata`, pairs of category and complexity.

    `used` has a 1 for each sample and a 0 for each event that is none, in the order in which they came; those that are
    left out as simulated are not in it.
    """

    counts: Counts
    strata: list[tuple[str, str]]
    used: bytes
    stratum: array[int]
    at_s: array[float]
    predicted: array[int]
    actual: array[int]
    budget: array[int]
    success: bytes
    truncated: bytes

    def __len__(self) -> int:
        return len(self.actual)


def is_imported(run_id: str | None, phase_id: str | None) -> bool:
    """Whether an event is a log line: it has no ids, or the run that `autopack import` gives it."""
    return run_id.startswith(IMPORTED_PREFIX) if run_id else not phase_id
