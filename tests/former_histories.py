"""Histories whose former verdicts stand in `analysis/former_verdicts.json`, as the code before clusters gave them."""

from collections.abc import Iterator
from typing import Any

from tests.verdicts import DAY_S, NOW_S, sample

from autopack.analysis.sampling.samples import Event


def former_histories() -> dict[str, tuple[list[Event], dict[str, Any]]]:
    """Each by its name: the events, and the settings of the rules."""
    return {
        "good": ([sample(n) for n in range(200)], {}),
        "few": ([sample(n) for n in range(50)], {}),
        "one": ([sample(1, truncated=True)], {}),
        "none": ([], {}),
        "nights": (list(_nights()), {}),
        "mixed": (list(_mixed()), {}),
        "provisional": (list(_mixed()), {"provisional": True}),
        "other limits": (
            list(_mixed()),
            {"max_underestimation_percent": 60.0, "max_waste_p90": 40.0, "max_smape_median_percent": 150.0},
        ),
        "named": (list(_mixed()), {"strata": ("testing/low", "absent/high"), "level": 0.9}),
        "drift": (
            [sample(n) for n in range(900)]
            + [sample(5000 + n, at_s=NOW_S - DAY_S, truncated=n < 20) for n in range(100)],
            {},
        ),
    }


def _nights() -> Iterator[Event]:
    for night in range(8):
        for phase in range(25):
            yield sample(
                25 * night + phase,
                run_id=f"night-{night}",
                phase_id=f"phase-{phase}",
                category="testing",
                complexity="low",
                actual=900 + 17 * phase + 5 * night,
            )


def _mixed() -> Iterator[Event]:
    for n in range(400):
        yield sample(
            n,
            run_id=f"run-{n % 11}",
            predicted=400 + 37 * (n % 29),
            actual=300 + 53 * (n % 31),
            budget=1500 + 100 * (n % 7),
            truncated=n % 23 == 0,
            success=n % 9 != 0,
            at_s=NOW_S - (n % 70) * DAY_S,
        )
