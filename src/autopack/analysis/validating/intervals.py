"""Confidence intervals for shares and quantiles, and how many samples it takes to show a limit. Pure.

Both are two-sided and made without random numbers, so that the same data always give the same interval.

A share: Wilson's score interval (Wilson 1927). With k of n, p = k / n and z the normal quantile of the level:

    (p + z²/2n ± z · sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)

A quantile: two order statistics. Of n independent values, the number B that lies at or below the q-quantile follows
Binomial(n, q) (at most, where the distribution has steps: then the interval only covers more). The s-th smallest value
lies below the quantile with probability P(B ≥ s), so the upper end is the smallest s with P(B ≥ s) ≤ (1 - level) / 2.
The probabilities are exact up to the rounding of floating point. Where there are too few values, no order
statistic reaches that far and the end does not exist.

Where the samples are worth fewer independent ones than there are (`clusters`), a share keeps its p and has that `size`
for n. A quantile then has Woodruff's interval (1952): the values at the ranks ⌊L · n⌋ and ⌈U · n⌉, where L and U are
the ends of Wilson's interval of the share q at that size, and the end does not exist where q^size > (1 - level) / 2, as
above.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from statistics import NormalDist

MOST_SAMPLES = 1_000_000_000  # what would take more cannot be shown

_NEGLIGIBLE = 1e-25  # of the largest probability: all that lies beyond adds less than rounding does


def wilson_interval(
    events: float, trials: float, level: float, size: float | None = None
) -> tuple[float, float] | None:
    """The interval of a share of which `events` of `trials` were seen, as fractions 0 … 1; None without trials.

    `size` is how many independent trials they are worth; None: as many as there are.
    """
    if not trials:
        return None
    lower, upper = _wilson(events / trials, trials if size is None else size, level)
    return (lower if events else 0.0), (upper if events < trials else 1.0)


def _wilson(share: float, size: float, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    weight = z * z / size
    centre = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / size + weight / (4 * size))
    return max(0.0, (centre - half) / (1 + weight)), min(1.0, (centre + half) / (1 + weight))


def quantile_ranks(
    count: int, fraction: float, level: float, size: float | None = None
) -> tuple[int | None, int | None]:
    """Which of `count` ascending values, numbered from 1, are the ends of the interval of the quantile at `fraction`.

    None for an end that does not exist because there are too few values. `size` as in `wilson_interval`.
    """
    tail = (1 - level) / 2
    if size is not None and size != count:
        below, above = _wilson(fraction, size, level)
        return (
            max(1, math.floor(below * count)) if (1 - fraction) ** size <= tail else None,
            min(count, math.ceil(above * count)) if fraction**size <= tail else None,
        )
    upper = _first_rank_in_tail(count, fraction, tail)
    lower = count + 1 - _first_rank_in_tail(count, 1 - fraction, tail)  # the same, counted from the other side
    return (lower if lower >= 1 else None), (upper if upper <= count else None)


def samples_until(shown: Callable[[int], bool], present: int) -> int | None:
    """How many more than `present` samples there must be at least for `shown`, which stays true once it is.

    At least one. None where a thousand million would not do.
    """
    too_few, enough = present, present + 1
    while not shown(enough):
        if enough >= MOST_SAMPLES:
            return None
        too_few, enough = enough, min(MOST_SAMPLES, present + 2 * (enough - present))
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if shown(middle) else (middle, enough)
    return enough - present


def _first_rank_in_tail(count: int, fraction: float, tail: float) -> int:
    """The smallest s with P(B ≥ s) ≤ tail; count + 1 where only P(B ≥ count + 1) = 0 is that small."""
    mode = min(count, math.floor((count + 1) * fraction))
    above = _falling(count, fraction, mode)
    below = _falling(count, 1 - fraction, count - mode)[1:]
    allowed = tail * (math.fsum(above) + math.fsum(below))
    tails = accumulate(reversed(above))  # P(B ≥ s), unscaled, from the far end inwards
    return mode + len(above) - sum(mass <= allowed for mass in tails)


def _falling(count: int, fraction: float, mode: int) -> list[float]:
    """The probabilities of mode, mode + 1, …, divided by the first, as far as they matter."""
    odds = fraction / (1 - fraction)
    weights, weight = [1.0], 1.0
    for successes in range(mode, count):
        weight *= (count - successes) / (successes + 1) * odds
        if weight < _NEGLIGIBLE:
            break
        weights.append(weight)
    return weights
