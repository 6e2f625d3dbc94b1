"""The way back: the host system writes and reads the table again, every row stays, and up again is possible."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, DateTime, Engine, Float, Integer, MetaData, String, Table, Text, insert, select
from sqlalchemy.types import Boolean
from tests.postgres import Database
from tests.read_side import autopack
from tests.write_side import TABLE, event, rows_of, url_of

from autopack.database import engine_for, migrations
from autopack.database.destination import parse_database_url
from autopack.database.migrations.events_table import ADDED
from autopack.errors import SchemaError
from autopack.maintenance.schema import downgrade, state_of, upgrade
from autopack.telemetry import Telemetry

# The host system's own model, as its writer and its export script use it: no other column is known to them.
HOST = Table(
    TABLE,
    MetaData(),
    Column("event_id", Integer, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("phase_id", String, nullable=False),
    Column("timestamp", DateTime, nullable=False, default=lambda: datetime.now(UTC).replace(tzinfo=None)),
    *(Column(name, String, nullable=False) for name in ("category", "complexity", "model")),
    Column("stop_reason", String),
    Column("deliverables_json", Text, nullable=False),
    *(
        Column(name, Integer, nullable=False)
        for name in ("deliverable_count", "predicted_output_tokens", "actual_output_tokens", "selected_budget")
    ),
    *(Column(name, Boolean, nullable=False) for name in ("success", "truncated")),
    Column("smape_percent", Float),
    Column("waste_ratio", Float),
    Column("underestimated", Boolean),
)
HOST_EVENT = {
    "run_id": "r",
    "phase_id": "of the host",
    "category": "docs",
    "complexity": "low",
    "deliverable_count": 1,
    "deliverables_json": '["a.md"]',
    "predicted_output_tokens": 300,
    "actual_output_tokens": 200,
    "selected_budget": 4096,
    "success": True,
    "truncated": False,
    "stop_reason": "end_turn",
    "model": "m",
    "smape_percent": 40,
    "waste_ratio": 150,
    "underestimated": False,
}


class Kind:
    """A database of one kind, and plain eyes for it."""

    def __init__(self, url: str, rows: Callable[[], list[dict[str, Any]]], run: Callable[[str], object]) -> None:
        self.url = url
        self.destination = parse_database_url(url)
        self.rows = rows
        self.run = run

    @property
    def engine(self) -> Engine:
        return engine_for(self.destination)

    def record(self, *phases: str) -> None:
        with Telemetry(self.url, journal_dir=None) as telemetry:
            for phase in phases:
                telemetry.record(**event(phase_id=phase, input_tokens=7, actual_max_tokens=8))
        assert telemetry.stats().written == len(phases)

    def write_as_the_host(self) -> int:
        with self.engine.begin() as connection:
            (key,) = connection.execute(insert(HOST).values(HOST_EVENT)).inserted_primary_key or (None,)
        assert isinstance(key, int)
        return key

    def read_as_the_host(self) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(select(HOST).order_by(HOST.c.event_id))]


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest, database: Path) -> Iterator[Kind]:
    if request.param == "postgresql":
        postgres: Database = request.getfixturevalue("postgres")
        postgres.execute(f"ALTER DATABASE {postgres.name} SET TimeZone = 'Asia/Kolkata'")
        yield Kind(
            postgres.url, lambda: postgres.execute(f"SELECT * FROM {TABLE} ORDER BY timestamp"), postgres.execute
        )
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield Kind(url_of(database), lambda: rows_of(database), connection.execute)


def test_down_and_up_again_every_row_stays_and_gets_another_identity(kind: Kind) -> None:
    kind.record("1", "2", "3")
    kind.run(f"ALTER TABLE {TABLE} ADD COLUMN mine varchar DEFAULT 'x'")
    before = kind.rows()
    downgrade(kind.destination)
    assert state_of(kind.destination) == (None, "older")
    below = kind.rows()
    assert set(below[0]) == {*HOST.columns.keys(), "actual_max_tokens", "mine"}
    upgrade(kind.destination)
    kind.record("4")
    after = kind.rows()
    assert [row["phase_id"] for row in after] == ["1", "2", "3", "4"]
    same = before[0].keys() - ADDED - {"event_id"}
    assert [{name: row[name] for name in same} for row in after[:3]] == [
        {name: row[name] for name in same} for row in before
    ]
    uids = {row["event_uid"] for row in [*before, *after]}
    assert len(uids) == 3 + 4
    assert (after[0]["input_tokens"], after[3]["input_tokens"]) == (None, 7)


def test_the_host_system_writes_and_reads_the_table_again(kind: Kind) -> None:
    kind.record("1", "2")
    downgrade(kind.destination)
    keys = [kind.write_as_the_host(), kind.write_as_the_host()]
    assert keys == [3, 4]
    found = kind.read_as_the_host()
    assert [row["event_id"] for row in found] == [1, 2, 3, 4]
    assert {name: found[2][name] for name in HOST_EVENT} == HOST_EVENT
    assert (found[0]["phase_id"], found[0]["waste_ratio"]) == ("1", 200)
    instants = [row["timestamp"] for row in found]
    assert instants == sorted(instants)
    assert (instants[-1] - instants[0]).total_seconds() < 60, "all in UTC, whatever the server's zone"
    upgrade(kind.destination)
    kind.record("5")
    assert [row["phase_id"] for row in kind.rows()] == ["1", "2", "of the host", "of the host", "5"]
    downgrade(kind.destination)
    assert kind.write_as_the_host() == 6
    assert [row["event_id"] for row in kind.read_as_the_host()] == [1, 2, 3, 4, 5, 6]


def test_a_users_index_and_trigger_stay_and_no_trigger_fires(kind: Kind) -> None:
    """An index and a trigger of the user's stay, and no trigger fires."""
    kind.record("1")
    kind.run("CREATE TABLE log (x varchar)")
    kind.run(f"CREATE INDEX by_model ON {TABLE} (model)")
    if kind.destination.server is None:
        kind.run(f"CREATE TRIGGER t AFTER INSERT ON {TABLE} BEGIN INSERT INTO log VALUES ('x'); END")
    else:
        kind.run(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO log VALUES ('x'); RETURN NEW; END $$"
        )
        kind.run(f"CREATE TRIGGER t AFTER INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION f()")
    downgrade(kind.destination)
    kind.write_as_the_host()
    kind.run("DROP INDEX by_model")
    with kind.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM log").scalar() == 1


