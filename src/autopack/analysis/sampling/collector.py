"""Events in, samples out; what a sample is stands in `samples`. Pure.

All events are kept in columns, repeated attempts too, which a flag leaves out at the end: an earlier attempt may still
come. That takes some 75 bytes an event. Phases and runs are kept as hashes, as the texts would take 200 MiB a million,
and told apart by sorting, which a table of them would take twice the memory for.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, islice, repeat
from operator import eq
from typing import Any

from autopack.analysis.reading.records import SIMULATED_PREFIX, Unreadable
from autopack.analysis.sampling.executions import Turn, executions
from autopack.analysis.sampling.samples import WITHOUT_FILES, Block, Counts, Samples, is_imported
from autopack.estimation.phases import GENERATED_PREFIX, phase_name

_SUCCESS, _TRUNCATED, _IMPORTED, _TOTAL, _WITHOUT_COUNTS, _WITHOUT_DELIVERABLES, _REPEATED, _TURN = (
    1 << bit for bit in range(8)
)
_LEFT_OUT = _TOTAL | _WITHOUT_COUNTS | _WITHOUT_DELIVERABLES | _REPEATED | _TURN
_DAY_S = 86_400.0
_UNKNOWN = frozenset({None})


class SampleCollector:
    """Takes events in any order, then gives the samples among them.

    `estimator` is the fingerprint of the only one whose predictions are taken; None takes all. `unreadable` counts, for
    the reader of the events, those that could not be read.
    """

    def __init__(
        self, *, include_simulated: bool = False, include_imported: bool = True, estimator: str | None = None
    ) -> None:
        self.unreadable = Unreadable()
        self._include_simulated = include_simulated
        self._include_imported = include_imported
        self._estimator = estimator
        self._simulated = self._others = 0
        self._strata, self._model_names, self._estimator_names = Numbering(), Numbering(), Numbering()
        self._stratum, self._at_s, self._flags = array("i"), array("d"), bytearray()
        self._predicted, self._actual, self._budget = array("q"), array("q"), array("q")
        self._phase, self._work_phase, self._run = array("q"), array("q"), array("q")  # hashes
        self._model, self._made_by = array("i"), array("i")
        self._turns: dict[int, Turn] = {}

    def add_all(self, blocks: Iterable[Block]) -> None:
        """Take all events."""
        for block in blocks:
            taken = self._taken(block)
            if taken.actual:
                self._add(taken)

    @property
    def taken(self) -> int:
        """How many events it was given so far, simulated ones too."""
        return len(self._flags) + self._simulated + self._others

    def takes(self, model: str, estimator: str | None = None) -> bool:
        """Whether an event of this model and estimator is neither simulated nor of another estimator."""
        return (self._include_simulated or _is_real(model)) and self._estimator in (None, estimator)

    def samples(self, *, last: bool = False) -> Samples:
        """The samples among the events so far. `last`: no events come any more, so that their memory is let go of."""
        flags = bytearray(self._flags)
        summed = self._summed(flags)
        if last:
            self._phase = array("q")
        used = flags.translate(_table(lambda value: not value & _LEFT_OUT))
        kept = bytes(compress(flags, used))
        nearest = self._actual
        actual, budget = self._actual, self._budget
        if summed:
            actual, nearest, budget = (array("q", column) for column in (self._actual, self._actual, self._budget))
            for row, (total, most, of) in summed.items():
                actual[row], nearest[row], budget[row] = total, most, of
        picked = array("q", compress(actual, used))

        def column(kind: str, name: str) -> array[Any]:
            values = getattr(self, name)
            if last:
                setattr(self, name, array(kind))  # a column at a time, so that there are never two of each
            return values if last and all(used) else array(kind, compress(values, used))

        return Samples(
            counts=self._counts(Counter(flags), Counter(kept)),
            strata=list(self._strata),
            used=bytes(used),
            stratum=column("i", "_stratum"),
            at_s=column("d", "_at_s"),
            predicted=column("q", "_predicted"),
            actual=picked,
            budget=array("q", compress(budget, used)),
            nearest=array("q", compress(nearest, used)) if summed else picked,
            success=kept.translate(_table(lambda value: value & _SUCCESS)),
            truncated=kept.translate(_table(lambda value: value & _TRUNCATED)),
            phase=_numbered(column("q", "_work_phase")),
            run=_numbered(column("q", "_run")),
            models=_counted(self._model_names, column("i", "_model")),
            estimators=_counted(self._estimator_names, column("i", "_made_by")),
        )

    def _taken(self, block: Block) -> Block:
        """Without what is simulated, and without what another estimator predicted."""
        if not self._include_simulated:
            real = list(map(_is_real, block.model))
            self._simulated += real.count(False)
            block = _only(block, real)
        if self._estimator is not None:
            same = list(map(self._estimator.__eq__, block.estimator))
            self._others += same.count(False)
            block = _only(block, same)
        return block

    def _add(self, block: Block) -> None:
        rows = range(len(self._flags), len(self._flags) + len(block.actual))
        flags = self._flags_of(block)
        self._stratum.extend(map(self._strata.__getitem__, zip(block.category, _complexities(block), strict=True)))
        self._at_s.extend(block.at_s)
        self._flags.extend(flags)
        self._predicted.extend(block.predicted)
        self._actual.extend(block.actual)
        self._budget.extend(block.budget)
        self._model.extend(map(self._model_names.__getitem__, block.model))
        self._made_by.extend(map(self._estimator_names.__getitem__, block.estimator))
        self._phase.extend(_phases(block, rows))
        self._work_phase.extend(_work_phases(block, rows))
        self._run.extend(_runs(block))
        if set(block.turn) != _UNKNOWN:
            self._turns.update(
                (row, Turn(attempt, turn))
                for row, attempt, turn in zip(rows, block.attempt, block.turn, strict=True)
                if attempt is not None and turn is not None
            )

    def _summed(self, flags: bytearray) -> dict[int, tuple[int, int, int]]:
        """Flag later attempts and further turns. Of each execution of several turns, by the row of its first: the sum
        of their tokens, and the tokens and the budget of the turn that came nearest to its budget.
        """
        summed: dict[int, tuple[int, int, int]] = {}
        for rows in _repeated(self._phase):
            self._settle(rows, flags, summed)
        return summed

    def _settle(self, rows: Sequence[int], flags: bytearray, summed: dict[int, tuple[int, int, int]]) -> None:
        kept = [[self._first(rows)]]
        if self._turns and any(row in self._turns for row in rows):
            known = sorted((row for row in rows if row in self._turns), key=self._order)
            kept = executions(known, self._turns)
        firsts = {turns[0] for turns in kept}
        for row in rows:
            flags[row] |= _REPEATED * (row not in firsts)
        for turns in kept:
            first, *later = turns
            if later:
                summed[first] = self._sum(turns, flags)

    def _sum(self, turns: Sequence[int], flags: bytearray) -> tuple[int, int, int]:
        """The turns as one: it is truncated where one of them is, and succeeds where the last one does."""
        first, *later = turns
        for row in later:
            flags[first] |= flags[row] & (_TRUNCATED | _TOTAL)
            flags[first] |= _WITHOUT_COUNTS * (not self._actual[row])
            flags[row] = (flags[row] & ~(_REPEATED | _LEFT_OUT)) | _TURN
        flags[first] = (flags[first] & ~_SUCCESS) | (flags[turns[-1]] & _SUCCESS)
        nearest = max(turns, key=lambda row: (self._actual[row] - self._budget[row], self._actual[row]))
        return sum(map(self._actual.__getitem__, turns)), self._actual[nearest], self._budget[nearest]

    def _first(self, rows: Sequence[int]) -> int:
        """Of the attempts of a phase, the first one."""
        earliest = min(map(self._at_s.__getitem__, rows))
        tied = [row for row in rows if self._at_s[row] == earliest]
        return tied[0] if len(tied) == 1 else min(tied, key=self._order)

    def _order(self, row: int) -> tuple[float | str, ...]:
        """By time; at the same instant any order would do that depends on nothing but the values."""
        values = (self._actual[row], self._predicted[row], self._budget[row], self._flags[row])
        return (self._at_s[row], *(-value for value in values), *self._strata.names[self._stratum[row]])

    def _flags_of(self, block: Block) -> Sequence[int]:
        flags = [
            _SUCCESS * success
            | _TRUNCATED * truncated
            | _TOTAL * total
            | _WITHOUT_COUNTS * (not actual or not predicted)
            for success, truncated, total, actual, predicted in zip(
                block.success, block.truncated, block.is_total, block.actual, block.predicted, strict=True
            )
        ]
        for index in compress(range(len(flags)), map(False.__eq__, block.has_paths)):
            flags[index] |= self._flags_without_paths(block, index)
        return flags

    def _flags_without_paths(self, block: Block, index: int) -> int:
        imported = is_imported(block.run_id[index], block.phase_id[index])
        known = imported and self._include_imported and block.deliverable_count[index] > 0
        made = block.estimator[index] is not None and not block.deliverable_count[index]
        return _IMPORTED * imported | _WITHOUT_DELIVERABLES * (not known and not made)

    def _counts(self, every: Counter[int], used: Counter[int]) -> Counts:
        repeated, turns = _having(every, _REPEATED), _having(every, _TURN)
        totals = _having(every, _TOTAL, without=_REPEATED | _TURN)
        without_counts = _having(every, _WITHOUT_COUNTS, without=_REPEATED | _TURN | _TOTAL)
        others = repeated + turns + totals + without_counts
        return Counts(
            read=self.taken + self.unreadable.rows,
            unreadable=self.unreadable.rows,
            simulated=self._simulated,
            other_estimators=self._others,
            repeated=repeated,
            turns=turns,
            totals=totals,
            without_counts=without_counts,
            without_deliverables=every.total() - used.total() - others,
            used=used.total(),
            imported=_having(used, _IMPORTED),
            failed=used.total() - _having(used, _SUCCESS),
            truncated=_having(used, _TRUNCATED),
        )


class Numbering(dict[Any, int]):
    """Numbers what it is asked for in the order in which it was first asked."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[Any] = []

    def __missing__(self, name: Any) -> int:
        self.names.append(name)
        self[name] = number = len(self.names) - 1
        return number


