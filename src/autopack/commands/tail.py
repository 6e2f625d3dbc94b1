"""`autopack tail`: parse, wire, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import takewhile

import anyio
import click

from autopack._util.signals import StopSignals
from autopack._util.terminal import is_terminal
from autopack.analysis.exporting.text import encoded_lines
from autopack.analysis.reading.records import EventRecord
from autopack.analysis.reading.selection import EVERYTHING
from autopack.analysis.tailing.line import header_line, line_of
from autopack.analysis.tailing.tail import Tail
from autopack.commands._options import FiniteRange, StoredText
from autopack.commands._output import note
from autopack.commands._reading import database_to_read
from autopack.errors import ReadError


@click.command("tail", short_help="Show new events as they land.")
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(0, 100_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Begin with the newest N.",
)
@click.option("--follow/--no-follow", default=True, show_default=True, help="Go on with what lands, until Ctrl-C.")
@click.option("--run-id", type=StoredText(), multiple=True, metavar="ID", help="Only this run; repeatable.")
@click.option("--category", type=StoredText(), multiple=True, metavar="NAME", help="Only this category; repeatable.")
@click.option("--model", type=StoredText(), multiple=True, metavar="NAME", help="Only this model; repeatable.")
@click.option(
    "--interval",
    "interval_s",
    type=FiniteRange(0.05, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as export writes them.")
def tail_command(
    *,
    count: int,
    follow: bool,
    run_id: tuple[str, ...],
    category: tuple[str, ...],
    model: tuple[str, ...],
    interval_s: float,
    as_json: bool,
) -> None:
    """Show the newest events, a line each, and go on with new ones as they land in the database.

    Looking never holds up who writes. It ends at Ctrl-C (exit code 130) or SIGTERM (143). While there is no database
    yet, or it cannot be read, it waits.

    Example: autopack tail --no-follow --run-id nightly-42
    """
    destination = database_to_read()
    selection = replace(EVERYTHING, run_ids=run_id, categories=category, models=model)
    if not as_json:
        click.echo(header_line())
    tail = Tail(destination, selection)
    if follow:
        signum = anyio.run(partial(_follow, tail, count, interval_s, as_json=as_json))
        sys.exit(128 + signum)
    else:
        _show(tail.begin(count), as_json=as_json)


async def _follow(tail: Tail, count: int, interval_s: float, *, as_json: bool) -> int:
    """Until a signal, which is returned and never cuts a look short. A database that is away is said once, and waited
    for.
    """
    begun = away = False
    with StopSignals() as stop, anyio.CancelScope() as scope, stop.cancelling(scope):
        while True:
            try:
                _show(
                    takewhile(lambda _: not stop.signum, tail.look() if begun else tail.begin(count)), as_json=as_json
                )
                begun, away = True, False
            except ReadError as exc:
                if not away:
                    note(f"# Waiting: {exc}")
                away = True
            await anyio.sleep(interval_s)
    return stop.signum or 0


def _show(records: Iterable[EventRecord], *, as_json: bool) -> None:
    if as_json:
        for encoded in encoded_lines(records, "ndjson", raw=False, to_terminal=False):
            click.echo(encoded.decode(), nl=False)
    else:
        coloured = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
        for line in map(line_of, records):
            click.echo(click.style(line.text, fg="red") if line.bad and coloured else line.text)
    sys.stdout.flush()
