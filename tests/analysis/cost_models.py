"""Histories with a cost that is known, for the tests of calibration."""

import random
from collections.abc import Callable, Iterator

import msgspec

from autopack.analysis.calibrating.history import KINDS, Recorded
from autopack.coefficients import shipped_coefficients
from autopack.estimation.coefficients import Coefficients, Marginals, MarginalTable
from autopack.estimation.estimator import Kind, estimate

Noise = Callable[[random.Random], float]

TODAY = shipped_coefficients()

_PATHS: dict[Kind, str] = {
    "backend": "src/m{}.py",
    "frontend": "ui/c{}.tsx",
    "test": "tests/test_{}.py",
    "doc": "docs/d{}.md",
    "config": "conf/c{}.yaml",
}
_CATEGORIES, _COMPLEXITIES = ("implementation", "testing", "documentation"), ("low", "high")


def exact(_: random.Random) -> float:
    """No noise."""
    return 1.0


def lognormal(sigma: float) -> Noise:
    """Noise by factors, as many above as below."""
    return lambda rng: rng.lognormvariate(0, sigma)


def normal(sigma: float) -> Noise:
    """Noise by addition, as many above as below."""
    return lambda rng: max(0.05, rng.gauss(1, sigma))


def other_costs(seed: int) -> Coefficients:
    """Coefficients that differ from today's by factors of 0.5 to 2."""
    rng = random.Random(seed)  # noqa: S311 (the same history every time)

    def scaled(tokens: float) -> float:
        return tokens * rng.choice([0.5, 0.7, 1.0, 1.5, 2.0])

    def table(marginals: Marginals) -> Marginals:
        return Marginals(**{kind: scaled(getattr(marginals, kind)) for kind in KINDS})

    return msgspec.structs.replace(
        TODAY,
        overhead={name: scaled(tokens) for name, tokens in TODAY.overhead.items()},
        marginal=MarginalTable(new=table(TODAY.marginal.new), modified=table(TODAY.marginal.modified)),
    )


def history(count: int, costs: Coefficients, noise: Noise, *, runs: int = 40, seed: int = 6) -> Iterator[Recorded]:
    """Phases that cost what `costs` say, before their safety margin, times noise; predicted with today's."""
    rng = random.Random(seed)  # noqa: S311 (the same history every time)
    for number in range(count):
        paths = [_PATHS[rng.choice(KINDS)].format(place) for place in range(rng.randint(1, 6))]
        existing = [path for path in paths if rng.random() < 0.4]
        category, complexity = rng.choice(_CATEGORIES), rng.choice(_COMPLEXITIES)
        predicted = estimate(paths, category, complexity, TODAY, existing)
        true = estimate(paths, category, complexity, costs, existing).predicted_output_tokens / costs.safety_margin
        yield Recorded(
            run_id=f"run-{number % runs}",
            phase_id=f"phase-{number}",
            category=category,
            complexity=complexity,
            deliverable_count=len(paths),
            deliverables=paths,
            existing=existing,
            predicted_output_tokens=predicted.predicted_output_tokens,
            actual_output_tokens=max(1, round(true * noise(rng))),
            selected_budget=predicted.selected_budget,
            success=True,
            truncated=False,
            model="claude-sonnet-4-5",
            timestamp="2026-01-01T00:00:00+00:00",
        )
