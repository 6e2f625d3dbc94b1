"""A replay report for people: notes and the sections of one table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from autopack._util.text import escape_terminal
from autopack.analysis.replaying.replay import ReplayCounts, ReplayGroup, ReplayReport
from autopack.analysis.tables import Section

MOST_GROUPS = 25
_LONGEST_NAME = 24

HEADER = ("", "events", "SMAPE % median", "SMAPE % mean", "waste median", "waste P90", "under %", "trunc %")
ABOUT = "Each pair: the prediction recorded then / today's estimator. Waste is predicted / actual. All digits: --json"

_NOTES: tuple[tuple[str, str], ...] = (
    ("duplicates", "left out: {} that were there twice"),
    ("simulated", "left out: {} simulated (--include-simulated takes them in)"),
    ("totals", "left out: {} of which only the tokens of the whole call are known"),
    ("without_counts", "left out: {} with a count of 0"),
    ("incomplete", "left out: {} refused in the middle or paused"),
    ("truncated", "{} truncated replies are lower bounds: in under and trunc, not in SMAPE and waste"),
    ("synthetic", "{} without recorded deliverables: synthetic ones (src/file0.py, …) stand in"),
    ("cut", "{} had more deliverables than are stored; today's estimator sees the stored ones"),
    ("existing_unknown", "{} do not say which deliverables existed: all count as new"),
    ("without_stop_reason", "{} without a stop reason: their count may be of the whole call"),
)


def notes(report: ReplayReport) -> list[str]:
    """What was read, left out and assumed, a line each; what did not happen is not mentioned."""
    counts = report.counts
    lines = [
        f"source: {escape_terminal(report.source)}",
        f"estimator: {escape_terminal(report.estimator)}",
        f"{counts.read} read, {counts.skipped} skipped, {counts.compared} compared{_phases(counts)}",
    ]
    lines += [text.format(getattr(counts, name)) for name, text in _NOTES if getattr(counts, name)]
    if report.overall is None:
        lines.append("Nothing to compare.")
    return lines


def sections(report: ReplayReport) -> Iterator[Section]:
    """The parts of the table: a title and rows of as many cells as `HEADER` has."""
    if report.overall is None:
        return
    yield "overall", [_cells(report.overall)]
    for title, groups in (
        ("category", report.by_category),
        ("complexity", report.by_complexity),
        ("deliverables", report.by_deliverables),
    ):
        rows = [_cells(group) for group in groups[:MOST_GROUPS]]
        if more := groups[MOST_GROUPS:]:
            rows.append((f"({len(more)} more)", str(sum(group.events for group in more)), *[""] * (len(HEADER) - 2)))
        yield f"by {title}", rows


def _cells(group: ReplayGroup) -> tuple[str, ...]:
    then, now = group.recorded, group.today
    return (
        _name(group.name),
        str(group.events),
        _pair(then.median_smape_percent, now.median_smape_percent, _whole),
        _pair(then.mean_smape_percent, now.mean_smape_percent, _whole),
        _pair(then.median_waste, now.median_waste, _factor),
        _pair(then.p90_waste, now.p90_waste, _factor),
        _pair(then.underestimated_percent, now.underestimated_percent, _whole),
        _whole(group.truncation_percent),
    )


def _pair(then: float | None, now: float | None, shown: Callable[[float | None], str]) -> str:
    return f"{shown(then)}/{shown(now)}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _factor(value: float | None) -> str:
    """Three digits, so that the table fits 80 columns."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004 (digits)


def _name(name: str) -> str:
    shown = escape_terminal(name)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 3]}..."


def _phases(counts: ReplayCounts) -> str:
    if not counts.phases:
        return ""
    return f" ({counts.phases} phases, {counts.repeated_attempts} repeated attempts)"
