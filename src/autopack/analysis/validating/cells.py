"""Samples in cells, one per stratum and period: whatever group a verdict needs is made of whole cells. Pure.

Each sample is looked at once, and each of its values sorted among those of its cell only; a group merges them.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from typing import Literal, get_args

from autopack.analysis.sampling.samples import Samples

Period = Literal["earlier", "recent", "unknown"]
_PERIODS: tuple[Period, ...] = get_args(Period)


class Cell:
    """What is counted and collected of the samples of a cell; `measures` says what the words mean.

    `wastes` and `smapes` are ascending and of successes that are not truncated; of the truncated ones there are the
    pairs of predicted and, as a lower bound, actual tokens.
    """

    __slots__ = (
        "failed",
        "maybe_over",
        "maybe_under",
        "over",
        "smapes",
        "truncated",
        "truncated_successes",
        "under",
        "wastes",
    )

    def __init__(self) -> None:
        self.under = self.maybe_under = self.over = self.maybe_over = self.truncated = self.failed = 0
        self.wastes, self.smapes = array("d"), array("d")
        self.truncated_successes: list[tuple[int, int]] = []

    @property
    def samples(self) -> int:
        """All of them; `failed` are neither successes nor truncated."""
        return len(self.wastes) + self.truncated + self.failed

    def sort(self) -> None:
        """Make the values ascending."""
        self.wastes, self.smapes = array("d", sorted(self.wastes)), array("d", sorted(self.smapes))


def cells_of(
    samples: Samples, *, underestimation_factor: float, recent_since_s: float
) -> dict[tuple[int, Period], Cell]:
    """The samples by stratum, as an index into `samples.strata`, and by period; there is no empty cell.

    `recent` begins at `recent_since_s` and has no end; a sample whose time cannot be read is in neither period.
    """
    cells: defaultdict[int, Cell] = defaultdict(Cell)
    for stratum, at_s, predicted, actual, nearest, budget, success, truncated in zip(
        samples.stratum,
        samples.at_s,
        samples.predicted,
        samples.actual,
        samples.nearest,
        samples.budget,
        samples.success,
        samples.truncated,
        strict=True,
    ):
        cell = cells[3 * stratum + (0 if at_s < recent_since_s else 1 if at_s < math.inf else 2)]
        # A quotient is rounded once, and so compares exactly with a factor such as 1.1; a product would not.
        under, over = actual / predicted > underestimation_factor, nearest > budget
        if under:
            cell.under += 1
        if over:
            cell.over += 1
        if truncated:
            cell.truncated += 1
            cell.maybe_under += not under
            cell.maybe_over += not over
            if success:
                cell.truncated_successes.append((predicted, actual))
        elif success:
            cell.wastes.append(predicted / actual)
            # smape(), without what it needs for counts that are not positive: a call would take as long as all else.
            cell.smapes.append(abs(actual - predicted) / ((actual + predicted) / 2) * 100)
        else:
            cell.failed += 1
    for cell in cells.values():
        cell.sort()
    return {(number // 3, _PERIODS[number % 3]): cell for number, cell in cells.items()}
