"""How far budgets follow predictions: all the way, half of it, or not at all. Pure.

A budget is base × factor, base = centre · (prediction / centre)^power, the centre being the geometric mean of the
predictions. With a power of 1 the base is the prediction. Where replies of small phases go further beyond their
predictions than those of large ones, the factor that covers them is wasted on the large ones, and the same share of
replies is covered by fewer tokens with a power of 1/2, or with one ceiling for all (0).

A lower power is taken where it saves at least a tenth of the mean budget at the same α. It is chosen once, by all
replies, at an α that at least ten phases lie beyond: the largest of a few scores is chance, and what was chosen by it
would look better on these replies than it is. Simulations show what the promise is worth after that (docs/budgets.md).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

from autopack.analysis.calibrating.conformal import scores_of, supported_factor
from autopack.analysis.calibrating.history import Reply
from autopack.estimation.coefficients import Spread

_POWERS = (1.0, 0.5, 0.0)
_LEAST_SAVING = 0.1
_LEAST_BEYOND = 10
_MOST_REPLIES = 20_000  # more of them decide nothing else

Predicted = Mapping[int, int]
"""The prediction of each reply, by its `id()`."""


def centre_of(predictions: Collection[int]) -> float:
    """Their geometric mean, in whole tokens."""
    return float(max(1, round(math.exp(math.fsum(map(math.log, predictions)) / len(predictions)))))


def chosen(replies: Sequence[Reply], predicted: Predicted, alpha: Fraction, cap: int, centre: float) -> Spread | None:
    """The spread that these replies speak for; None where budgets follow predictions."""
    taken = [reply for reply in replies[:: 1 + len(replies) // _MOST_REPLIES] if predicted[id(reply)] > 0]
    if not taken:
        return None
    best, least = _POWERS[0], math.inf
    for power in _POWERS:
        mean = _mean_budget(taken, predicted, Spread(power=power, centre=centre), alpha, cap)
        if mean is not None and mean < (1 - _LEAST_SAVING) * least:
            best, least = power, mean
    return None if best == _POWERS[0] else Spread(power=best, centre=centre)


def bases_of(
    replies: Sequence[Reply], predicted: Predicted, alpha: Fraction, cap: int
) -> tuple[Spread | None, dict[int, float]]:
    """The spread that the replies speak for, and of each the base, by its `id()`."""
    positive = [tokens for tokens in predicted.values() if tokens > 0]
    spread = chosen(replies, predicted, alpha, cap, centre_of(positive)) if positive else None
    return spread, {key: based(tokens, spread) for key, tokens in predicted.items()}


def based(predicted: int, spread: Spread | None) -> float:
    """What a factor multiplies."""
    return float(predicted) if spread is None else spread.base(predicted)


def _mean_budget(
    replies: Sequence[Reply], predicted: Predicted, spread: Spread, alpha: Fraction, cap: int
) -> float | None:
    bases = {id(reply): spread.base(predicted[id(reply)]) for reply in replies}
    scores = scores_of(replies, lambda reply: bases[id(reply)], cap)
    factor, _ = supported_factor(scores, max(alpha, Fraction(_LEAST_BEYOND, scores.phase_count + 1)))
    if factor is None:
        return None
    return math.fsum(min(cap, base * factor) for base in bases.values()) / len(bases)
