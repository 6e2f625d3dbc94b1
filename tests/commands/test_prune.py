"""`autopack prune` on real SQLite files and a real PostgreSQL server."""

import json
import os
import pty
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from tests.analysis.test_postgres_reading import PLAN_ROW, PLAN_TABLE, on_postgres
from tests.postgres import Database
from tests.read_side import autopack, environment, event, make_database
from tests.write_side import TABLE, phases_of, url_of
from tests.write_side import event as recorded

from autopack.analysis.reading.rows import count_and_newest
from autopack.database.destination import Destination, parse_database_url
from autopack.maintenance.pruning import LEAST_AGE, MOST_AGE, Pace, count_older, parse_age, prune
from autopack.models import TokenEstimationV2Event
from autopack.telemetry import Telemetry

NOW = datetime.now(UTC)
BATCH_ROWS = 20


def aged(number: int, days: float, **changes: Any) -> TokenEstimationV2Event:
    return event(number, timestamp=NOW - timedelta(days=days), **changes)


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def filled(kind: str, request: pytest.FixtureRequest, path: Path, rows: list[TokenEstimationV2Event]) -> Destination:
    if kind == "sqlite":
        return make_database(path, rows)
    return on_postgres(request.getfixturevalue("postgres"), rows)


def url_for(destination: Destination, request: pytest.FixtureRequest) -> str:
    return str(destination) if destination.path else str(request.getfixturevalue("postgres").url)


def test_what_is_older_goes_and_the_rest_stays(kind: str, request: pytest.FixtureRequest, database: Path) -> None:
    rows = [aged(1, 91), aged(2, 90.01), aged(3, 89.99), aged(4, 0), aged(5, 4_000)]
    destination = filled(kind, request, database, rows)
    url = url_for(destination, request)
    counted = json.loads(autopack("prune", "--older-than", "90d", "--dry-run", "--json", database=url).stdout)
    assert (counted["events"], counted["deleted"], counted["dry_run"]) == (3, 0, True)
    assert count_and_newest(destination)[0].rows == 5
    done = autopack("prune", "--older-than", "90d", "--yes", database=url)
    assert done.returncode == 0
    assert done.stdout.endswith(": 3 deleted\n")
    assert count_and_newest(destination) == ((2, True), NOW.isoformat())
    again = json.loads(autopack("prune", "--older-than", "90d", "--yes", "--json", database=url).stdout)
    assert (again["events"], again["deleted"]) == (0, 0)


def test_many_events_go_in_batches_each_a_transaction_of_its_own(
    kind: str, request: pytest.FixtureRequest, database: Path
) -> None:
    destination = filled(kind, request, database, [aged(n, 100 + n % 7) for n in range(2 * BATCH_ROWS + 10)])
    pauses_s: list[float] = []
    batches = prune(destination, NOW - timedelta(days=90), Pace(BATCH_ROWS, sleep=pauses_s.append))
    left = [(deleted, count_and_newest(destination)[0].rows) for deleted in batches]
    assert left == [(BATCH_ROWS, BATCH_ROWS + 10), (BATCH_ROWS, 10), (10, 0)]
    assert len(pauses_s) == 3
    assert all(0 < pause_s <= 1 for pause_s in pauses_s)


def test_many_events_of_one_instant_all_go(kind: str, request: pytest.FixtureRequest, database: Path) -> None:
    destination = filled(kind, request, database, [aged(n, 100) for n in range(BATCH_ROWS + 5)])
    assert list(prune(destination, NOW, Pace(BATCH_ROWS, sleep=lambda _: None))) == [BATCH_ROWS, 5]


def test_an_event_whose_time_cannot_be_read_stays_in_sqlite(database: Path) -> None:
    destination = make_database(database, [aged(number, 100) for number in range(6)])
    with closing(sqlite3.connect(database)) as connection:
        for phase, stored in (
            ("p0", "''"),
            ("p1", "'an hour ago'"),
            ("p2", "1735500000"),
            ("p3", "x'00'"),
            ("p4", "0.5"),
        ):
            connection.execute(f"UPDATE {TABLE} SET timestamp = {stored} WHERE phase_id = '{phase}'")
        connection.commit()
    assert count_older(destination, NOW) == 1
    assert sum(prune(destination, NOW)) == 1
    assert sorted(phases_of(database)) == ["p0", "p1", "p2", "p3", "p4"]


