"""`autopack status`: the database as the read side sees it, and what still waits on the write side."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import msgspec

from autopack.analysis.reading.status import Status, database_status
from autopack.database import Destination, current_destination
from autopack.telemetry.inspection import DeadLetterState, JournalState, dead_letter_state, journal_state
from autopack.telemetry.journal import fingerprint_of
from autopack.telemetry.settings import AUTO, journal_folder
from autopack.text import for_json, for_terminal


class Report(msgspec.Struct, frozen=True):
    """What `autopack status` says. `journal` is None where there is none, `dead_letters` for a database in memory.

    healthy                  see `problems`, which says in words why not
    waiting                  events of this database in the journal; `waiting_of_dead_writers` are those of them that
                             the next writer, or `autopack recover`, has to deliver
    """

    database: Status
    journal: JournalState | None
    waiting: int
    waiting_of_dead_writers: int
    dead_letters: DeadLetterState | None
    problems: list[str]

    @property
    def healthy(self) -> bool:
        """Whether nothing needs a person."""
        return not self.problems


@click.command("status", short_help="Say whether everything accepted arrives.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def status_command(as_json: bool) -> None:
    """Say which database is used, what it holds, and what has not arrived: in the journal or in the dead letters.

    The exit code is 0 when all is well. It is 1 when the database cannot be read; when events of dead processes wait
    in the journal (autopack recover delivers them); when recovery has set a damaged file aside; or when dead letters
    were lost: a line that cannot be read, or no room for another. Events of running processes, events for other
    databases and dead letters as such are shown, and are no fault.

    Example: autopack status --json
    """
    destination = current_destination()
    click.echo(for_terminal(f"# Database: {destination}"), err=True)
    report = report_on(destination)
    click.echo(for_json(_json(report)) if as_json else "\n".join(map(for_terminal, _lines(report))))
    if not report.healthy:
        sys.exit(1)


def report_on(destination: Destination) -> Report:
    """The status now; nothing is created or changed."""
    database = database_status(destination)
    journal, dead_letters = _journal(destination), _dead_letters(destination)
    mine = [file for file in journal.files if file.ours] if journal else []
    dead = sum(file.events for file in mine if file.state == "orphaned")
    return Report(
        database=database,
        journal=journal,
        waiting=sum(file.events for file in mine),
        waiting_of_dead_writers=dead,
        dead_letters=dead_letters,
        problems=list(_problems(database, dead, journal, dead_letters)),
    )


def _journal(destination: Destination) -> JournalState | None:
    folder = journal_folder(AUTO, destination.telemetry_dir) if destination.identity else None
    return None if folder is None else journal_state(folder, fingerprint_of(destination.identity or ""))


def _dead_letters(destination: Destination) -> DeadLetterState | None:
    return None if destination.telemetry_dir is None else dead_letter_state(destination.telemetry_dir)


def _problems(
    database: Status, dead: int, journal: JournalState | None, letters: DeadLetterState | None
) -> Iterator[str]:
    if not database.reachable:
        yield "the database cannot be read"
    if dead:
        yield f"{dead} event(s) of dead processes wait in the journal; autopack recover delivers them"
    if journal and journal.corrupt:
        yield f"{len(journal.corrupt)} damaged journal file(s) were set aside"
    if letters and letters.unreadable:
        yield f"{letters.unreadable} dead letter(s) cannot be read"
    if letters and letters.full:
        yield "there is no room for further dead letters"


def _json(report: Report) -> str:
    """Flat where programs look first: the fields of the database, then the rest."""
    database = msgspec.structs.asdict(report.database)
    rest = {name: value for name, value in msgspec.structs.asdict(report).items() if name != "database"}
    return msgspec.json.encode({**database, "healthy": report.healthy, **rest}).decode()


def _lines(report: Report) -> Iterator[str]:
    database, journal, letters = report.database, report.journal, report.dead_letters
    yield f"database:     {database.database}"
    yield f"reachable:    {'yes' if database.reachable else f'no: {database.problem}'}"
    if database.reachable:
        yield f"rows:         {database.rows}"
        yield f"last event:   {database.last_event or ('unreadable' if database.rows else 'none')}"
    yield f"journal:      {journal.folder if journal else 'none'}"
    if journal:
        segments = sum(bool(file.ours) for file in journal.files)
        yield f"waiting:      {report.waiting} event(s) in {segments} segment(s)"
        for file in journal.files:
            yield f"  {file.name}: {file.why}"
        for name in journal.corrupt:
            yield f"  {name}: damaged, set aside"
    if letters:
        yield f"dead letters: {letters.waiting}"
    for problem in report.problems:
        yield f"problem:      {problem}"
