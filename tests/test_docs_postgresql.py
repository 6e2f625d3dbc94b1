"""Every block of docs/postgresql.md does what the page says, on a real server and in the order of the page."""

import os
import re
import subprocess
import sysconfig
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.postgres import Database
from tests.read_side import ROOT, autopack, event, make_database
from tests.write_side import PACKAGE, TABLE
from tests.write_side import event as recorded

from autopack._util.ids import event_uid
from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry

PAGE = (ROOT / "docs" / "postgresql.md").read_text()
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SERVER = "postgresql://build@db.example.com/telemetry"
NOT_RUN = ("pip install", "-- not run by the tests")


class Block(NamedTuple):
    language: str
    text: str


BLOCKS = [Block(**match.groupdict()) for match in FENCE.finditer(PAGE)]


def block(beginning: str) -> str:
    """The one block that holds a text."""
    (found,) = [each.text for each in BLOCKS if beginning in each.text]
    return found


def shell(script: str, postgres: Database, folder: Path) -> subprocess.CompletedProcess[str]:
    """A block of shell as a user's, with the test's server in the place of the page's."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(SERVER, postgres.url)],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PACKAGE.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def script(sql: str, postgres: Database) -> None:
    """A block of SQL, as psql runs it."""
    with postgres.connect() as connection:
        connection.execute(sql.encode())


def upgraded(postgres: Database) -> Database:
    assert autopack("db", "upgrade", database=postgres.url).returncode == 0
    return postgres


def partitions(postgres: Database) -> list[str]:
    found = postgres.execute(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = to_regclass(%s) ORDER BY 1", TABLE
    )
    return [row["name"] for row in found]


def uid_at(instant: datetime, sequence: int = 0) -> str:
    """The id of an event that happened then."""
    return event_uid((instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000, sequence)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A SQLite history of three months, and one event whose id is no time."""
    last = datetime(2025, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    months = [last - timedelta(days=30), last, datetime(2025, 2, 1, tzinfo=UTC), datetime(2025, 3, 15, tzinfo=UTC)]
    rows = [event(number, timestamp=at, event_uid=uid_at(at)) for number, at in enumerate(months)]
    make_database(tmp_path / "autopack.db", [*rows, event(9, event_uid="of another system", timestamp=months[0])])
    return tmp_path


def test_the_blocks_are_those_that_the_tests_here_know() -> None:
    languages = [each.language for each in BLOCKS]
    assert (languages.count("bash"), languages.count("sql"), languages.count("text"), languages.count("crontab")) == (
        4,
        5,
        1,
        1,
    )
    assert sum(each.text.startswith(NOT_RUN) for each in BLOCKS) == 2


def test_each_form_of_a_url_names_a_database() -> None:
    for url in block("sslrootcert=system").splitlines():
        assert parse_database_url(url).server is not None


def test_the_extra_has_both_drivers() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {re.split(r"[\[>]", name)[0] for name in extras["postgres"]} == {"asyncpg", "psycopg"}
    assert "autopack-telemetry[postgres]" in block("pip install")


@pytest.mark.slow
def test_the_schema_by_hand(postgres: Database, tmp_path: Path) -> None:
    done = shell(block("autopack db upgrade"), postgres, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("upgraded from nothing to ")
    assert "CREATE TABLE token_estimation_v2_events" in (tmp_path / "schema.sql").read_text()


def test_a_writer_needs_no_more_rights_than_the_page_gives(postgres: Database) -> None:
    script(block("CREATE ROLE"), upgraded(postgres))
    user = f"{postgres.name}_writer"
    try:
        postgres.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'writer' IN ROLE telemetry_writer")
        postgres.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        with Telemetry(postgres.url_as(user, "writer"), journal_dir=None) as telemetry:
            assert telemetry.record(**recorded())
            assert telemetry.flush(20)
            assert telemetry.stats().written == 1
    finally:
        postgres.execute(f"DROP OWNED BY telemetry_writer; DROP ROLE IF EXISTS {user}; DROP ROLE telemetry_writer")


@pytest.mark.slow
def test_the_move_of_a_history(postgres: Database, history: Path) -> None:
    done = shell(block("AUTOPACK_COPY_FROM"), postgres, history)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "5 of 5 events would be copied, but for those that are there already",
        "5 events: 5 written, 0 were there already, 0 rejected",
    ]


def copied(postgres: Database, history: Path) -> str:
    """What a copy of the history says."""
    done = autopack("copy", "--from", "sqlite:///autopack.db", "--to", postgres.url, cwd=history)
    assert done.returncode == 0
    return done.stdout


@pytest.mark.slow
def test_retention_by_hand_and_by_cron(postgres: Database, history: Path) -> None:
    copied(postgres, history)
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**recorded(phase_id="new"))
    environment = f"export DATABASE_URL={postgres.url}\n"
    done = shell(environment + block("--dry-run\nautopack prune"), postgres, history)
    assert done.returncode == 0, done.stderr
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == ["5 would be deleted", "5 deleted"]
    assert postgres.phases() == ["new"]
    (line,) = block("17 3 * * *").splitlines()
    assert shell(line.split(maxsplit=5)[5], postgres, history).stdout.endswith(": 0 deleted\n")


