"""Whether everything accepted arrives: the database as the read side sees it, and what waits on the write side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from autopack.analysis.reading.rows import count_and_newest
from autopack.database.destination import Destination
from autopack.errors import ReadError
from autopack.telemetry.engine import AUTO, DeadLetterStatus, dead_letter_bytes, dead_letter_status, journal_folder
from autopack.telemetry.journal import JournalStatus, fingerprint_of, journal_status


class DatabaseStatus(msgspec.Struct, frozen=True):
    """The state of a database. `problem` is None where it can be read, `last_event` (ISO 8601, UTC) None where
    it is empty or its newest time cannot be read; `rows` and `last_event` are None where there is a problem.
    `rows_exact` False: `rows` is the database's own estimate, None where there is a problem.
    """

    database: str
    reachable: bool
    problem: str | None
    rows: int | None
    last_event: str | None
    rows_exact: bool | None


class WaitingEvents(NamedTuple):
    """Events of a database that its journal holds: the next writer delivers those of dead writers, or `autopack
    recover`; live writers are writing theirs, and their number is an estimate.
    """

    of_dead_writers: int
    of_live_writers: int


class StatusReport(msgspec.Struct, frozen=True):
    """What `autopack status` says. `journal` is None where there is none, `dead_letters` for a database in memory.

    healthy                  see `problems`, which says in words why not
    waiting                  events of this database in the journal; `waiting_of_dead_writers` are those of them that
                             the next writer, or `autopack recover`, has to deliver
    """

    database: DatabaseStatus
    journal: JournalStatus | None
    waiting: int
    waiting_of_dead_writers: int
    dead_letters: DeadLetterStatus | None
    problems: list[str]

    @property
    def healthy(self) -> bool:
        """Whether nothing needs a person."""
        return not self.problems


def status_report(destination: Destination, *, exact: bool = False) -> StatusReport:
    """The status now; nothing is created or changed. `exact`: count the rows, however many they are."""
    database = database_status(destination, exact=exact)
    journal, dead_letters = _journal(destination), _dead_letters(destination)
    waiting = _waiting_in(journal)
    return StatusReport(
        database=database,
        journal=journal,
        waiting=sum(waiting),
        waiting_of_dead_writers=waiting.of_dead_writers,
        dead_letters=dead_letters,
        problems=list(_problems(database, waiting.of_dead_writers, journal, dead_letters)),
    )


def waiting_events(destination: Destination) -> WaitingEvents:
    """What waits in the journal now; costs a look at its folder where there is none. Raises OSError."""
    return _waiting_in(_journal(destination))


def database_status(destination: Destination, *, exact: bool = False) -> DatabaseStatus:
    """The status now. A database that is missing, broken or not autopack's raises nothing: the status reports it.

    `exact` False: many rows are estimated, which costs the same for any number of them.
    """
    try:
        count, last_event = count_and_newest(destination, exact=exact)
    except ReadError as exc:
        return DatabaseStatus(
            str(destination), reachable=False, problem=str(exc), rows=None, last_event=None, rows_exact=None
        )
    return DatabaseStatus(
        str(destination),
        reachable=True,
        problem=None,
        rows=count.rows,
        last_event=last_event,
        rows_exact=count.exact,
    )


def _journal(destination: Destination) -> JournalStatus | None:
    folder = journal_folder(AUTO, destination.telemetry_dir) if destination.identity else None
    return None if folder is None else journal_status(folder, fingerprint_of(destination.identity or ""))


def _waiting_in(journal: JournalStatus | None) -> WaitingEvents:
    mine = [file for file in journal.files if file.ours] if journal else []
    dead = sum(file.events for file in mine if file.state == "orphaned")
    return WaitingEvents(dead, sum(file.events for file in mine) - dead)


def _dead_letters(destination: Destination) -> DeadLetterStatus | None:
    if destination.telemetry_dir is None:
        return None
    return dead_letter_status(destination.telemetry_dir, max_bytes=dead_letter_bytes())


def _problems(
    database: DatabaseStatus, dead: int, journal: JournalStatus | None, dead_letters: DeadLetterStatus | None
) -> Iterator[str]:
    if not database.reachable:
        yield "the database cannot be read"
    if dead:
        yield f"{dead} event(s) of dead processes wait in the journal; autopack recover delivers them"
    if journal and journal.corrupt:
        yield f"{len(journal.corrupt)} damaged journal file(s) were quarantined"
    if dead_letters and dead_letters.unreadable:
        yield f"{dead_letters.unreadable} dead letter(s) cannot be read"
    if dead_letters and dead_letters.full:
        yield "there is no room for further dead letters: refused events stay in the journal"