@lru_cache(maxsize=1024)
def _is_real(model: str) -> bool:
    return not model.startswith(SIMULATED_PREFIX)


def _only(block: Block, taken: Sequence[bool]) -> Block:
    if all(taken):
        return block
    columns: Iterable[Any] = block
    return Block._make(list(compress(column, taken)) for column in columns)


def _complexities(block: Block) -> Iterable[str]:
    """Those of the strata: a prediction that was made from no files stands apart."""
    if all(block.has_paths) or set(block.estimator) == _UNKNOWN:
        return block.complexity
    return [
        complexity if paths or count or made_by is None else complexity + WITHOUT_FILES
        for complexity, paths, count, made_by in zip(
            block.complexity, block.has_paths, block.deliverable_count, block.estimator, strict=True
        )
    ]


def _phases(block: Block, rows: range) -> list[int]:
    """What tells phases of a run apart, the same number for all attempts of one; without an id it is the place of the
    event.
    """
    phases = list(map(hash, zip(block.run_id, block.phase_id, strict=True)))
    for index in compress(range(len(phases)), map(_is_nothing, block.phase_id)):
        phases[index] = hash((rows[index], "by its occurrence"))
    return phases


def _work_phases(block: Block, rows: range) -> list[int]:
    """What tells phases apart from run to run."""
    names = list(map(_name, block.phase_id))
    phases = list(map(hash, zip(names, block.category, block.complexity, block.work, strict=True)))
    for index in compress(range(len(phases)), map(_is_nothing, block.phase_id)):
        phases[index] = hash((rows[index], "by its occurrence"))
    return phases


