"""Whether everything accepted arrives: the database as the read side sees it, and what waits on the write side."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from autopack.analysis.reading.status import Status, database_status
from autopack.database.destination import Destination
from autopack.telemetry.engine.dead_letters import DeadLetterStatus, dead_letter_status
from autopack.telemetry.engine.settings import AUTO, journal_folder
from autopack.telemetry.journal.journal import fingerprint_of
from autopack.telemetry.journal.status import JournalStatus, journal_status


class StatusReport(msgspec.Struct, frozen=True):
    """What `autopack status` says. `journal` is None where there is none, `dead_letters` for a database in memory.

    healthy                  see `problems`, which says in words why not
    waiting                  events of this database in the journal; `waiting_of_dead_writers` are those of them that
                             the next writer, or `autopack recover`, has to deliver
    """

    database: Status
    journal: JournalStatus | None
    waiting: int
    waiting_of_dead_writers: int
    dead_letters: DeadLetterStatus | None
    problems: list[str]

    @property
    def healthy(self) -> bool:
        """Whether nothing needs a person."""
        return not self.problems


def status_report(destination: Destination) -> StatusReport:
    """The status now; nothing is created or changed."""
    database = database_status(destination)
    journal, dead_letters = _journal(destination), _dead_letters(destination)
    mine = [file for file in journal.files if file.ours] if journal else []
    dead = sum(file.events for file in mine if file.state == "orphaned")
    return StatusReport(
        database=database,
        journal=journal,
        waiting=sum(file.events for file in mine),
        waiting_of_dead_writers=dead,
        dead_letters=dead_letters,
        problems=list(_problems(database, dead, journal, dead_letters)),
    )


def _journal(destination: Destination) -> JournalStatus | None:
    folder = journal_folder(AUTO, destination.telemetry_dir) if destination.identity else None
    return None if folder is None else journal_status(folder, fingerprint_of(destination.identity or ""))


def _dead_letters(destination: Destination) -> DeadLetterStatus | None:
    return None if destination.telemetry_dir is None else dead_letter_status(destination.telemetry_dir)


def _problems(
    database: Status, dead: int, journal: JournalStatus | None, letters: DeadLetterStatus | None
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
