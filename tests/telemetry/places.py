"""The destinations that one behaviour suite runs against: each opens a telemetry, and reads what reached it."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from tests.postgres import Database
from tests.write_side import dead_letters_of, read_dead_letters, rows_of, url_of

from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.dead_letters import MemoryDeadLetters
from autopack.telemetry.stores import MemoryStore


class Place(ABC):
    """A destination, and plain eyes for what reached it. The behaviour suite runs against each kind."""

    on_postgres = False

    def __init__(self, folder: Path, database: Database | None = None) -> None:
        self.path = folder / "events.db"
        self._database = database

    @abstractmethod
    def open(self, **options: Any) -> Telemetry:
        """A telemetry that writes here."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """What was written, in order, in Python's types."""

    @abstractmethod
    def dead_letters(self) -> list[dict[str, Any]]:
        """What was refused, in order."""


class MemoryPlace(Place):
    def __init__(self, folder: Path, database: Database | None = None) -> None:
        super().__init__(folder, database)
        self._store = MemoryStore()
        self._letters: list[MemoryDeadLetters] = []

    def open(self, **options: Any) -> Telemetry:
        telemetry = Telemetry(self._store, **options)
        dead_letters = telemetry.dead_letters
        assert isinstance(dead_letters, MemoryDeadLetters)
        self._letters.append(dead_letters)
        return telemetry

    def rows(self) -> list[dict[str, Any]]:
        return [row._asdict() for row in self._store.rows]

    def dead_letters(self) -> list[dict[str, Any]]:
        letters = [letter for dead_letters in self._letters for letter in dead_letters.letters]
        return [msgspec.json.decode(msgspec.json.encode(letter)) for letter in letters]


class SqlitePlace(Place):
    @property
    def url(self) -> str:
        return url_of(self.path)

    def open(self, **options: Any) -> Telemetry:
        return Telemetry(self.url, **options)

    def rows(self) -> list[dict[str, Any]]:
        return [_in_python(row) for row in rows_of(self.path)] if self.path.exists() else []

    def dead_letters(self) -> list[dict[str, Any]]:
        return dead_letters_of(self.path)


class SqliteWithoutJournalPlace(SqlitePlace):
    def open(self, **options: Any) -> Telemetry:
        return super().open(**{"journal_dir": None} | options)


class PostgresPlace(Place):
    on_postgres = True

    @property
    def database(self) -> Database:
        assert self._database is not None
        return self._database

    @property
    def url(self) -> str:
        return self.database.url

    def open(self, **options: Any) -> Telemetry:
        return Telemetry(self.url, **options)

    def rows(self) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "event_id"} for row in self.database.rows()]

    def dead_letters(self) -> list[dict[str, Any]]:
        folder = parse_database_url(self.url).telemetry_dir
        assert folder is not None
        return read_dead_letters(folder / "dead-letters.ndjson")


# A further store is one more entry here. What is kept in memory only is tried on SQLite: the buffer knows no store.
PLACES: dict[str, type[Place]] = {
    "memory": MemoryPlace,
    "sqlite": SqlitePlace,
    "sqlite-without-journal": SqliteWithoutJournalPlace,
    "postgresql": PostgresPlace,
}


def _in_python(row: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in row.items() if name != "event_id"}
    values["timestamp"] = datetime.fromisoformat(values["timestamp"]).replace(tzinfo=UTC)
    for name in ("success", "truncated", "underestimated"):
        values[name] = None if values[name] is None else bool(values[name])
    return values