def test_only_autopacks_own_schema_can_be_downgraded(kind: Kind) -> None:
    for _ in range(2):
        with pytest.raises(SchemaError, match=f"no schema {migrations.HEAD}"):
            downgrade(kind.destination)
        upgrade(kind.destination)
        downgrade(kind.destination)


def test_what_stops_halfway_leaves_everything_as_it_was(kind: Kind) -> None:
    kind.record("1")
    before = kind.rows()
    with kind.engine.connect() as connection:
        if kind.destination.server is None:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        migrations._begin_alone(connection)
        migrations._downgrade(connection)
        connection.exec_driver_sql("ROLLBACK")
    assert kind.rows() == before
    assert state_of(kind.destination) == (migrations.HEAD, "current")


def test_a_view_on_postgresql_is_named_and_nothing_is_changed(postgres: Database) -> None:
    destination = parse_database_url(postgres.url)
    upgrade(destination)
    postgres.execute(f"CREATE VIEW shown AS SELECT model FROM {TABLE}")
    with pytest.raises(SchemaError, match="drop shown, start again"):
        downgrade(destination)
    assert state_of(destination) == (migrations.HEAD, "current")


def test_a_key_that_another_table_refers_to_stays(postgres: Database) -> None:
    postgres.execute(f"""
        CREATE TABLE {TABLE} (event_id serial PRIMARY KEY, run_id text NOT NULL, phase_id text NOT NULL,
            "timestamp" timestamp NOT NULL);
        CREATE TABLE child (e integer REFERENCES {TABLE} (event_id));
        INSERT INTO {TABLE} VALUES (7, 'r', 'p', '2025-12-23');
        INSERT INTO child VALUES (7)
    """)
    destination = parse_database_url(postgres.url)
    upgrade(destination)
    downgrade(destination)
    key = postgres.execute(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conrelid = to_regclass(%s) "
        "AND contype IN ('p', 'u')",
        TABLE,
    )
    assert key == [{"text": "PRIMARY KEY (event_id)"}]
    assert postgres.execute("SELECT e FROM child") == [{"e": 7}]


def test_on_the_command_line_it_wants_a_yes_and_says_what_it_did(database: Path, database_url: str) -> None:
    autopack("db", "upgrade", database=database_url)
    assert autopack("db", "downgrade", database=database_url).returncode == 1
    done = autopack("db", "downgrade", "--yes", database=database_url)
    assert (done.returncode, done.stdout) == (0, f"downgraded from {migrations.HEAD} to the host system's table\n")
    assert json.loads(autopack("db", "current", "--json", database=database_url).stdout)["state"] == "older"
    done = autopack("db", "downgrade", "--yes", database=database_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be downgraded: there is no schema" in done.stderr
    missing = url_of(database.parent / "missing.db")
    assert "there is no such file" in autopack("db", "downgrade", "--yes", database=missing).stderr
