from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack.estimation.metrics import WHOLE_CALL, accuracy, is_whole_call, smape

COUNTS = st.integers(min_value=1, max_value=2**53 - 1)
USUAL = st.integers(min_value=1, max_value=200_000)


@given(predicted=USUAL, actual=USUAL)
def test_the_metrics_are_the_hosts_formulas_computed_exactly(predicted: int, actual: int) -> None:
    smape_percent, waste_percent, underestimated = accuracy(predicted, actual)
    mean = max(Fraction(1), Fraction(actual + predicted, 2))
    exact_smape = abs(actual - predicted) / mean * 100
    exact_waste = Fraction(predicted * 100, actual)
    # A double may fall on the other side of an integer only where the exact value is next to it.
    assert smape_percent == int(smape(predicted, actual))
    assert smape_percent == floor(exact_smape) or abs(exact_smape - round(exact_smape)) < Fraction(1, 10**9)
    assert waste_percent is not None
    assert waste_percent == floor(exact_waste) or abs(exact_waste - round(exact_waste)) < Fraction(1, 10**6)
    assert abs(waste_percent - exact_waste) <= 1
    assert underestimated == (actual > predicted)


@given(predicted=COUNTS, actual=COUNTS)
def test_the_metrics_of_any_counts_fit_the_columns(predicted: int, actual: int) -> None:
    smape_percent, waste_percent, _ = accuracy(predicted, actual)
    assert 0 <= (smape_percent or 0) <= 200
    assert 0 <= (waste_percent or 0) < 2**63


@given(predicted=COUNTS, actual=COUNTS)
def test_smape_does_not_care_which_of_the_two_was_predicted(predicted: int, actual: int) -> None:
    assert smape(predicted, actual) == smape(actual, predicted)


@pytest.mark.parametrize(("predicted", "actual"), [(0, 5), (5, 0), (0, 0)])
def test_without_two_positive_counts_there_are_no_metrics(predicted: int, actual: int) -> None:
    assert accuracy(predicted, actual) == (None, None, None)


def test_the_hosts_own_example_gives_the_hosts_numbers() -> None:
    assert accuracy(5200, 2600) == (66, 200, False)
    assert accuracy(822, 3137) == (116, 26, True)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (dict(WHOLE_CALL), True),
        ({**WHOLE_CALL, "attempt": 2}, True),
        ({"usage": "output"}, False),
        ({"usage": ["total"]}, False),
        ({}, False),
        (None, False),
        ("usage=total", False),
        ([WHOLE_CALL], False),
    ],
)
def test_only_the_attribute_says_that_tokens_are_of_the_whole_call(attributes: object, expected: object) -> None:
    assert is_whole_call(attributes) is expected