def test_an_event_whose_time_is_no_date_stays_in_postgresql(postgres: Database) -> None:
    destination = on_postgres(postgres, [aged(number, 100) for number in range(4)])
    for phase, stored in (("p0", "-infinity"), ("p1", "infinity"), ("p2", "0044-03-15 BC")):
        postgres.execute(f"UPDATE {TABLE} SET timestamp = '{stored}' WHERE phase_id = '{phase}'")
    assert count_older(destination, NOW) == 1
    assert sum(prune(destination, NOW)) == 1
    left = postgres.execute(f"SELECT phase_id FROM {TABLE} ORDER BY phase_id")
    assert [row["phase_id"] for row in left] == ["p0", "p1", "p2"]


def test_the_zone_of_the_database_does_not_matter(postgres: Database) -> None:
    destination = on_postgres(postgres, [aged(1, 1.5), aged(2, 0.5)])
    postgres.execute(f"ALTER DATABASE {postgres.name} SET TimeZone = 'Pacific/Kiritimati'")
    postgres.execute(f"ALTER DATABASE {postgres.name} SET DateStyle = 'SQL, DMY'")
    assert sum(prune(destination, NOW - timedelta(days=1))) == 1
    assert [row["phase_id"] for row in postgres.execute(f"SELECT phase_id FROM {TABLE}")] == ["p2"]


def test_an_event_without_a_run_goes_too(postgres: Database) -> None:
    postgres.execute(PLAN_TABLE.replace("run_id varchar NOT NULL", "run_id varchar"))
    postgres.execute(PLAN_ROW)
    postgres.execute(f"UPDATE {TABLE} SET run_id = NULL")
    assert autopack("db", "upgrade", database=postgres.url).returncode == 0
    assert sum(prune(parse_database_url(postgres.url), NOW)) == 1


@pytest.mark.usefixtures("_nothing_left_running")
def test_a_writer_is_not_held_up(kind: str, request: pytest.FixtureRequest, database: Path) -> None:
    destination = filled(kind, request, database, [aged(n, 100) for n in range(3 * BATCH_ROWS)])
    url = url_for(destination, request)
    with Telemetry(url, batch_size=1, flush_interval_s=0.01) as telemetry:
        for _ in prune(destination, NOW - timedelta(days=90), Pace(BATCH_ROWS)):
            assert telemetry.record(**recorded(phase_id="new"))
            assert telemetry.flush(10)
        stats = telemetry.stats()
    assert (stats.written, stats.dead_lettered) == (3, 0)
    assert count_and_newest(destination)[0].rows == 3


def test_a_lock_is_waited_for_and_then_given_up(database: Path) -> None:
    destination = make_database(database, [aged(1, 100)])
    waits: list[float] = []
    clock = iter(range(0, 100_000, 10))
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        pace = Pace(
            busy_timeout_s=0,
            sleep=waits.append,
            clock_s=lambda: float(next(clock)),
            uniform=lambda low, high: (low + high) / 2,
        )
        with pytest.raises(OperationalError, match="locked"):
            list(prune(destination, NOW, pace))
        other.execute("ROLLBACK")
    assert len(waits) >= 1
    assert list(prune(destination, NOW)) == [1]


def test_a_lock_that_is_let_go_costs_a_wait_only(database: Path) -> None:
    destination = make_database(database, [aged(1, 100)])
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        pace = Pace(busy_timeout_s=0, sleep=lambda _: other.execute("ROLLBACK") if other.in_transaction else None)
        assert list(prune(destination, NOW, pace)) == [1]


def test_a_terminated_connection_is_made_again(postgres: Database) -> None:
    destination = on_postgres(postgres, [aged(n, 100) for n in range(BATCH_ROWS + 1)])
    with postgres.connect() as other, other.transaction():
        other.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
        done: list[int] = []
        thread = threading.Thread(target=lambda: done.extend(prune(destination, NOW, Pace(BATCH_ROWS))))
        thread.start()
        while not postgres.terminate_others():
            pass
    thread.join(30)
    assert done == [BATCH_ROWS, 1]


