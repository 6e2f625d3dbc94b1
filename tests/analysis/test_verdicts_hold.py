"""The verdict on simulated nightly plans, through the real `validate()`: a short form of `benchmarks.verdicts_hold`."""

import math

import pytest
from benchmarks.verdicts_hold import (
    ONE_LOOK,
    PLAN_ONE_LOOK,
    REPEATED,
    Plan,
    ever_validated,
    p90_is_covered,
    share,
    validated,
)

HISTORIES = 60


def at_most(found: float, rate: float) -> bool:
    """Whether a share of so many histories is within three standard errors of a rate."""
    return found <= rate + 3 * math.sqrt(rate * (1 - rate) / HISTORIES)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [8, 20])
def test_a_nightly_plan_at_the_limit_is_not_validated(runs: int) -> None:
    """25 phases whose replies have as much in common as real ones: at 2 % and at 4 %, and the P90 is covered."""
    plan = Plan(25, runs, by_phase=0.46, by_run=0.32)
    for rate in (0.02, 0.04):
        assert at_most(share(validated, plan, rate, ONE_LOOK, HISTORIES), 0.025)
    assert at_most(1 - share(p90_is_covered, plan, 0.0, ONE_LOOK, HISTORIES), 0.03)


@pytest.mark.slow
def test_the_verdict_is_not_always_insufficient() -> None:
    """500 independent samples with 0.2 % truncated pass, and the same plan of 60 nights as that plan."""
    assert share(validated, Plan(25, 20, 0, 0), 0.002, ONE_LOOK, HISTORIES) >= 0.85 - 0.12
    assert share(validated, Plan(25, 20, 0, 0), 0.002, REPEATED, HISTORIES) >= 0.65 - 0.15
    assert share(validated, Plan(25, 60, 0, 0.1), 0.002, PLAN_ONE_LOOK, HISTORIES) >= 0.95 - 0.06


@pytest.mark.slow
def test_thirty_looks_at_the_limit_do_not_validate() -> None:
    found = share(ever_validated, Plan(25, 30, 0.0, 0.1), 0.02, REPEATED, 20)
    assert found <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 20)
