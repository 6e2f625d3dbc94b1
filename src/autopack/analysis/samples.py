"""Which recorded events are samples: the evidence that a verdict may rest on. Pure.

A sample is the first attempt of a phase: of all events with its `run_id` and `phase_id` the one that happened first.
Later attempts are no further samples: they depend on how the first one went. An event without a phase id, such as a
line of a log, is a phase of its own; imported log lines have got an id each, from their content and occurrence.

A sample is real: simulated replies are set aside before anything else, and its deliverables are known. A log says
only how many there were; the predictions in it were made from real ones all the same, so a log line counts where it
says at least one, unless that is switched off. Where the first attempt cannot be used, its phase gives no sample: a
second attempt would not be what it stands for.

Events may come in any order and give the same samples: of two attempts at the same instant, the one with the larger
values is the first. A sample takes some 45 bytes in columns, and about 100 while they are collected.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from autopack.analysis.replay import SIMULATED_PREFIX

IMPORTED_PREFIX = "imported"

_SUCCESS, _TRUNCATED, _IMPORTED, _TOTAL, _WITHOUT_COUNTS, _WITHOUT_DELIVERABLES = 1, 2, 4, 8, 16, 32
_UNUSABLE = _TOTAL | _WITHOUT_COUNTS | _WITHOUT_DELIVERABLES


class Event(msgspec.Struct, frozen=True, gc=False):
    """What there is to know of an event in order to judge its prediction.

    at_s            when it happened, in seconds since 1970; infinite where that cannot be read
    has_paths       at least one of its deliverables is recorded by its path
    is_total        the count of actual tokens is of the whole call, not of its output
    """

    run_id: str | None
    phase_id: str | None
    event_uid: str | None
    at_s: float
    category: str
    complexity: str
    deliverable_count: int
    has_paths: bool
    predicted: int
    actual: int
    budget: int
    success: bool
    truncated: bool
    model: str
    is_total: bool


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
    """The samples in parallel columns; `stratum` is an index into `strata`, pairs of category and complexity."""

    counts: Counts
    strata: list[tuple[str, str]]
    stratum: array[int]
    at_s: array[float]
    predicted: array[int]
    actual: array[int]
    budget: array[int]
    success: bytearray
    truncated: bytearray

    def __len__(self) -> int:
        return len(self.actual)


def is_imported(run_id: str | None, phase_id: str | None) -> bool:
    """Whether an event is a log line: it has no ids, or the run that `autopack import` gives it."""
    return run_id.startswith(IMPORTED_PREFIX) if run_id else not phase_id


class SampleCollector:
    """Takes events in any order, then gives the samples among them."""

    def __init__(self, *, include_simulated: bool = False, include_imported: bool = True) -> None:
        self._include_simulated = include_simulated
        self._include_imported = include_imported
        self._read = self._unreadable = self._simulated = self._repeated = 0
        self._strata: dict[tuple[str, str], int] = {}
        self._names: list[tuple[str, str]] = []
        self._rows: dict[int, int] = {}  # hash of a phase → row: a million texts would take 200 MiB
        self._stratum, self._at_s, self._flags = array("l"), array("d"), bytearray()
        self._predicted, self._actual, self._budget = array("q"), array("q"), array("q")

    def add_all(self, events: Iterable[Event | None]) -> None:
        """Take them all; None is one that could not be read."""
        for event in events:
            self._read += 1
            if event is None:
                self._unreadable += 1
            elif event.model.startswith(SIMULATED_PREFIX) and not self._include_simulated:
                self._simulated += 1
            else:
                self._add(event)

    def samples(self) -> Samples:
        """The samples among the events so far."""
        used = [row for row, flags in enumerate(self._flags) if not flags & _UNUSABLE]
        flags = bytes(map(self._flags.__getitem__, used))
        return Samples(
            counts=self._counts(flags),
            strata=self._names.copy(),
            stratum=array("l", map(self._stratum.__getitem__, used)),
            at_s=array("d", map(self._at_s.__getitem__, used)),
            predicted=array("q", map(self._predicted.__getitem__, used)),
            actual=array("q", map(self._actual.__getitem__, used)),
            budget=array("q", map(self._budget.__getitem__, used)),
            success=bytearray(value & _SUCCESS for value in flags),
            truncated=bytearray((value & _TRUNCATED) // _TRUNCATED for value in flags),
        )

    def _add(self, event: Event) -> None:
        row = len(self._flags)
        known = self._rows.setdefault(_phase(event, row), row)
        if known == row:
            self._append(event)
        else:
            self._repeated += 1
            if event.at_s < self._at_s[known] or (event.at_s == self._at_s[known] and self._is_larger(event, known)):
                self._replace(known, event)

    def _append(self, event: Event) -> None:
        self._stratum.append(self._stratum_of(event))
        self._at_s.append(event.at_s)
        self._flags.append(self._flags_of(event))
        self._predicted.append(event.predicted)
        self._actual.append(event.actual)
        self._budget.append(event.budget)

    def _replace(self, row: int, event: Event) -> None:
        self._stratum[row] = self._stratum_of(event)
        self._at_s[row] = event.at_s
        self._flags[row] = self._flags_of(event)
        self._predicted[row], self._actual[row], self._budget[row] = event.predicted, event.actual, event.budget

    def _is_larger(self, event: Event, row: int) -> bool:
        """Any order would do that depends on nothing but the values."""
        mine = (event.actual, event.predicted, event.budget, self._flags_of(event), event.category, event.complexity)
        stratum = self._names[self._stratum[row]]
        return mine > (self._actual[row], self._predicted[row], self._budget[row], self._flags[row], *stratum)

    def _stratum_of(self, event: Event) -> int:
        name = (event.category, event.complexity)
        index = self._strata.setdefault(name, len(self._names))
        if index == len(self._names):
            self._names.append(name)
        return index

    def _flags_of(self, event: Event) -> int:
        imported = is_imported(event.run_id, event.phase_id) and not event.has_paths
        deliverables_known = event.has_paths or (imported and self._include_imported and event.deliverable_count > 0)
        return (
            _SUCCESS * event.success
            | _TRUNCATED * event.truncated
            | _IMPORTED * imported
            | _TOTAL * event.is_total
            | _WITHOUT_COUNTS * (not event.actual or not event.predicted)
            | _WITHOUT_DELIVERABLES * (not deliverables_known)
        )

    def _counts(self, used: bytes) -> Counts:
        left_out = [flags for flags in self._flags if flags & _UNUSABLE]
        totals = sum(bool(flags & _TOTAL) for flags in left_out)
        without_counts = sum(flags & (_TOTAL | _WITHOUT_COUNTS) == _WITHOUT_COUNTS for flags in left_out)
        return Counts(
            read=self._read,
            unreadable=self._unreadable,
            simulated=self._simulated,
            repeated=self._repeated,
            totals=totals,
            without_counts=without_counts,
            without_deliverables=len(left_out) - totals - without_counts,
            used=len(used),
            imported=sum(bool(flags & _IMPORTED) for flags in used),
            failed=sum(not flags & _SUCCESS for flags in used),
            truncated=sum(bool(flags & _TRUNCATED) for flags in used),
        )


def _phase(event: Event, row: int) -> int:
    """What tells phases apart; the same number for all attempts of one."""
    if event.phase_id:
        return hash((event.run_id, event.phase_id))
    if event.event_uid:
        return hash((event.run_id, "", event.event_uid))
    return hash((row, "by its occurrence"))
