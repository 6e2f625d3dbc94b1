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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from autopack.analysis.accuracy import quantile
from autopack.analysis.intervals import quantile_ranks, wilson_interval
from autopack.analysis.samples import Samples
from autopack.telemetry.metrics import smape

WORST_SMAPE_PERCENT = 200.0

_UNDER, _MAYBE_UNDER, _TRUNCATED, _OVER, _MAYBE_OVER = 1, 2, 4, 8, 16


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
class Quantile:
    """A quantile's fraction, and the values it is taken of, ascending: each at its least and at its largest."""

    fraction: float
    least: Sequence[float]
    largest: Sequence[float]
    undetermined: int


class Measurer:
    """Computes the figures of groups of the same samples: what a sample says is worked out once."""

    def __init__(self, samples: Samples, *, underestimation_factor: float, level: float) -> None:
        self._level = level
        self._success, self._truncated = samples.success, samples.truncated
        self._risks = bytes(
            _risk(p, a, b, cut, underestimation_factor)
            for p, a, b, cut in zip(
                samples.predicted, samples.actual, samples.budget, samples.truncated, strict=True
            )
        )  # fmt: skip
        self._predicted, self._actual = samples.predicted, samples.actual

    def measure(self, rows: Sequence[int]) -> Measures:
        """The figures of these samples, named by their place in the columns."""
        risks = Counter(map(self._risks.__getitem__, rows))
        successes = [row for row in rows if self._success[row]]
        return Measures(
            n=len(rows),
            successes=len(successes),
            underestimation_percent=self._share(risks, _UNDER, _MAYBE_UNDER),
            truncation_percent=self._share(risks, _TRUNCATED, 0),
            budget_overrun_percent=self._share(risks, _OVER, _MAYBE_OVER),
            waste_p90=self._quantile(self.wastes(successes)),
            smape_median_percent=self._quantile(self.smapes(successes)),
        )

    def wastes(self, rows: Sequence[int]) -> Quantile:
        """The waste of these samples."""
        exact, cut = self._divided(rows)
        predicted, actual = self._predicted, self._actual
        values = array("d", sorted([predicted[row] / actual[row] for row in exact]))
        bounds = [(0.0, predicted[row] / actual[row]) for row in cut]
        return _with_bounds(0.9, values, bounds)

    def smapes(self, rows: Sequence[int]) -> Quantile:
        """The SMAPE of these samples, in percent."""
        exact, cut = self._divided(rows)
        predicted, actual = self._predicted, self._actual
        values = array("d", sorted([smape(predicted[row], actual[row]) for row in exact]))
        bounds = [(smape(predicted[row], max(predicted[row], actual[row])), WORST_SMAPE_PERCENT) for row in cut]
        return _with_bounds(0.5, values, bounds)

    def _divided(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        truncated = self._truncated
        return [row for row in rows if not truncated[row]], [row for row in rows if truncated[row]]

    def _share(self, risks: Counter[int], certain: int, possible: int) -> Estimate:
        trials = risks.total()
        events = sum(count for risk, count in risks.items() if risk & certain)
        undetermined = sum(count for risk, count in risks.items() if risk & possible)
        best = wilson_interval(events, trials, self._level)
        worst = wilson_interval(events + undetermined, trials, self._level)
        return Estimate(
            n=trials,
            events=events,
            undetermined=undetermined,
            point=events * 100 / trials if trials else None,
            worst=(events + undetermined) * 100 / trials if trials else None,
            lower=best[0] * 100 if best else None,
            upper=worst[1] * 100 if worst else None,
        )

    def _quantile(self, of: Quantile) -> Estimate:
        lower, upper = quantile_ranks(len(of.least), of.fraction, self._level)
        return Estimate(
            n=len(of.least),
            events=None,
            undetermined=of.undetermined,
            point=quantile(of.least, of.fraction),
            worst=quantile(of.largest, of.fraction),
            lower=None if lower is None else of.least[lower - 1],
            upper=None if upper is None else of.largest[upper - 1],
        )


def _risk(predicted: int, actual: int, budget: int, truncated: int, factor: float) -> int:
    # A quotient is rounded once, and so compares exactly with a factor such as 1.1; a product would not.
    under, over = actual / predicted > factor, actual > budget
    if truncated:
        return _TRUNCATED | (_UNDER if under else _MAYBE_UNDER) | (_OVER if over else _MAYBE_OVER)
    return _UNDER * under | _OVER * over


def _with_bounds(fraction: float, exact: array[float], bounds: Sequence[tuple[float, float]]) -> Quantile:
    if not bounds:
        return Quantile(fraction, exact, exact, 0)
    least = sorted([*exact, *(low for low, _ in bounds)])
    largest = sorted([*exact, *(high for _, high in bounds)])
    return Quantile(fraction, least, largest, len(bounds))
