"""`autopack status`: parse, wire, print."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from autopack._util.text import escape_terminal
from autopack.commands._output import print_json
from autopack.commands._reading import announced_database
from autopack.maintenance.health import DatabaseStatus, StatusReport, status_report


@click.command("status", short_help="Say whether everything accepted arrives.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
@click.option("--exact", is_flag=True, help="Count the rows, however many; else more than 10,000 are estimated.")
def status_command(as_json: bool, exact: bool) -> None:
    """Say which database is used, what it holds, and what has not arrived: in the journal or in the dead letters.

    The exit code is 0 when all is well. It is 1 when the database cannot be read; when events of dead processes wait
    in the journal (autopack recover delivers them); when recovery has quarantined a damaged file; or when dead letters
    were lost: a line that cannot be read, or no room for another. Events of running processes, events for other
    databases and dead letters as such are shown, and are no fault.

    Example: autopack status --json
    """
    report = status_report(announced_database(), exact=exact)
    if as_json:
        print_json(_flat(report))
    else:
        click.echo("\n".join(map(escape_terminal, _lines(report))))
    if not report.healthy:
        sys.exit(1)


def _flat(report: StatusReport) -> dict[str, Any]:
    """Flat where programs look first: the fields of the database, then the rest."""
    database = msgspec.structs.asdict(report.database)
    rest = {name: value for name, value in msgspec.structs.asdict(report).items() if name != "database"}
    return {**database, "healthy": report.healthy, **rest}


def _rows_text(database: DatabaseStatus) -> str:
    return str(database.rows) if database.rows_exact else f"about {database.rows} (estimated; --exact counts them)"


def _lines(report: StatusReport) -> Iterator[str]:
    database, journal, dead_letters = report.database, report.journal, report.dead_letters
    yield f"database:     {database.database}"
    yield f"reachable:    {'yes' if database.reachable else f'no: {database.problem}'}"
    if database.reachable:
        yield f"rows:         {_rows_text(database)}"
        yield f"last event:   {database.last_event or ('unreadable' if database.rows else 'none')}"
    yield f"journal:      {journal.folder if journal else 'none'}"
    if journal:
        segments = sum(bool(file.ours) for file in journal.files)
        yield f"waiting:      {report.waiting} event(s) in {segments} segment(s)"
        for file in journal.files:
            yield f"  {file.name}: {file.why}"
        for name in journal.corrupt:
            yield f"  {name}: damaged, quarantined"
    if dead_letters:
        yield f"dead letters: {dead_letters.waiting}"
    for problem in report.problems:
        yield f"problem:      {problem}"
