"""`autopack summary`: parse, wire, print."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from autopack.analysis.reading.selection import Selection
from autopack.analysis.summarizing.table import MOST_PERIODS, NARROW, Gathered, about_periods, parts
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.table import before_tables
from autopack.commands._options import Instant, selection_options
from autopack.commands._output import print_json, print_tables, rich_console
from autopack.commands._verdicts import gather
from autopack.commands.validate import rule_options

if TYPE_CHECKING:
    from rich.console import Console

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
        print_json({"validation": gathered.validation, "periods": gathered.periods})
    elif console := rich_console():
        _show_on_terminal(gathered, console)
    else:
        _show_plainly(gathered)


def _show_plainly(gathered: Gathered) -> None:
    click.echo("\n".join([*before_tables(gathered.validation), about_periods(gathered.periods), ""]))
    print_tables(parts(gathered, narrow=False))


def _show_on_terminal(gathered: Gathered, console: Console) -> None:
    """By rich, which folds what is too wide, and leaves colour out where NO_COLOR says so."""
    from rich.text import Text

    headline, *others = before_tables(gathered.validation)
    console.print(Text(headline, style=_COLOURS[gathered.validation.verdict]))
    console.print(Text("\n".join([*others, about_periods(gathered.periods)])), "")
    print_tables(parts(gathered, narrow=console.width < NARROW))
