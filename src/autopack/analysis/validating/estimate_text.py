"""An estimate in words for people, the same in every table. Pure."""

from __future__ import annotations

from autopack.analysis.validating.measures import Estimate
from autopack.analysis.validating.rules import Figure

_ABOVE = 1000


def point_text(estimate: Estimate, figure: Figure) -> str:
    """The figure with its unit; as best–worst where it depends on what truncated replies would have been."""
    sign = " %" if figure.unit == "percent" else " ×"
    if estimate.point is None:
        return "-"
    if estimate.point == estimate.worst:
        return digits(estimate.point) + sign
    return f"{digits(estimate.point)}–{digits(estimate.worst)}{sign}"


def interval_text(estimate: Estimate) -> str:
    """The interval; `?` is an end that takes more samples."""
    return f"[{digits(estimate.lower)}, {digits(estimate.upper)}]"


def digits(value: float | None) -> str:
    """Three digits, and never an exponent."""
    return "?" if value is None else f"{value:.3g}" if value < _ABOVE else f"{value:.0f}"