def _runs(block: Block) -> list[int]:
    """What tells runs apart; without an id it is the day."""
    runs = list(map(hash, block.run_id))
    for index in compress(range(len(runs)), map(_is_nothing, block.run_id)):
        runs[index] = hash((block.at_s[index] // _DAY_S, "by its day"))
    return runs


def _name(phase_id: str | None) -> str | None:
    return phase_name(phase_id) if phase_id and phase_id.startswith(GENERATED_PREFIX) else phase_id


def _is_nothing(identity: str | None) -> bool:
    return not identity


def _twice(hashes: Sequence[int]) -> dict[int, int]:
    """Those that occur more than once, numbered. Sorting takes the least memory; what is simpler is told by a set."""
    distinct = len(set(hashes))
    if distinct == len(hashes):
        return {}
    if distinct < len(hashes) // 4:
        return _numbers(value for value, count in Counter(hashes).items() if count > 1)
    ordered = sorted(hashes)
    return _numbers(dict.fromkeys(compress(ordered, map(eq, ordered, islice(ordered, 1, None)))))


def _numbers(values: Iterable[int]) -> dict[int, int]:
    return {value: number for number, value in enumerate(values)}


def _numbered(hashes: array[int]) -> array[int]:
    """A number for each that occurs more than once; -1 for the others."""
    return array("i", map(_twice(hashes).get, hashes, repeat(-1)))


def _repeated(hashes: array[int]) -> Iterator[array[int]]:
    """The places of each hash that occurs more than once."""
    numbers = _twice(hashes)
    places = [array("i") for _ in numbers]
    for row, number in enumerate(map(numbers.get, hashes) if numbers else ()):
        if number is not None:
            places[number].append(row)
    yield from places


def _counted(names: Numbering, numbers: Iterable[int]) -> dict[str, int]:
    """How many there are of each, the most frequent first; those without a name are none."""
    found = {names.names[number]: count for number, count in Counter(numbers).items()}
    return dict(sorted(((n, c) for n, c in found.items() if n is not None), key=lambda pair: (-pair[1], pair[0])))


def _table(value: Callable[[int], int]) -> bytes:
    """For `translate`: 1 for the flags that have it, else 0."""
    return bytes(bool(value(flags)) for flags in range(256))


def _having(flags: Counter[int], wanted: int, *, without: int = 0) -> int:
    return sum(count for value, count in flags.items() if value & wanted and not value & without)
