"""One event as one line for people. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autopack._util.text import truncate_for_display
from autopack.analysis.reading.records import EventRecord
from autopack.analysis.tables import padded

HEADER = ("time (UTC)", "run/phase", "category/complexity", "predicted", "actual", "waste", "budget", "outcome, model")
_WIDTHS = (19, 30, 24, 9, 9, 7, 9, 0)
_NUMBERS = range(3, 7)
_ABOVE = 1000
_OK = "ok"


@dataclass(frozen=True, slots=True)
class Line:
    """The text of an event, and whether it did not go as it should: truncated, failed, or beyond its budget."""

    text: str
    bad: bool


def outcome_text(*, truncated: Any, failed: bool, over_budget: bool) -> str:
    """How a call ended: `ok`, or all that went wrong."""
    signs = (("truncated", truncated), ("failed", failed), ("over budget", over_budget))
    return ", ".join(name for name, there in signs if there) or _OK


def header_line() -> str:
    """What stands above the lines."""
    return padded(HEADER, _WIDTHS, _NUMBERS)


def line_of(record: EventRecord) -> Line:
    """The line of an event. Waste is predicted / actual; of a truncated reply the actual tokens are a lower bound."""
    outcome = outcome_text(
        truncated=record.truncated,
        failed=not record.success,
        over_budget=_exceeds(record.actual_output_tokens, record.selected_budget),
    )
    cells = (
        "-" if record.timestamp is None else record.timestamp[:19].replace("T", " "),
        _name(f"{record.run_id}/{record.phase_id}", _WIDTHS[1]),
        _name(f"{record.category}/{record.complexity}", _WIDTHS[2]),
        _count(record.predicted_output_tokens),
        ("≥" if record.truncated else "") + _count(record.actual_output_tokens),
        _waste(record),
        _count(record.selected_budget),
        f"{outcome}  {truncate_for_display(str(record.model), 40)}",
    )
    return Line(padded(cells, _WIDTHS, _NUMBERS), outcome != _OK)


def _exceeds(actual: Any, budget: Any) -> bool:
    return isinstance(actual, int) and isinstance(budget, int) and actual > budget


def _waste(record: EventRecord) -> str:
    ratio = record.waste_ratio
    if ratio is None:
        return "-"
    return f"{'≤' if record.truncated else ''}{ratio:.2f}×" if ratio < _ABOVE else f"{ratio:.0f}×"


def _count(value: Any) -> str:
    return str(value) if isinstance(value, int) else "-"


def _name(text: str, width: int) -> str:
    shown = truncate_for_display(text, 500)
    return shown if len(shown) <= width else f"{shown[: width // 2 - 1]}…{shown[-(width - width // 2) :]}"
