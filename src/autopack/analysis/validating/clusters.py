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
same with its indicator for z, and takes the smaller n_eff of the two. The intervals are for

    n* = max(1, n_eff · (z_level / t_df)²),  df = min(phases, runs) - 1

as a variance of few clusters is itself uncertain (Korn and Graubard 1998; for evaluations of models: Miller 2024,
arXiv 2411.00640). Where every sample is its own phase and run, n* = n. Below five runs, and where D ≤ 0 (a single phase
or a single run), nothing can be told.

*Arithmetic.* z is rounded to 2^-30, so that every sum is a whole number and does not depend on the order of samples.
The counts and sums of a cluster are packed into one such number, which is added to at once.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from statistics import NormalDist
from typing import Literal, NamedTuple

import msgspec

from autopack.analysis.sampling.samples import Samples
from autopack.analysis.validating.student import t_quantile

LEAST_RUNS = 5

Population = Literal["new", "plan"]
"""What a verdict is about: also phases that were not there (`new`), or future runs of these phases only (`plan`)."""

INDICATORS = ("under", "worst_under", "over", "worst_over", "truncated")
"""The rates of which clusters are looked at; `worst_…` count what truncated replies leave open as well."""

_SCALE = 1 << 30
_OFFSET = 1 << 36  # the largest logarithm, ln 2^53, is below 2^6
_WIDTH, _WIDE = 32, 72
_COUNT_MASK, _SUM_MASK = (1 << _WIDTH) - 1, (1 << _WIDE) - 1
_SUCCESSES_AT = _WIDTH * (1 + len(INDICATORS))
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
    quantiles: float | None


Vector = tuple[int, ...]
"""Of the clusters of one kind: their number, Σ n², then Σ n·S and Σ S² of z and of each indicator; the same four of z
over the successes.
"""

_NO_CLUSTERS: Vector = (0,) * (2 + 2 * (1 + len(INDICATORS)) + 4)


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
        every = _Moments(n, total, self.squares, self.phases[:4], self.runs[:4])
        own = every.n_effective()
        shares: dict[str, float | None] = {}
        for place, (name, count) in enumerate(zip(INDICATORS, events, strict=True)):
            effective = own
            if 0 < count < n and own is not None:
                of_rate = _Moments(n, count, count, _of(self.phases, place), _of(self.runs, place)).n_effective()
                effective = own if of_rate is None else min(own, of_rate)
            shares[name] = every.size(effective, level)
        of_successes = _Moments(successes, success_total, self.success_squares, self.phases[-4:], self.runs[-4:])
        return Sizes(
            clusters=_described(every, own, level, self.kinds),
            shares=shares,
            quantiles=of_successes.size(of_successes.n_effective(), level),
        )


class Tallies:
    """The tallies of all groups that a verdict needs, from one look at each sample.

    `strata` are those that count as the whole. For a `population` of `plan` every sample is a phase of its own.
    """

    def __init__(
        self, samples: Samples, *, underestimation_factor: float, recent_since_s: float, population: Population
    ) -> None:
        self._strata_count = max(1, len(samples.strata))
        self._cells: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * 9)
        self._phases: defaultdict[int, int] = defaultdict(int)
        self._runs: defaultdict[int, int] = defaultdict(int)
        self._phase_stratum: dict[int, int] = {}
        self._kinds = _kinds(samples) if population == "plan" else {}
        self._add(samples, underestimation_factor, recent_since_s, with_phases=population == "new")

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

    def _add(self, samples: Samples, factor: float, recent_since_s: float, *, with_phases: bool) -> None:
        increments, log = _increments(), math.log
        phases, runs, strata = self._phases, self._runs, self._strata_count
        if with_phases:
            self._phase_stratum = dict(zip(samples.phase, samples.stratum, strict=True))
        for stratum, at_s, predicted, actual, budget, nearest, success, truncated, phase, run in zip(
            samples.stratum,
            samples.at_s,
            samples.predicted,
            samples.actual,
            samples.budget,
            samples.nearest,
            samples.success,
            samples.truncated,
            samples.phase,
            samples.run,
            strict=True,
        ):
            period = 0 if at_s < recent_since_s else 1 if at_s < math.inf else 2
            ratio = actual / predicted
            z = round(log(ratio) * _SCALE)
            increment, wide = increments[
                (ratio > factor) | (nearest > budget) << 1 | truncated << 2 | success << 3  # flags are 0 and 1
            ]
            increment += (z + _OFFSET) * wide
            cell = self._cells[stratum, period]
            cell[0] += increment
            cell[1] += z * z
            if success:
                cell[2] += z * z
            if phase < 0 or not with_phases:
                cell[3] += increment
                cell[4] += z * z
                if success:
                    cell[5] += z * z
            else:
                phases[phase * 3 + period] += increment
            if run < 0:
                cell[6] += increment
                cell[7] += z * z
                if success:
                    cell[8] += z * z
            else:
                runs[(run * strata + stratum) * 3 + period] += increment

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


def _of(vector: Vector, place: int) -> Vector:
    """The sums of one indicator."""
    return (*vector[:2], *vector[4 + 2 * place : 6 + 2 * place])


def _increments() -> list[tuple[int, int]]:
    """By the flags under 1, over 2, truncated 4, success 8: what one sample adds to the counts, and the place of z."""
    found = []
    for flags in range(16):
        under, over, cut, success = (flags >> bit & 1 for bit in range(4))
        counts = (1, under, under | cut, over, over | cut, cut, success)
        packed = sum(count << _WIDTH * place for place, count in enumerate(counts))
        found.append((packed, (1 << _SUM_AT) + (success << _SUCCESS_SUM_AT)))
    return found


def _unpacked(packed: int) -> Sequence[int]:
    """n, the events of each indicator, the successes, Σ z and Σ z of the successes."""
    counts = [packed >> _WIDTH * place & _COUNT_MASK for place in range(2 + len(INDICATORS))]
    total = (packed >> _SUM_AT & _SUM_MASK) - counts[0] * _OFFSET
    success_total = (packed >> _SUCCESS_SUM_AT) - counts[-1] * _OFFSET
    return [*counts, total, success_total]


def _vector(alone: Sequence[int], clusters: Iterable[int]) -> Vector:
    """The sums over clusters of several samples, and over those that are `alone`: their sum, Σ z², and of successes."""
    packed, squares, success_squares = alone
    n, *events, successes, total, success_total = _unpacked(packed)
    sums = [n, n, total, squares]
    for count in events:
        sums += [count, count]
    sums += [successes, successes, success_total, success_squares]
    for each in clusters:
        n, *events, successes, total, success_total = _unpacked(each)
        found = [1, n * n, n * total, total * total]
        for count in events:
            found += [n * count, count * count]
        found += [successes > 0, successes * successes, successes * success_total, success_total * success_total]
        sums = list(map(add, sums, found))
    return tuple(sums)
