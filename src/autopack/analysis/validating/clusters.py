"""How many independent samples a group of samples is worth. Pure.

The same phases are run every night, and one night has one state of the code and of the model: samples of one phase, and
samples of one run, resemble each other. What a group says is as certain as if it had fewer, independent samples. With
z = ln(actual / predicted), of a truncated reply its bound, y = z - mean, and sums over the n samples, over the samples
of each phase and over those of each run

    q = Σ y²    A = Σ_phases (Σ y)²    B = Σ_runs (Σ y)²    a = Σ n_phase²    b = Σ n_run²
    D = n² + n - a - b
    V = max((A + B - q) / D, A / n², B / n², q / n²)     the variance of the mean, clustered both ways
    T = q / n + V                                        the variance of one sample
    n_eff = min(n, max(1, T / V))

V is Cameron, Gelbach and Miller's two-way cluster variance (2011) of a mean with their small-sample correction replaced
by D, which leaves out the pairs that y = z - mean has lost, and not below either one-way variance. Where all z are
equal there is no variance to tell by, and n_eff is the smaller number of clusters. A rate with 0 < events < n has the
same with its indicator for z, and takes the smaller n_eff of the two; a quantile with the indicator of what is beyond
its limit. The intervals are for

    n* = max(1, n_eff · (z_level / t_df)²),  df = min(phases, runs) - 1

as a variance of few clusters is itself uncertain (Korn and Graubard 1998; for evaluations of models: Miller 2024,
arXiv 2411.00640). Where every sample is its own phase and run, n* = n. Below five runs, and where D ≤ 0 (a single phase
or a single run), nothing can be told.

*Arithmetic.* z is rounded to 2^-30, so that every sum is a whole number and does not depend on the order of samples.
The counts and sums of a cluster are packed into one such number, which is added to at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import add
from statistics import NormalDist
from typing import Literal, NamedTuple

import msgspec

from autopack.analysis.sampling.samples import Samples
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.student import t_quantile
from autopack.estimation.metrics import WORST_SMAPE_PERCENT

LEAST_RUNS = 5

Population = Literal["new", "plan"]
"""What a verdict is about: also phases that were not there (`new`), or future runs of these phases only (`plan`)."""

INDICATORS = ("under", "worst_under", "over", "worst_over", "truncated")
"""The rates of which clusters are looked at; `worst_…` count what truncated replies leave open as well."""

OF_SUCCESSES = ("waste_p90", "smape_median_percent")
"""The quantiles of successes: those beyond the limit are a rate among them, counted at the worse side."""

_SCALE = 1 << 30
_OFFSET = 1 << 36  # the largest logarithm, ln 2^53, is below 2^6
_WIDTH, _WIDE = 32, 72
_COUNT_MASK, _SUM_MASK = (1 << _WIDTH) - 1, (1 << _WIDE) - 1
_EVENTS = len(INDICATORS) + len(OF_SUCCESSES)
_SUCCESSES_AT = _WIDTH * (1 + _EVENTS)
_EVENTS_MASK = ((1 << _WIDTH * _EVENTS) - 1) << _WIDTH
_SUM_AT = _SUCCESSES_AT + _WIDTH
_SUCCESS_SUM_AT = _SUM_AT + _WIDE


class Clusters(msgspec.Struct, frozen=True, kw_only=True):
    """What stands behind the samples of a group, as the logarithms of actual / predicted tell it.

    kinds               distinct phases, also where a population of `plan` makes every sample a phase of its own
    n_effective         how many independent samples they are worth; None where that cannot be told
    design_effect       samples for each of those
    phase_correlation   of two samples of a phase, 0 … 1, and `run_correlation` of two of a run; None without such pairs
    reach               the most that `size` can come to by more runs of these phases; None where there is no such end
    """

    phases: int
    kinds: int
    runs: int
    n_effective: float | None
    design_effect: float | None
    phase_correlation: float | None
    run_correlation: float | None
    reach: float | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """n* of a group: of its rates, by the numbers of their events, and of the quantiles of its successes.

    None where there are too few clusters.
    """

    clusters: Clusters | None
    shares: dict[str, float | None]
    quantiles: dict[str, float | None]


Vector = tuple[int, ...]
"""Of the clusters of one kind: their number, Σ n², then Σ n·S and Σ S² of z and of each indicator; the same over the
successes.
"""

_OF_ALL = 2 + 2 * (1 + len(INDICATORS))
_NO_CLUSTERS: Vector = (0,) * (_OF_ALL + 2 + 2 * (1 + len(OF_SUCCESSES)))


class _Moments(NamedTuple):
    """Of one variable: n, Σ v, Σ v², and over phases and over runs: how many, Σ n², Σ n·S, Σ S²."""

    n: int
    total: int
    squares: int
    phases: Vector
    runs: Vector

    @property
    def is_apart(self) -> bool:
        """Whether every sample is its own phase and its own run."""
        return self.phases[0] == self.runs[0] == self.n

    def variances(self) -> tuple[float, float, float, float] | None:
        """Q / n, A / n², B / n² and V; None where there are too few clusters."""
        n, total = self.n, self.total
        pairs = n * n + n - self.phases[1] - self.runs[1]
        if pairs <= 0:
            return None
        scale = n**4
        around = n * self.squares - total * total  # n · q
        of_phases, of_runs = (self._between(sums) for sums in (self.phases, self.runs))  # n² · A, n² · B
        both = (of_phases + of_runs - n * around) / (n * n * pairs)
        single = around / n**2
        least = max(both, of_phases / scale, of_runs / scale, around / n**3)
        return single, of_phases / scale, of_runs / scale, least

    def n_effective(self) -> float | None:
        """The formula at the top of this module."""
        if self.is_apart:
            return float(self.n) if self.n else None
        found = self.variances()
        if found is None:
            return None
        single, _, _, least = found
        if not single:
            return float(min(self.phases[0], self.runs[0]))
        return min(float(self.n), max(1.0, (single + least) / least))

    def size(self, n_effective: float | None, level: float) -> float | None:
        """n* of an n_eff at a level of the intervals."""
        if self.is_apart:
            return self.n or None
        fewest = min(self.phases[0], self.runs[0])
        if n_effective is None or self.runs[0] < LEAST_RUNS or fewest <= 1:
            return None
        return max(1.0, n_effective * _penalty(fewest - 1, level))

    def correlation(self, sums: Vector) -> float | None:
        """Of two samples of one cluster; None where no cluster has two."""
        pairs, found = sums[1] - self.n, self.variances()
        if pairs <= 0 or found is None or not found[0]:
            return None
        single, _, _, least = found
        around = self.n * self.squares - self.total * self.total
        within = (self._between(sums) - self.n * around) / (self.n * self.n * pairs)
        return min(1.0, max(0.0, (within + least) / (single + least)))

    def _between(self, sums: Vector) -> int:
        """n² · Σ (Σ y)² over the clusters, exactly."""
        _, squares, crossed, own = sums
        n, total = self.n, self.total
        return n * n * own - 2 * n * total * crossed + total * total * squares


@dataclass(frozen=True, slots=True)
class Tally:
    """What the sizes of one group follow from: packed sums over its samples, Σ z² of all and of the successes, and the
    sums over its phases and runs.
    """

    packed: int = 0
    squares: int = 0
    success_squares: int = 0
    phases: Vector = _NO_CLUSTERS
    runs: Vector = _NO_CLUSTERS
    kinds: int | None = None

    def sizes(self, level: float) -> Sizes:
        """The sizes for intervals of this level."""
        n, *events, successes, total, success_total = _unpacked(self.packed)
        of_all, of_successes = events[: len(INDICATORS)], events[len(INDICATORS) :]
        every = _Moments(n, total, self.squares, self.phases[:4], self.runs[:4])
        good = _Moments(
            successes,
            success_total,
            self.success_squares,
            self.phases[_OF_ALL : _OF_ALL + 4],
            self.runs[_OF_ALL : _OF_ALL + 4],
        )
        own = every.n_effective()
        return Sizes(
            clusters=_described(every, own, level, self.kinds),
            shares={
                name: every.size(_fewer(own, self._indicator(n, count, place, 0)), level)
                for place, (name, count) in enumerate(zip(INDICATORS, of_all, strict=True))
            },
            quantiles={
                name: good.size(_fewer(good.n_effective(), self._indicator(successes, count, place, _OF_ALL)), level)
                for place, (name, count) in enumerate(zip(OF_SUCCESSES, of_successes, strict=True))
            },
        )

    def _indicator(self, n: int, count: int, place: int, start: int) -> float | None:
        """The n_eff by an indicator; None where it tells nothing."""
        if not 0 < count < n:
            return None
        sums = (_of(vector, start, place) for vector in (self.phases, self.runs))
        return _Moments(n, count, count, *sums).n_effective()


class Tallies:
    """The tallies of all groups that a verdict needs, from one look at each sample.

    For a `population` of `plan` every sample is a phase of its own.
    """

    def __init__(self, samples: Samples, rules: Rules, *, recent_since_s: float) -> None:
        self._strata_count = max(1, len(samples.strata))
        self._cells: dict[tuple[int, int], list[int]] = {}
        self._phases: defaultdict[int, int] = defaultdict(int)
        self._runs: defaultdict[int, int] = defaultdict(int)
        self._phase_stratum: dict[int, int] = {}
        self._kinds = _kinds(samples) if rules.population == "plan" else {}
        self._add(samples, rules, recent_since_s, with_phases=rules.population == "new")

    def by_stratum(self) -> dict[int, Tally]:
        """A tally of each stratum."""
        members: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for stratum, period in self._cells:
            members[stratum].append((stratum, period))
        phases = self._by_stratum(
            ((key // 3, self._phase_stratum[key // 3], packed) for key, packed in self._phases.items())
        )
        runs = self._by_stratum(
            (
                (key // 3 // self._strata_count, key // 3 % self._strata_count, packed)
                for key, packed in self._runs.items()
            )
        )
        return {
            stratum: self._tally(cells, phases.get(stratum, {}).values(), runs.get(stratum, {}).values(), [stratum])
            for stratum, cells in members.items()
        }

    def of(self, strata: Collection[int] | None, period: int | None = None) -> Tally:
        """The tally of these strata (None: all), of one period or of all."""
        cells = [
            (stratum, when)
            for stratum, when in self._cells
            if (strata is None or stratum in strata) and period in (None, when)
        ]
        phases: defaultdict[int, int] = defaultdict(int)
        for key, packed in self._phases.items():
            phase, when = divmod(key, 3)
            if (strata is None or self._phase_stratum[phase] in strata) and period in (None, when):
                phases[phase] += packed
        runs: defaultdict[int, int] = defaultdict(int)
        for key, packed in self._runs.items():
            place, when = divmod(key, 3)
            run, stratum = divmod(place, self._strata_count)
            if (strata is None or stratum in strata) and period in (None, when):
                runs[run] += packed
        return self._tally(cells, phases.values(), runs.values(), strata)

    def _add(self, samples: Samples, rules: Rules, recent_since_s: float, *, with_phases: bool) -> None:
        named = _thresholds(rules)
        thresholds, increments, log = [value for value, _ in named], _increments(named), math.log
        phases, runs, strata = self._phases, self._runs, self._strata_count
        if with_phases:
            self._phase_stratum = dict(zip(samples.phase, samples.stratum, strict=True))
        # Of each stratum and period, by success and by whether a sample is alone in its phase and in its run.
        packed, squares = [0] * (24 * strata), [0] * (24 * strata)
        for stratum, at_s, predicted, actual, budget, nearest, success, truncated, phase, run in zip(
            samples.stratum,
            samples.at_s,
            samples.predicted,
            samples.actual,
            samples.budget,
            samples.nearest,
            samples.success,
            samples.truncated,
            samples.phase if with_phases else repeat(-1, len(samples)),
            samples.run,
            strict=True,
        ):
            period = 0 if at_s < recent_since_s else 1 if at_s < math.inf else 2
            ratio = actual / predicted
            z = round(log(ratio) * _SCALE)
            increment, wide = increments[
                bisect_left(thresholds, ratio) << 3 | (nearest > budget) | truncated << 1 | success << 2  # 0 and 1
            ]
            increment += (z + _OFFSET) * wide
            place = (stratum * 3 + period) * 8 + success * 4
            if phase < 0:
                place += 2
            else:
                phases[phase * 3 + period] += increment
            if run < 0:
                place += 1
            else:
                runs[(run * strata + stratum) * 3 + period] += increment
            packed[place] += increment
            squares[place] += z * z
        for cell in range(3 * strata):
            if any(packed[8 * cell : 8 * cell + 8]):
                self._cells[divmod(cell, 3)] = _cell(packed[8 * cell : 8 * cell + 8], squares[8 * cell : 8 * cell + 8])

    def _by_stratum(self, clusters: Iterable[tuple[int, int, int]]) -> dict[int, dict[int, int]]:
        found: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        for cluster, stratum, packed in clusters:
            found[stratum][cluster] += packed
        return dict(found)

    def _tally(
        self,
        cells: Iterable[tuple[int, int]],
        phases: Iterable[int],
        runs: Iterable[int],
        strata: Collection[int] | None,
    ) -> Tally:
        sums = [0] * 9
        for cell in cells:
            sums = list(map(add, sums, self._cells[cell]))
        return Tally(
            packed=sums[0],
            squares=sums[1],
            success_squares=sums[2],
            phases=_vector(sums[3:6], phases),
            runs=_vector(sums[6:9], runs),
            kinds=sum(count for stratum, count in self._kinds.items() if strata is None or stratum in strata)
            if self._kinds
            else None,
        )


def _cell(packed: Sequence[int], squares: Sequence[int]) -> list[int]:
    """Packed sums, Σ z², and Σ z² of the successes: of all, of those alone in their phase, of those alone in their run.

    Given by three bits: success, alone in its phase, alone in its run.
    """
    found: list[int] = []
    for alone in (0, 2, 1):
        of = [place for place in range(8) if place & alone == alone]
        found += [
            sum(packed[place] for place in of),
            sum(squares[place] for place in of),
            sum(squares[place] for place in of if place & 4),
        ]
    return found


def _described(moments: _Moments, n_effective: float | None, level: float, kinds: int | None) -> Clusters | None:
    if not moments.n:
        return None
    by_phase, by_run = (moments.correlation(sums) for sums in (moments.phases, moments.runs))
    count, squares = moments.phases[:2]
    reach = None
    if by_phase and count < moments.n and count > 1:
        reach = moments.n**2 / (squares * by_phase) * _penalty(count - 1, level)
    return Clusters(
        phases=count,
        kinds=count if kinds is None else kinds,
        runs=moments.runs[0],
        n_effective=n_effective,
        design_effect=None if n_effective is None else moments.n / n_effective,
        phase_correlation=by_phase,
        run_correlation=by_run,
        reach=reach,
    )


def _kinds(samples: Samples) -> Mapping[int, int]:
    """How many distinct phases each stratum has."""
    alone = Counter(stratum for stratum, phase in zip(samples.stratum, samples.phase, strict=True) if phase < 0)
    several = {phase: stratum for stratum, phase in zip(samples.stratum, samples.phase, strict=True) if phase >= 0}
    return alone + Counter(several.values())


def _penalty(degrees: int, level: float) -> float:
    """What a variance of few clusters costs: (z / t)²."""
    return (NormalDist().inv_cdf((1 + level) / 2) / t_quantile(degrees, level)) ** 2


def _fewer(own: float | None, of_rate: float | None) -> float | None:
    return own if own is None or of_rate is None else min(own, of_rate)


def _of(vector: Vector, start: int, place: int) -> Vector:
    """The sums of one indicator; those of successes `start` behind those of all."""
    at = start + 4 + 2 * place
    return (*vector[start : start + 2], *vector[at : at + 2])


def _increments(thresholds: Sequence[tuple[float, str]]) -> list[tuple[int, int]]:
    """By the number of thresholds below actual / predicted, times 8, and the flags over 1, truncated 2, success 4: what
    one sample adds to the counts, and the place of z.
    """
    found = []
    for number in range(8 * (1 + len(thresholds))):
        passed = {name for _, name in thresholds[: number >> 3]}
        over, cut, success = (number >> bit & 1 for bit in range(3))
        under, wastes = "under" in passed, "wasted" not in passed
        errs = cut or "low" not in passed or "high" in passed
        counts = (1, under, under | cut, over, over | cut, cut, success & wastes, success & errs, success)
        packed = sum(int(count) << _WIDTH * place for place, count in enumerate(counts))
        found.append((packed, (1 << _SUM_AT) + (success << _SUCCESS_SUM_AT)))
    return found


def _thresholds(rules: Rules) -> list[tuple[float, str]]:
    """Of actual / predicted, ascending: above them is an underestimation, is no waste, errs by less, or by more."""
    smape = rules.max_smape_median_percent
    widest = (WORST_SMAPE_PERCENT + smape) / (WORST_SMAPE_PERCENT - smape) if smape < WORST_SMAPE_PERCENT else math.inf
    return sorted(
        [
            (rules.underestimation_factor, "under"),
            (1 / rules.max_waste_p90 if rules.max_waste_p90 else math.inf, "wasted"),
            (1 / widest, "low"),
            (widest, "high"),
        ]
    )


def _unpacked(packed: int) -> Sequence[int]:
    """n, the events of each indicator, those of the successes too, the successes, Σ z and Σ z of the successes."""
    counts = [packed >> _WIDTH * place & _COUNT_MASK for place in range(2 + _EVENTS)]
    total = (packed >> _SUM_AT & _SUM_MASK) - counts[0] * _OFFSET
    success_total = (packed >> _SUCCESS_SUM_AT) - counts[-1] * _OFFSET
    return [*counts, total, success_total]


def _vector(alone: Sequence[int], clusters: Iterable[int]) -> Vector:
    """The sums over clusters of several samples, and over those that are `alone`: their sum, Σ z², and of successes."""
    packed, squares, success_squares = alone
    count, *events, successes, total, success_total = _unpacked(packed)
    sizes, crossed, sums = count, total, squares
    success_count = success_sizes = successes
    success_crossed, success_sums = success_total, success_squares
    crossed_events, event_sums = list(events), list(events)
    for each in clusters:
        n, of_successes = each & _COUNT_MASK, each >> _SUCCESSES_AT & _COUNT_MASK
        own = (each >> _SUM_AT & _SUM_MASK) - n * _OFFSET
        count += 1
        sizes += n * n
        crossed += n * own
        sums += own * own
        if of_successes:
            of_them = own if of_successes == n else (each >> _SUCCESS_SUM_AT) - of_successes * _OFFSET
            success_count += 1
            success_sizes += of_successes * of_successes
            success_crossed += of_successes * of_them
            success_sums += of_them * of_them
        if each & _EVENTS_MASK:
            for place in range(_EVENTS):
                found = each >> _WIDTH * (1 + place) & _COUNT_MASK
                crossed_events[place] += (n if place < len(INDICATORS) else of_successes) * found
                event_sums[place] += found * found
    of_events = list(zip(crossed_events, event_sums, strict=True))
    return (
        *(count, sizes, crossed, sums, *chain(*of_events[: len(INDICATORS)])),
        *(success_count, success_sizes, success_crossed, success_sums, *chain(*of_events[len(INDICATORS) :])),
    )
