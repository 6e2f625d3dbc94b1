"""The read side on a real PostgreSQL server: the same records for the same rows as on SQLite."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.orm import Session
from tests.postgres import Database
from tests.read_side import START, autopack, environment, event, make_database, measured
from tests.write_side import TABLE

from autopack.analysis.reading.records import COLUMNS
from autopack.analysis.reading.rows import count_and_newest, open_columns, open_events
from autopack.analysis.reading.selection import Selection
from autopack.database import engine_for, migrations
from autopack.database.destination import Destination, parse_database_url
from autopack.database.driver_errors import describe_driver_error
from autopack.errors import ReadError
from autopack.models import TokenEstimationV2Event

PLAN_TABLE = """
    CREATE TABLE token_estimation_v2_events (
        event_id integer PRIMARY KEY, run_id varchar NOT NULL, phase_id varchar NOT NULL, timestamp timestamp NOT NULL,
        category varchar NOT NULL, complexity varchar NOT NULL, deliverable_count integer NOT NULL,
        deliverables_json jsonb NOT NULL, predicted_output_tokens integer NOT NULL,
        actual_output_tokens integer NOT NULL, selected_budget integer NOT NULL, success boolean NOT NULL,
        truncated boolean NOT NULL, stop_reason varchar, model varchar NOT NULL, smape_percent float,
        waste_ratio float, underestimated boolean)
"""
PLAN_ROW = f"""
    INSERT INTO {TABLE} VALUES (1, 'r', 'p1', '2025-12-29 19:40:01', 'docs', 'low', 1, '["a.md"]', 300, 200, 4096, true,
        false, 'end_turn', 'claude-sonnet-4-5', 40.0, 1.5, false)
