"""`autopack report`: parse, wire, write."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import click

from autopack._util.files import atomic_write
from autopack.analysis.reading.selection import Selection
from autopack.analysis.validating.rules import Rules
from autopack.commands._options import Instant, selection_options
from autopack.commands._output import note
from autopack.commands._verdicts import gather
from autopack.commands.validate import rule_options
from autopack.database.destination import current_destination
from autopack.errors import require
from autopack.maintenance.health import status_report
from autopack.reporting.calls import CallCollector
from autopack.reporting.page import page

_MOST_PERIODS = 60


@click.command("report", short_help="Write the verdict and its figures as one HTML page.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    default=Path("report.html"),
    show_default=True,
    help="Write this file, whole or not at all. A link is refused.",
)
@click.option("--as-of", type=Instant(), metavar="TIME", help="What counts as now, for the drift. [default: now]")
@rule_options
@selection_options
def report_command(*, output: Path, as_of: datetime | None, rules: Rules, selection: Selection) -> None:
    """Write one HTML file: the verdict, predicted against actual, error by category and complexity, waste of budget,
    the course over time, the worst calls, and whether everything recorded arrives.

    The file needs no network and sends nothing; it can be mailed, printed, and read on a phone. The numbers are those
    of autopack validate with the same options. Needs plotly: pip install 'autopack-telemetry[report]'

    Example: autopack report --output report.html
    """
    plotly_js = plotly_or_explain()
    collector = CallCollector(
        include_simulated=rules.simulated, include_imported=rules.imported, estimator=rules.estimator
    )
    gathered = gather(rules, selection, as_of or datetime.now(UTC), most_periods=_MOST_PERIODS, collector=collector)
    health = status_report(current_destination(), exact=True)
    calls = collector.calls(gathered.samples)
    text = page(gathered.validation, gathered.periods, calls, health, plotly_js)
    with atomic_write(output) as file:
        file.write(text.encode())
    note(f"Wrote {output}: {gathered.validation.verdict}, {calls.total} samples")


def plotly_or_explain() -> str:
    """The script of the library. Raises `MissingExtraError` where it is not installed."""
    require("plotly", "report", "the report")
    return (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
