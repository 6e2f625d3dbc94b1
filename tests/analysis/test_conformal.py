"""Budgets: at most the promised share of future replies exceeds them, and where that cannot be, nothing is promised."""

import math
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]  # it ships no types
from tests.analysis.cost_models import TODAY, history, lognormal, other_costs
from tests.read_side import autopack

from autopack.analysis.calibrating.calibration import CalibrationSettings, calibrate
from autopack.analysis.calibrating.conformal import (
    BudgetResult,
    Scores,
    budgets_of,
    least_phases,
    upper_share,
)
from autopack.analysis.calibrating.history import Recorded, Reply, Shape, history_of
from autopack.estimation.coefficients import Coefficients, parse_coefficients
from autopack.estimation.estimator import estimate

ALPHA = Fraction(1, 50)
SHAPE = Shape("testing", "low", (1, 0, 0, 0, 0), (0,) * 5)


def reply(actual: int, *, truncated: bool = False, success: bool = True) -> Reply:
    return Reply("r", SHAPE, actual, success=success, truncated=truncated)


def budget(replies: list[Reply], *, cap: int = 64_000) -> BudgetResult:
    (found,) = budgets_of(replies, lambda _: 1000, lambda _: 8192, ALPHA, cap)
    return found


def apart(scores: list[float]) -> Scores:
    """Scores of as many phases."""
    return Scores(scores, [""] * len(scores))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(5, 300),
    st.sampled_from([Fraction(1, 50), Fraction(1, 20), Fraction(1, 10), Fraction(1, 5)]),
)
def test_with_one_reply_per_phase_the_rank_is_the_split_conformal_one(n: int, alpha: Fraction) -> None:
    """A new score is equally likely at each of n + 1 places; only those above the rank break the promise."""
    factor = apart([float(number) for number in range(1, n + 1)]).factor(alpha)
    rank = math.ceil((n + 1) * (1 - alpha))
    assert (factor is None) == (n < least_phases(alpha)) == (rank > n)
    if factor is not None:
        assert factor == rank
        assert Fraction(n + 1 - rank, n + 1) <= alpha < Fraction(n + 2 - rank, n + 1)


@pytest.mark.slow
@pytest.mark.parametrize(("between", "within"), [(0.5, 0.1), (0.35, 0.35), (0.1, 0.5)])
def test_a_new_phase_exceeds_its_budget_in_two_percent(between: float, within: float) -> None:
    """50 phases of 4 replies, over 2,000 histories; the scores of a phase resemble each other."""
    rng, exceeded = np.random.default_rng(11), 0
    phases = [str(number // 4) for number in range(200)]
    for _ in range(2000):
        effects = rng.normal(0, between, 51)
        scores = np.exp(5 + np.repeat(effects[:50], 4) + rng.normal(0, within, 200))
        factor = Scores(scores.tolist(), phases).factor(ALPHA)
        assert factor is not None
        exceeded += math.exp(5 + effects[50] + rng.normal(0, within)) > factor
    assert exceeded / 2000 <= 0.02 + 3 * math.sqrt(0.02 * 0.98 / 2000)


def test_every_phase_weighs_the_same_however_many_replies_it_has() -> None:
    """49 phases, one with a hundred replies: its own largest are half a phase, and two of that do not make two."""
    phases = [*map(str, range(48)), *["often"] * 100]
    scores = Scores([2.0] * 48 + [1.0] * 50 + [9.0] * 50, phases)
    assert scores.phase_count == 49
    assert scores.factor(ALPHA) == 9.0
    assert scores.factor(Fraction(3, 100)) == 2.0


def test_one_phase_of_49_nights_is_refused_with_the_number_it_takes() -> None:
    """One phase of 49 nights is refused, and the message says how many phases it takes."""
    found = budget([Reply(f"night-{n}", SHAPE, 500, success=True, truncated=False, phase="p") for n in range(49)])
    assert (found.factor, found.phases, found.over_after) == (None, 1, None)
    assert found.reason is not None
    assert "48 more phases needed: 1 of 49" in found.reason


@pytest.mark.parametrize(("count", "within"), [(49, 49), (200, 197), (1000, 981)])
def test_the_bound_of_one_history_is_that_of_scipys_beta(count: int, within: int) -> None:
    assert upper_share(count, within) == pytest.approx(stats.beta.ppf(0.95, count + 1 - within, within), rel=1e-9)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.floats(0.01, 50), min_size=49, max_size=200))
