"""What verdicts are made of, read from the database that the environment names: samples, a verdict, its course."""

from __future__ import annotations

from datetime import datetime

from autopack.analysis.reading.reader import BLOCK_ROWS
from autopack.analysis.reading.rows import open_columns
from autopack.analysis.reading.selection import EVERYTHING, Selection
from autopack.analysis.sampling.collector import SampleCollector
from autopack.analysis.sampling.sources import COLUMNS, from_rows
from autopack.analysis.summarizing.periods import grid_of, periods_of
from autopack.analysis.summarizing.table import Gathered
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.validation import validate
from autopack.commands._output import tracked
from autopack.commands._reading import database_to_read


def collect_database(collector: SampleCollector, selection: Selection = EVERYTHING) -> str:
    """Take the events of the database that the environment names; the answer names it. Raises `ReadError`."""
    destination = database_to_read()
    with open_columns(destination, COLUMNS, selection) as rows:
        blocks = tracked(rows.blocks, "Reading", None if rows.total is None else -(-rows.total // BLOCK_ROWS))
        collector.add_all(from_rows(blocks, collector.unreadable))
    return str(destination)


def gather(
    rules: Rules,
    selection: Selection,
    as_of: datetime,
    *,
    most_periods: int,
    collector: SampleCollector | None = None,
) -> Gathered:
    """What summary and report show: the samples of the database, read once, a verdict, and its course.

    `collector` is one for these rules, to which the caller has further questions. Raises `ReadError`.
    """
    collector = collector or SampleCollector(
        include_simulated=rules.simulated, include_imported=rules.imported, estimator=rules.estimator
    )
    source = collect_database(collector, selection)
    samples = collector.samples(last=True)
    validation = validate(samples, rules, as_of_s=as_of.timestamp(), source=source)
    grid = grid_of(samples, most=most_periods)
    return Gathered(validation, samples, grid, periods_of(samples, rules, grid))