@pytest.mark.slow
def test_partitions_by_month_take_writes_and_refuse_duplicates(postgres: Database, history: Path) -> None:
    """Partitions by month take writes, refuse duplicates, and are dropped."""
    copied(postgres, history)
    script(block("CREATE PROCEDURE"), postgres)
    names = partitions(postgres)
    assert names[0] == f"{TABLE}_2025_01"
    assert names[-1] == f"{TABLE}_other"
    of_months = {
        name.removeprefix(f"{TABLE}_"): postgres.execute(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in names
    }
    assert (of_months["2025_01"], of_months["2025_02"], of_months["2025_03"], of_months["other"]) == (2, 1, 1, 1)
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**recorded(phase_id="new"))
    assert postgres.execute(f"SELECT phase_id FROM {TABLE}_{datetime.now(UTC):%Y_%m}") == [{"phase_id": "new"}]
    assert "5 events: 0 written, 5 were there already" in copied(postgres, history)
    assert autopack("db", "current", database=postgres.url).returncode == 0
    assert len(autopack("export", database=postgres.url).stdout.splitlines()) == 6
    script(block("2040-01-01"), postgres)
    assert f"{TABLE}_2040_01" in partitions(postgres)
    script(block("DROP TABLE token_estimation_v2_events_2025_01"), postgres)
    assert len(postgres.rows()) == 4
    done = autopack("prune", "--older-than", "1h", "--yes", database=postgres.url)
    assert done.stdout.endswith(": 3 deleted\n")
    assert postgres.phases() == ["new"]


def test_a_month_begins_with_its_first_millisecond(postgres: Database) -> None:
    script(block("CREATE PROCEDURE"), upgraded(postgres))
    for begin in (
        datetime(year, month, 1, tzinfo=UTC) for year, month in ((1970, 2), (2026, 11), (2027, 2), (2100, 3))
    ):
        (row,) = postgres.execute("SELECT telemetry_month(%s) AS bound", begin.date())
        assert uid_at(begin - timedelta(microseconds=1), 2**62 - 1) < row["bound"] <= uid_at(begin)


def test_by_timestamp_postgresql_has_no_key_for_the_writer(postgres: Database) -> None:
    postgres.execute(
        "CREATE TABLE x (run_id text, event_uid text, timestamp timestamptz) PARTITION BY RANGE (timestamp)"
    )
    with pytest.raises(Exception, match="must include all partitioning columns"):
        postgres.execute("ALTER TABLE x ADD PRIMARY KEY (run_id, event_uid)")


def test_every_unique_key_holds_the_distribution_column(postgres: Database) -> None:
    """Every unique key holds the column that the table is distributed by."""
    assert "'token_estimation_v2_events', 'run_id'" in block("create_distributed_table")
    keys = upgraded(postgres).execute(
        """
        SELECT array_agg(a.attname::text) AS columns FROM pg_index i JOIN pg_attribute a
        ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = to_regclass(%s) AND i.indisunique GROUP BY i.indexrelid
        """,
        TABLE,
    )
    assert len(keys) == 1
    assert all("run_id" in key["columns"] for key in keys)
