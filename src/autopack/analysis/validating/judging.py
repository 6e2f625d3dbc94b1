"""One rule on one group of samples: passed, failed or unclear, and how many more samples it takes. Pure."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from autopack.analysis.validating.intervals import quantile_ranks, samples_until, wilson_interval
from autopack.analysis.validating.looks import is_shown_at_every_look
from autopack.analysis.validating.measures import Estimate, Group, Quantile, Share
from autopack.analysis.validating.rules import FIGURES, Figure, Rules

Outcome = Literal["pass", "fail", "unclear"]

FIGURES_BY_NAME = {figure.name: figure for figure in FIGURES}


class RuleResult(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: `estimate` is over `of` (all samples, or the successes), to be `limit` at most, or below it where
    `strict`. `judged`: the verdict depends on it. `more_needed` counts independent samples; it is None where the rule
    passes or fails, where no number of samples could show it, and where there are too few runs to tell.
    """

    name: str
    title: str
    unit: Literal["percent", "factor"]
    of: Literal["samples", "successes"]
    limit: float
    strict: bool
    judged: bool
    estimate: Estimate
    outcome: Outcome
    more_needed: int | None


def judge(figure: Figure, group: Group, rules: Rules) -> RuleResult:
    """What the rule of a figure says of a group."""
    basis: Share | Quantile = getattr(group, figure.name)
    limit: float = getattr(rules, figure.limit)
    estimate = basis.estimate(rules.level)
    outcome = _outcome(basis, estimate, figure, limit, rules)
    return RuleResult(
        name=figure.name,
        title=figure.title,
        unit=figure.unit,
        of=figure.of,
        limit=limit,
        strict=figure.strict,
        judged=rules.judges(figure),
        estimate=estimate,
        outcome=outcome,
        more_needed=_more_needed(basis, figure, limit, rules) if outcome == "unclear" else None,
    )


def is_certainly_beyond(figure: Figure, group: Group, rules: Rules, level: float) -> bool:
    """Whether the lower end of the interval of a figure is beyond its limit, of more than one event."""
    basis: Share | Quantile = getattr(group, figure.name)
    estimate = basis.estimate(level)
    is_told = estimate.n > 1 and estimate.lower is not None  # one event says nothing
    return is_told and not figure.is_within(estimate.lower or 0.0, getattr(rules, figure.limit))


def least_samples_for_rate(limit_percent: float, level: float, *, one_look: bool = True) -> int | None:
    """How many samples it takes to show that a rate is within a limit when it never happens; None: no number does."""
    return samples_until(lambda count: _rate_is_shown(0, count, count, limit_percent, level, one_look=one_look), 0)


def _outcome(basis: Share | Quantile, estimate: Estimate, figure: Figure, limit: float, rules: Rules) -> Outcome:
    if estimate.point is None:
        return "unclear"
    is_beyond = not figure.is_within(estimate.point, limit)
    if rules.provisional or rules.is_former:
        decisive = estimate.worst if rules.provisional else estimate.upper
        return (
            "fail" if is_beyond else "pass" if decisive is not None and figure.is_within(decisive, limit) else "unclear"
        )
    if is_beyond:
        # One event says nothing, and an interval without an end does not tell on which side of the limit it is.
        is_told = estimate.n > 1 and estimate.lower is not None and estimate.upper is not None
        return "fail" if is_told else "unclear"
    return "pass" if _is_shown(basis, figure, limit, rules, more=0) else "unclear"


def _more_needed(basis: Share | Quantile, figure: Figure, limit: float, rules: Rules) -> int | None:
    if rules.provisional:
        return None  # no number: what is undetermined stays so, and of nothing there is no point
    n = basis.trials if isinstance(basis, Share) else len(basis.largest)
    size = basis.worst_size if isinstance(basis, Share) else basis.size
    if n and size is None:
        return None  # runs are what is missing
    return samples_until(lambda more: _is_shown(basis, figure, limit, rules, more=more), 0)


def _is_shown(basis: Share | Quantile, figure: Figure, limit: float, rules: Rules, *, more: int) -> bool:
    """Whether a group shows its rule once `more` independent samples have come, none of them bad."""
    if isinstance(basis, Share):
        n, size, bad = basis.trials, basis.worst_size, basis.bad
    else:
        n, size, bad = len(basis.largest), basis.size, basis.beyond(limit, strict=figure.strict)
    if n and size is None:
        return False
    independent = (size or 0) + more
    effective_bad = bad * size / n if n and size is not None and size != n else bad
    if isinstance(basis, Share):
        return _rate_is_shown(effective_bad, independent, n + more, limit, rules.level, one_look=rules.one_look)
    if rules.one_look:
        return _quantile_is_shown(bad, n + more, basis.fraction, rules.level, independent)
    return is_shown_at_every_look(effective_bad, independent, 1 - basis.fraction, rules.level)


def _rate_is_shown(bad: float, size: float, count: int, limit_percent: float, level: float, *, one_look: bool) -> bool:
    if not one_look:
        return is_shown_at_every_look(bad, size, limit_percent / 100, level)
    interval = wilson_interval(bad, size, level) if count else None
    return interval is not None and interval[1] * 100 <= limit_percent


def _quantile_is_shown(bad: int, count: int, fraction: float, level: float, size: float) -> bool:
    """Whether the value at the upper end is one of those within the limit, which are the smaller ones."""
    _, upper = quantile_ranks(count, fraction, level, None if math.isclose(size, count) else size)
    return upper is not None and upper <= count - bad
