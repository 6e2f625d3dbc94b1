"""How good predictions were over many replies, from raw token counts. Pure.

With p predicted and a actual output tokens, both above 0:

    smape  = |a - p| / max(1, (a + p) / 2) · 100        percent, 0 … 200
    waste  = p / a                                      a factor: 1.5 asks for half as much again
    under  = a > p

A truncated reply stopped at its ceiling, so `a` is only a lower bound: it says nothing about smape and waste, but
still counts where the prediction was exceeded. Quantiles interpolate linearly between the neighbours of position
(n - 1) · fraction in the ordered values (Hyndman and Fan's type 7; numpy's default; `inclusive` in `statistics`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from operator import truediv

import msgspec

from autopack.estimation.metrics import smape

DEFINITIONS = {
    "smape_percent": "|a - p| / max(1, (a + p) / 2) * 100, truncated replies left out",
    "waste": "p / a, truncated replies left out",
    "underestimated_percent": "share of all events with a > p; of a truncated reply a is a lower bound",
    "truncation_percent": "share of all events whose reply was truncated",
    "quantiles": "linear interpolation at (n - 1) * fraction (type 7)",
}


class Accuracy(msgspec.Struct, frozen=True):
    """Figures of one prediction over a group of events; None where the group has nothing to compute it from."""

    median_smape_percent: float | None
    mean_smape_percent: float | None
    median_waste: float | None
    p90_waste: float | None
    underestimated_percent: float | None


def accuracy_of(predicted: Sequence[int], actual: Sequence[int], truncated: Sequence[int]) -> Accuracy:
    """The figures of parallel columns of counts above 0 and flags."""
    smapes = _ordered(smape, predicted, actual, truncated)
    median_smape, mean_smape = quantile(smapes, 0.5), math.fsum(smapes) / len(smapes) if smapes else None
    wastes = _ordered(truediv, predicted, actual, truncated)
    return Accuracy(
        median_smape_percent=median_smape,
        mean_smape_percent=mean_smape,
        median_waste=quantile(wastes, 0.5),
        p90_waste=quantile(wastes, 0.9),
        underestimated_percent=percent(sum(map(int.__gt__, actual, predicted)), len(actual)),
    )


def _ordered(
    measure: Callable[[int, int], float], predicted: Sequence[int], actual: Sequence[int], truncated: Sequence[int]
) -> array[float]:
    """The measure of each exact pair, ascending; in an array, which takes a quarter of a list's memory."""
    values = (measure(p, a) for p, a, cut in zip(predicted, actual, truncated, strict=True) if not cut)
    return array("d", sorted(array("d", values)))


def quantile(ordered: Sequence[float], fraction: float) -> float | None:
    """The quantile at `fraction` (0 … 1) of ascending values, as defined above; None of none."""
    if not ordered:
        return None
    position = (len(ordered) - 1) * fraction
    below = math.floor(position)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return low + (high - low) * (position - below)


def percent(part: int, whole: int) -> float | None:
    """`part` of `whole` in percent; None of nothing."""
    return part / whole * 100 if whole else None