def test_a_factor_is_rounded_up_and_never_below_what_is_predicted(scores: list[float]) -> None:
    factor = apart(scores).factor(ALPHA)
    assert factor is not None
    exact = sorted(scores)[math.ceil((len(scores) + 1) * (1 - ALPHA)) - 1]
    assert max(1, exact) <= factor <= max(1, exact + 1.001e-4)
    assert sum(score > factor for score in scores) <= (len(scores) + 1) * ALPHA


def test_a_stratum_with_too_few_phases_gets_the_pooled_factor() -> None:
    """A stratum with too few phases gets the pooled factor, which is called so."""
    rare = [
        Reply("r", Shape("rare", "low", (1, 0, 0, 0, 0), (0,) * 5), 3000, success=True, truncated=False)
        for _ in range(10)
    ]
    found = budgets_of(
        [*rare, *[reply(500 + n) for n in range(90)]], lambda _: 1000, lambda _: 8192, Fraction(1, 5), 64_000
    )
    assert [(each.stratum, each.basis) for each in found] == [("rare/low", "stratum"), ("testing/low", "stratum")]
    found = budgets_of([*rare, *[reply(500 + n) for n in range(90)]], lambda _: 1000, lambda _: 8192, ALPHA, 64_000)
    assert [(each.basis, each.factor) for each in found] == [("pooled", 3.0), ("stratum", 1.0)]
    assert found[0].reason == "39 more phases needed: 10 of 49; its own carry 9.1 %"
    assert found[0].least_alpha_percent == pytest.approx(100 / 11)


def test_a_truncated_reply_needs_more_than_any_budget() -> None:
    """With 149 replies the rank is 147, so two may exceed everything; with three of them nothing can be promised."""
    rest = [reply(500 + n) for n in range(146)]
    kept = budget([*rest, reply(500), *[reply(100, truncated=True)] * 2])
    assert kept.factor == 1.0
    assert kept.alpha_percent == 2
    lost = budget([*rest, *[reply(100, truncated=True)] * 3])
    assert lost.factor == 1.0
    assert lost.alpha_percent == pytest.approx(400 / 150)
    assert lost.reason == "no factor below the ceiling keeps 2 %; the data carry 2.7 %"
    assert budget([*rest, *[reply(100, truncated=True)] * 60]).factor is None


def test_a_reply_above_the_cap_cannot_be_promised_a_budget() -> None:
    assert budget([reply(5000)] * 60).factor == 5.0
    assert budget([reply(5000)] * 60, cap=4000).factor is None  # not even at 25 %


def test_failed_replies_are_replies() -> None:
    assert budget([reply(500, success=False)] * 60).replies == 60


def test_the_price_is_what_replies_leave_of_their_budgets() -> None:
    found = budget([reply(n) for n in range(1001, 1101)])
    assert found.factor == 1.099  # the 99th of 100
    assert (found.over_before, found.over_after) == (0, 1)
    assert found.unused_before == pytest.approx(8192 - np.mean(range(1001, 1101)))
    assert found.unused_after == pytest.approx(np.mean([1099 - n for n in range(1001, 1100)]))


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [True, False])
def test_a_history_like_the_recorded_one_keeps_to_its_budgets(fitted: bool) -> None:
    """A history like the recorded one keeps to the budgets that the file guarantees."""
    costs = other_costs(5)
    result = calibrate(
        history_of(history(2400, costs, lognormal(0.4))),
        TODAY,
        CalibrationSettings(coefficients=fitted),
        source="",
        estimator="",
    )
    assert result.coefficients is not None
    assert len(result.coefficients.budget_factor) == 6
    future = list(history(3000, costs, lognormal(0.4), seed=77))
    exceeded = sum(record.actual_output_tokens > budget_for(record, result.coefficients) for record in future)
    assert exceeded / len(future) <= 0.02 + 3 * math.sqrt(0.02 * 0.98 / 200)  # 1,200 replies, 200 to a stratum


