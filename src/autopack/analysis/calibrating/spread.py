"""How far budgets follow predictions: all the way, half of it, or not at all. Pure.

A budget is base × factor, base = centre · (prediction / centre)^power, the centre being the geometric mean of the
predictions. With a power of 1 the base is the prediction. Where replies of small phases go further beyond their
predictions than those of large ones, the factor that covers them is wasted on the large ones, and the same share of
replies is covered by fewer tokens with a power of 1/2, or with one ceiling for all (0).

A lower power is taken where it saves at least a tenth of the mean budget at the same α. What is chosen on some replies
looks better on those than it is, so the base of a reply comes from a choice that has not seen its run, as its
prediction does; the choice that is written to the file has seen all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import chain

from autopack.analysis.calibrating.conformal import carried_factor, scores_of
from autopack.analysis.calibrating.cross_validation import dealt
from autopack.analysis.calibrating.history import Reply
from autopack.estimation.coefficients import Spread

LEAST_RUNS = 5

_POWERS = (1.0, 0.5, 0.0)
_LEAST_SAVING = 0.1
_MOST_REPLIES = 20_000  # more of them decide nothing else

Predicted = Mapping[int, int]
"""The prediction of each reply, by its `id()`."""


def chosen(replies: Sequence[Reply], predicted: Predicted, alpha: Fraction, cap: int) -> Spread | None:
    """The spread that these replies speak for; None where budgets follow predictions."""
    taken = [reply for reply in replies[:: 1 + len(replies) // _MOST_REPLIES] if predicted[id(reply)] > 0]
    if not taken:
        return None
    centre = math.exp(math.fsum(math.log(predicted[id(reply)]) for reply in taken) / len(taken))
    best, least = _POWERS[0], math.inf
    for power in _POWERS:
        mean = _mean_budget(taken, predicted, Spread(power=power, centre=centre), alpha, cap)
        if mean is not None and mean < (1 - _LEAST_SAVING) * least:
            best, least = power, mean
    return None if best == _POWERS[0] else Spread(power=best, centre=float(round(centre)))


def unseen_bases(
    replies: Sequence[Reply], predicted: Predicted, alpha: Fraction, cap: int, folds: int
) -> tuple[Spread | None, dict[int, float]]:
    """The spread that all speak for, and of each reply the base, by its `id()`, that the other runs speak for."""
    if len({reply.run_id for reply in replies}) < LEAST_RUNS:
        return None, {key: float(tokens) for key, tokens in predicted.items()}
    parts = [part for part in dealt(replies, folds) if part]
    bases: dict[int, float] = {}
    for index, part in enumerate(parts):
        spread = chosen(list(chain(*parts[:index], *parts[index + 1 :])), predicted, alpha, cap)
        bases |= {id(reply): based(predicted[id(reply)], spread) for reply in part}
    return chosen(replies, predicted, alpha, cap), bases


def based(predicted: int, spread: Spread | None) -> float:
    """What a factor multiplies."""
    return float(predicted) if spread is None else spread.base(predicted)


def _mean_budget(
    replies: Sequence[Reply], predicted: Predicted, spread: Spread, alpha: Fraction, cap: int
) -> float | None:
    bases = {id(reply): spread.base(predicted[id(reply)]) for reply in replies}
    factor, _ = carried_factor(scores_of(replies, lambda reply: bases[id(reply)], cap), alpha)
    if factor is None:
        return None
    return math.fsum(min(cap, base * factor) for base in bases.values()) / len(bases)
