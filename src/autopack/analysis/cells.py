"""Samples in cells, one per stratum and period: whatever group a verdict needs is made of whole cells. Pure.

Each sample is looked at once, and each of its values sorted among those of its cell only; a group merges them.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import Literal

from autopack.analysis.samples import Samples
from autopack.telemetry.metrics import smape

Period = Literal["earlier", "recent", "unknown"]


class Cell:
    """What is counted and collected of the samples of a cell; `measures` says what the words mean.

    `wastes` and `smapes` are ascending and of successes that are not truncated; of the truncated ones there are the
    pairs of predicted and, as a lower bound, actual tokens.
    """

    __slots__ = (
        "maybe_over",
        "maybe_under",
        "over",
        "samples",
        "smapes",
        "truncated",
        "truncated_successes",
        "under",
        "wastes",
    )

    def __init__(self) -> None:
        self.samples = self.under = self.maybe_under = self.truncated = self.over = self.maybe_over = 0
        self.wastes, self.smapes = array("d"), array("d")
        self.truncated_successes: list[tuple[int, int]] = []

    def sort(self) -> None:
        """Make the values ascending."""
        self.wastes, self.smapes = array("d", sorted(self.wastes)), array("d", sorted(self.smapes))


def cells_of(
    samples: Samples, *, underestimation_factor: float, recent_since_s: float
) -> dict[tuple[int, Period], Cell]:
    """The samples by stratum, as an index into `samples.strata`, and by period; there is no empty cell.

    `recent` begins at `recent_since_s` and has no end; a sample whose time cannot be read is in neither period.
    """
    cells: defaultdict[tuple[int, Period], Cell] = defaultdict(Cell)
    for stratum, at_s, predicted, actual, budget, success, truncated in zip(
        samples.stratum, samples.at_s, samples.predicted, samples.actual, samples.budget, samples.success,
        samples.truncated, strict=True,
    ):  # fmt: skip
        cell = cells[stratum, _EARLIER if at_s < recent_since_s else _RECENT if at_s < _NEVER else _UNKNOWN]
        cell.samples += 1
        # A quotient is rounded once, and so compares exactly with a factor such as 1.1; a product would not.
        under, over = actual / predicted > underestimation_factor, actual > budget
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
            cell.smapes.append(smape(predicted, actual))
    for cell in cells.values():
        cell.sort()
    return dict(cells)


_EARLIER: Period = "earlier"
_RECENT: Period = "recent"
_UNKNOWN: Period = "unknown"
_NEVER = float("inf")