def budget_for(record: Recorded, coefficients: Coefficients) -> int:
    return estimate(
        record.deliverables, record.category, record.complexity, coefficients, record.existing or ()
    ).selected_budget


@pytest.mark.slow
def test_all_replies_carry_the_fit_and_the_promise() -> None:
    records = list(history(1200, other_costs(5), lognormal(0.3)))
    both = calibrate(history_of(records), TODAY, CalibrationSettings(), source="", estimator="")
    only_budgets = calibrate(
        history_of(records), TODAY, CalibrationSettings(coefficients=False), source="", estimator=""
    )
    assert both.fit.replies == sum(budget.replies for budget in both.budgets) == len(records)
    assert sum(budget.replies for budget in only_budgets.budgets) == len(records)
    assert only_budgets.fit.outcome == "skipped"


@pytest.mark.slow
def test_an_earlier_guarantee_ends_with_its_predictions() -> None:
    """An earlier guarantee does not outlive the predictions that it was made for."""
    before = msgspec.structs.replace(TODAY, budget_factor={"novel/low": 3.0})
    records = history_of(history(1200, other_costs(5), lognormal(0.3)))
    fitted = calibrate(records, before, CalibrationSettings(), source="", estimator="").coefficients
    right = history_of(history(1200, TODAY, lognormal(0.3)))
    kept = calibrate(right, before, CalibrationSettings(coefficients=False), source="", estimator="").coefficients
    rebased = calibrate(records, before, CalibrationSettings(coefficients=False), source="", estimator="").coefficients
    assert rebased is not None
    assert rebased.budget_spread is not None
    assert "novel/low" not in rebased.budget_factor
    assert fitted is not None
    assert kept is not None
    assert "novel/low" not in fitted.budget_factor
    assert kept.budget_factor["novel/low"] == 3.0


def test_a_guaranteed_budget_replaces_floor_and_buffer_under_the_cap() -> None:
    """A guaranteed budget replaces floor and buffer, and keeps to the cap."""
    promised = msgspec.structs.replace(TODAY, budget_factor={"testing/low": 1.5}, budget_cap=20_000)
    predicted = estimate(["a.py"], "testing", "low", promised).predicted_output_tokens
    assert estimate(["a.py"], "testing", "low", promised).selected_budget == math.ceil(predicted * 1.5)
    assert estimate(["a.py"] * 20, "testing", "low", promised).selected_budget == 20_000
    assert estimate([], "testing", "low", promised).selected_budget == 8192
    assert estimate(["a.py"], "testing", "high", promised) == estimate(["a.py"], "testing", "high", TODAY)


def test_the_price_and_what_is_refused_are_printed(tmp_path: Path) -> None:
    export, output = tmp_path / "events.ndjson", tmp_path / "new.json"
    few = [
        msgspec.structs.replace(r, category="rare", phase_id=f"x{r.phase_id}")
        for r in history(20, TODAY, lognormal(0.3))
    ]
    records = [*history(1200, TODAY, lognormal(0.3)), *few]
    export.write_bytes(b"\n".join(map(msgspec.json.encode, records)))
    done = autopack("calibrate", "--source", "ndjson", export, "--keep-coefficients", "--output", output)
    assert done.returncode == 0
    assert "budgets: promised for 8 of 8 strata; price: " in done.stdout
    assert " unused tokens a reply, " in done.stdout
    assert "rare/low: pooled: " in done.stdout
    assert "what validate says of these budgets on these replies: " in done.stdout
    assert set(parse_coefficients(output.read_bytes(), "new").budget_factor) == {
        f"{category}/{complexity}"
        for category in ("implementation", "testing", "documentation")
        for complexity in ("low", "high")
    } | {"rare/low", "rare/high"}
