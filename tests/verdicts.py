"""What the tests of the verdict share: events that are good samples, and their figures computed another way."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]  # it ships no types

from autopack.analysis.sampling.collector import SampleCollector
from autopack.analysis.sampling.samples import Block, Event
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.validation import Validation, validate

DAY_S = 86_400.0
NOW_S = 1_767_225_600.0  # 2026-01-01
CATEGORIES, COMPLEXITIES = ("implementation", "testing", "documentation"), ("low", "high")


def sample(number: int, **changes: Any) -> Event:
    """A good one, of another phase than every other number; the strata take turns."""
    values: dict[str, Any] = {
        "run_id": f"run-{number % 7}",
        "phase_id": f"phase-{number}",
        "model": "claude-sonnet-4-5",
        "category": CATEGORIES[number % 3],
        "complexity": COMPLEXITIES[number // 3 % 2],
        "deliverable_count": 2,
        "predicted": 1300,
        "actual": 1000 + number % 50,
        "budget": 8192,
        "success": True,
        "truncated": False,
        "at_s": NOW_S - 90 * DAY_S + number,
        "has_paths": True,
        "is_total": False,
        "work": 7,
    }
    return Event(**values | changes)


def blocks(events: Iterable[Event], size: int = 100) -> list[Block]:
    """The events as they come from a source."""
    every = list(events)
    return [Block._make(zip(*every[start : start + size], strict=True)) for start in range(0, len(every), size)]


def verdict_on(events: Iterable[Event], rules: Rules | None = None) -> Validation:
    """The verdict on these events on NOW_S."""
    rules = rules or Rules()
    collector = SampleCollector(
        include_simulated=rules.simulated, include_imported=rules.imported, estimator=rules.estimator
    )
    collector.add_all(blocks(events))
    return validate(collector.samples(), rules, as_of_s=NOW_S, source="test")


def former_rules(**changes: Any) -> Rules:
    """The rules of the former verdict: all five limits, at one look, on samples that are taken to be independent."""
    return Rules(rules="plan", one_look=True, assume_independent=True, **changes)


def former_verdict_on(events: Iterable[Event], rules: Rules | None = None) -> Validation:
    """The former verdict on these events on NOW_S."""
    return verdict_on(events, rules or former_rules())


def independent_share(hits: Any) -> dict[str, float]:
    """A rate in percent and its interval, by SciPy."""
    hits = np.asarray(hits, bool)
    interval = stats.binomtest(int(hits.sum()), hits.size).proportion_ci(0.95, "wilson")
    return {"point": hits.mean() * 100, "lower": interval.low * 100, "upper": interval.high * 100}


def independent_quantile(values: Any, fraction: float) -> dict[str, float | None]:
    """A quantile and its interval of order statistics, by NumPy and SciPy's binomial distribution."""
    ordered = np.sort(np.asarray(values, float))
    below = stats.binom(ordered.size, fraction)
    ranks = np.arange(1, ordered.size + 1)
    under, over = ranks[below.cdf(ranks - 1) <= 0.025], ranks[below.sf(ranks - 1) <= 0.025]
    return {
        "point": float(np.quantile(ordered, fraction)),
        "lower": float(ordered[under[-1] - 1]) if under.size else None,
        "upper": float(ordered[over[0] - 1]) if over.size else None,
    }


def independent_figures(frame: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """All five figures of columns `p`, `a`, `b`, `success`, `truncated`; what is truncated is above every threshold."""
    p, a, b = (np.asarray(frame[name], float) for name in "pab")
    success, truncated = (np.asarray(frame[name], bool) for name in ("success", "truncated"))
    waste, smape = p / a, np.abs(a - p) / np.maximum(1, (a + p) / 2) * 100
    return {
        "underestimation_percent": {**independent_share(a > 1.1 * p)},
        "truncation_percent": {**independent_share(truncated)},
        "budget_overrun_percent": {**independent_share(a > b)},
        "waste_p90": independent_quantile(waste[success], 0.9),
        "smape_median_percent": independent_quantile(smape[success], 0.5),
    }
