"""What a verdict demands: the five figures, their limits, and how much data there must be. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

RuleSet = Literal["budget", "plan"]
BUDGET_FIGURES = frozenset({"truncation_percent", "budget_overrun_percent"})
"""What a budget is judged by; the other figures are those of the prediction."""

_PLAN_CATEGORIES, _PLAN_COMPLEXITIES = 3, 2

FORMER = "--rules plan --one-look --assume-independent"
"""The options that give the verdict that there was before samples had clusters."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a verdict; rates and SMAPE in percent, waste as a factor.

    rules                    `budget` judges truncation and overruns, and reports the figures of the prediction; `plan`
                             judges all five limits, those of the host system
    level                    of the intervals, two-sided, 0.5 … 0.9999
    min_categories           None: as many as there are (`budget`), 3 (`plan`); `min_complexities` alike, 2 (`plan`)
    strata                   those that are judged, as `category/complexity`; empty: each that occurs
    underestimation_factor   actual tokens above this × predicted are an underestimation
    drift_days               the last days, which are compared with all before
    one_look                 the verdict is asked for once: intervals decide, which are narrower than what holds at
                             every look
    assume_independent       each sample says something of its own, whatever its phase and run
    population               `new`: also phases that were not there; `plan`: future runs of these phases only
    estimator                the fingerprint of the only one whose predictions are judged; None: any
    provisional              points are compared with the limits, not the upper ends of intervals
    imported                 log lines, of which no deliverables are recorded, are samples
    simulated                simulated replies are samples
    """

    rules: RuleSet = "budget"
    level: float = 0.95
    min_samples: int = 30
    min_categories: int | None = None
    min_complexities: int | None = None
    min_per_stratum: int = 5
    strata: tuple[str, ...] = ()
    underestimation_factor: float = 1.1
    max_underestimation_percent: float = 5.0
    max_truncation_percent: float = 2.0
    max_budget_overrun_percent: float = 2.0
    max_waste_p90: float = 3.0
    max_smape_median_percent: float = 50.0
    drift_days: float = 30.0
    one_look: bool = False
    assume_independent: bool = False
    population: Literal["new", "plan"] = "new"
    estimator: str | None = None
    provisional: bool = False
    imported: bool = True
    simulated: bool = False

    @property
    def is_former(self) -> bool:
        """Whether the verdict is to be the one that there was before samples had clusters, in every digit."""
        return self.rules == "plan" and self.one_look and self.assume_independent

    def categories_needed(self, present: int) -> int:
        """How many categories there must be, where there are `present`."""
        return _needed(self.min_categories, _PLAN_CATEGORIES if self.rules == "plan" else present)

    def complexities_needed(self, present: int) -> int:
        """How many complexities there must be, where there are `present`."""
        return _needed(self.min_complexities, _PLAN_COMPLEXITIES if self.rules == "plan" else present)

    def judges(self, figure: Figure) -> bool:
        """Whether the verdict depends on a figure."""
        return self.rules == "plan" or figure.name in BUDGET_FIGURES

    def named_strata(self) -> Iterator[tuple[str, str]]:
        """The category and complexity of each stratum that is named; a complexity holds no slash."""
        for name in self.strata:
            category, _, complexity = name.rpartition("/")
            yield category, complexity


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that is judged: its field in `Measures`, the rule with its limit, and how to speak of it.

    strict   the limit itself is not within
    """

    name: str
    title: str
    claim: str
    unit: Literal["percent", "factor"]
    of: Literal["samples", "successes"]
    limit: str
    strict: bool = False

    @property
    def is_rate(self) -> bool:
        """Whether it is a share of samples, not a quantile."""
        return self.of == "samples"

    def is_within(self, value: float, limit: float) -> bool:
        """Whether a value keeps to a limit."""
        return value < limit if self.strict else value <= limit

    def demand(self, limit: float) -> str:
        """What is demanded, in words."""
        return f"{'below' if self.strict else 'at most'} {limit:g}{self._sign}"

    def claim_of(self, limit: float) -> str:
        """What is to be shown, in words."""
        return f"{self.claim} {'below' if self.strict else 'of'} {limit:g}{self._sign}"

    def shown(self, value: float | None) -> str:
        """A value for people."""
        return "-" if value is None else f"{value:.4g}{self._sign}"

    @property
    def _sign(self) -> str:
        return " %" if self.unit == "percent" else " ×"


def _needed(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given


FIGURES = (
    Figure(
        "underestimation_percent",
        "underestimation",
        "an underestimation rate",
        "percent",
        "samples",
        "max_underestimation_percent",
    ),
    Figure("truncation_percent", "truncation", "a truncation rate", "percent", "samples", "max_truncation_percent"),
    Figure(
        "budget_overrun_percent",
        "budget overrun",
        "a budget overrun rate",
        "percent",
        "samples",
        "max_budget_overrun_percent",
    ),
    Figure("waste_p90", "waste P90", "a P90 waste", "factor", "successes", "max_waste_p90", strict=True),
    Figure(
        "smape_median_percent", "SMAPE median", "a median SMAPE", "percent", "successes", "max_smape_median_percent"
    ),
)
