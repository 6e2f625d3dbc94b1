"""Today's estimator on yesterday's deliverables, beside what was predicted then and what really came. Pure.

Each record is compared by itself: it carries its own deliverables, so nothing is looked up by `phase_id`, which
several runs and attempts share. What is collected is a few numbers per event in arrays, about 40 bytes, so that a
million events fit easily; the figures are computed at the end.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

import msgspec

from autopack.analysis.accuracy import DEFINITIONS, Accuracy, accuracy_of, percent
from autopack.analysis.reading.records import SIMULATED_PREFIX
from autopack.analysis.replaying.observations import (
    Observation,
    deliverables_of,
    is_beyond_synthesis,
    is_incomplete,
    is_synthetic,
    is_total,
)

Predict = Callable[[Sequence[str], str, str, Collection[str]], int]
"""Deliverables, category, complexity and existing ones → predicted output tokens."""


class ReplayCounts(msgspec.Struct):
    """What became of the records: `read` is every one, `compared` those that the figures are made of.

    Left out: `skipped` (unreadable), `duplicates` (the same event again), `simulated`, `totals` (only the tokens of
    the whole call are known), `without_counts` (a count is 0), `incomplete` (refused in the middle, or paused: neither
    complete nor cut, so its length says nothing). Of those compared: `truncated`; `phases` and
    `repeated_attempts` by (run, phase); `synthetic` had no deliverables recorded; `cut` had more than are stored,
    and today's estimate sees the stored ones only; `existing_unknown` count all deliverables as new;
    `without_stop_reason` may hold totals, which the host system's fallback stores that way (autopack adds an attribute
    `usage`: `total`).
    """

    read: int = 0
    skipped: int = 0
    duplicates: int = 0
    simulated: int = 0
    totals: int = 0
    without_counts: int = 0
    incomplete: int = 0
    compared: int = 0
    truncated: int = 0
    phases: int = 0
    repeated_attempts: int = 0
    synthetic: int = 0
    cut: int = 0
    existing_unknown: int = 0
    without_stop_reason: int = 0


class ReplayGroup(msgspec.Struct, frozen=True):
    """The figures of a group of events; `truncation_percent` is of all of them."""

    name: str
    events: int
    truncated: int
    truncation_percent: float | None
    recorded: Accuracy
    today: Accuracy


class ReplayReport(msgspec.Struct, frozen=True):
    """A whole replay; `overall` is None where nothing was left to compare."""

    source: str
    estimator: str
    counts: ReplayCounts
    overall: ReplayGroup | None
    by_category: list[ReplayGroup]
    by_complexity: list[ReplayGroup]
    by_deliverables: list[ReplayGroup]
    definitions: dict[str, str] = msgspec.field(default_factory=lambda: dict(DEFINITIONS))


class Replay:
    """Collects observations, then reports."""

    def __init__(self, predict: Predict, *, include_simulated: bool = False) -> None:
        self.counts = ReplayCounts()
        self._predict = predict
        self._include_simulated = include_simulated
        self._recorded, self._today, self._actual, self._truncated = array("q"), array("q"), array("q"), array("b")
        self._groups: tuple[_Index, _Index, _Index] = (_new_index(), _new_index(), _new_index())
        self._seen: set[int] = set()  # hashes: a million texts would take the memory that the arrays save
        self._phases = array("q")

    def add_all(self, observations: Iterable[Observation | None]) -> None:
        """Take them all; None is a record that could not be read."""
        for observation in observations:
            self.counts.read += 1
            if observation is None or is_beyond_synthesis(observation):
                self.counts.skipped += 1
            elif self._is_wanted(observation):
                self._compare(observation)

    def report(self, source: str, estimator: str) -> ReplayReport:
        """The figures so far."""
        by_category, by_complexity, by_deliverables = self._groups
        rows = range(len(self._actual))
        self.counts.phases = len(set(self._phases))
        self.counts.repeated_attempts = len(self._phases) - self.counts.phases
        return ReplayReport(
            source=source,
            estimator=estimator,
            counts=self.counts,
            overall=self._group("all", rows) if rows else None,
            by_category=[self._group(name, by_category[name]) for name in _largest_first(by_category)],
            by_complexity=[self._group(name, by_complexity[name]) for name in _largest_first(by_complexity)],
            by_deliverables=[
                self._group(name, by_deliverables[name])
                for name in sorted(by_deliverables, key=lambda name: int(name.partition("-")[0].rstrip("+")))
            ],
        )

    def _is_wanted(self, observation: Observation) -> bool:
        counts = self.counts
        if self._is_duplicate(observation):
            counts.duplicates += 1
        elif not self._include_simulated and observation.model.startswith(SIMULATED_PREFIX):
            counts.simulated += 1
        elif is_total(observation):
            counts.totals += 1
        elif not (observation.actual_output_tokens and observation.predicted_output_tokens):
            counts.without_counts += 1
        elif is_incomplete(observation):
            counts.incomplete += 1
        else:
            return True
        return False

    def _is_duplicate(self, observation: Observation) -> bool:
        if observation.event_uid is None:
            return False
        identity = hash((observation.run_id, observation.event_uid))
        known = identity in self._seen
        self._seen.add(identity)
        return known

    def _compare(self, observation: Observation) -> None:
        self._count(observation)
        row = len(self._actual)
        self._recorded.append(observation.predicted_output_tokens)
        self._actual.append(observation.actual_output_tokens)
        self._truncated.append(observation.truncated)
        self._today.append(
            self._predict(
                deliverables_of(observation), observation.category, observation.complexity, observation.existing or ()
            )
        )
        names = (observation.category, observation.complexity, deliverables_group(observation.deliverable_count))
        for group, name in zip(self._groups, names, strict=True):
            group[name].append(row)

    def _count(self, observation: Observation) -> None:
        counts = self.counts
        recorded = observation.deliverables or []
        counts.compared += 1
        counts.truncated += observation.truncated
        counts.synthetic += is_synthetic(observation)
        counts.cut += 0 < len(recorded) < observation.deliverable_count
        counts.existing_unknown += observation.existing is None
        counts.without_stop_reason += observation.stop_reason is None
        if observation.run_id is not None and observation.phase_id is not None:
            self._phases.append(hash((observation.run_id, observation.phase_id)))

    def _group(self, name: str, rows: Sequence[int]) -> ReplayGroup:
        actual, truncated = _taken(self._actual, rows), _taken(self._truncated, rows)
        return ReplayGroup(
            name=name,
            events=len(rows),
            truncated=sum(truncated),
            truncation_percent=percent(sum(truncated), len(rows)),
            recorded=accuracy_of(_taken(self._recorded, rows), actual, truncated),
            today=accuracy_of(_taken(self._today, rows), actual, truncated),
        )


def deliverables_group(count: int) -> str:
    """The group of a number of deliverables: each for itself up to 10, then `11-20` and `21+`."""
    if count <= 10:  # noqa: PLR2004 (as documented)
        return str(count)
    return "11-20" if count <= 20 else "21+"  # noqa: PLR2004 (as documented)


_Index: TypeAlias = "defaultdict[str, array[int]]"  # as text: an array cannot be subscripted before Python 3.12


def _new_index() -> _Index:
    return defaultdict(lambda: array("L"))


def _taken(column: array[int], rows: Sequence[int]) -> array[int]:
    if len(rows) == len(column):
        return column
    return array(column.typecode, map(column.__getitem__, rows))


def _largest_first(groups: _Index) -> list[str]:
    return sorted(groups, key=lambda name: (-len(groups[name]), name))
