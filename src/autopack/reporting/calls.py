"""The single calls that a report shows: an even sample of them for the plots, and the worst. Pure.

The samples of a verdict are numbers only; here each gets its run, phase and model back.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, compress, islice
from operator import gt
from typing import NamedTuple

import msgspec

from autopack._util.text import truncate_for_display
from autopack.analysis.sampling.collector import Numbering, SampleCollector
from autopack.analysis.sampling.samples import Block, Samples
from autopack.estimation.metrics import smape

MOST_PLOTTED = 2_000
MOST_WORST = 200
_MOST_NAMES = 300
OTHERS = "(others)"


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One call. `run`, `category`, `complexity` and `model` are indexes into `Names`; `at_s` None: not known.

    `smape_percent` is at least that much where the reply was truncated.
    """

    run: int
    category: int
    complexity: int
    model: int
    phase: str
    at_s: float | None
    predicted: int
    actual: int
    budget: int
    success: bool
    truncated: bool
    smape_percent: float


class Names(msgspec.Struct, frozen=True):
    """What can be chosen in the filters, the most frequent first; rare ones beyond 300 are all called `(others)`."""

    runs: list[str]
    categories: list[str]
    complexities: list[str]
    models: list[str]


class Calls(msgspec.Struct, frozen=True):
    """`plotted` is every n-th of the `total` samples in the order of their time; `worst` are the largest errors first,
    of the successful and the truncated calls. `unused_tokens` are those of the `budget_tokens` that no reply used.
    """

    total: int
    budget_tokens: int
    unused_tokens: int
    names: Names
    plotted: list[Call]
    worst: list[Call]


class CallCollector(SampleCollector):
    """Collects samples, and who they were."""

    def __init__(
        self, *, include_simulated: bool = False, include_imported: bool = True, estimator: str | None = None
    ) -> None:
        super().__init__(include_simulated=include_simulated, include_imported=include_imported, estimator=estimator)
        self._run_names, self._shown_models = Numbering(), Numbering()
        self._runs, self._models, self._phases = array("i"), array("i"), PackedTexts()

    def add_all(self, blocks: Iterable[Block]) -> None:
        """Take all events."""
        super().add_all(self._noted(blocks))

    def calls(self, samples: Samples) -> Calls:
        """The calls to show; `samples` are those of this collector."""
        numbers = array("i", compress(range(len(samples.used)), samples.used))
        runs = _ranking(map(self._run_names.names.__getitem__, map(self._runs.__getitem__, numbers)))
        models = _ranking(map(self._shown_models.names.__getitem__, map(self._models.__getitem__, numbers)))
        categories, complexities = (
            _ranking(samples.strata[stratum][part] for stratum in samples.stratum) for part in (0, 1)
        )

        def call(row: int) -> Call:
            number, at_s = numbers[row], samples.at_s[row]
            category, complexity = samples.strata[samples.stratum[row]]
            return Call(
                run=runs.place_of[self._run_names.names[self._runs[number]]],
                category=categories.place_of[category],
                complexity=complexities.place_of[complexity],
                model=models.place_of[self._shown_models.names[self._models[number]]],
                phase=truncate_for_display(self._phases[number] or "-"),
                at_s=at_s if at_s < math.inf else None,
                predicted=samples.predicted[row],
                actual=samples.actual[row],
                budget=samples.budget[row],
                success=bool(samples.success[row]),
                truncated=bool(samples.truncated[row]),
                smape_percent=_error(samples, row),
            )

        return Calls(
            total=len(samples),
            budget_tokens=sum(samples.budget),
            unused_tokens=sum(
                max(0, budget - actual) for budget, actual in zip(samples.budget, samples.actual, strict=True)
            ),
            names=Names(runs.names, categories.names, complexities.names, models.names),
            plotted=list(map(call, _every_nth(samples, MOST_PLOTTED))),
            worst=list(map(call, _worst(samples, MOST_WORST))),
        )

    def _noted(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            taken = list(map(self.takes, block.model, block.estimator))
            self._runs.extend(map(self._run_names.__getitem__, compress(block.run_id, taken)))
            self._models.extend(map(self._shown_models.__getitem__, compress(block.model, taken)))
            self._phases.extend(phase or "" for phase in compress(block.phase_id, taken))
            yield block


class PackedTexts:
    """Many texts as their bytes, one after another: the object that Python has for each takes 50 bytes more."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def extend(self, texts: Iterable[str]) -> None:
        """Add these."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._ends.extend(islice(accumulate(map(len, encoded), initial=len(self._bytes)), 1, None))
        self._bytes += b"".join(encoded)

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")


class _Ranking(NamedTuple):
    """Names, the most frequent first, and the place of each among them."""

    names: list[str]
    place_of: dict[str | None, int]


def _ranking(names: Iterable[str | None]) -> _Ranking:
    ordered = [name for name, _ in Counter(names).most_common()]
    place_of = {name: min(place, _MOST_NAMES) for place, name in enumerate(ordered)}
    shown = [truncate_for_display(name or "-") for name in ordered[:_MOST_NAMES]]
    return _Ranking(shown + [OTHERS] * (len(ordered) > _MOST_NAMES), place_of)


def _every_nth(samples: Samples, most: int) -> list[int]:
    """Rows in the order of their time, evenly spaced, all of them where there are few."""
    rows: Sequence[int] = range(len(samples))
    if any(map(gt, samples.at_s, islice(samples.at_s, 1, None))):  # nearly all tables are in this order
        rows = array("i", sorted(rows, key=samples.at_s.__getitem__))
    count = min(most, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def _worst(samples: Samples, most: int) -> list[int]:
    """Rows with the largest error; of equal errors, more tokens are worse."""
    judged = (row for row in range(len(samples)) if samples.success[row] or samples.truncated[row])
    return heapq.nlargest(
        most, judged, key=lambda row: (_error(samples, row), abs(samples.predicted[row] - samples.actual[row]))
    )


def _error(samples: Samples, row: int) -> float:
    """SMAPE in percent; of a truncated reply the least that it can be."""
    predicted, actual = samples.predicted[row], samples.actual[row]
    return smape(predicted, max(predicted, actual) if samples.truncated[row] else actual)
