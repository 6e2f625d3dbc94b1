"""What a margin on the predictions, or on the budgets, would have given; and whether any could meet all limits. Pure.

A margin m multiplies every prediction, and every budget, that the samples have. The figures then follow from the ratios
p / a and b / a. A truncated reply counts against: how much longer it would have been is not known.

Underestimation asks for a large margin, waste and SMAPE for a small one. Where ln(p / a) is normal with a standard
deviation s, the limits u (a share, beyond the factor f), W and S percent leave room only for

    s ≤ (ln((200 + S) / (200 - S)) + ln f) / z(1 - u)   and   s ≤ (ln W + ln f) / (z(1 - u) + z(0.9))

"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import and_, truediv
from statistics import NormalDist

import msgspec

from autopack.analysis.accuracy import quantile
from autopack.analysis.sampling.samples import Samples
from autopack.analysis.validating.rules import FIGURES, Rules
from autopack.estimation.metrics import WORST_SMAPE_PERCENT

SHOWN_MARGINS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)

_STEP = 1.01
_STEPS = 300  # ×/÷ 20
_P90 = 0.9
_BISECTIONS = 50


class MarginRow(msgspec.Struct, frozen=True, kw_only=True):
    """The figures at one margin, at their worse side."""

    margin: float
    underestimation_percent: float
    budget_overrun_percent: float
    waste_p90: float | None
    smape_median_percent: float | None


class Margins(msgspec.Struct, frozen=True, kw_only=True):
    """The curve, and the margin nearest to 1 that keeps every judged limit on these samples (None: none does).

    scatter         by which factor replies differ from their predictions, as e to the standard deviation of logarithms
    most_scatter    the largest one that the limits of the prediction leave room for, where these are judged
    """

    curve: list[MarginRow]
    nearest: float | None
    scatter: float | None
    most_scatter: float | None
    said: str


@dataclass(frozen=True, slots=True)
class _Ratios:
    """Ascending: p / a and b / a of the exact replies, and p / a of the successes among them; and how many were cut."""

    predicted: Sequence[float]
    budget: Sequence[float]
    successes: Sequence[float]
    cut: int
    cut_successes: int

    def row(self, margin: float, rules: Rules) -> MarginRow:
        """The figures at a margin."""
        count = len(self.predicted) + self.cut
        under = bisect_left(self.predicted, 1 / (rules.underestimation_factor * margin))
        over = bisect_left(self.budget, 1 / margin)
        waste = quantile(self.successes, min(1.0, self._place(_P90)))
        return MarginRow(
            margin=margin,
            underestimation_percent=(under + self.cut) / count * 100,
            budget_overrun_percent=(over + self.cut) / count * 100,
            waste_p90=None if waste is None else waste * margin,
            smape_median_percent=self._smape_median(margin),
        )

    def _place(self, fraction: float) -> float:
        """Where among the exact successes the quantile of all is, with those that were cut above it."""
        exact = len(self.successes)
        return fraction * (exact + self.cut_successes - 1) / (exact - 1) if exact > 1 else 0.0

    def _smape_median(self, margin: float) -> float | None:
        exact = len(self.successes)
        rank = math.ceil((exact + self.cut_successes + 1) / 2)
        if not exact or rank > exact:
            return WORST_SMAPE_PERCENT if exact or self.cut_successes else None
        low, high = 0.0, WORST_SMAPE_PERCENT
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            widest = (WORST_SMAPE_PERCENT + middle) / (WORST_SMAPE_PERCENT - middle)
            within = bisect_right(self.successes, widest / margin) - bisect_left(self.successes, 1 / widest / margin)
            low, high = (low, middle) if within >= rank else (middle, high)
        return high


def margins_of(samples: Samples, rules: Rules, judged: Collection[int] | None) -> Margins | None:
    """The curve over the samples of the judged strata (None: all); None of none."""
    ratios = _ratios(samples, judged)
    if not ratios.predicted:
        return None
    scatter = _scatter(ratios.successes)
    most = most_scatter(rules) if rules.rules == "plan" else None
    nearest = next((margin for margin in _candidates() if _keeps(ratios.row(margin, rules), rules)), None)
    return Margins(
        curve=[ratios.row(margin, rules) for margin in SHOWN_MARGINS],
        nearest=nearest,
        scatter=scatter,
        most_scatter=most,
        said=_said(nearest, scatter, most, ratios.cut, rules),
    )


def most_scatter(rules: Rules) -> float | None:
    """The largest scatter, as a factor, for which any margin meets the limits of the prediction; None: any scatter."""
    under, smape = rules.max_underestimation_percent / 100, rules.max_smape_median_percent
    if not 0 < under < 1 / 2 or not 0 < smape < WORST_SMAPE_PERCENT or rules.max_waste_p90 <= 0:
        return None
    normal = NormalDist()
    z = normal.inv_cdf(1 - under)
    factor = math.log(rules.underestimation_factor)
    by_smape = (math.log((WORST_SMAPE_PERCENT + smape) / (WORST_SMAPE_PERCENT - smape)) + factor) / z
    by_waste = (math.log(rules.max_waste_p90) + factor) / (z + normal.inv_cdf(_P90))
    return math.exp(max(0.0, min(by_smape, by_waste)))


def _ratios(samples: Samples, judged: Collection[int] | None) -> _Ratios:
    taken = b"\1" * len(samples) if judged is None else bytes(map(judged.__contains__, samples.stratum))
    exact, cut = (bytes(map(and_, taken, flags)) for flags in (_not(samples.truncated), samples.truncated))
    good = bytes(map(and_, exact, samples.success))
    predicted = _quotients(samples.predicted, samples.actual, exact)
    return _Ratios(
        predicted,
        _quotients(samples.budget, samples.nearest, exact),
        predicted if good == exact else _quotients(samples.predicted, samples.actual, good),
        cut.count(1),
        sum(map(and_, cut, samples.success)),
    )


def _not(flags: bytes) -> bytes:
    return flags.translate(bytes([1, *bytes(255)]))


def _quotients(above: Iterable[int], below: Iterable[int], taken: bytes) -> array[float]:
    """Of those that are taken, ascending."""
    return array("d", sorted(map(truediv, compress(above, taken), compress(below, taken))))


def _scatter(ratios: Sequence[float]) -> float | None:
    """E to the standard deviation of logarithms; `statistics` would take a hundred times as long."""
    if len(ratios) <= 1:
        return None
    logs = tuple(map(math.log, ratios))
    mean = math.fsum(logs) / len(logs)
    return math.exp(math.dist(logs, (mean,) * len(logs)) / math.sqrt(len(logs)))


def _candidates() -> Iterator[float]:
    """Margins, the nearest to 1 first."""
    for step in range(_STEPS):
        yield _STEP**step
        yield _STEP**-step


def _keeps(row: MarginRow, rules: Rules) -> bool:
    for figure in filter(rules.judges, FIGURES):
        value = getattr(row, figure.name, None)  # of truncation there is none: it is the ceiling's doing
        if value is not None and not figure.is_within(value, getattr(rules, figure.limit)):
            return False
    return True


def _said(nearest: float | None, scatter: float | None, most: float | None, cut: int, rules: Rules) -> str:
    what = "predictions and budgets" if rules.rules == "plan" else "budgets"
    if nearest is not None:
        return f"a margin of × {nearest:.3g} on the {what} would have kept these limits" + (
            "; a reply that was cut needed more than its ceiling all the same" if cut else ""
        )
    if scatter is not None and most is not None and scatter > most:
        return (
            f"no margin meets all: the replies scatter by × {scatter:.3g}, × {most:.3g} is the most that these limits "
            "allow"
        )
    because = f": {cut} replies were cut, and what they needed is not known" if cut else ""
    return f"no margin on the {what} meets all of these limits{because}"
