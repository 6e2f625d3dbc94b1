"""`autopack summary`: parse, wire, print."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click
import msgspec

from autopack._util.terminal import is_terminal
from autopack._util.text import escape_json
from autopack.analysis.reading.selection import Selection
from autopack.analysis.summarizing.table import MOST_PERIODS, NARROW, Gathered, about_periods, parts
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.table import before_tables
from autopack.commands._gathering import gather
from autopack.commands._options import Instant, selection_options
from autopack.commands._tables import plain_tables, rich_tables
from autopack.commands.validate import rule_options

_COLOURS = {"validated": "bold green", "not validated": "bold red", "insufficient data": "bold yellow"}


@click.command("summary", short_help="Show the verdict and its figures at a glance.")
@click.option("--as-of", type=Instant(), metavar="TIME", help="What counts as now, for the drift. [default: now]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
@rule_options
@selection_options
def summary_command(*, as_of: datetime | None, as_json: bool, rules: Rules, selection: Selection) -> None:
    """Show the verdict of autopack validate at a glance: each figure with how it developed, and each stratum.

    Whatever the verdict is, the exit code is 0; autopack validate is the gate.

    Example: autopack summary --since 2025-12-01
    """
    gathered = gather(rules, selection, as_of or datetime.now(UTC), most_periods=MOST_PERIODS)
    if as_json:
        said = {"validation": gathered.validation, "periods": gathered.periods}
        click.echo(escape_json(msgspec.json.encode(said).decode()))
    elif is_terminal(sys.stdout):
        _show_on_terminal(gathered)
    else:
        _show_plainly(gathered)


def _show_plainly(gathered: Gathered) -> None:
    validation, periods = gathered.validation, gathered.periods
    click.echo("\n".join([*before_tables(validation), about_periods(periods), ""]))
    click.echo(plain_tables(parts(gathered, narrow=False)))


def _show_on_terminal(gathered: Gathered) -> None:
    """Rich folds what is too wide, and leaves colour out where NO_COLOR says so."""
    from rich.console import Console
    from rich.text import Text

    validation, periods = gathered.validation, gathered.periods
    console = Console()
    headline, *others = before_tables(validation)
    console.print(Text(headline, style=_COLOURS[validation.verdict]))
    console.print(Text("\n".join([*others, about_periods(periods)])), "")
    console.print(*rich_tables(parts(gathered, narrow=console.width < NARROW)), sep="\n")