"""


def odd_events() -> list[TokenEstimationV2Event]:
    """Rows that use every column, and what is awkward in them."""
    return [
        event(1),
        event(2, timestamp=START + timedelta(seconds=2, microseconds=1), success=False, truncated=True),
        event(
            3,
            existing_json='["src/app.py"]',
            attributes_json='{"git":"3f2a91c","n":1}',
            actual_max_tokens=16_384,
            input_tokens=2**53 - 1,
            duration_ms=0,
        ),
        event(4, smape_percent=None, waste_ratio=None, underestimated=None, stop_reason=None),
        event(5, phase_id="p\u202e'; DROP TABLE x; -- é\U0001f600", deliverables_json="not JSON"),
        event(6, run_id="weekly", category="docs", model="simulated-x"),
    ]


def on_postgres(database: Database, rows: Sequence[TokenEstimationV2Event] = ()) -> Destination:
    """The schema and these rows."""
    destination = parse_database_url(database.url)
    engine = engine_for(destination)
    with engine.connect() as connection:
        migrations.ensure(connection)
    with Session(engine) as session:
        session.add_all(rows)
        session.commit()
    return destination


def records(destination: Destination, **selection: Any) -> list[Any]:
    with open_events(destination, Selection(**selection)) as events:
        found = list(events.records)
    assert events.total == len(found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "selection",
    [
        {},
        {"run_ids": ("weekly", "none")},
        {"categories": ("docs",), "models": ("simulated-x",)},
        {"since": START + timedelta(seconds=2), "until": START + timedelta(seconds=4)},
        {"limit": 3},
        {"run_ids": ("'; DROP TABLE x; --",)},
    ],
    ids=str,
)
def test_the_same_rows_are_the_same_records_in_the_same_order(
    postgres: Database, tmp_path: Path, selection: dict[str, Any]
) -> None:
    there, here = on_postgres(postgres, odd_events()), make_database(tmp_path / "x.db", odd_events())
    assert records(there, **selection) == records(here, **selection)
    assert count_and_newest(there) == count_and_newest(here)


def test_columns_come_as_sqlite_gives_them_but_booleans_and_zeros(postgres: Database, tmp_path: Path) -> None:
    """Columns come as SQLite gives them, except for booleans and the zeros behind a second."""
    both = [on_postgres(postgres, odd_events()), make_database(tmp_path / "x.db", odd_events())]
    found = []
    for destination in both:
        with open_columns(destination, {"run_id": None, "deliverables_json": 5, "timestamp": None}) as rows:
            assert rows.total == 6
            found.append(
                sorted((run, cut, datetime.fromisoformat(at)) for block in rows.blocks for run, cut, at in block)
            )
    assert found[0] == found[1]
    assert all(at.tzinfo is None for _, _, at in found[0])


def test_the_zone_and_the_date_style_of_the_database_change_nothing(postgres: Database, tmp_path: Path) -> None:
    there, here = on_postgres(postgres, odd_events()), make_database(tmp_path / "x.db", odd_events())
    postgres.execute(f"ALTER DATABASE {postgres.name} SET TimeZone = 'Asia/Kolkata'")
    postgres.execute(f"ALTER DATABASE {postgres.name} SET DateStyle = 'SQL, DMY'")
    assert records(there) == records(here)


def test_an_instant_that_python_has_no_date_for_costs_one_field(postgres: Database) -> None:
    destination = on_postgres(postgres, [event(1), event(2), event(3)])
    postgres.execute(f"UPDATE {TABLE} SET timestamp = 'infinity' WHERE phase_id = 'p1'")
    postgres.execute(f"UPDATE {TABLE} SET timestamp = '10000-01-01' WHERE phase_id = 'p2'")
    with open_events(destination) as events:
        found = {record.phase_id: record.timestamp for record in events.records}
    assert found == {"p1": None, "p2": None, "p3": "2025-12-29T19:40:04+00:00"}
    assert events.unreadable.rows == 2
    assert count_and_newest(destination) == ((3, True), None)


def test_the_hosts_table_is_read_as_it_is(postgres: Database) -> None:
    postgres.execute(PLAN_TABLE)
    postgres.execute(PLAN_ROW)
    (record,) = records(parse_database_url(postgres.url))
    assert (record.timestamp, record.deliverables) == ("2025-12-29T19:40:01+00:00", ["a.md"])
    assert (record.smape_percent, record.waste_ratio, record.event_uid) == (40, 1.5, None)
    assert not inspect(engine_for(parse_database_url(postgres.url))).has_table(migrations.VERSION_TABLE)


@pytest.mark.slow
def test_count_and_rows_are_of_one_snapshot_and_no_writer_waits(postgres: Database) -> None:
    destination = on_postgres(postgres, [event(number) for number in range(1_500)])
    with open_events(destination) as events:
        postgres.execute(f"DELETE FROM {TABLE} WHERE phase_id <> 'p1499'")
        first = next(events.records)
        postgres.execute(f"DELETE FROM {TABLE}")
        assert 1 + sum(1 for _ in events.records) == events.total == 1_500
    assert first.phase_id == "p1499"
    assert count_and_newest(destination) == ((0, True), None)


def test_reading_leaves_no_connection_and_cannot_write(postgres: Database) -> None:
    destination = on_postgres(postgres, [event(1)])
    with open_columns(destination, dict.fromkeys(COLUMNS)) as rows:
        shown = postgres.execute(
            "SELECT state FROM pg_stat_activity WHERE datname = %s AND application_name = 'autopack'", postgres.name
        )
        assert [row["state"] for row in shown] == ["idle in transaction"]
        assert sum(map(len, rows.blocks)) == 1
    assert postgres.terminate_others() == 0


@pytest.mark.slow
def test_a_connection_that_is_ended_meanwhile_is_one_clear_error(postgres: Database) -> None:
    destination = on_postgres(postgres, [event(number) for number in range(1_500)])

    def read() -> None:
        with open_events(destination) as events:
            next(events.records)
            assert postgres.terminate_others() == 1
            list(events.records)

    with pytest.raises(ReadError, match=r"cannot be read: .*terminat"):
        read()


@pytest.mark.parametrize("command", ["export", "replay", "status", "validate"])
def test_without_a_table_a_command_says_so(postgres: Database, command: str) -> None:
    done = autopack(command, database=postgres.url)
    assert done.returncode != 0
    assert f"has no table {TABLE}" in done.stdout + done.stderr
    assert not postgres.has_table()


def test_status_and_export_say_what_they_say_of_sqlite(postgres: Database, tmp_path: Path) -> None:
    on_postgres(postgres, odd_events())
    here = make_database(tmp_path / "x.db", odd_events()).path
    postgres_shown, sqlite_shown = str(parse_database_url(postgres.url)), f"sqlite:///{here}"
    said = json.loads(autopack("status", "--json", database=postgres.url).stdout)
    assert (said["reachable"], said["rows"], said["last_event"]) == (True, 6, "2025-12-29T19:40:07+00:00")
    for arguments in (["export"], ["export", "--format", "csv"], ["replay", "--include-simulated"]):
        mine, sqlites = autopack(*arguments, database=postgres.url), autopack(*arguments, database=here)
        assert mine.returncode == sqlites.returncode == 0, mine.stderr
        assert mine.stdout.replace(postgres_shown, sqlite_shown) == sqlites.stdout


@pytest.mark.needs("psycopg")
@pytest.mark.parametrize("command", ["export", "status"])
@pytest.mark.parametrize(
    "form", ["postgresql://me:hunter2@127.0.0.1:{port}/x", "postgres://me@127.0.0.1:{port}/x?password=hunter2"]
)
def test_a_server_that_is_away_is_one_clear_line_without_the_password(
    command: str, form: str, unused_tcp_port: int
) -> None:
    done = autopack(command, database=form.format(port=unused_tcp_port))
    assert done.returncode == 1
    printed = done.stdout + done.stderr
    assert re.search("cannot be read: .*[Cc]onnection refused", printed)
    assert "hunter2" not in printed
    if command == "export":
        assert len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1


def test_a_reason_is_one_line_without_the_password_of_a_url_in_it() -> None:
    reason = describe_driver_error(RuntimeError("no route to\n  postgresql://me:hunter2@h/x?sslpassword=hunter2"))
    assert reason == "no route to postgresql://me:***@h/x?sslpassword=***"
    assert describe_driver_error(TimeoutError()) == "TimeoutError"


def test_a_database_that_is_not_there_is_one_clear_line(postgres: Database) -> None:
    done = autopack("export", database=postgres.url.replace(postgres.name, "nowhere"))
    assert (done.returncode, done.stdout) == (1, "")
    assert 'database "nowhere" does not exist' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_missing_driver_is_one_clear_line_that_says_what_to_install() -> None:
    program = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] == 'psycopg': raise ModuleNotFoundError(name)\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'psycopg' else real(name, *rest)\n"
        "from autopack.cli import main\nmain(['export'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment("postgresql://h/x"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'autopack-telemetry[postgres]'")


@pytest.mark.slow
def test_export_takes_as_little_memory_for_many_rows_as_for_few(postgres: Database) -> None:
    on_postgres(postgres)
    postgres.execute(f"""
        INSERT INTO {TABLE} (event_uid, run_id, phase_id, timestamp, category, complexity, deliverable_count,
            deliverables_json, predicted_output_tokens, actual_output_tokens, selected_budget, success, truncated,
            model)
        SELECT n::text, 'r', 'p', '2025-12-29'::timestamptz + n * interval '1 second', 'c', 'low', 1,
            '["' || repeat('x', 3000) || '"]', 300, 200, 4096, true, false, 'm' FROM generate_series(1, 10000) n
    """)
    few, many = (measured("export", "--limit", limit, database=postgres.url) for limit in ("1", "10000"))
    assert (few.stdout.count("\n"), many.stdout.count("\n")) == (1, 10_000)
    assert many.peak_mib - few.peak_mib < 30  # a thousand lines of 3 kB at once; all of them are 30 MB of text alone
