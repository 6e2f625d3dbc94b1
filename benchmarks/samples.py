"""Statistics of measured samples. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby
from random import Random

from benchmarks.report import Target


def quantile(samples: Sequence[float], q: float) -> float:
    """The sample below which a share `q` of them lies."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


def spread(samples: Sequence[float]) -> tuple[float, float]:
    """The middle 80 % of the samples."""
    return quantile(samples, 0.1), quantile(samples, 0.9)


def at_least(name: str, value: float, over_repetitions: Sequence[float], *, must: float, aim: float) -> Target:
    """A ratio that should be large."""
    low, high = spread(over_repetitions)
    return Target(name, value, low, high, "at least", must, aim)


def at_most(
    name: str, value: float, over_repetitions: Sequence[float], *, must: float, aim: float, unit: str = "×"
) -> Target:
    """A figure that should be small."""
    low, high = spread(over_repetitions)
    return Target(name, value, low, high, "at most", must, aim, unit)


def ratio_of_minima(above: Sequence[float], below: Sequence[float]) -> tuple[float, list[float]]:
    """The ratio of the smallest samples, and the ratios of those that were taken side by side.

    The smallest is what the code costs when nothing else happens: noise of the machine only ever adds.
    """
    return min(above) / min(below), [a / b for a, b in zip(above, below, strict=True)]


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> tuple[float, list[float]]:
    """The ratio of the medians, and the ratios of those that were taken side by side; for rates."""
    sides = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(above) / statistics.median(below), sides


def mann_whitney_p(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p-value of the Mann-Whitney U test, normal approximation with correction for ties and continuity.

    For 20 samples or more on each side. Source: Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 4.1.
    """
    labelled = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank, rank_sum, ties = 1.0, 0.0, 0.0
    for _, group in groupby(labelled, key=lambda pair: pair[0]):
        sides = [side for _, side in group]
        middle = rank + (len(sides) - 1) / 2
        rank_sum += middle * sides.count(0)
        ties += len(sides) ** 3 - len(sides)
        rank += len(sides)
    n, m = len(first), len(second)
    distance = abs(rank_sum - n * (n + 1) / 2 - n * m / 2) - 0.5
    variance = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    return math.erfc(max(0.0, distance) / math.sqrt(2 * variance)) if variance else 1.0


def median_difference(first: Sequence[float], second: Sequence[float], seed: int = 7) -> tuple[float, float, float]:
    """By how much the median of `first` lies over that of `second`, with a bootstrapped interval of 95 %."""
    random = Random(seed)  # noqa: S311 (resampling)
    draws = sorted(
        statistics.median(random.choices(first, k=len(first)))
        - statistics.median(random.choices(second, k=len(second)))
        for _ in range(1000)
    )
    return statistics.median(first) - statistics.median(second), draws[25], draws[974]
