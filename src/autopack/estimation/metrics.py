"""How good a prediction was: the host system's formulas, on counts of output tokens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# smape_percent, waste_ratio_percent, underestimated, as they are stored; all None where a count is not positive.
Accuracy = tuple[int | None, int | None, bool | None]

UNKNOWN: Accuracy = (None, None, None)

WORST_SMAPE_PERCENT = 200.0

WHOLE_CALL: Mapping[str, str] = {"usage": "total"}
"""The attribute of an event whose actual tokens are those of the whole call, since its reply had no usage."""


def smape(predicted: int, actual: int) -> float:
    """Return the symmetric absolute percentage error of one pair, in percent: `|a - p| / max(1, (a + p) / 2) * 100`."""
    return abs(actual - predicted) / max(1, (abs(actual) + abs(predicted)) / 2) * 100


def accuracy(predicted: int, actual: int) -> Accuracy:
    """Return the metrics of one reply, cut to integers as the host system stores them.

    SMAPE: 0 … 200 %. Waste ratio: predicted over actual, in percent (150 = 1.5 ×). Underestimated: more came than was
    predicted. For every row that is written, so SMAPE is computed in place: the mean of two positive counts is at
    least 1.
    """
    if predicted <= 0 or actual <= 0:
        return UNKNOWN
    return (
        int(abs(actual - predicted) / ((actual + predicted) / 2) * 100),
        int(predicted / actual * 100),
        actual > predicted,
    )


def is_whole_call(attributes: Any) -> bool:
    """Whether the attributes say that the actual tokens are those of the whole call, not of its output alone."""
    return isinstance(attributes, dict) and attributes.get("usage") == WHOLE_CALL["usage"]
