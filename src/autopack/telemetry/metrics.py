"""How good a prediction was: the plan's formulas, on counts of output tokens. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Accuracy(NamedTuple):
    """The three metrics as they are stored; all None where a count is not positive.

    `smape_percent`: 0 … 200, cut to an integer. `waste_ratio_percent`: predicted over actual, in percent, cut to an
    integer (150 = 1.5 ×). `underestimated`: more came than was predicted.
    """

    smape_percent: int | None
    waste_ratio_percent: int | None
    underestimated: bool | None


UNKNOWN = Accuracy(None, None, None)


def smape(predicted: int, actual: int) -> float:
    """Symmetric mean absolute percentage error of one pair, in percent: `|a - p| / max(1, (a + p) / 2) * 100`."""
    return abs(actual - predicted) / max(1, (abs(actual) + abs(predicted)) / 2) * 100


def accuracy(predicted: int, actual: int) -> Accuracy:
    """The metrics of one reply, rounded as the plan stores them."""
    if predicted <= 0 or actual <= 0:
        return UNKNOWN
    return Accuracy(int(smape(predicted, actual)), int(predicted / actual * 100), actual > predicted)
