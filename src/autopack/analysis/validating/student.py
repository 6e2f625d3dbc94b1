"""Quantiles of Student's t for whole degrees of freedom. Pure.

P(|T| ≤ t) is a finite sum for whole degrees ν (Abramowitz & Stegun 26.7.3 and 26.7.4, with θ = atan(t / √ν)), which is
inverted by bisection. Above 400 degrees the quantile is that of the normal distribution with Cornish and Fisher's terms
to ν⁻⁴ (26.7.5), which is exact to ten digits there.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_MANY = 400
_STEPS = 80


@lru_cache(maxsize=4096)
def t_quantile(degrees: int, level: float) -> float:
    """The t with P(|T| ≤ t) = `level`, for at least one degree of freedom."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    if degrees > _MANY:
        return _expanded(z, degrees)
    low, high = z, 2 * z
    while _within(high, degrees) < level:
        high *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """P(|T| ≤ t)."""
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term
    if degrees == 1:
        return theta * 2 / math.pi
    for number in range(2 + odd, degrees, 2):
        term *= cosine * cosine * (number - 1) / number
        total += term
    return float((theta + sine * total) * 2 / math.pi if odd else sine * total)


def _expanded(z: float, degrees: int) -> float:
    square = z * z
    terms = (
        (square + 1) / 4,
        ((5 * square + 16) * square + 3) / 96,
        (((3 * square + 19) * square + 17) * square - 15) / 384,
        ((((79 * square + 776) * square + 1482) * square - 1920) * square - 945) / 92160,
    )
    return z + math.fsum(z * term / math.pow(degrees, power) for power, term in enumerate(terms, 1))
