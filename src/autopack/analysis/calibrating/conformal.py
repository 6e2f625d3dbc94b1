"""Budgets with a promise: split-conformal quantiles per stratum. Pure.

The score of a reply is actual / predicted, what its budget would have had to be in units of its prediction. Of n
replies that the prediction was not fitted to, ordered by score, the one at rank k = ⌈(n + 1)(1 - α)⌉ gives the factor.
If a future reply of the stratum is exchangeable with those n, its score is above that with a probability of at most α
(Vovk et al. 2005; Lei et al. 2018), whatever the distribution is and however bad the prediction. The promise is one
for the average over histories and replies; it does not hold for a model or a kind of work that was not there before.

Where n < 1/α - 1 there is no such rank, and no promise. The score of a truncated reply is only known to be larger than
what came, so it counts as infinite; so does that of a reply above the cap, which no budget may exceed. Where the rank
falls among those, there is no promise either.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import msgspec

from autopack.analysis.calibrating.history import Reply

_DIGITS = 10_000  # a factor is rounded up to four digits after the point
_LEAST_FACTOR = 1.0
_LARGEST_FACTOR = 100.0  # what the file's form allows

Predict = Callable[[Reply], int]
"""The tokens that are predicted for a reply, and were not fitted to it."""


class BudgetResult(msgspec.Struct, frozen=True, kw_only=True):
    """What can be promised for a stratum: `factor` is None where nothing can be, and `reason` says why.

    replies    that the promise rests on, failures and truncated ones included
    over_*     of them, those above the budget of the coefficients in force, and above the promised one; each truncated
               one is among them, since what it needed is not known
    unused_*   the price: the mean of what the other replies left of their budgets, None where there are none
    """

    stratum: str
    replies: int
    truncated: int
    factor: float | None
    reason: str | None
    over_before: int
    over_after: int | None
    unused_before: float | None
    unused_after: float | None


def least_replies(alpha: Fraction) -> int:
    """How many replies a promise takes: 1/α - 1, rounded up."""
    return math.ceil(1 / alpha - 1)


def promised_rank(count: int, alpha: Fraction) -> int | None:
    """Which of the ascending scores, numbered from 1, keeps the promise; None where there are too few."""
    rank = math.ceil((count + 1) * (1 - alpha))
    return rank if rank <= count else None


def promised_factor(scores: Iterable[float], alpha: Fraction) -> float | None:
    """The factor that at most a share of α of future scores exceeds; infinite where only that would do.

    None where there are too few scores.
    """
    ordered = sorted(scores)
    rank = promised_rank(len(ordered), alpha)
    if rank is None:
        return None
    score = ordered[rank - 1]
    return score if math.isinf(score) else max(_LEAST_FACTOR, math.ceil(score * _DIGITS) / _DIGITS)


def budgets_of(
    replies: Iterable[Reply], predict: Predict, budget_before: Callable[[Reply], int], alpha: Fraction, cap: int
) -> list[BudgetResult]:
    """What can be promised for each stratum. `cap` is the largest budget there may be."""
    strata: defaultdict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        strata[reply.shape.stratum].append(reply)
    return [
        _budget(name, strata[name], predict=predict, budget_before=budget_before, alpha=alpha, cap=cap)
        for name in sorted(strata)
    ]


def _budget(
    stratum: str,
    replies: Sequence[Reply],
    *,
    predict: Predict,
    budget_before: Callable[[Reply], int],
    alpha: Fraction,
    cap: int,
) -> BudgetResult:
    factor = promised_factor((_score(reply, predict(reply), cap) for reply in replies), alpha)
    usable = factor is not None and factor <= _LARGEST_FACTOR

    def budget_after(reply: Reply) -> int:
        return min(cap, math.ceil(predict(reply) * (factor or 0.0)))

    return BudgetResult(
        stratum=stratum,
        replies=len(replies),
        truncated=sum(reply.truncated for reply in replies),
        factor=factor if usable else None,
        reason=None if usable else _refusal(factor, len(replies), alpha),
        over_before=_over(replies, budget_before),
        over_after=_over(replies, budget_after) if usable else None,
        unused_before=_unused(replies, budget_before),
        unused_after=_unused(replies, budget_after) if usable else None,
    )


def _score(reply: Reply, predicted: int, cap: int) -> float:
    return math.inf if reply.truncated or reply.actual > cap or predicted <= 0 else reply.actual / predicted


def _refusal(factor: float | None, count: int, alpha: Fraction) -> str:
    if factor is None:
        return f"{least_replies(alpha) - count} more replies needed: {count} of {least_replies(alpha)}"
    return "too many replies were truncated or lie above the cap: what they needed is not known"


def _over(replies: Iterable[Reply], budget: Callable[[Reply], int]) -> int:
    return sum(reply.truncated or reply.actual > budget(reply) for reply in replies)


def _unused(replies: Iterable[Reply], budget: Callable[[Reply], int]) -> float | None:
    left = [budget(reply) - reply.actual for reply in replies if not reply.truncated]
    unused = [tokens for tokens in left if tokens >= 0]
    return math.fsum(unused) / len(unused) if unused else None
