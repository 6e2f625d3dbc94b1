"""Events in, samples out; what a sample is stands in `samples`. Pure.

All events are kept in columns, repeated attempts too, which a flag leaves out at the end: an earlier attempt may still
come. That takes some 45 bytes an event and 120 more for what tells its phase from others.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import compress, product
from typing import Any

from autopack.analysis.reading.records import SIMULATED_PREFIX, Unreadable
from autopack.analysis.sampling.samples import Block, Counts, Samples, is_imported

_SUCCESS, _TRUNCATED, _IMPORTED, _TOTAL, _WITHOUT_COUNTS, _WITHOUT_DELIVERABLES, _REPEATED = 1, 2, 4, 8, 16, 32, 64
_FLAGS = {
    (success, truncated, total): _SUCCESS * success | _TRUNCATED * truncated | _TOTAL * total
    for success, truncated, total in product((False, True), repeat=3)  # 0 and 1 are found, too
}
_LEFT_OUT = _TOTAL | _WITHOUT_COUNTS | _WITHOUT_DELIVERABLES | _REPEATED


class SampleCollector:
    """Takes events in any order, then gives the samples among them.

    `unreadable` counts, for whoever reads them, the events that could not be read.
    """

    def __init__(self, *, include_simulated: bool = False, include_imported: bool = True) -> None:
        self.unreadable = Unreadable()
        self._include_simulated = include_simulated
        self._include_imported = include_imported
        self._simulated = 0
        self._strata = _Numbering()
        self._rows: dict[
            int, int
        ] = {}  # hash of a phase → row of its first attempt; texts would take 200 MiB a million
        self._stratum, self._at_s, self._flags = array("l"), array("d"), bytearray()
        self._predicted, self._actual, self._budget = array("q"), array("q"), array("q")

    def add_all(self, blocks: Iterable[Block]) -> None:
        """Take all events."""
        for block in blocks:
            real = block if self._include_simulated else self._without_simulated(block)
            if real.actual:
                self._add(real)

    @property
    def taken(self) -> int:
        """How many events it was given so far, simulated ones too."""
        return len(self._flags) + self._simulated

    def takes(self, model: str) -> bool:
        """Whether an event of this model is not left out as simulated."""
        return self._include_simulated or _is_real(model)

    def samples(self) -> Samples:
        """The samples among the events so far."""
        used = self._flags.translate(_table(lambda flags: not flags & _LEFT_OUT))
        flags = bytes(compress(self._flags, used))
        return Samples(
            counts=self._counts(Counter(flags)),
            strata=list(self._strata),
            used=bytes(used),
            stratum=array("l", compress(self._stratum, used)),
            at_s=array("d", compress(self._at_s, used)),
            predicted=array("q", compress(self._predicted, used)),
            actual=array("q", compress(self._actual, used)),
            budget=array("q", compress(self._budget, used)),
            success=flags.translate(_table(lambda flags: flags & _SUCCESS)),
            truncated=flags.translate(_table(lambda flags: flags & _TRUNCATED)),
        )

    def _without_simulated(self, block: Block) -> Block:
        real = list(map(_is_real, block.model))
        if all(real):
            return block
        self._simulated += real.count(False)
        columns: Iterable[Any] = block
        return Block._make(list(compress(column, real)) for column in columns)

    def _add(self, block: Block) -> None:
        rows = range(len(self._flags), len(self._flags) + len(block.actual))
        phases = _phases(block, rows)
        self._stratum.extend(map(self._strata.__getitem__, zip(block.category, block.complexity, strict=True)))
        self._at_s.extend(block.at_s)
        self._flags.extend(self._flags_of(block))
        self._predicted.extend(block.predicted)
        self._actual.extend(block.actual)
        self._budget.extend(block.budget)
        known = map(self._rows.setdefault, phases, rows)
        for row, phase in [(row, phase) for row, phase, first in zip(rows, phases, known, strict=True) if row != first]:
            self._settle(phase, row)

    def _settle(self, phase: int, row: int) -> None:
        """Of two attempts of a phase, leave out the later one."""
        first = self._rows[phase]
        if self._order(row) < self._order(first):
            first, row = row, first
        self._rows[phase] = first
        self._flags[row] |= _REPEATED

    def _order(self, row: int) -> tuple[float | str, ...]:
        """By time; at the same instant any order would do that depends on nothing but the values."""
        values = (self._actual[row], self._predicted[row], self._budget[row], self._flags[row] & ~_REPEATED)
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
        return _IMPORTED * imported | _WITHOUT_DELIVERABLES * (not known)

    def _counts(self, used: Counter[int]) -> Counts:
        every = Counter(self._flags)
        repeated, totals = _having(every, _REPEATED), _having(every, _TOTAL, without=_REPEATED)
        without_counts = _having(every, _WITHOUT_COUNTS, without=_REPEATED | _TOTAL)
        return Counts(
            read=self.taken + self.unreadable.rows,
            unreadable=self.unreadable.rows,
            simulated=self._simulated,
            repeated=repeated,
            totals=totals,
            without_counts=without_counts,
            without_deliverables=every.total() - used.total() - repeated - totals - without_counts,
            used=used.total(),
            imported=_having(used, _IMPORTED),
            failed=used.total() - _having(used, _SUCCESS),
            truncated=_having(used, _TRUNCATED),
        )


class _Numbering(dict[tuple[str, str], int]):
    """Numbers what it is asked for in the order in which it was first asked."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[tuple[str, str]] = []

    def __missing__(self, name: tuple[str, str]) -> int:
        self.names.append(name)
        self[name] = number = len(self.names) - 1
        return number


@lru_cache(maxsize=1024)
def _is_real(model: str) -> bool:
    return not model.startswith(SIMULATED_PREFIX)


def _phases(block: Block, rows: range) -> list[int]:
    """What tells phases apart, the same number for all attempts of one; without an id it is the place of the event."""
    phases = list(map(hash, zip(block.run_id, block.phase_id, strict=True)))
    for index in compress(range(len(phases)), map(_is_nothing, block.phase_id)):
        phases[index] = hash((rows[index], "by its occurrence"))
    return phases


def _is_nothing(phase_id: str | None) -> bool:
    return not phase_id


def _table(value: Callable[[int], int]) -> bytes:
    """For `translate`: 1 for the flags that have it, else 0."""
    return bytes(bool(value(flags)) for flags in range(256))


def _having(flags: Counter[int], wanted: int, *, without: int = 0) -> int:
    return sum(count for value, count in flags.items() if value & wanted and not value & without)
