"""Budgets with a promise: conformal quantiles per stratum, by phase. Pure.

The score of a reply is actual / predicted, what its budget would have had to be in units of its prediction (or of the
base that `spread` makes of it), which was not fitted to the reply's run. Replies of one phase resemble each other, so a
phase counts, not a reply: of K phases, the k-th with N_k replies, each score has the weight 1 / ((K + 1) · N_k), and
1 / (K + 1) lies at infinity. The factor is the least score with at least 1 - α at or below it (hierarchical conformal
prediction: Lee, Barber and Willett 2023, arXiv 2306.06342). A reply of a phase that was not there, and is exchangeable
with those K, is above that with a probability of at most α, whatever the distribution is and however bad the
prediction. With one reply per phase this is the split-conformal rank ⌈(K + 1)(1 - α)⌉ (Vovk et al. 2005). The promise
does not hold for a model or a kind of work that was not there before.

It is one for the average over histories. What a single history can come to, with 95 %, is Beta⁻¹(0.95; K + 1 - k, k),
k the phases all of whose replies lie at or below the factor: exact with one reply per phase, else approximate.

*Where α cannot be kept.* K < 1/α - 1 phases have no such score: the stratum gets the factor of all strata together,
called pooled. The score of a truncated reply is only known to be larger than what came, so it counts as infinite; so
does that of a reply above the cap. Where these and 1 / (K + 1) together weigh more than α, the least α that the data
carry is what they weigh, and the factor is for that, labelled. Above 25 % nothing is proposed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import msgspec

from autopack.analysis.calibrating.history import Reply
from autopack.estimation.coefficients import Promise

_DIGITS = 10_000  # a factor is rounded up to four digits after the point
_LEAST_FACTOR = 1.0
_LARGEST_FACTOR = 100.0  # what the file's form allows
_LARGEST_ALPHA = Fraction(1, 4)
_BISECTIONS = 60

Base = Callable[[Reply], float]
"""What the budget of a reply is a multiple of: its prediction, or what `spread` makes of it; not fitted to it."""


class BudgetResult(msgspec.Struct, frozen=True, kw_only=True):
    """What can be promised for a stratum: `factor` is None where nothing can be, and `reason` says why.

    replies, phases   that the promise rests on, failures and truncated ones included: of the stratum
    basis             whose scores gave the factor: the stratum's own, or those of all strata
    alpha_percent     the share of replies of new phases above the factor, at most, on average: more than was asked for
                      where the data carry no less, and `reason` says so
    bound_percent     what that share can be in one history, with 95 %; `bound_is_exact` with one reply per phase
    least_alpha_percent   the least α that the stratum's own replies carry
    over_*            of the replies, those above the budget of the coefficients in force, and above the promised one;
                      each truncated one is among them, since what it needed is not known
    unused_*          the mean of what the other replies left of their budgets, None where there are none
    """

    stratum: str
    replies: int
    phases: int
    truncated: int
    basis: Literal["stratum", "pooled"]
    factor: float | None
    alpha_percent: float | None
    bound_percent: float | None
    bound_is_exact: bool
    least_alpha_percent: float
    reason: str | None
    over_before: int
    over_after: int | None
    unused_before: float | None
    unused_after: float | None


def least_phases(alpha: Fraction) -> int:
    """How many phases a promise takes: 1/α - 1, rounded up."""
    return math.ceil(1 / alpha - 1)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores, each with its phase; an empty phase is one of its own."""

    scores: Sequence[float]
    phases: Sequence[str]

    @property
    def sizes(self) -> Counter[str]:
        """How many scores each phase of several has."""
        return Counter(filter(None, self.phases))

    @property
    def phase_count(self) -> int:
        """K."""
        sizes = self.sizes
        return len(sizes) + len(self.phases) - sizes.total()

    def least_alpha(self) -> Fraction:
        """The least α that they carry."""
        sizes = self.sizes
        lost = sum(
            (
                Fraction(1, sizes.get(phase, 1))
                for score, phase in zip(self.scores, self.phases, strict=True)
                if math.isinf(score)
            ),
            Fraction(),
        )
        return (lost + 1) / (self.phase_count + 1)

    def factor(self, alpha: Fraction) -> float | None:
        """The factor that at most a share of α of scores of a new phase exceeds; infinite where only that would do.

        None where there are too few phases.
        """
        sizes, allowed = self.sizes, alpha * (self.phase_count + 1) - 1
        if allowed < 0 or not self.scores:
            return None
        above, found = Fraction(), math.inf
        for score, phase in sorted(zip(self.scores, self.phases, strict=True), reverse=True):
            found = score
            above += Fraction(1, sizes.get(phase, 1))
            if above > allowed:
                break
        return found if math.isinf(found) else max(_LEAST_FACTOR, math.ceil(found * _DIGITS) / _DIGITS)

    def bound(self, factor: float) -> float:
        """What the share above the factor can be in one history, with 95 %."""
        beyond = {
            phase or index
            for index, (score, phase) in enumerate(zip(self.scores, self.phases, strict=True))
            if score > factor
        }
        return upper_share(self.phase_count, self.phase_count - len(beyond))


