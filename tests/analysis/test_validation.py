"""The rules, the figures and what is missing, one sample after another: the verdict that knows no clusters. Pure."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.verdicts import DAY_S, NOW_S, former_rules, independent_figures, sample, verdict_on
from tests.verdicts import former_verdict_on as former

from autopack.analysis.sampling.samples import Event
from autopack.analysis.validating.judging import RuleResult, least_samples_for_rate
from autopack.analysis.validating.rules import FIGURES, Rules
from autopack.analysis.validating.validation import Validation


def result(validation: Validation, name: str) -> RuleResult:
    return next(rule for rule in validation.results if rule.name == name)


def missing_strata(validation: Validation) -> dict[str, int]:
    return {stratum.name: stratum.more_needed for stratum in validation.strata if stratum.more_needed}


counts = st.integers(1, 20_000)
events = st.builds(
    sample,
    st.integers(0, 40),
    run_id=st.sampled_from(["a", "b", "imported-log"]),
    phase_id=st.sampled_from(["1", "2", "3", "4", "5", ""]),
    category=st.sampled_from("xyz"),
    complexity=st.sampled_from(["low", "high"]),
    model=st.sampled_from(["m", "m", "m", "simulated-1"]),
    deliverable_count=st.integers(0, 2),
    predicted=st.integers(0, 9000),
    actual=st.integers(0, 9000),
    budget=st.integers(0, 9000),
    success=st.booleans(),
    truncated=st.booleans(),
    at_s=st.sampled_from([math.inf, NOW_S - 60 * DAY_S, NOW_S - 50 * DAY_S, NOW_S - DAY_S, NOW_S + DAY_S]),
    has_paths=st.booleans(),
    is_total=st.sampled_from([False, False, True]),
)


def test_two_hundred_good_samples_validate() -> None:
    validation = former(sample(number) for number in range(200))
    assert (validation.verdict, validation.reasons, validation.missing) == ("validated", [], [])
    assert {rule.outcome for rule in validation.results} == {"pass"}
    assert validation.counts.used == 200


def test_fifty_samples_cannot_show_a_rate_of_two_percent() -> None:
    """With fifty samples a rate of two percent cannot be shown, and the verdict says so."""
    validation = former(sample(number) for number in range(50))
    assert validation.verdict == "insufficient data"
    assert "139 more before a truncation rate of 2 % can be shown, if none of them is bad" in validation.missing
    assert any(
        "cannot be shown with 50 samples: even if it never happens it takes 189" in r for r in validation.remarks
    )


def test_the_number_of_samples_asked_for_is_exactly_enough() -> None:
    """As many more samples as are asked for are enough, and one fewer is not."""
    needed = result(former(sample(number) for number in range(50)), "truncation_percent").more_needed
    assert needed == 139
    assert former(sample(number) for number in range(50 + needed)).verdict == "validated"
    assert former(sample(number) for number in range(50 + needed - 1)).verdict == "insufficient data"


@pytest.mark.parametrize("bad", [1, 3])
def test_also_with_some_bad_ones_as_many_more_are_enough(bad: int) -> None:
    def history(count: int) -> list[Event]:
        return [sample(n, **({"truncated": True, "actual": 9000} if n < bad else {})) for n in range(count)]

    first = result(former(history(200)), "truncation_percent")
    assert first.outcome == "unclear"
    assert first.more_needed is not None
    assert result(former(history(200 + first.more_needed)), "truncation_percent").outcome == "pass"
    assert result(former(history(200 + first.more_needed - 1)), "truncation_percent").outcome == "unclear"


def test_the_successes_asked_for_by_a_quantile_are_exactly_enough() -> None:
    """For a quantile as many more successes as are asked for are enough, and one fewer is not."""

    def history(count: int) -> list[Event]:
        return [sample(n, predicted=9000 if n < 4 else 1300) for n in range(count)]

    first = result(former(history(45)), "waste_p90")
    assert first.outcome == "unclear"
    assert first.more_needed is not None
    assert result(former(history(45 + first.more_needed)), "waste_p90").outcome == "pass"
    assert result(former(history(45 + first.more_needed - 1)), "waste_p90").outcome == "unclear"


def test_a_value_at_a_strict_limit_is_bad_when_more_are_asked_for() -> None:
    """A value at a strict limit is a bad one when more are asked for."""

    def needed(predicted: int) -> int | None:
        history = [sample(n, predicted=predicted if n < 4 else 1300, actual=1000) for n in range(45)]
        return result(former(history), "waste_p90").more_needed

    assert needed(3000) == needed(3001)
    assert needed(2999) is None


def test_provisionally_points_alone_are_compared_and_it_is_said_so() -> None:
    validation = former((sample(number) for number in range(50)), former_rules(provisional=True))
    assert (validation.verdict, validation.provisional, validation.missing) == ("validated", True, [])
    assert any(remark.startswith("PROVISIONAL") for remark in validation.remarks)


def test_what_truncated_replies_hide_is_not_taken_for_good() -> None:
    """A provisional verdict, too, does not take for good what truncated replies hide."""
    history = [sample(n, truncated=n % 10 == 0, actual=1000, budget=1000) for n in range(100)]
    validation = former(history, former_rules(provisional=True, max_truncation_percent=10))
    assert validation.verdict == "insufficient data"
    assert "truncated replies hide whether a budget overrun rate of 2 % holds" in validation.missing


def test_what_is_undetermined_counts_as_bad_when_more_are_asked_for() -> None:
    def overrun(count: int) -> RuleResult:
        history = [sample(n, truncated=n < 3, actual=1000, budget=1100) for n in range(count)]
        return result(former(history), "budget_overrun_percent")

    needed = overrun(200).more_needed
    assert needed is not None
    assert (overrun(200 + needed).outcome, overrun(200 + needed - 1).outcome) == ("pass", "unclear")


def test_provisionally_coverage_is_asked_for_all_the_same() -> None:
    validation = former((sample(number) for number in range(20)), former_rules(provisional=True))
    assert validation.verdict == "insufficient data"
    assert "10 more samples (20 of 30)" in validation.missing


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"actual": 1431}, "underestimation_percent"),
        ({"truncated": True}, "truncation_percent"),
        ({"actual": 1100, "budget": 1099}, "budget_overrun_percent"),
    ],
)
def test_a_rate_whose_point_is_above_its_limit_fails(changes: dict[str, Any], name: str) -> None:
    validation = former(sample(number, **(changes if number % 10 == 0 else {})) for number in range(300))
    assert validation.verdict == "not validated"
    assert [rule.name for rule in validation.results if rule.outcome == "fail"] == [name]
    assert result(validation, name).estimate.point == 10.0
    assert len(validation.reasons) == 1


def test_a_quantile_at_its_limit_passes_for_smape_and_fails_for_waste() -> None:
    waste = former(sample(number, predicted=3000, actual=1000) for number in range(200))
    assert result(waste, "waste_p90").outcome == "fail"
    smape = former(sample(number, predicted=5000, actual=3000) for number in range(200))
    assert result(smape, "smape_median_percent").estimate.point == 50.0
    assert result(smape, "smape_median_percent").outcome == "pass"


def test_ten_percent_more_than_predicted_is_no_underestimation() -> None:
    """Exactly ten percent more than predicted is no underestimation."""
    for predicted in (10, 30, 110, 1300, 7_010):
        exact = former([sample(1, predicted=predicted, actual=predicted * 11 // 10)])
        assert result(exact, "underestimation_percent").estimate.events == 0
        above = former([sample(1, predicted=predicted, actual=predicted * 11 // 10 + 1)])
        assert result(above, "underestimation_percent").estimate.events == 1


def test_a_factor_is_taken_as_it_was_written_not_as_binary() -> None:
    """1.15 × 100 is a little less than 115 in floating point; 115 / 100 is the very number that 1.15 is read as."""
    assert 1.15 * 100 < 115
    validation = former([sample(1, predicted=100, actual=115)], former_rules(underestimation_factor=1.15))
    assert result(validation, "underestimation_percent").estimate.events == 0


def test_a_rate_at_its_limit_keeps_it() -> None:
    validation = former(sample(n, **({"actual": 1431} if n % 20 == 0 else {})) for n in range(100))
    assert result(validation, "underestimation_percent").estimate.point == 5.0
    assert result(validation, "underestimation_percent").outcome == "unclear"


def test_failures_count_for_risk_and_not_for_cost() -> None:
    history = [sample(n, success=n % 4 > 0, predicted=100 if n % 4 == 0 else 1300) for n in range(200)]
    overall = former(history).overall
    assert (overall.n, overall.successes) == (200, 150)
    assert overall.underestimation_percent.events == 50
    assert (overall.waste_p90.n, overall.smape_median_percent.n) == (150, 150)


def test_a_truncated_reply_below_the_threshold_is_undetermined() -> None:
    """A truncated reply below the threshold is undetermined for the risk."""
    validation = former([sample(n, truncated=n == 0, actual=1000, budget=1000) for n in range(300)])
    for name in ("underestimation_percent", "budget_overrun_percent"):
        estimate = result(validation, name).estimate
        assert (estimate.events, estimate.undetermined, estimate.point) == (0, 1, 0.0)
        assert estimate.worst == pytest.approx(100 / 300)
        assert estimate.lower == 0.0
        assert estimate.upper == result(validation, "truncation_percent").estimate.upper
    assert result(validation, "truncation_percent").estimate.events == 1


def test_a_truncated_reply_is_never_an_exact_value() -> None:
    """Its waste lies between 0 and p / bound, its SMAPE between that at max(p, bound) and 200."""
    exact = [sample(n, predicted=1300, actual=1000) for n in range(40)]
    cut = [sample(40 + n, predicted=1300, actual=650, truncated=True) for n in range(60)]
    overall = former(exact + cut).overall
    waste, smape = overall.waste_p90, overall.smape_median_percent
    assert (waste.undetermined, smape.undetermined) == (60, 60)
    assert (waste.point, waste.worst) == (1.3, 2.0)
    assert (smape.point, smape.worst) == (0.0, 200.0)
    assert (smape.lower, smape.upper) == (0.0, 200.0)
    assert result(former(exact + cut), "smape_median_percent").outcome == "unclear"


def test_a_reply_cut_above_its_prediction_errs_by_what_is_known() -> None:
    """A reply that was cut above its prediction errs by what is known at least."""
    overall = former([sample(n, predicted=1000, actual=3000, truncated=True) for n in range(50)]).overall
    assert (overall.smape_median_percent.point, overall.smape_median_percent.worst) == (100.0, 200.0)
    assert overall.waste_p90.point == 0.0
    assert overall.waste_p90.worst == pytest.approx(1 / 3)


def test_where_every_success_was_cut_the_order_changes_no_figure() -> None:
    """Where every success was cut, the figures do not depend on their order."""
    cut = [sample(n, predicted=1000, actual=200 if n < 6 else 1000, truncated=True) for n in range(60)]
    for events in (cut, cut[::-1]):
        waste = former(events).overall.waste_p90
        assert (waste.point, waste.lower, waste.upper) == (0.0, 0.0, 5.0)
        assert waste.worst == pytest.approx(1.4)


def test_only_the_first_attempt_of_a_phase_is_a_sample() -> None:
    first = sample(1, truncated=True, at_s=NOW_S - 5000)
    again = sample(1, actual=1300, at_s=NOW_S - 4000)
    for order in ([first, again], [again, first], [again, first, again]):
        validation = former(order)
        assert (validation.counts.used, validation.counts.repeated) == (1, len(order) - 1)
        assert validation.counts.truncated == 1


def test_a_phase_of_another_run_is_another_sample() -> None:
    assert former([sample(1, run_id="a"), sample(1, run_id="b")]).counts.used == 2


def test_a_simulated_first_attempt_does_not_hide_the_real_one() -> None:
    history = [sample(1, model="simulated-sonnet", at_s=0.0), sample(1)]
    counts = former(history).counts
    assert (counts.simulated, counts.used, counts.repeated) == (1, 1, 0)
    asked_for = former(history, former_rules(simulated=True)).counts
    assert (asked_for.simulated, asked_for.used, asked_for.repeated) == (0, 1, 1)


def test_an_unusable_first_attempt_is_not_replaced_by_a_later_one() -> None:
    for changes in ({"is_total": True}, {"actual": 0}, {"has_paths": False}):
        counts = former([sample(1, at_s=0.0, **changes), sample(1)]).counts
        assert (counts.used, counts.repeated) == (0, 1)
        assert counts.totals + counts.without_counts + counts.without_deliverables == 1


def test_log_lines_without_ids_count_each_and_can_be_left_out() -> None:
    line = sample(1, run_id=None, phase_id=None, has_paths=False)
    imported = [sample(n, run_id="imported-log-2025-12-23", has_paths=False) for n in (2, 3)]
    validation = former([line, line, *imported])
    assert (validation.counts.used, validation.counts.imported) == (4, 4)
    assert any("4 samples are log lines" in remark for remark in validation.remarks)
    without = former([line, line, *imported], former_rules(imported=False)).counts
    assert (without.used, without.without_deliverables) == (0, 4)


def test_a_log_line_of_a_phase_without_deliverables_is_no_sample() -> None:
    assert former([sample(1, run_id=None, phase_id=None, has_paths=False, deliverable_count=0)]).counts.used == 0


def test_coverage_says_how_much_of_what_is_missing() -> None:
    validation = former([sample(n, category="docs", complexity="high") for n in range(3)])
    assert validation.missing[:4] == [
        "27 more samples (3 of 30)",
        "2 more categories (1 of 3)",
        "1 more complexity (1 of 2)",
        "2 more of docs/high",
    ]


def test_a_named_stratum_that_never_occurred_is_missing_whole() -> None:
    """Only named strata are judged, and one that never occurred is missing whole."""
    validation = former((sample(n) for n in range(200)), former_rules(strata=("a/b/low", "testing/low")))
    assert missing_strata(validation) == {"a/b/low": 5}
    assert validation.verdict == "insufficient data"
    assert next(s for s in validation.strata if s.name == "testing/high").judged is False


def test_nothing_at_all_is_insufficient_data() -> None:
    for rules in (former_rules(), former_rules(provisional=True)):
        validation = former([], rules)
        assert (validation.verdict, validation.reasons) == ("insufficient data", [])
        assert len(validation.missing) == 8


def test_a_limit_of_zero_can_be_shown_by_no_number_of_samples() -> None:
    validation = former((sample(n) for n in range(200)), former_rules(max_truncation_percent=0))
    assert "no number of samples can show a truncation rate of 0 %" in validation.missing
    assert least_samples_for_rate(0, 0.95) is None


def test_a_drift_beyond_the_limit_is_a_reason_and_within_it_a_remark() -> None:
    def history(truncated_recently: int) -> list[Event]:
        recent = [sample(5000 + n, at_s=NOW_S - DAY_S, truncated=n < truncated_recently) for n in range(400)]
        return [sample(n) for n in range(3600)] + recent

    failing = former(history(20))
    assert result(failing, "truncation_percent").outcome == "pass"
    assert failing.verdict == "not validated"
    assert "drift: truncation is 5 % in the last 30 days, 0 % before" in failing.reasons
    bearable = former(history(6))
    assert bearable.verdict == "validated"
    assert any("still within the limit" in remark for remark in bearable.remarks)


def test_intervals_that_overlap_are_no_drift() -> None:
    """A recent point beyond the earlier interval is no drift while its own interval reaches back."""
    recent = [sample(500 + n, at_s=NOW_S - DAY_S, truncated=n < 2) for n in range(20)]
    drift = former([sample(n) for n in range(50)] + recent).drift
    row = next(row for row in drift.rows if row.name == "truncation_percent")
    assert row.recent.point == 10.0
    assert row.earlier.upper is not None
    assert row.earlier.upper < 10.0
    assert (row.worse, row.beyond, drift.reasons) == (False, True, [])


def test_drift_compares_the_last_days_with_all_before() -> None:
    """Drift compares the last days with all before them, and leaves out what has no time."""
    times = [NOW_S - 31 * DAY_S, NOW_S - 30 * DAY_S, NOW_S, NOW_S + DAY_S, math.inf]
    drift = former([sample(n, at_s=at_s) for n, at_s in enumerate(times)]).drift
    assert (drift.earlier, drift.recent) == (1, 3)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=60), st.randoms(use_true_random=False))
def test_the_verdict_does_not_depend_on_the_order_of_rows(history: list[Event], random: Any) -> None:
    shuffled = history.copy()
    random.shuffle(shuffled)
    for rules in (former_rules(), Rules(), Rules(population="plan")):
        assert verdict_on(shuffled, rules) == verdict_on(history, rules)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=60), st.sampled_from("xyz"), st.sampled_from(["low", "high"]))
def test_a_new_sample_takes_one_from_what_its_stratum_lacks(
    history: list[Event], category: str, complexity: str
) -> None:
    """It stays missing until the last one is there, and no stratum becomes complete by samples of another."""
    new, name = sample(0, run_id="new", category=category, complexity=complexity), f"{category}/{complexity}"
    before, after = missing_strata(former(history)), missing_strata(former([*history, new]))
    had = {stratum.name for stratum in former(history).strata}
    expected = before.get(name, 0 if name in had else 5) - 1
    assert after.get(name, 0) == max(0, expected)
    assert {other: more for other, more in after.items() if other != name} == {
        other: more for other, more in before.items() if other != name
    }


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=80))
def test_every_event_is_counted_once(history: list[Event]) -> None:
    counts = former(history).counts
    assert (
        counts.read
        == len(history)
        == sum(
            [
                counts.unreadable,
                counts.simulated,
                counts.other_estimators,
                counts.repeated,
                counts.turns,
                counts.totals,
                counts.without_counts,
                counts.without_deliverables,
                counts.used,
            ]
        )
    )


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(counts, counts, counts, st.booleans()), min_size=1, max_size=150))
def test_every_figure_is_what_numpy_and_scipy_compute(
    rows: list[tuple[int, int, int, bool]],
) -> None:
    """Without truncated replies every figure is what NumPy and SciPy compute."""
    assume(any(success for *_, success in rows))
    assume(all(11 * p != 10 * a for p, a, _, _ in rows))  # where a product of floats decides otherwise
    history = [sample(n, predicted=p, actual=a, budget=b, success=s) for n, (p, a, b, s) in enumerate(rows)]
    p, a, b, success = zip(*rows, strict=True)
    expected = independent_figures({"p": p, "a": a, "b": b, "success": success, "truncated": [False] * len(rows)})
    for rule in former(history).results:
        found = msgspec.structs.asdict(rule.estimate)
        assert {name: found[name] for name in ("point", "lower", "upper")} == pytest.approx(expected[rule.name])


def test_the_strata_and_periods_together_are_the_whole() -> None:
    history = [sample(n, at_s=NOW_S - (n % 60) * DAY_S, truncated=n % 9 == 0, success=n % 5 > 0) for n in range(300)]
    validation = former(history)
    for figure in FIGURES[:3]:
        whole = getattr(validation.overall, figure.name)
        parts = [getattr(stratum.measures, figure.name) for stratum in validation.strata]
        assert sum(part.events for part in parts) == whole.events
        assert sum(part.n for part in parts) == whole.n
    assert validation.drift.recent + validation.drift.earlier == 300


def test_a_verdict_survives_its_json() -> None:
    for rules in (former_rules(), Rules()):
        validation = verdict_on((sample(n, truncated=n % 5 == 0) for n in range(60)), rules)
        assert msgspec.json.decode(msgspec.json.encode(validation), type=Validation) == validation
