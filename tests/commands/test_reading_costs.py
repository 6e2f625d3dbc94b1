"""What looking at a database costs: the same, however much it holds."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy import event as sqlalchemy_event
from tests.read_side import autopack, event, make_database

from autopack.analysis.reading.rows import open_columns
from autopack.analysis.reading.selection import EVERYTHING, Selection
from autopack.analysis.tailing.tail import Tail
from autopack.database.destination import Destination
from autopack.maintenance.health import database_status

_FEW, _MANY = 12_000, 60_000


class Steps:
    """How many hundreds of steps SQLite's machine has made, on all connections that were opened meanwhile."""

    def __init__(self) -> None:
        self.hundreds = 0

    def count(self) -> int:
        self.hundreds += 1
        return 0


@contextmanager
def counted_steps() -> Iterator[Steps]:
    steps = Steps()

    def begin(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_progress_handler(steps.count, 100)

    sqlalchemy_event.listen(Engine, "connect", begin)
    try:
        yield steps
    finally:
        sqlalchemy_event.remove(Engine, "connect", begin)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Destination, Destination]:
    """Two databases, one of them with five times as many rows as the other."""
    folder = tmp_path_factory.mktemp("costs")
    return filled(folder / "few.db", _FEW), filled(folder / "many.db", _MANY)


def filled(path: Path, rows: int) -> Destination:
    destination = make_database(path, [event(1)])
    with closing(sqlite3.connect(path)) as connection, connection:
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(token_estimation_v2_events)")]
        others = [name for name in names if name not in {"event_id", "event_uid", "timestamp"}]
        connection.execute(
            f"INSERT INTO token_estimation_v2_events (event_uid, timestamp, {', '.join(others)}) "
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "SELECT printf('%036d', i), datetime(1767000000 + i, 'unixepoch') || '.000000', "
            f"{', '.join(others)} FROM n, token_estimation_v2_events",
            (rows,),
        )
    return destination


def steps_of_tail(destination: Destination, selection: Selection = EVERYTHING) -> int:
    with counted_steps() as steps:
        assert len(Tail(destination, selection).begin(10)) == 10
    return steps.hundreds


def test_the_newest_cost_the_same_in_any_table(databases: tuple[Destination, Destination]) -> None:
    few, many = map(steps_of_tail, databases)
    assert many <= few + 2


def test_the_newest_of_a_model_are_not_counted(databases: tuple[Destination, Destination]) -> None:
    model = event(1).model
    few, many = (steps_of_tail(database, Selection(models=(model,))) for database in databases)
    assert many <= few + 2


def test_a_look_reads_only_what_landed_since(databases: tuple[Destination, Destination]) -> None:
    tail = Tail(databases[1], EVERYTHING)
    tail.begin(1)
    with counted_steps() as steps:
        assert list(tail.look()) == []
    assert steps.hundreds <= 10


def test_the_status_costs_the_same_in_any_table(databases: tuple[Destination, Destination]) -> None:
    costs = []
    for destination, rows in zip(databases, (_FEW, _MANY), strict=True):
        with counted_steps() as steps:
            status = database_status(destination)
        assert (status.rows, status.rows_exact) == (rows, False)
        assert status.last_event
        costs.append(steps.hundreds)
    assert costs[1] <= costs[0] + 2


def test_a_filter_without_an_index_scans_once(databases: tuple[Destination, Destination]) -> None:
    columns = {"run_id": None, "model": None}
    with counted_steps() as unfiltered, open_columns(databases[1], columns) as rows:
        everything = sum(map(len, rows.blocks))
    with counted_steps() as filtered, open_columns(databases[1], columns, Selection(models=(event(1).model,))) as rows:
        assert sum(map(len, rows.blocks)) == everything == _MANY
        assert rows.total is None
    assert filtered.hundreds < 1.5 * unfiltered.hundreds


def test_an_estimated_number_says_so_and_can_be_counted(tmp_path: Path) -> None:
    filled(tmp_path / "x.db", _FEW)
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        assert connection.execute("DELETE FROM token_estimation_v2_events WHERE rowid = 100").rowcount == 1
    estimated, counted = (
        autopack("status", *options, database=tmp_path / "x.db").stdout for options in ([], ["--exact"])
    )
    assert f"rows:         about {_FEW} (estimated; --exact counts them)\n" in estimated
    assert f"rows:         {_FEW - 1}\n" in counted
