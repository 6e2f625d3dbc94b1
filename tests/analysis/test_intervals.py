"""Intervals: equal to SciPy's, covering at their level, and honest about how many samples a claim takes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]  # it ships no types

from autopack.analysis.validating.intervals import quantile_ranks, samples_until, wilson_interval

LEVELS = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99])
FRACTIONS = st.sampled_from([0.01, 0.1, 0.5, 0.9, 0.99])


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), LEVELS)
def test_wilsons_interval_is_scipys(trials: int, share: float, level: float) -> None:
    events = round(trials * share)
    expected = stats.binomtest(events, trials).proportion_ci(level, method="wilson")
    assert wilson_interval(events, trials, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_no_trials_there_is_no_interval() -> None:
    assert wilson_interval(0, 0, 0.95) is None
    assert quantile_ranks(0, 0.5, 0.95) == (None, None)


@settings(deadline=None)
@given(st.integers(0, 2000), FRACTIONS, LEVELS)
def test_the_ranks_are_the_innermost_that_leave_each_tail_its_half(count: int, fraction: float, level: float) -> None:
    tail, (lower, upper) = (1 - level) / 2, quantile_ranks(count, fraction, level)
    below = stats.binom(count, fraction)
    last = count + 1 if upper is None else upper
    assert below.sf(last - 1) <= tail * (1 + 1e-9)
    assert last == 0 or below.sf(last - 2) > tail * (1 - 1e-9)
    first = lower or 0
    assert below.cdf(first - 1) <= tail * (1 + 1e-9)
    assert below.cdf(first) > tail * (1 - 1e-9)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 1023).map(lambda k: k / 1024), LEVELS)  # of which 1 - f is exact
def test_the_interval_of_a_quantile_mirrors_that_of_its_opposite(count: int, fraction: float, level: float) -> None:
    lower, upper = quantile_ranks(count, fraction, level)
    opposite_lower, opposite_upper = quantile_ranks(count, 1 - fraction, level)
    assert lower == (None if opposite_upper is None else count + 1 - opposite_upper)
    assert upper == (None if opposite_lower is None else count + 1 - opposite_lower)


@pytest.mark.parametrize("count", [40, 200, 1000])
@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_a_quantiles_interval_covers_at_its_level_in_simulation(count: int, fraction: float) -> None:
    """In simulation, a quantile's interval covers the true value at least as often as its level says."""
    rounds, truth = 4000, float(stats.lognorm(0.8).ppf(fraction))
    values = np.sort(np.random.default_rng(7).lognormal(0, 0.8, (rounds, count)), axis=1)
    lower, upper = quantile_ranks(count, fraction, 0.95)
    assert lower is not None
    assert upper is not None
    covered = ((values[:, lower - 1] <= truth) & (truth <= values[:, upper - 1])).mean()
    assert covered >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / rounds)
    assert covered <= 0.985  # and is no wider than whole ranks make it


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 800), st.floats(0.02, 0.5), st.integers(0, 2**32 - 1))
def test_in_simulation_a_shares_interval_covers_about_at_its_level(trials: int, share: float, seed: int) -> None:
    """Wilson's is right on average over shares; at single ones it swings around the level, down to 0.895 here."""
    rounds = 2000
    events = np.random.default_rng(seed).binomial(trials, share, rounds)
    bounds = {int(k): wilson_interval(int(k), trials, 0.95) for k in set(events)}
    covered = np.mean([bound[0] <= share <= bound[1] for k in events if (bound := bounds[int(k)])])
    assert covered >= 0.895 - 4 * math.sqrt(0.895 * 0.105 / rounds)


def test_averaged_over_shares_the_coverage_is_the_level() -> None:
    shares = np.linspace(0.01, 0.99, 197)
    coverage = []
    for share in shares:
        bounds = [wilson_interval(k, 100, 0.95) or (0, 0) for k in range(101)]
        weights = stats.binom(100, share).pmf(range(101))
        coverage.append(sum(w for w, (low, high) in zip(weights, bounds, strict=True) if low <= share <= high))
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.005)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 2000))
def test_how_many_more_is_what_counting_up_one_by_one_finds(present: int, enough: int) -> None:
    asked: list[int] = []

    def shown(count: int) -> bool:
        asked.append(count)
        return count >= enough

    assert samples_until(shown, present) == max(1, enough - present)
    assert len(asked) < 40


def test_what_no_number_of_samples_shows_is_none() -> None:
    assert samples_until(lambda _: False, 5) is None


def test_a_rate_of_two_percent_takes_189_samples_and_a_p90_36() -> None:
    """A rate of two percent takes 189 samples at least, and a P90 takes 36."""

    def rate_is_shown(count: int) -> bool:
        interval = wilson_interval(0, count, 0.95)
        return interval is not None and interval[1] <= 0.02

    assert samples_until(rate_is_shown, 0) == 189
    assert samples_until(lambda count: quantile_ranks(count, 0.9, 0.95)[1] is not None, 0) == 36
    assert 1 - 0.9**36 >= 0.975 > 1 - 0.9**35


def test_ranks_of_a_million_values_are_found_at_once() -> None:
    lower, upper = quantile_ranks(1_000_000, 0.9, 0.95)
    assert (lower, upper) == (
        int(stats.binom(1_000_000, 0.9).ppf(0.025)),
        int(stats.binom(1_000_000, 0.9).isf(0.025)) + 1,
    )
