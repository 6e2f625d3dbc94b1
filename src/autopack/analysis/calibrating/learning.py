"""What `autopack budget` looks up, from replies and the bases of their budgets. Pure.

Beside the factors of strata (`conformal`) and the memory of phases (`memory`), each model and reasoning level gets
factors of its own where it has phases enough for α. How long replies were is kept as at most a hundred multiples of
their base, in which each phase weighs the same: what a budget leaves unused, what it costs, and which ceiling a retry
takes follow from those (`estimation.outlook`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from autopack.analysis.calibrating.coefficient_fit import is_informative
from autopack.analysis.calibrating.conformal import BudgetResult, Scores, least_phases, scores_of, supported_factor
from autopack.analysis.calibrating.history import Reply
from autopack.analysis.calibrating.memory import memory_of, next_scores
from autopack.estimation.coefficients import Factored, Learned, Lengths, ModelBudgets, Promise

_MOST_POINTS = 100
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Unseen:
    """Replies, and the base of each, by its `id()`, from what has not seen its run."""

    replies: Sequence[Reply]
    bases: Mapping[int, float]

    def base(self, reply: Reply) -> float:
        """That of a reply."""
        return self.bases[id(reply)]


def learned_from(unseen: Unseen, budgets: Sequence[BudgetResult], alpha: Fraction | None, cap: int) -> Learned:
    """All that is looked up; `alpha` None where no budgets are promised."""
    replies = unseen.replies
    memory, memory_factor, memory_promise = memory_of(replies, alpha or Fraction(1, 100))
    pooled_factor, pooled_promise = (
        (None, None) if alpha is None else supported_factor(scores_of(replies, unseen.base, cap), alpha)
    )
    own = {budget.stratum for budget in budgets if budget.basis == "stratum" and budget.factor is not None}
    return Learned(
        until=max((reply.at_s for reply in replies if reply.at_s < math.inf), default=None),
        memory=memory,
        memory_factor=memory_factor,
        memory_promise=memory_promise,
        strata={
            budget.stratum: Promise(
                alpha_percent=budget.alpha_percent,
                bound_percent=budget.bound_percent,
                is_pooled=budget.basis == "pooled",
            )
            for budget in budgets
            if budget.alpha_percent is not None and budget.bound_percent is not None
        },
        pooled_factor=pooled_factor,
        pooled_promise=pooled_promise,
        models=list(_models(unseen, alpha, cap)),
        lengths={
            name: lengths
            for name, group in _by_stratum(replies).items()
            if name in own and (lengths := _lengths(group, unseen)) is not None
        },
        pooled_lengths=_lengths(replies, unseen),
        memory_lengths=_points(next_scores(replies), []),
    )


def _models(unseen: Unseen, alpha: Fraction | None, cap: int) -> Iterable[ModelBudgets]:
    groups: defaultdict[tuple[str, str], list[Reply]] = defaultdict(list)
    for reply in unseen.replies:
        groups[reply.model, reply.reasoning_level or ""].append(reply)
    for (model, level), replies in sorted(groups.items()):
        strata: dict[str, Factored] = {}
        pooled = None
        if alpha is not None and len(groups) > 1:  # of a single one there is nothing to add
            pooled = _factored(replies, unseen, alpha, cap)
            for name, members in sorted(_by_stratum(replies).items()):
                found = _factored(members, unseen, alpha, cap)
                if found is not None:
                    strata[name] = found
        yield ModelBudgets(
            model=model,
            reasoning_level=level or None,
            replies=len(replies),
            strata=strata,
            pooled=pooled,
            reasoning_percent=_reasoning_percent(replies),
        )


def _factored(replies: Sequence[Reply], unseen: Unseen, alpha: Fraction, cap: int) -> Factored | None:
    """What these replies carry on their own; None where their phases are too few."""
    scores = scores_of(replies, unseen.base, cap)
    if scores.phase_count < least_phases(alpha):
        return None
    factor, promise = supported_factor(scores, alpha)
    if factor is None or promise is None:
        return None
    return Factored(factor=factor, promise=promise, lengths=_lengths(replies, unseen))


def _reasoning_percent(replies: Sequence[Reply]) -> float | None:
    known = [(reply.reasoning_share, reply.actual) for reply in replies if reply.reasoning_share is not None]
    tokens = sum(actual for _, actual in known)
    return round(100 * math.fsum(share * actual for share, actual in known) / tokens, 1) if tokens else None


def _by_stratum(replies: Iterable[Reply]) -> dict[str, list[Reply]]:
    strata: defaultdict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        strata[reply.shape.stratum].append(reply)
    return dict(strata)


def _lengths(replies: Sequence[Reply], unseen: Unseen) -> Lengths | None:
    sizes = Scores([], [reply.phase for reply in replies]).sizes
    parts: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    inputs = [reply.input_tokens for reply in replies if reply.input_tokens is not None]
    for reply in replies:
        base = unseen.base(reply)
        if base > 0 and is_informative(reply):  # what failed says nothing of how long replies are
            parts[reply.truncated].append((reply.actual / base, 1 / sizes.get(reply.phase, 1)))
    return _points(*parts, input_tokens=math.fsum(inputs) / len(inputs) if inputs else None)


def _points(
    exact: Sequence[tuple[float, float]], cut: Sequence[tuple[float, float]], input_tokens: float | None = None
) -> Lengths | None:
    of_exact, of_cut = (math.fsum(weight for _, weight in part) for part in (exact, cut))
    if not of_exact:
        return None
    return Lengths(
        exact=_thinned(exact),
        cut=_thinned(cut),
        cut_share=round(of_cut / (of_exact + of_cut), _DIGITS),
        input_tokens=input_tokens and round(input_tokens, 1),
    )


def _thinned(values: Sequence[tuple[float, float]]) -> list[float]:
    """At most so many values that all weigh the same, ascending: those in the middle of as many equal parts."""
    ordered = sorted(values)
    if len(ordered) <= _MOST_POINTS and len({weight for _, weight in ordered}) <= 1:
        return [round(value, _DIGITS) for value, _ in ordered]
    step = math.fsum(weight for _, weight in ordered) / _MOST_POINTS
    found: list[float] = []
    passed = 0.0
    for value, weight in ordered:
        passed += weight
        while len(found) < _MOST_POINTS and passed >= (len(found) + 0.5) * step:
            found.append(round(value, _DIGITS))
    return found
