"""What a verdict demands: the five figures, their limits, and how much data there must be. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a verdict; rates and SMAPE in percent, waste as a factor.

    level                    of the intervals, two-sided, 0.5 … 0.9999
    strata                   those that must be covered, as `category/complexity`; empty: each that occurs
    underestimation_factor   actual tokens above this × predicted are an underestimation
    drift_days               the last days, which are compared with all before
    provisional              points are compared with the limits, not the upper ends of intervals
    imported                 log lines, of which no deliverables are recorded, are samples
    simulated                simulated replies are samples
    """

    level: float = 0.95
    min_samples: int = 30
    min_categories: int = 3
    min_complexities: int = 2
    min_per_stratum: int = 5
    strata: tuple[str, ...] = ()
    underestimation_factor: float = 1.1
    max_underestimation_percent: float = 5.0
    max_truncation_percent: float = 2.0
    max_budget_overrun_percent: float = 2.0
    max_waste_p90: float = 3.0
    max_smape_median_percent: float = 50.0
    drift_days: float = 30.0
    provisional: bool = False
    imported: bool = True
    simulated: bool = False

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
