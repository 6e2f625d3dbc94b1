"""Has the estimator become worse? The last days against all before. Pure.

A figure is certainly worse when the lower end of its recent interval lies above the upper end of the earlier one:
stricter than a test at the level of the intervals, so that what is said to be a drift is one. Where it then also
fails its limit, what the whole history says is no longer true, and that is a reason against the estimator; within the
limit it is a remark. Samples without a readable time are in neither part, those after the moment that counts as now
are among the last.
"""

from __future__ import annotations

import msgspec

from autopack.analysis.validating.measures import Estimate, Measures
from autopack.analysis.validating.rules import FIGURES, Figure, Rules

_DAY_S = 86_400.0


class DriftRow(msgspec.Struct, frozen=True, kw_only=True):
    """One figure then and now. `worse`: certainly; `beyond`: the recent point is not within the limit; `judged`: the
    verdict depends on the figure.
    """

    name: str
    recent: Estimate
    earlier: Estimate
    worse: bool
    beyond: bool
    judged: bool


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison. `since_s`, in seconds since 1970, is where the last days begin."""

    days: float
    since_s: float
    recent: int
    earlier: int
    rows: list[DriftRow]
    reasons: list[str]
    remarks: list[str]


def recent_since(as_of_s: float, rules: Rules) -> float:
    """Where the last days before `as_of_s` begin."""
    return as_of_s - rules.drift_days * _DAY_S


def drift_of(recent: Measures, earlier: Measures, rules: Rules, as_of_s: float) -> Drift:
    """The figures of the last days against those of before."""
    rows = [_compared(figure, recent, earlier, rules) for figure in FIGURES]
    said = [(row, _said(row, figure, rules)) for row, figure in zip(rows, FIGURES, strict=True) if row.worse]
    return Drift(
        days=rules.drift_days,
        since_s=recent_since(as_of_s, rules),
        recent=recent.n,
        earlier=earlier.n,
        rows=rows,
        reasons=[f"drift: {text}" for row, text in said if row.beyond and row.judged],
        remarks=[
            f"drift: {text}" + ("" if row.beyond else ", still within the limit")
            for row, text in said
            if not (row.beyond and row.judged)
        ],
    )


def _compared(figure: Figure, recent: Measures, earlier: Measures, rules: Rules) -> DriftRow:
    now: Estimate = getattr(recent, figure.name)
    then: Estimate = getattr(earlier, figure.name)
    limit: float = getattr(rules, figure.limit)
    return DriftRow(
        name=figure.name,
        recent=now,
        earlier=then,
        worse=now.lower is not None and then.upper is not None and now.lower > then.upper,
        beyond=now.point is not None and not figure.is_within(now.point, limit),
        judged=rules.judges(figure),
    )


def _said(row: DriftRow, figure: Figure, rules: Rules) -> str:
    now, then = figure.shown(row.recent.point), figure.shown(row.earlier.point)
    return f"{figure.title} is {now} in the last {rules.drift_days:g} days, {then} before"
