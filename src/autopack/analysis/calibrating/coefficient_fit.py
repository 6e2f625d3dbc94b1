"""Coefficients from replies, shrunk towards those in force. Pure.

The model is the estimator's own, before its safety margin: expected = overhead[stratum] + Σ marginal[kind] · count.
With θ the logarithms of all its coefficients over those in force, the fit minimises

    Σ ρ(ln actual - ln expected) + m · Σ θ²

ρ is Huber's loss (quadratic up to 0.25, linear beyond): replies scatter by factors and have long tails, and the centre
that is looked for is the one with as many replies above as below. m is how many replies the coefficients in force are
worth: one that n typical replies hang on alone moves by n / (n + m) of the way, and one that none hangs on not at all.
Each coefficient stays positive, and one of 0 stays 0.

A truncated reply pulls only upwards: an expectation at or above the count at its ceiling agrees with it.

Minimised by Gauss-Newton steps with reweighting. Each shape has exactly one overhead, so those are eliminated first
(`least_squares`), and a step costs a 10 × 10 system however many strata there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autopack.analysis.calibrating.history import KINDS, Reply, Shape
from autopack.analysis.calibrating.least_squares import Equations
from autopack.estimation.coefficients import Coefficients

HUBER = 0.25

_MOST_STEPS = 60
_LARGEST_STEP = math.log(2)
_CLOSE = 1e-4  # a hundredth of a percent


@dataclass(frozen=True, slots=True)
class Model:
    """The coefficients that are fitted: overhead by stratum, and the marginals, new ones first, in `KINDS`' order."""

    overhead: Mapping[str, float]
    default_overhead: float
    marginal: tuple[float, ...]

    def overhead_of(self, stratum: str) -> float:
        """That of the stratum, else the default."""
        return self.overhead.get(stratum, self.default_overhead)

    def expected(self, shape: Shape) -> float:
        """Output tokens before the safety margin, at least 1."""
        parts = zip(self.marginal, shape.new + shape.modified, strict=True)
        return max(1.0, self.overhead_of(shape.stratum) + sum(tokens * count for tokens, count in parts if count))


@dataclass(frozen=True, slots=True)
class _Work:
    """The replies of one shape: logarithms of exact counts, and of lower bounds."""

    shape: Shape
    exact: list[float]
    bounds: list[float]


def model_of(coefficients: Coefficients) -> Model:
    """The part of coefficients that is fitted."""
    tables = (coefficients.marginal.new, coefficients.marginal.modified)
    marginal = tuple(float(getattr(table, kind)) for table in tables for kind in KINDS)
    return Model(coefficients.overhead, coefficients.default_overhead, marginal)


def fit(replies: Iterable[Reply], start: Model, *, prior_weight: float) -> Model:
    """The model that the replies, together with `start`, speak for. `prior_weight` (m above) is greater than 0."""
    works = _works(replies)
    strata = sorted({work.shape.stratum for work in works})
    now = Model({name: start.overhead_of(name) for name in strata}, start.default_overhead, start.marginal)
    for _ in range(_MOST_STEPS):
        overhead, marginal = _step(works, now, start, prior_weight)
        now = Model(
            {name: tokens * math.exp(overhead[name]) for name, tokens in now.overhead.items()},
            now.default_overhead,
            tuple(tokens * math.exp(step) for tokens, step in zip(now.marginal, marginal, strict=True)),
        )
        if max(map(abs, (*overhead.values(), *marginal))) < _CLOSE:
            break
    return Model({**start.overhead, **now.overhead}, start.default_overhead, now.marginal)


def is_informative(reply: Reply) -> bool:
    """Whether a reply says something of the cost of its phase: it was completed, or cut while it still went on."""
    return reply.success or reply.truncated


def _works(replies: Iterable[Reply]) -> list[_Work]:
    works: dict[Shape, _Work] = {}
    for reply in filter(is_informative, replies):
        work = works.setdefault(reply.shape, _Work(reply.shape, [], []))
        (work.bounds if reply.truncated else work.exact).append(math.log(reply.actual))
    return list(works.values())


def _step(
    works: Sequence[_Work], now: Model, start: Model, prior_weight: float
) -> tuple[dict[str, float], list[float]]:
    """How far each logarithm moves next: those of the overheads, and those of the marginals."""
    equations = Equations(now.overhead, len(now.marginal))
    for work in works:
        weight, pull = _weight_and_pull(work, math.log(now.expected(work.shape)))
        equations.add(work.shape.stratum, *_shares(work.shape, now), weight, pull)
    for stratum, tokens in now.overhead.items():
        equations.hold_overhead(stratum, prior_weight, -prior_weight * _log_ratio(tokens, start.overhead_of(stratum)))
    for index, (tokens, before) in enumerate(zip(now.marginal, start.marginal, strict=True)):
        equations.hold_marginal(index, prior_weight, -prior_weight * _log_ratio(tokens, before))
    overhead, marginal = equations.solved()
    return {name: _bounded(step) for name, step in overhead.items()}, list(map(_bounded, marginal))


def _weight_and_pull(work: _Work, expected: float) -> tuple[float, float]:
    """Of all replies of a shape: the sum of their weights, and of their residuals times weight."""
    weight = pull = 0.0
    for residual in _residuals(work, expected):
        size = abs(residual)
        weight += 1.0 if size <= HUBER else HUBER / size
        pull += residual if size <= HUBER else math.copysign(HUBER, residual)
    return weight, pull


def _residuals(work: _Work, expected: float) -> Iterator[float]:
    yield from (actual - expected for actual in work.exact)
    yield from (bound - expected for bound in work.bounds if bound > expected)


def _shares(shape: Shape, now: Model) -> tuple[float, list[tuple[int, float]]]:
    """Which part of the expectation each coefficient makes: d ln expected / d θ. The overhead's, and the marginals'."""
    whole = now.expected(shape)
    counted = enumerate(zip(now.marginal, shape.new + shape.modified, strict=True))
    marginals = [(index, tokens * count / whole) for index, (tokens, count) in counted if count]
    return now.overhead_of(shape.stratum) / whole, marginals


def _log_ratio(tokens: float, before: float) -> float:
    return math.log(tokens / before) if tokens and before else 0.0


def _bounded(step: float) -> float:
    return max(-_LARGEST_STEP, min(_LARGEST_STEP, step))
