"""Effective sample sizes: against sums over pairs, on data with no clusters, and where nothing can be told."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]  # it ships no types
from tests.verdicts import NOW_S, former_rules, sample, verdict_on

from autopack.analysis.sampling.samples import Event
from autopack.analysis.validating.looks import is_shown_at_every_look
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.student import t_quantile
from autopack.analysis.validating.table import before_tables
from autopack.estimation.metrics import smape


def nights(phases: int, runs: int, *, seed: int = 3, **changes: Any) -> list[Event]:
    """A plan that is run every night; replies of a phase, and of a night, resemble each other."""
    rng = np.random.default_rng(seed)
    of_phase, of_run = rng.normal(0, 0.6, phases), rng.normal(0, 0.3, runs)
    return [
        sample(
            1000 * run + phase,
            run_id=f"night-{run}",
            phase_id=f"phase-{phase}",
            category="testing",
            complexity="low",
            actual=int(1000 * math.exp(of_phase[phase] + of_run[run] + rng.normal(0, 0.5))),
            **changes,
        )
        for run in range(runs)
        for phase in range(phases)
    ]


def by_pairs(z: Any, phase: Any, run: Any) -> float:
    """n_eff from the sum over all pairs of samples that share a phase or a run, one after the other."""
    y = z - z.mean()
    n = len(z)
    same_phase, same_run = phase[:, None] == phase[None, :], run[:, None] == run[None, :]
    products = np.outer(y, y)
    q = (y**2).sum()
    of_phases, of_runs = products[same_phase].sum(), products[same_run].sum()
    pairs = n * n + n - same_phase.sum() - same_run.sum()
    v = max((of_phases + of_runs - q) / pairs, of_phases / n**2, of_runs / n**2, q / n**2)
    return float(min(n, max(1, (q / n + v) / v)))


@pytest.mark.parametrize(("phases", "runs"), [(25, 8), (5, 20), (40, 6)])
def test_the_effective_size_is_that_of_sums_over_pairs(phases: int, runs: int) -> None:
    events = [event for number, event in enumerate(nights(phases, runs)) if number % 7]
    clusters = verdict_on(events).overall.clusters
    expected = by_pairs(
        np.log([event.actual / event.predicted for event in events]),
        np.array([event.phase_id for event in events]),
        np.array([event.run_id for event in events]),
    )
    assert clusters is not None
    assert clusters.n_effective == pytest.approx(expected, rel=1e-6)
    assert (clusters.phases, clusters.runs) == (phases, runs)


def test_the_size_of_a_rate_pays_for_few_clusters() -> None:
    validation = verdict_on(nights(25, 8))
    clusters, estimate = validation.overall.clusters, validation.overall.truncation_percent
    assert clusters is not None
    assert clusters.n_effective is not None
    assert estimate.size == pytest.approx(clusters.n_effective * (1.959963985 / stats.t.ppf(0.975, 7)) ** 2)


@pytest.mark.parametrize(
    ("name", "is_beyond"),
    [
        ("waste_p90", lambda event: event.predicted / event.actual >= 3),
        ("smape_median_percent", lambda event: event.truncated or smape(event.predicted, event.actual) > 50),
    ],
)
def test_a_quantile_takes_the_fewer_of_lengths_and_of_its_limit(name: str, is_beyond: Callable[[Event], bool]) -> None:
    """Half of the phases keep to their prediction, the others miss it to either side by chance: no correlation of
    lengths says so. Failed replies are in no quantile.
    """
    rng = np.random.default_rng(2)
    events = [
        sample(
            1000 * run + phase,
            run_id=f"night-{run}",
            phase_id=f"phase-{phase}",
            category="testing",
            complexity="low",
            actual=1300 if phase < 15 else 325 if rng.random() < 0.5 else 5200,
            success=bool(number % 11),
            truncated=number % 97 == 5,
        )
        for number, (run, phase) in enumerate((run, phase) for run in range(12) for phase in range(30))
    ]
    good = [event for event in events if event.success]
    phases, runs = (np.array([getattr(event, of) for event in good]) for of in ("phase_id", "run_id"))
    by_length = by_pairs(np.log([event.actual / event.predicted for event in good]), phases, runs)
    by_limit = by_pairs(np.array([float(is_beyond(event)) for event in good]), phases, runs)
    assert by_limit < 0.9 * by_length
    estimate = getattr(verdict_on(events).overall, name)
    assert estimate.n == len(good)
    assert estimate.size == pytest.approx(by_limit * (1.959963985 / stats.t.ppf(0.975, 11)) ** 2, rel=1e-6)


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 24, 100, 399, 400, 401, 5000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.9999])
def test_the_quantiles_of_student_are_those_of_scipy(degrees: int, level: float) -> None:
    assert t_quantile(degrees, level) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-8)


def test_where_nothing_is_shared_every_sample_counts() -> None:
    events = [sample(number, run_id=f"run-{number}") for number in range(300)]
    found, former = verdict_on(events, Rules(rules="plan", one_look=True)), verdict_on(events, former_rules())
    assert found.overall.truncation_percent == former.overall.truncation_percent
    assert found.overall.waste_p90 == former.overall.waste_p90


def test_where_all_are_equal_the_fewer_clusters_are_what_counts() -> None:
    clusters = verdict_on([event._replace(actual=1100) for event in nights(25, 8)]).overall.clusters
    assert clusters is not None
    assert clusters.n_effective == 8


@pytest.mark.parametrize(("phases", "runs", "missing"), [(25, 4, "1 more run (4 of 5)"), (1, 49, "other phases")])
def test_too_few_runs_or_phases_tell_nothing(phases: int, runs: int, missing: str) -> None:
    validation = verdict_on(nights(phases, runs), Rules(max_truncation_percent=50, max_budget_overrun_percent=50))
    assert validation.verdict == "insufficient data"
    assert any(missing in text for text in validation.missing)


def test_one_phase_of_49_nights_is_refused_with_how_many_it_takes() -> None:
    validation = verdict_on(nights(1, 49))
    assert validation.verdict == "insufficient data"
    assert "a rate of 2 % takes 211 at least" in validation.missing[0]
    assert "too few phases to tell" in before_tables(validation)[1]


def test_the_same_plan_again_may_be_judged_as_that_plan() -> None:
    events = nights(25, 60)
    assert verdict_on(events, Rules()).verdict == "insufficient data"
    plan = verdict_on(events, Rules(population="plan")).overall.clusters
    assert plan is not None
    assert (plan.kinds, plan.phases) == (25, 1500)


def looked(clean: int) -> bool:
    return is_shown_at_every_look(0, clean, 0.02, 0.95)


def test_two_percent_take_211_clean_samples_at_every_look() -> None:
    assert not looked(210)
    assert looked(211)


def test_a_rate_at_the_limit_is_hardly_ever_shown_at_any_of_its_looks() -> None:
    """1,000 histories at the limit, each looked at after each of 1,000 samples: at most 2.5 % are ever shown."""
    bad = np.cumsum(np.random.default_rng(5).random((1000, 1000)) < 0.02, axis=1)
    shown = [
        any(is_shown_at_every_look(int(bad[history, n]), n + 1, 0.02, 0.95) for n in range(99, 1000, 9))
        for history in range(1000)
    ]
    assert np.mean(shown) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 1000)


def test_a_stratum_that_always_fails_does_not_hide() -> None:
    """5 of 5 truncated, among a thousand good phases."""
    events = [sample(number, run_id=f"run-{number % 50}") for number in range(1000)]
    bad = [
        sample(5000 + n, run_id=f"run-{n}", category="docs", complexity="low", truncated=True, actual=8192)
        for n in range(5)
    ]
    validation = verdict_on([*events, *bad])
    assert validation.verdict == "not validated"
    assert any("docs/low" in reason for reason in validation.reasons)
    assert verdict_on([*events, *bad], former_rules(max_smape_median_percent=60)).verdict == "validated"


def test_one_bad_event_is_insufficient_data() -> None:
    assert verdict_on([sample(1, truncated=True)]).verdict == "insufficient data"


def turn(number: int, attempt: int, actual: int, **changes: Any) -> Event:
    return sample(1, attempt=attempt, turn=number, actual=actual, at_s=NOW_S + number + 100 * attempt, **changes)


def test_the_turns_of_an_execution_are_one_sample() -> None:
    """Summed against the prediction, each against its own ceiling; another attempt is no further sample."""
    events = [turn(1, 1, 80), turn(2, 1, 900, budget=850), turn(3, 1, 300), turn(1, 2, 5000)]
    validation = verdict_on(events)
    assert (validation.counts.used, validation.counts.turns, validation.counts.repeated) == (1, 2, 1)
    assert validation.overall.waste_p90.point == pytest.approx(1300 / 1280)
    assert validation.overall.budget_overrun_percent.events == 1


def test_calls_of_generated_phases_are_one_phase_of_each_kind() -> None:
    events = [sample(number, run_id=f"run-{number}", phase_id=f"auto-build-{number:08x}") for number in range(30)]
    clusters = verdict_on([event._replace(category="testing", complexity="low") for event in events]).overall.clusters
    assert clusters is not None
    assert (clusters.phases, clusters.runs) == (1, 30)


def test_work_without_files_counts_where_an_estimator_predicted_it() -> None:
    bare = sample(1, has_paths=False, deliverable_count=0, work=0)
    assert verdict_on([bare]).counts.without_deliverables == 1
    predicted = verdict_on([bare._replace(estimator="0123abcd")])
    assert predicted.counts.used == 1
    assert predicted.strata[0].name.endswith("without files")


def test_another_estimator_is_left_out_and_pooling_is_said() -> None:
    events = [sample(number, estimator=f"{number % 2:08x}") for number in range(40)]
    assert any("2 estimators" in remark for remark in verdict_on(events).remarks)
    one = verdict_on(events, Rules(estimator="00000001"))
    assert (one.counts.used, one.counts.other_estimators) == (20, 20)


def test_limits_that_no_margin_meets_are_said_to_be_so() -> None:
    """Log-normal scatter of 0.61: underestimation <= 5 % and SMAPE <= 50 % leave room for 0.37 only."""
    rng = np.random.default_rng(1)
    events = [
        sample(number, run_id=f"run-{number}", actual=int(1000 * math.exp(rng.normal(0, 0.61))))
        for number in range(400)
    ]
    margins = verdict_on(events, Rules(rules="plan")).margins
    assert margins is not None
    assert margins.nearest is None
    assert margins.most_scatter == pytest.approx(math.exp(0.37), rel=0.02)
    assert "no margin meets all" in margins.said