def test_vacuum_gives_the_room_back(database: Path) -> None:
    make_database(database, [aged(n, 100, deliverables_json="x" * 5_000) for n in range(300)])
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before_bytes = database.stat().st_size
    done = autopack("prune", "--older-than", "1h", "--yes", "--vacuum", database=url_of(database))
    assert (done.returncode, done.stdout.endswith("300 deleted, vacuumed\n")) == (0, True)
    assert database.stat().st_size < before_bytes / 10


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--older-than", "5m", "--yes"], 2, "is not from 1h"),
        (["--older-than", "-5d", "--yes"], 2, "is no age"),
        (["--yes"], 2, "Missing option '--older-than'"),
    ],
)
def test_what_is_not_clear_deletes_nothing(database: Path, arguments: list[str], code: int, said: str) -> None:
    make_database(database, [aged(1, 100)])
    done = autopack("prune", *arguments, database=database)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(phases_of(database)) == 1


def test_without_a_terminal_to_ask_at_it_deletes_nothing(database: Path) -> None:
    make_database(database, [aged(1, 100)])
    command = [sys.executable, "-m", "autopack.cli", "prune", "--older-than", "90d"]
    done = subprocess.run(
        command, env=environment(database), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no terminal to ask; --yes deletes without a question" in done.stderr
    assert len(phases_of(database)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 0), (b"\n", 1)])
def test_on_a_terminal_it_asks(database: Path, answer: bytes, left: int) -> None:
    make_database(database, [aged(1, 100)])
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [sys.executable, "-m", "autopack.cli", "prune", "--older-than", "90d"],
            stdin=theirs,
            env=environment(database),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Delete 1 events from before " in done.stderr
    assert done.returncode == left
    assert len(phases_of(database)) == left


def test_vacuum_is_for_sqlite_only(postgres: Database) -> None:
    on_postgres(postgres)
    done = autopack("prune", "--older-than", "90d", "--vacuum", "--yes", database=postgres.url)
    assert done.returncode == 2
    assert "PostgreSQL vacuums by itself" in done.stderr


def test_a_missing_database_is_not_made_and_a_host_table_is_left(database: Path, postgres: Database) -> None:
    """A database that is not there is not made, and a host system's table is left alone."""
    done = autopack("prune", "--older-than", "90d", "--yes", database=url_of(database))
    assert (done.returncode, done.stdout) == (1, "")
    assert not database.exists()
    postgres.execute(PLAN_TABLE)
    postgres.execute(PLAN_ROW)
    done = autopack("prune", "--older-than", "90d", "--yes", database=postgres.url)
    assert done.returncode == 1
    assert "autopack db upgrade" in done.stderr
    assert len(postgres.execute(f"SELECT 1 FROM {TABLE}")) == 1


@given(st.integers(1, 99), st.sampled_from(["h", "d", "w"]))
def test_an_age_is_a_number_and_a_unit(number: int, unit: str) -> None:
    assert parse_age(f" {number}{unit} ") == number * {"h": 1, "d": 24, "w": 168}[unit] * timedelta(hours=1)


@given(st.text())
def test_no_text_is_an_age_out_of_bounds(text: str) -> None:
    try:
        age = parse_age(text)
    except ValueError:
        return
    assert LEAST_AGE <= age <= MOST_AGE


@pytest.mark.parametrize(
    ("text", "is_age"),
    [
        ("3600s", True),
        ("3599s", False),
        ("60m", True),
        ("59m", False),
        ("36500d", True),
        ("36501d", False),
        ("999999999999w", False),
        ("90", False),
        ("d", False),
        ("1.5d", False),
        ("90 d", False),
        ("٩d", False),
        ("1D", False),
    ],
)
def test_the_bounds_of_an_age(text: str, is_age: bool) -> None:
    if is_age:
        parse_age(text)
    else:
        with pytest.raises(ValueError, match=r"is no age|is not from"):
            parse_age(text)
