"""How far budgets follow predictions, and what is learned beside the factors: lengths, models, reasoning."""

import math
import random

import msgspec
import pytest
from tests.analysis.cost_models import TODAY, exact, history, lognormal

from autopack.analysis.calibrating.calibration import CalibrationSettings, calibrate
from autopack.analysis.calibrating.history import Recorded, history_of
from autopack.estimation.coefficients import Coefficients, estimator_fingerprint
from autopack.estimation.estimator import estimate

BUDGETS = CalibrationSettings(coefficients=False)


def alike(count: int, seed: int) -> list[Recorded]:
    """Replies whose length has nothing to do with their prediction."""
    rng = random.Random(seed)  # noqa: S311 (the same history every time)
    return [
        msgspec.structs.replace(record, actual_output_tokens=max(1, round(5000 * rng.lognormvariate(0, 0.4))))
        for record in history(count, TODAY, exact, seed=seed)
    ]


def budget_of(record: Recorded, figures: Coefficients) -> int:
    found = estimate(record.deliverables, record.category, record.complexity, figures, record.existing or ())
    return found.selected_budget


@pytest.mark.slow
def test_budgets_that_need_not_follow_predictions_do_not() -> None:
    """They take fewer tokens, and are kept to all the same."""
    found = calibrate(history_of(alike(2400, 1)), TODAY, BUDGETS, source="", estimator="")
    assert found.spread is not None
    assert found.spread.power == 0
    assert found.coefficients is not None
    future = alike(2000, 2)
    budgets = [budget_of(record, found.coefficients) for record in future]
    above = sum(record.actual_output_tokens > budget for record, budget in zip(future, budgets, strict=True))
    assert above / len(future) <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 200)
    assert max(budgets) < 5000 * math.exp(0.4 * 3.3)
    plain = msgspec.structs.replace(found.coefficients, budget_spread=None)
    assert estimator_fingerprint(plain) != estimator_fingerprint(found.coefficients)


def test_budgets_follow_predictions_that_are_right() -> None:
    found = calibrate(history_of(history(700, TODAY, lognormal(0.4))), TODAY, BUDGETS, source="", estimator="")
    assert found.coefficients is not None
    assert (found.spread, found.coefficients.budget_spread) == (None, None)


def test_lengths_are_multiples_of_the_base_and_weigh_phases_alike() -> None:
    records = [
        msgspec.structs.replace(
            record,
            phase_id=f"phase-{0 if number >= 300 else number}",
            deliverables=["src/a.py"],
            deliverable_count=1,
            existing=[],
            category="testing",
            complexity="low",
            actual_output_tokens=99_999 if number >= 300 else 1000 + number,
            truncated=number < 30,
            input_tokens=100,
        )
        for number, record in enumerate(history(600, TODAY, exact))
    ]
    found = calibrate(history_of(records), TODAY, BUDGETS, source="", estimator="").coefficients
    assert found is not None
    assert found.learned is not None
    lengths = found.learned.pooled_lengths
    assert lengths is not None
    assert lengths.cut_share == pytest.approx(29 / 300, abs=2e-3)  # phase 0 counts once, and ended 300 times in 301
    assert max(lengths.exact) < 2 * min(lengths.exact)  # the phase that was run 300 times is no point of a hundred
    assert (len(lengths.exact), lengths.input_tokens) == (100, 100)


def by_model(number: int, record: Recorded) -> Recorded:
    is_thinking = number % 2
    return msgspec.structs.replace(
        record,
        model="m",
        reasoning_level="high" if is_thinking else None,
        reasoning_tokens=record.actual_output_tokens if is_thinking else 0,
        actual_output_tokens=record.actual_output_tokens * (2 if is_thinking else 1),
    )


@pytest.mark.slow
def test_a_reasoning_level_with_phases_enough_has_factors_of_its_own() -> None:
    records = [by_model(number, record) for number, record in enumerate(history(1600, TODAY, lognormal(0.3)))]
    found = calibrate(history_of(records), TODAY, BUDGETS, source="", estimator="").coefficients
    assert found is not None
    assert found.learned is not None
    plain, thinking = found.learned.models
    assert (plain.reasoning_level, thinking.reasoning_level) == (None, "high")
    assert (plain.reasoning_percent, thinking.reasoning_percent) == (0, 50)
    assert plain.pooled is not None
    assert thinking.pooled is not None
    assert thinking.pooled.factor > 1.6 * plain.pooled.factor
    assert set(thinking.strata) == set(plain.strata) == set(found.budget_factor)
    few = calibrate(history_of(records[:60]), TODAY, BUDGETS, source="", estimator="").coefficients
    assert few is None or few.learned is None or all(not each.strata for each in few.learned.models)
