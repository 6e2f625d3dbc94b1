"""A rate that may be looked at again after every build: when it is shown to be within its limit. Pure.

A gate that is asked until it passes passes sooner or later: an interval holds for one look that was planned before.
So the verdict bets against the limit p0. With k bad ones of n, each p1 below p0 has the likelihood ratio

    E(p1) = (p1 / p0)^k · ((1 - p1) / (1 - p0))^(n - k)

which is a supermartingale while the true rate is p0 or more: the chance that it ever reaches c is at most 1 / c (Ville
1939). The same holds for the mean over p1 = p0 · 2^(-j/2), j = 1 … 12 (a mixture: Robbins 1970; Howard et al. 2021;
"e-process" in Ramdas et al. 2023). The rate is shown when that mean reaches 2 / (1 - level), 40 at 95 %, which is
the one side of the two-sided intervals. A limit of 2 % takes 211 clean samples, 189 at one look. For correlated samples
n is the number of independent ones that they are worth; the guarantee is then as good as that number, which simulations
show.
"""

from __future__ import annotations

import math

_BETS = tuple(2 ** (-j / 2) for j in range(1, 13))


def is_shown_at_every_look(bad: float, size: float, limit: float, level: float) -> bool:
    """Whether a rate of `bad` of `size` is shown to be within `limit`, a fraction, however often it is looked at."""
    if limit >= 1:
        return True
    if limit <= 0 or not size:
        return False
    logs = [bad * math.log(bet) + (size - bad) * (math.log1p(-limit * bet) - math.log1p(-limit)) for bet in _BETS]
    largest = max(logs)
    mean = largest + math.log(math.fsum(math.exp(log - largest) for log in logs) / len(logs))
    return mean >= math.log(2 / (1 - level))
