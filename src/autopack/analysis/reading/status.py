"""Whether the database is there and what it holds."""

from __future__ import annotations

import msgspec

from autopack.analysis.reading.rows import count_and_newest
from autopack.database.destination import Destination
from autopack.errors import ReadError


class Status(msgspec.Struct, frozen=True):
    """The state of a database. `problem` is None where it can be read, `last_event` (ISO 8601, UTC) None where
    it is empty or its newest time cannot be read; `rows` and `last_event` are None where there is a problem.
    """

    database: str
    reachable: bool
    problem: str | None
    rows: int | None
    last_event: str | None


def database_status(destination: Destination) -> Status:
    """The status now. Never raises for a database that is missing, broken or not ours: that is what it reports."""
    try:
        rows, last_event = count_and_newest(destination)
    except ReadError as exc:
        return Status(str(destination), reachable=False, problem=str(exc), rows=None, last_event=None)
    return Status(str(destination), reachable=True, problem=None, rows=rows, last_event=last_event)