def supported_factor(scores: Scores, alpha: Fraction) -> tuple[float | None, Promise | None]:
    """The factor for α, or for the least α that the scores carry, and what it keeps; None above 25 %."""
    kept = max(alpha, scores.least_alpha())
    factor = scores.factor(kept) if kept <= _LARGEST_ALPHA else None
    if factor is None or factor > _LARGEST_FACTOR:
        return None, None
    return factor, Promise(alpha_percent=float(kept * 100), bound_percent=scores.bound(factor) * 100)


def upper_share(count: int, within: int) -> float:
    """Beta⁻¹(0.95; count + 1 - within, within): the x with P(Binomial(count, x) ≤ count - within) = 0.05."""
    if not within:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(count - within, count, middle) > 1 / 20 else (low, middle)
    return high


def _at_most(events: int, count: int, share: float) -> float:
    """P(Binomial(count, share) ≤ events)."""
    hit, miss = math.log(share), math.log1p(-share)
    whole = math.lgamma(count + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * hit + (count - k) * miss)
        for k in range(events + 1)
    )


def budgets_of(
    replies: Iterable[Reply], base: Base, budget_before: Callable[[Reply], int], alpha: Fraction, cap: int
) -> list[BudgetResult]:
    """What can be promised for each stratum. `cap` is the largest budget there may be."""
    strata: defaultdict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        strata[reply.shape.stratum].append(reply)
    pooled = scores_of([reply for name in sorted(strata) for reply in strata[name]], base, cap)
    return [
        _budget(name, strata[name], pooled, base=base, budget_before=budget_before, alpha=alpha, cap=cap)
        for name in sorted(strata)
    ]


def scores_of(replies: Sequence[Reply], base: Base, cap: int) -> Scores:
    """The score and phase of each."""
    return Scores([_score(reply, base(reply), cap) for reply in replies], [reply.phase for reply in replies])


def _budget(
    stratum: str,
    replies: Sequence[Reply],
    pooled: Scores,
    *,
    base: Base,
    budget_before: Callable[[Reply], int],
    alpha: Fraction,
    cap: int,
) -> BudgetResult:
    own = scores_of(replies, base, cap)
    is_own = own.phase_count >= least_phases(alpha)
    basis = own if is_own else pooled
    factor, promise = supported_factor(basis, alpha)

    def budget_after(reply: Reply) -> int:
        return min(cap, math.ceil(base(reply) * (factor or 0.0)))

    return BudgetResult(
        stratum=stratum,
        replies=len(replies),
        phases=own.phase_count,
        truncated=sum(reply.truncated for reply in replies),
        basis="stratum" if is_own else "pooled",
        factor=factor,
        alpha_percent=None if promise is None else promise.alpha_percent,
        bound_percent=None if promise is None else promise.bound_percent,
        bound_is_exact=len(basis.scores) == basis.phase_count,
        least_alpha_percent=float(own.least_alpha() * 100),
        reason=_reason(own, basis, factor, alpha),
        over_before=_over(replies, budget_before),
        over_after=None if factor is None else _over(replies, budget_after),
        unused_before=_unused(replies, budget_before),
        unused_after=None if factor is None else _unused(replies, budget_after),
    )


def _score(reply: Reply, base: float, cap: int) -> float:
    return math.inf if reply.truncated or reply.actual > cap or base <= 0 else reply.actual / base


def _reason(own: Scores, basis: Scores, factor: float | None, alpha: Fraction) -> str | None:
    """Why the promise is not the stratum's own at α; None where it is."""
    said = []
    if basis is not own:
        needed, present = least_phases(alpha), own.phase_count
        said.append(f"{needed - present} more phases needed: {present} of {needed}; its own carry {_percent(own)}")
    if basis.least_alpha() > alpha:
        said.append(f"no factor below the ceiling keeps {float(alpha * 100):g} %; the data carry {_percent(basis)}")
    elif factor is None:
        said.append("too many replies were truncated or lie above the cap: what they needed is not known")
    return "; ".join(said) or None


def _percent(scores: Scores) -> str:
    return f"{float(scores.least_alpha() * 100):.2g} %"


def _over(replies: Iterable[Reply], budget: Callable[[Reply], int]) -> int:
    return sum(reply.truncated or reply.actual > budget(reply) for reply in replies)


def _unused(replies: Iterable[Reply], budget: Callable[[Reply], int]) -> float | None:
    left = [budget(reply) - reply.actual for reply in replies if not reply.truncated]
    unused = [tokens for tokens in left if tokens >= 0]
    return math.fsum(unused) / len(unused) if unused else None
