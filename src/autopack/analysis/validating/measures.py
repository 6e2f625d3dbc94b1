"""The five figures that a verdict is about, each with its interval, over any group of samples. Pure.

With p predicted and a actual output tokens and b the selected budget, a sample

    is underestimated   a > factor · p                         (factor 1.1 by default)
    is truncated        the reply stopped at its ceiling
    overruns            a > b
    wastes              p / a                                  successes only
    errs by             |a - p| / max(1, (a + p) / 2) · 100    successes only; percent, 0 … 200

*Censoring.* Of a truncated reply only a lower bound of `a` is known, the count at its ceiling. So

    underestimated, overruns   certain where the bound exceeds the threshold, else undetermined
    wastes                     p / bound is an upper bound; the lower one is 0
    errs by                    the error at the bound is a lower bound where bound ≥ p, else it is 0, since the reply
                               may have come to p exactly; the upper bound is 200

Each figure is therefore computed twice, with every censored value at the side that favours the estimator (`point`,
`lower`) and at the other (`worst`, `upper`). They agree where nothing is censored, and nothing here treats a bound as
an exact value.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec

from autopack.analysis.accuracy import quantile
from autopack.analysis.validating.cells import Cell
from autopack.analysis.validating.intervals import quantile_ranks, wilson_interval
from autopack.estimation.metrics import smape

WORST_SMAPE_PERCENT = 200.0


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A share in percent, or a quantile, of `n` samples, with its interval at the level that was asked for.

    events          of a share: the samples that certainly are; None of a quantile
    undetermined    truncated samples of which it cannot be told (share), or of which the value is a bound (quantile)
    point, worst    the figure itself, with what is undetermined for and against the estimator; None of no samples
    lower, upper    the ends of the interval, None where there are too few samples for one
    """

    n: int
    events: int | None
    undetermined: int
    point: float | None
    worst: float | None
    lower: float | None
    upper: float | None


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a group: rates over `n` samples, quantiles over the `successes` among them."""

    n: int
    successes: int
    underestimation_percent: Estimate
    truncation_percent: Estimate
    budget_overrun_percent: Estimate
    waste_p90: Estimate
    smape_median_percent: Estimate


@dataclass(frozen=True, slots=True)
class Share:
    """How many of `trials` certainly are, and of how many more it cannot be told."""

    trials: int
    events: int
    undetermined: int = 0

    def estimate(self, level: float) -> Estimate:
        """The share in percent, with Wilson's interval."""
        worst_events = self.events + self.undetermined
        best, worst = (wilson_interval(events, self.trials, level) for events in (self.events, worst_events))
        return Estimate(
            n=self.trials,
            events=self.events,
            undetermined=self.undetermined,
            point=self.events * 100 / self.trials if self.trials else None,
            worst=worst_events * 100 / self.trials if self.trials else None,
            lower=best[0] * 100 if best else None,
            upper=worst[1] * 100 if worst else None,
        )


@dataclass(frozen=True, slots=True)
class Quantile:
    """A fraction, and the values whose quantile is meant, ascending: each at its least and at its largest."""

    fraction: float
    least: Sequence[float]
    largest: Sequence[float]
    undetermined: int

    def estimate(self, level: float) -> Estimate:
        """The quantile, with order statistics as the ends of its interval."""
        lower, upper = quantile_ranks(len(self.least), self.fraction, level)
        return Estimate(
            n=len(self.least),
            events=None,
            undetermined=self.undetermined,
            point=quantile(self.least, self.fraction),
            worst=quantile(self.largest, self.fraction),
            lower=None if lower is None else self.least[lower - 1],
            upper=None if upper is None else self.largest[upper - 1],
        )

    def beyond(self, limit: float, *, strict: bool) -> int:
        """How many values are, or may be, above the limit; with `strict` also those that equal it."""
        return len(self.largest) - (bisect_left if strict else bisect_right)(self.largest, limit)


@dataclass(frozen=True, slots=True)
class Group:
    """What all figures of several cells are made of."""

    underestimation_percent: Share
    truncation_percent: Share
    budget_overrun_percent: Share
    waste_p90: Quantile
    smape_median_percent: Quantile

    def measures(self, level: float) -> Measures:
        """The figures with their intervals."""
        return Measures(
            n=self.truncation_percent.trials,
            successes=len(self.waste_p90.least),
            underestimation_percent=self.underestimation_percent.estimate(level),
            truncation_percent=self.truncation_percent.estimate(level),
            budget_overrun_percent=self.budget_overrun_percent.estimate(level),
            waste_p90=self.waste_p90.estimate(level),
            smape_median_percent=self.smape_median_percent.estimate(level),
        )


def group_of(cells: Iterable[Cell]) -> Group:
    """The cells as one group."""
    parts = list(cells)
    samples = sum(cell.samples for cell in parts)
    cut = [pair for cell in parts for pair in cell.truncated_successes]
    return Group(
        Share(samples, sum(cell.under for cell in parts), sum(cell.maybe_under for cell in parts)),
        Share(samples, sum(cell.truncated for cell in parts)),
        Share(samples, sum(cell.over for cell in parts), sum(cell.maybe_over for cell in parts)),
        _quantile(0.9, [cell.wastes for cell in parts], [(0.0, p / a) for p, a in cut]),
        _quantile(0.5, [cell.smapes for cell in parts], [(smape(p, max(p, a)), WORST_SMAPE_PERCENT) for p, a in cut]),
    )


def _quantile(fraction: float, exact: Sequence[array[float]], bounds: Sequence[tuple[float, float]]) -> Quantile:
    least = _ascending([*exact, sorted(low for low, _ in bounds)])
    largest = _ascending([*exact, sorted(high for _, high in bounds)]) if bounds else least
    return Quantile(fraction, least, largest, len(bounds))


def _ascending(parts: Sequence[Sequence[float]]) -> Sequence[float]:
    """All values in order, of parts that are each in order: sorting merges those; an array takes a quarter of a list's
    memory.
    """
    filled = [part for part in parts if part]
    return filled[0] if len(filled) == 1 else array("d", sorted(chain.from_iterable(filled)))
