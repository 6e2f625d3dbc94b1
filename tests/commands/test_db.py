"""`autopack db` on real SQLite files and a real PostgreSQL server."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.analysis.test_postgres_reading import PLAN_ROW, PLAN_TABLE
from tests.postgres import Database
from tests.read_side import autopack, environment
from tests.write_side import TABLE, rows_of, url_of

from autopack.database.migrations import HEAD, VERSION_TABLE
from autopack.telemetry import Telemetry


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, database: Path) -> str:
    """An empty database of each kind."""
    return url_of(database) if request.param == "sqlite" else str(request.getfixturevalue("postgres").url)


def current(url: str) -> tuple[int, str, str | None]:
    done = autopack("db", "current", "--json", database=url)
    said = json.loads(done.stdout)
    assert said["program"] == HEAD
    return done.returncode, said["state"], said["revision"]


def test_upgrade_makes_the_schema_and_says_from_what_to_what(url: str) -> None:
    assert current(url) == (3, "none", None)
    done = autopack("db", "upgrade", database=url)
    assert (done.returncode, done.stdout) == (0, f"upgraded from nothing to {HEAD}\n")
    assert current(url) == (0, "current", HEAD)
    assert autopack("db", "upgrade", database=url).stdout == f"{HEAD} already\n"


def test_current_creates_nothing(url: str, database: Path) -> None:
    done = autopack("db", "current", database=url)
    assert done.returncode == 3
    assert "autopack db upgrade makes it" in done.stdout
    assert not database.exists()


def test_what_upgrade_made_is_private_and_takes_events(database: Path, database_url: str) -> None:
    database = database.parent / "folder" / "x.db"
    assert autopack("db", "upgrade", database=url_of(database)).returncode == 0
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.parent.stat().st_mode) == 0o700
    assert rows_of(database) == []


def test_an_older_systems_table_is_older_and_keeps_its_rows(postgres: Database) -> None:
    postgres.execute(PLAN_TABLE)
    postgres.execute(PLAN_ROW)
    assert current(postgres.url) == (3, "older", None)
    assert (
        autopack("db", "upgrade", database=postgres.url).stdout == f"upgraded from an older system's table to {HEAD}\n"
    )
    assert current(postgres.url) == (0, "current", HEAD)
    (row,) = postgres.rows()
    assert (row["phase_id"], row["waste_ratio"]) == ("p1", 150)


def test_a_newer_schema_is_told_and_refused_where_a_column_is_missing(postgres: Database) -> None:
    autopack("db", "upgrade", database=postgres.url)
    postgres.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert current(postgres.url) == (4, "newer", "9999")
    done = autopack("db", "upgrade", database=postgres.url)
    assert (done.returncode, done.stdout) == (0, f"9999, newer than this program's {HEAD}: left as it is\n")
    postgres.execute(f"ALTER TABLE {TABLE} DROP COLUMN turn")
    done = autopack("db", "upgrade", database=postgres.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be upgraded: " in done.stderr.splitlines()[-1]


def test_a_table_that_is_gone_is_told_and_made_again(postgres: Database) -> None:
    autopack("db", "upgrade", database=postgres.url)
    postgres.execute(f"DROP TABLE {TABLE}")
    assert current(postgres.url) == (1, "no table", HEAD)
    done = autopack("db", "upgrade", database=postgres.url)
    assert (done.returncode, done.stdout) == (0, f"the table was gone, and is made again at {HEAD}\n")
    assert current(postgres.url) == (0, "current", HEAD)


@pytest.mark.slow
def test_two_upgrades_at_once_both_succeed(postgres: Database) -> None:
    def upgrade(_: int) -> int:
        command = [sys.executable, "-m", "autopack.cli", "db", "upgrade"]
        return subprocess.run(command, env=environment(postgres.url), check=False, capture_output=True).returncode

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(upgrade, range(2))) == [0, 0]
    assert len(postgres.execute(f"SELECT * FROM {VERSION_TABLE}")) == 1


def test_the_sql_for_sqlite_makes_our_schema(database: Path) -> None:
    script = autopack("db", "sql", "--dialect", "sqlite").stdout
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(script)
    assert current(url_of(database)) == (0, "current", HEAD)


def test_the_sql_for_postgresql_is_printed_without_a_connection(postgres: Database) -> None:
    """The SQL for PostgreSQL makes autopack's schema, and the command connects to nothing."""
    script = autopack("db", "sql", database="postgresql://me:hunter2@127.0.0.1:1/x").stdout
    assert "hunter2" not in script
    with postgres.connect() as connection:
        connection.execute(script.encode())
    assert current(postgres.url) == (0, "current", HEAD)
    assert autopack("db", "sql", "--dialect", "postgresql").stdout == script


def test_a_writer_finds_what_upgrade_made(url: str) -> None:
    autopack("db", "upgrade", database=url)
    with Telemetry(url, journal_dir=None) as telemetry:
        assert telemetry.flush(10)
    assert current(url) == (0, "current", HEAD)


@pytest.mark.parametrize("words", [["upgrade"], ["current"]])
def test_an_absent_server_and_a_lacking_right_are_one_clear_line(
    words: list[str], postgres: Database, unused_tcp_port: int
) -> None:
    """A server that is away and a role that lacks the right are one clear line each."""
    away = autopack("db", *words, database=f"postgresql://me:hunter2@127.0.0.1:{unused_tcp_port}/x")
    assert (away.returncode, away.stdout) == (1, "")
    assert "refused" in away.stderr.splitlines()[-1]
    assert "hunter2" not in away.stderr


def test_upgrade_without_the_right_to_create_says_so(postgres: Database) -> None:
    role = f"{postgres.name}_guest"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'guest'")
    try:
        postgres.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        done = autopack("db", "upgrade", database=postgres.url_as(role, "guest"))
    finally:
        postgres.execute(f"DROP ROLE {role}")
    assert done.returncode == 1
    assert "permission denied" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["memory", "folder", "no database"])
def test_what_cannot_be_upgraded_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be one")
    url = {"memory": "sqlite://", "folder": url_of(tmp_path), "no database": url_of(tmp_path / "text")}[kind]
    done = autopack("db", "upgrade", database=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1


@pytest.mark.parametrize("words", ["db upgrade", "db downgrade", "db current", "db sql"])
def test_each_word_has_help_with_an_example(words: str) -> None:
    done = autopack(*words.split(), "--help")
    assert done.returncode == 0
    assert f"Example: autopack {words}" in done.stdout
    assert os.environ.get("DATABASE_URL") is None
