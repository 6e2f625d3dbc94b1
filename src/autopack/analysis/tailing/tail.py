"""New events, as they land in the database. Asks again and again; each look is one short transaction.

SQLite numbers its rows in the order in which they land, so nothing is missed there, also not an event of yesterday
that was recovered just now. PostgreSQL does not number them: there an event is new that happened at most a minute
before the newest one seen, and has not been seen yet; one that lands later than that is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from autopack.analysis.reading.records import EventRecord
from autopack.analysis.reading.rows import open_newest, rows_landed
from autopack.analysis.reading.selection import Selection
from autopack.database.destination import Destination

_OVERLAP = timedelta(minutes=1)


class Tail:
    """The newest events of a database, then what lands after them. A selection's limit is not looked at."""

    def __init__(self, destination: Destination, selection: Selection) -> None:
        self._destination = destination
        self._selection = selection
        self._numbered = destination.dialect == "sqlite"
        self._last = 0
        self._newest: datetime | None = None
        self._seen: dict[tuple[object, object], datetime | None] = {}

    def begin(self, count: int) -> list[EventRecord]:
        """The newest `count` events, oldest first. Raises `ReadError`."""
        wanted = replace(self._selection, limit=max(1, count))
        if self._numbered:
            self._last = rows_landed(self._destination)
            wanted = replace(wanted, landed=(0, self._last))
        newest = list(self._read(wanted))
        if not self._numbered:
            self._remember_what_is_there(newest)
        return newest[:count][::-1]

    def look(self) -> Iterator[EventRecord]:
        """What has landed since the last look. Raises `ReadError`, also while it is taken."""
        return self._landed() if self._numbered else self._happened_lately()

    def _landed(self) -> Iterator[EventRecord]:
        through = rows_landed(self._destination)
        yield from self._read(replace(self._selection, landed=(self._last, through), limit=None))
        self._last = through  # only now: what could not be read is looked for again

    def _happened_lately(self) -> Iterator[EventRecord]:
        begin = self._newest - _OVERLAP if self._newest else None
        asked = self._selection.since
        since = max(begin, asked) if begin and asked else begin or asked
        self._seen = {key: at for key, at in self._seen.items() if at is None or begin is None or at >= begin}
        for record in self._read(replace(self._selection, since=since, limit=None)):
            if _identity(record) not in self._seen:
                self._remember(record)
                yield record

    def _read(self, selection: Selection) -> Iterator[EventRecord]:
        with open_newest(self._destination, selection) as records:
            yield from records

    def _remember_what_is_there(self, newest: list[EventRecord]) -> None:
        """Also those that were not shown, where a look would find them again."""
        for record in newest:
            self._remember(record)
        for _ in self._happened_lately() if newest else ():
            pass

    def _remember(self, record: EventRecord) -> None:
        at = datetime.fromisoformat(record.timestamp) if record.timestamp else None
        self._seen[_identity(record)] = at
        if at is not None:
            self._newest = max(self._newest or at, at)


def _identity(record: EventRecord) -> tuple[object, object]:
    return record.run_id, record.event_uid
