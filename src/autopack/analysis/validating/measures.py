"""The five figures that a verdict is about, each with its interval, over any group of samples. Pure.

With p predicted and a actual output tokens and b the selected budget, a sample

    is underestimated   a > factor · p                         (factor 1.1 by default)
    is truncated        the reply stopped at its ceiling
    overruns            a > b, of one of its turns
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
from dataclasses import dataclass, replace
from itertools import chain

import msgspec

from autopack.analysis.accuracy import quantile
from autopack.analysis.validating.cells import Cell
from autopack.analysis.validating.clusters import Clusters, Sizes
from autopack.analysis.validating.intervals import quantile_ranks, wilson_interval
from autopack.estimation.metrics import WORST_SMAPE_PERCENT, smape


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A share in percent, or a quantile, of `n` samples, with its interval at the level that was asked for.

    events          of a share: the samples that certainly are; None of a quantile
    undetermined    truncated samples of which it cannot be told (share), or of which the value is a bound (quantile)
    point, worst    the figure itself, with what is undetermined for and against the estimator; None of no samples
    lower, upper    the ends of the interval, None where there are too few samples for one
    size            how many independent samples the interval is for (n* in `clusters`, of `worst`); None where there
                    are too few runs or phases to tell
    """

    n: int
    events: int | None
    undetermined: int
    point: float | None
    worst: float | None
    lower: float | None
    upper: float | None
    size: float | None


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a group: rates over `n` samples, quantiles over the `successes` among them.

    `clusters` is None where the samples are taken to be independent, and of none.
    """

    n: int
    successes: int
    clusters: Clusters | None
    underestimation_percent: Estimate
    truncation_percent: Estimate
    budget_overrun_percent: Estimate
    waste_p90: Estimate
    smape_median_percent: Estimate


@dataclass(frozen=True, slots=True)
class Share:
    """How many of `trials` certainly are, and of how many more it cannot be told.

    `size` is how many independent trials they are worth, and `worst_size` with those that cannot be told.
    """

    trials: int
    events: int
    undetermined: int
    size: float | None
    worst_size: float | None

    @property
    def bad(self) -> int:
        """Those that are, or may be."""
        return self.events + self.undetermined

    def estimate(self, level: float) -> Estimate:
        """The share in percent, with Wilson's interval."""
        sides = ((self.events, self.size), (self.bad, self.worst_size))
        best, worst = (
            None if size is None else wilson_interval(events, self.trials, level, size) for events, size in sides
        )
        return Estimate(
            n=self.trials,
            events=self.events,
            undetermined=self.undetermined,
            point=self.events * 100 / self.trials if self.trials else None,
            worst=self.bad * 100 / self.trials if self.trials else None,
            lower=best[0] * 100 if best else None,
            upper=worst[1] * 100 if worst else None,
            size=self.worst_size,
        )


@dataclass(frozen=True, slots=True)
class Quantile:
    """A fraction, and the values whose quantile is meant, ascending: each at its least and at its largest.

    `size` is how many independent values they are worth.
    """

    fraction: float
    least: Sequence[float]
    largest: Sequence[float]
    undetermined: int
    size: float | None

    def estimate(self, level: float) -> Estimate:
        """The quantile, with order statistics as the ends of its interval."""
        lower, upper = None, None
        if self.size is not None:
            lower, upper = quantile_ranks(len(self.least), self.fraction, level, self.size)
        return Estimate(
            n=len(self.least),
            events=None,
            undetermined=self.undetermined,
            point=quantile(self.least, self.fraction),
            worst=quantile(self.largest, self.fraction),
            lower=None if lower is None else self.least[lower - 1],
            upper=None if upper is None else self.largest[upper - 1],
            size=self.size,
        )

    def beyond(self, limit: float, *, strict: bool) -> int:
        """How many values are, or may be, above the limit; with `strict` also those that equal it."""
        return len(self.largest) - (bisect_left if strict else bisect_right)(self.largest, limit)


@dataclass(frozen=True, slots=True)
class Group:
    """What all figures of several cells are made of."""

    clusters: Clusters | None
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
            clusters=self.clusters,
            underestimation_percent=self.underestimation_percent.estimate(level),
            truncation_percent=self.truncation_percent.estimate(level),
            budget_overrun_percent=self.budget_overrun_percent.estimate(level),
            waste_p90=self.waste_p90.estimate(level),
            smape_median_percent=self.smape_median_percent.estimate(level),
        )

    def resized(self, sizes: Sizes | None) -> Group:
        """The same samples, worth something else; None: as many as there are."""
        if sizes is None:
            return self
        shares, of_quantiles = sizes.shares, sizes.quantiles
        return Group(
            sizes.clusters,
            replace(self.underestimation_percent, size=shares["under"], worst_size=shares["worst_under"]),
            replace(self.truncation_percent, size=shares["truncated"], worst_size=shares["truncated"]),
            replace(self.budget_overrun_percent, size=shares["over"], worst_size=shares["worst_over"]),
            replace(self.waste_p90, size=of_quantiles["waste_p90"]),
            replace(self.smape_median_percent, size=of_quantiles["smape_median_percent"]),
        )


def group_of(cells: Iterable[Cell], sizes: Sizes | None = None) -> Group:
    """The cells as one group; `sizes` None takes the samples to be independent."""
    parts = list(cells)
    samples = sum(cell.samples for cell in parts)
    cut = [pair for cell in parts for pair in cell.truncated_successes]
    waste_bounds = [(0.0, p / a) for p, a in cut]
    smape_bounds = [(smape(p, max(p, a)), WORST_SMAPE_PERCENT) for p, a in cut]

    def share(events: int, undetermined: int = 0) -> Share:
        return Share(samples, events, undetermined, samples, samples)

    return Group(
        None,
        share(sum(cell.under for cell in parts), sum(cell.maybe_under for cell in parts)),
        share(sum(cell.truncated for cell in parts)),
        share(sum(cell.over for cell in parts), sum(cell.maybe_over for cell in parts)),
        _quantile(0.9, [cell.wastes for cell in parts], waste_bounds),
        _quantile(0.5, [cell.smapes for cell in parts], smape_bounds),
    ).resized(sizes)


def _quantile(fraction: float, exact: Sequence[array[float]], bounds: Sequence[tuple[float, float]]) -> Quantile:
    least = _ascending([*exact, sorted(low for low, _ in bounds)])
    largest = _ascending([*exact, sorted(high for _, high in bounds)]) if bounds else least
    return Quantile(fraction, least, largest, len(bounds), len(least))


def _ascending(parts: Sequence[Sequence[float]]) -> Sequence[float]:
    """All values in order, of parts that are each in order: sorting merges those; an array takes a quarter of a list's
    memory.
    """
    filled = [part for part in parts if part]
    return filled[0] if len(filled) == 1 else array("d", sorted(chain.from_iterable(filled)))
