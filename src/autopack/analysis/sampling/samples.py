"""Which recorded events are samples: the evidence that a verdict may rest on. Pure.

A sample is one *execution* of a phase. Where a call says its `attempt` and `turn`, as calls that `autopack.phase`
captured do, an execution is made of the turns of the first attempt of its phase (`run_id`, `phase_id`): their tokens
are summed and compared with the prediction, which was made for the whole, and each turn is compared with its own
budget. A turn continues the execution whose last turn came just before it in number; a further first turn (twenty calls
at once in one phase) is an execution of its own. Without `attempt` and `turn`, the execution is the event that happened
first. Later attempts are never further samples: they depend on how the first one went. An event without a phase id,
such as a line of a log, is an execution of its own; imported log lines have got an id each, from their content and
occurrence.

A sample is real: simulated replies are left out before anything else, and its prediction was made for known work. That
is so where the event names the estimator that made it, with or without files (without files its stratum says so), and
where its deliverables are recorded. A log says only how many there were; the predictions in it were made from real
ones all the same, so a log line counts where it says at least one, unless that is switched off. Where the first attempt
cannot be used, its phase gives no sample: a second attempt would not be what it stands for.

Samples are not independent of each other: the same phase is run again every night, and one night resembles itself. So
each sample belongs to two clusters, which `validating.clusters` takes into account:

    run      `run_id`; of log lines the day
    phase    `phase_id`, category, complexity and the sorted deliverables. An id that was generated (`auto-…`) stands
             for the function that it names, or for nothing (`estimation.phases`)

Events may come in any order and give the same samples: of two attempts at the same instant, the one with the larger
values is the first.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

IMPORTED_PREFIX = "imported"
WITHOUT_FILES = " without files"
"""What the complexity of a stratum ends with whose predictions were made from no files."""


class Event(NamedTuple):
    """What there is to know of an event in order to judge its prediction.

    at_s            when it happened, in seconds since 1970; infinite where that cannot be read
    has_paths       at least one of its deliverables is recorded by its path
    is_total        the count of actual tokens is of the whole call, not of its output
    work            a digest of its sorted deliverables, the same within this process
    estimator       the fingerprint of the coefficients that made the prediction; None where it is not recorded
    attempt, turn   as `autopack.phase` counts them, from 1; None where they are not recorded
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
    work: int = 0
    estimator: str | None = None
    attempt: int | None = None
    turn: int | None = None


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
    work: Sequence[int]
    estimator: Sequence[str | None]
    attempt: Sequence[int | None]
    turn: Sequence[int | None]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events: `read` is every one, `used` are the samples.

    Left out: `unreadable`, `simulated`, `other_estimators` (predictions of another estimator than the one that is
    judged), `repeated` (later attempts of a phase, and the same event again), and first attempts of which only the
    tokens of the whole call are known (`totals`), with a count of 0 (`without_counts`), or whose deliverables are not
    known (`without_deliverables`). `turns` are the further turns of executions, summed with their first. Of those
    used: `imported` are log lines, `failed` did not succeed, `truncated` stopped at their ceiling.
    """

    read: int
    unreadable: int
    simulated: int
    other_estimators: int = 0
    repeated: int
    turns: int = 0
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

    budget, nearest   of the turn that came nearest to its budget or went beyond it: that budget, and its tokens
    phase, run        the number of the cluster; -1 where the sample is alone in it
    models            how many samples there are of each model, and `estimators` of each fingerprint
    """

    counts: Counts
    strata: list[tuple[str, str]]
    used: bytes
    stratum: array[int]
    at_s: array[float]
    predicted: array[int]
    actual: array[int]
    budget: array[int]
    nearest: array[int]
    success: bytes
    truncated: bytes
    phase: array[int]
    run: array[int]
    models: Mapping[str, int]
    estimators: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.actual)


def is_imported(run_id: str | None, phase_id: str | None) -> bool:
    """Whether an event is a log line: it has no ids, or the run that `autopack import` gives it."""
    return run_id.startswith(IMPORTED_PREFIX) if run_id else not phase_id
