"""`autopack prune`: parse, wire, print."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec

from autopack._util.terminal import is_terminal
from autopack._util.text import escape_terminal
from autopack.commands._options import ParamType
from autopack.commands._output import print_json, progress
from autopack.commands._reading import announced_database, as_click_error
from autopack.database.destination import Destination
from autopack.maintenance.pruning import count_older, parse_age, prune, vacuum


class Age(ParamType[timedelta]):
    """An age on the command line."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it, or fail with a message about the option."""
        try:
            return value if isinstance(value, timedelta) else parse_age(value)
        except ValueError as exc:
            self.fail(escape_terminal(str(exc)), param, ctx)


class PruneSummary(msgspec.Struct, frozen=True):
    """What `autopack prune` says: of `events` that happened before an instant, how many it `deleted`."""

    database: str
    before: datetime
    dry_run: bool
    events: int
    deleted: int
    vacuumed: bool


@click.command("prune", short_help="Delete old events.")
@click.option(
    "--older-than",
    "age",
    type=Age(),
    required=True,
    metavar="AGE",
    help="How old: a number and s, m, h, d or w, at least 1h.",
)
@click.option("--dry-run", is_flag=True, help="Say how many it would be; delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal to ask, as in a cron job.")
@click.option(
    "--vacuum", "wants_vacuum", is_flag=True, help="SQLite: give the room back afterwards; no writer gets in meanwhile."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def prune_command(*, age: timedelta, dry_run: bool, yes: bool, wants_vacuum: bool, as_json: bool) -> None:
    """Delete events that happened longer ago than AGE from the database that DATABASE_URL names.

    In small transactions, so that writers are not held up; broken off, it has deleted the oldest, and can be run again.
    The journal and the dead letters are left alone, and so are events whose time cannot be read.

    Example: autopack prune --older-than 90d --yes
    """
    destination = announced_database()
    if wants_vacuum and destination.server is not None:
        raise click.UsageError("--vacuum is for SQLite; PostgreSQL vacuums by itself")
    before = datetime.now(UTC) - age
    events = count_older(destination, before)
    deleted = 0
    with as_click_error(destination, "cannot be pruned"):
        if events and not dry_run:
            _confirm(events, before, yes=yes)
            deleted = _prune(destination, before, events)
        vacuums = wants_vacuum and not dry_run
        if vacuums:
            vacuum(destination)
    summary = PruneSummary(str(destination), before, dry_run, events, deleted, vacuums)
    if as_json:
        print_json(summary)
    else:
        click.echo(_line(summary))


def _confirm(events: int, before: datetime, *, yes: bool) -> None:
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise click.UsageError("there is no terminal to ask; --yes deletes without a question, --dry-run only counts")
    click.confirm(f"Delete {events} events from before {before:%Y-%m-%d %H:%M} UTC?", abort=True, err=True)


def _prune(destination: Destination, before: datetime, events: int) -> int:
    deleted = 0
    with progress("Pruning", events) as advance:
        for count in prune(destination, before):
            deleted += count
            advance(count)
    return deleted


def _line(summary: PruneSummary) -> str:
    said = f"{summary.events} would be deleted" if summary.dry_run else f"{summary.deleted} deleted"
    return f"events before {summary.before:%Y-%m-%d %H:%M} UTC: {said}" + (", vacuumed" if summary.vacuumed else "")
