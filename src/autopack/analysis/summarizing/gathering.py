"""A verdict, the samples it rests on, and how they developed, from the database that the environment names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from autopack.analysis.reading.selection import Selection
from autopack.analysis.sampling.collector import SampleCollector
from autopack.analysis.sampling.samples import Samples
from autopack.analysis.summarizing.periods import Grid, Period, grid_of, periods_of
from autopack.analysis.validating.command import collect_database
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.validation import Validation, validate


@dataclass(frozen=True, slots=True)
class Gathered:
    """What summary and report are made of."""

    validation: Validation
    samples: Samples
    grid: Grid
    periods: list[Period]


def gather(
    rules: Rules,
    selection: Selection,
    as_of: datetime,
    *,
    most_periods: int,
    collector: SampleCollector | None = None,
) -> Gathered:
    """Read the database once; `collector` is one for these rules, to which the caller has further questions.

    Raises `ReadError`.
    """
    collector = collector or SampleCollector(include_simulated=rules.simulated, include_imported=rules.imported)
    source = collect_database(collector, selection)
    samples = collector.samples()
    validation = validate(samples, rules, as_of_s=as_of.timestamp(), source=source)
    grid = grid_of(samples, most=most_periods)
    return Gathered(validation, samples, grid, periods_of(samples, rules, grid))
