"""`autopack copy` between real databases, in every direction."""

import json
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.analysis.test_postgres_reading import PLAN_ROW, PLAN_TABLE, odd_events, on_postgres
from tests.misbehaving_stores import FlakyStore, RefusingStore
from tests.postgres import Database
from tests.read_side import autopack, environment, event, make_database, measured
from tests.write_side import TABLE, url_of

from autopack.analysis.reading.records import EventRecord
from autopack.analysis.reading.rows import open_events
from autopack.database.destination import parse_database_url
from autopack.maintenance.copying import copy, open_rows
from autopack.maintenance.rejects import RejectFile
from autopack.models import TokenEstimationV2Event
from autopack.telemetry.stores.memory import MemoryStore

DIRECTIONS = [(a, b) for a in ("sqlite", "postgresql") for b in ("sqlite", "postgresql")]


class Places:
    """Databases of the kind that a test asks for."""

    def __init__(self, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        self._tmp_path = tmp_path
        self._request = request

    def source(self, kind: str, rows: Sequence[TokenEstimationV2Event]) -> str:
        if kind == "sqlite":
            return str(make_database(self._tmp_path / "from.db", rows))
        postgres: Database = self._request.getfixturevalue("postgres")
        on_postgres(postgres, rows)
        return postgres.url

    def destination(self, kind: str) -> str:
        if kind == "sqlite":
            return url_of(self._tmp_path / "to.db")
        return str(self._request.getfixturevalue("second_postgres").url)


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Places:
    return Places(tmp_path, request)


@pytest.fixture
def second_postgres(postgres_server: str) -> Any:
    """Another database beside the one of `postgres`."""
    from tests.postgres import new_database

    with new_database(postgres_server) as database:
        yield database


def events_of(url: str) -> list[EventRecord]:
    with open_events(parse_database_url(url)) as events:
        return list(events.records)


def run(*arguments: str, cwd: Path, **changes: str) -> tuple[int, dict[str, Any]]:
    done = autopack("copy", *arguments, "--json", cwd=cwd, **changes)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("direction", DIRECTIONS, ids="-".join)
def test_a_copy_holds_the_same_events_and_a_second_writes_nothing(
    places: Places, tmp_path: Path, direction: tuple[str, str]
) -> None:
    """Every event is the same at the destination, and a second copy writes nothing."""
    source, to = places.source(direction[0], odd_events()), places.destination(direction[1])
    code, said = run("--from", source, "--to", to, cwd=tmp_path)
    assert (code, said["rows"]) == (0, {"read": 6, "written": 6, "duplicates": 0, "rejected": 0})
    assert events_of(to) == events_of(source)
    code, said = run("--from", source, "--to", to, cwd=tmp_path)
    assert (code, said["rows"]) == (0, {"read": 6, "written": 0, "duplicates": 6, "rejected": 0})
    assert not (tmp_path / "copy.rejects.ndjson").exists()


@pytest.mark.slow
def test_there_and_back_is_the_first_again_to_the_byte(places: Places, tmp_path: Path, postgres: Database) -> None:
    first = str(make_database(tmp_path / "first.db", odd_events()))
    run("--from", first, "--to", postgres.url, cwd=tmp_path)
    run("--from", postgres.url, "--to", url_of(tmp_path / "second.db"), cwd=tmp_path)
    stored = []
    for name in ("first", "second"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})") if row[1] != "event_id"]
            stored.append(
                connection.execute(f"SELECT {', '.join(sorted(columns))} FROM {TABLE} ORDER BY event_uid").fetchall()
            )
    assert stored[0] == stored[1]


def test_urls_come_from_command_line_environment_or_file(tmp_path: Path) -> None:
    """The URLs come from the environment or a file, and the command line goes first."""
    source, to = str(make_database(tmp_path / "from.db", [event(1)])), url_of(tmp_path / "to.db")
    variables = {"AUTOPACK_COPY_FROM": source, "AUTOPACK_COPY_TO": to}
    assert run(cwd=tmp_path, **variables)[1]["rows"]["written"] == 1
    (tmp_path / "url").write_text(f"\n{url_of(tmp_path / 'third.db')}\n")
    assert run("--to-file", str(tmp_path / "url"), cwd=tmp_path, **variables)[1]["rows"]["written"] == 1
    assert run("--to", url_of(tmp_path / "fourth.db"), cwd=tmp_path, **variables)[1]["rows"]["written"] == 1
    assert {path.name for path in tmp_path.glob("*.db")} == {"from.db", "to.db", "third.db", "fourth.db"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Give --from, --from-file or AUTOPACK_COPY_FROM"),
        (["--from", "sqlite:///from.db"], 2, "Give --to, --to-file or AUTOPACK_COPY_TO"),
        (["--from", "sqlite:///from.db", "--from-file", "x"], 2, "give one of them"),
        (["--from", "sqlite:///from.db", "--to-file", "missing"], 1, "missing: No such file"),
        (["--from", "sqlite:///from.db", "--to-file", "two"], 1, "two: 2 lines"),
        (["--from", "sqlite:///from.db", "--to", "mysql://me:hunter2@h/x"], 1, "not supported"),
        (["--from", "sqlite:///from.db", "--to", "sqlite://"], 1, "in memory"),
        (["--from", "sqlite:///from.db", "--to", "sqlite:///link.db"], 1, "both URLs name the same database"),
        (["--from", "sqlite:///none.db", "--to", "sqlite:///to.db"], 1, "there is no database at"),
        (["--from", "sqlite:///from.db", "--to", "sqlite:///two"], 1, "not a SQLite database"),
        pytest.param(
            ["--from", "sqlite:///from.db", "--to", "postgresql://me:hunter2@127.0.0.1:1/x?connect_timeout=1"],
            1,
            "cannot be written (ConnectionRefusedError)",
            marks=pytest.mark.needs("asyncpg", "psycopg"),
        ),
    ],
)
def test_what_cannot_be_copied_is_one_clear_line_without_a_password(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    make_database(tmp_path / "from.db", [event(1)])
    (tmp_path / "link.db").symlink_to(tmp_path / "from.db")
    (tmp_path / "two").write_text("sqlite:///a.db\nsqlite:///b.db\n")
    done = autopack("copy", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr.splitlines()[-1]
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("option", ["&password=hunter2", "&sslpassword=hunter2&password=hunter2"])
def test_a_password_is_in_nothing_that_is_printed_or_left(postgres: Database, tmp_path: Path, option: str) -> None:
    on_postgres(postgres, [event(1, event_uid="x" * 36), event(2, selected_budget=-1)])
    postgres.execute(f"ALTER TABLE {TABLE} ALTER COLUMN timestamp DROP NOT NULL")
    postgres.execute(f"UPDATE {TABLE} SET timestamp = NULL WHERE phase_id = 'p1'")
    if postgres.server.password is not None:
        pytest.skip("the server wants another password")
    variables = {"AUTOPACK_COPY_FROM": postgres.url + option, "AUTOPACK_COPY_TO": url_of(tmp_path / "to.db")}
    done = autopack("copy", cwd=tmp_path, **variables)
    assert (done.returncode, len(events_of(variables["AUTOPACK_COPY_TO"]))) == (1, 1)
    left = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    assert "timestamp: not an instant" in left
    assert "hunter2" not in done.stdout + done.stderr + left


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    source = str(make_database(tmp_path / "from.db", odd_events()))
    done = autopack("copy", "--from", source, "--to", url_of(tmp_path / "to.db"), "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        "6 of 6 events would be copied, but for those that are there already\n",
    )
    assert not (tmp_path / "to.db").exists()


def test_what_the_destination_refuses_goes_to_a_private_file(postgres: Database, tmp_path: Path) -> None:
    """What the destination refuses goes to a private file, with the reason."""
    source = make_database(tmp_path / "from.db", [event(number) for number in range(40)])
    with closing(sqlite3.connect(tmp_path / "from.db")) as connection:
        connection.execute(f"UPDATE {TABLE} SET selected_budget = 'a lot' WHERE phase_id = 'p1'")
        connection.execute(f"UPDATE {TABLE} SET timestamp = 'yesterday' WHERE phase_id = 'p2'")
        connection.execute(f"UPDATE {TABLE} SET model = 'nul' || char(0) WHERE phase_id = 'p3'")
        connection.execute(f"UPDATE {TABLE} SET event_uid = '{'x' * 40}' WHERE phase_id = 'p4'")
        connection.commit()
    code, said = run("--from", str(source), "--to", postgres.url, "--rejects", "no.ndjson", cwd=tmp_path)
    assert (code, said["rows"]) == (1, {"read": 40, "written": 36, "duplicates": 0, "rejected": 4})
    assert stat.S_IMODE((tmp_path / "no.ndjson").stat().st_mode) == 0o600
    rejects = [json.loads(line) for line in (tmp_path / "no.ndjson").read_text().splitlines()]
    told = {json.loads(reject["text"])["phase_id"]: reject["reason"] for reject in rejects}
    assert told.keys() == {"p1", "p2", "p3", "p4"}
    assert "selected_budget" in told["p1"]
    assert told["p2"] == "timestamp: not an instant"
    assert "refused it" in told["p3"]
    assert "refused it" in told["p4"]
    assert len(postgres.rows()) == 36


def test_a_host_table_gets_the_ids_that_an_import_gives(postgres: Database, tmp_path: Path) -> None:
    """A table of the host system gets the ids that an import of its export gives."""
    postgres.execute(PLAN_TABLE)
    postgres.execute(PLAN_ROW)
    to = url_of(tmp_path / "to.db")
    assert run("--from", postgres.url, "--to", to, cwd=tmp_path)[1]["rows"]["written"] == 1
    exported = autopack("export", "--output", tmp_path / "x.ndjson", database=postgres.url)
    assert exported.returncode == 0
    imported = json.loads(autopack("import", "x.ndjson", "--json", database=to, cwd=tmp_path).stdout)
    assert (imported["files"][0]["written"], imported["files"][0]["duplicates"]) == (0, 1)
    (record,) = events_of(to)
    assert (record.waste_ratio, record.smape_percent, record.deliverables) == (1.5, 40, ["a.md"])


@pytest.mark.slow
def test_a_copy_that_was_killed_is_completed_by_the_next(postgres: Database, tmp_path: Path) -> None:
    source = make_database(tmp_path / "from.db", [event(number) for number in range(3_000)])
    on_postgres(postgres)
    # The second batch waits in the middle, until the copy is killed there.
    postgres.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
    )
    postgres.execute(
        f"CREATE TRIGGER wait BEFORE INSERT ON {TABLE} FOR EACH ROW "
        "WHEN (NEW.phase_id = 'p2500') EXECUTE FUNCTION wait()"
    )
    (tmp_path / "url").write_text(postgres.url)
    command = [sys.executable, "-m", "autopack.cli", "copy", "--from", str(source), "--to-file", "url"]
    with postgres.connect() as lock:
        lock.execute("SELECT pg_advisory_lock(1)")
        with subprocess.Popen(command, cwd=tmp_path, env=environment(None), stderr=subprocess.DEVNULL) as child:
            deadline_s = time.monotonic() + 30
            while not postgres.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                assert child.poll() is None, "it ended before its second batch waited"
                assert time.monotonic() < deadline_s
            child.kill()
        assert postgres.terminate_others() == 1
    assert len(postgres.rows()) == 2_000
    code, said = run("--from", str(source), "--to", postgres.url, cwd=tmp_path)
    assert (code, said["rows"]) == (0, {"read": 3_000, "written": 1_000, "duplicates": 2_000, "rejected": 0})
    assert len(postgres.rows()) == 3_000


async def test_a_busy_destination_is_waited_for(tmp_path: Path) -> None:
    """A destination that is busy is waited for, and a refused row costs itself only."""
    source = make_database(tmp_path / "from.db", [event(number) for number in range(100)])
    memory = MemoryStore()
    store = FlakyStore(RefusingStore(memory, bad=lambda row: row.phase_id in {"p7", "p99"}), failures=2)
    with RejectFile(tmp_path / "no.ndjson") as rejects, open_rows(source) as (total, rows):
        copied = await copy(rows, store, rejects, "here")
    assert (total, copied.read, copied.written, copied.rejected) == (100, 100, 98, 2)
    assert [json.loads(line)["line"] for line in (tmp_path / "no.ndjson").read_text().splitlines()] == [8, 100]
    assert len(memory.rows) == 98


@pytest.mark.slow
def test_a_large_copy_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    make_database(tmp_path / "from.db", [event(1)])
    with closing(sqlite3.connect(tmp_path / "from.db")) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})") if row[1] != "event_id"]
        values = ", ".join(
            {"event_uid": "printf('%036d', n)", "deliverables_json": "printf('%04000d', n)"}.get(name, name)
            for name in names
        )
        connection.execute(
            f"INSERT INTO {TABLE} ({', '.join(names)}) WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s "
            f"WHERE n < 15000) SELECT {values} FROM {TABLE}, s"
        )
        connection.commit()
    done = measured("copy", "--from", "sqlite:///from.db", "--to", "sqlite:///to.db", cwd=tmp_path)
    assert done.stdout == "15001 events: 15001 written, 0 were there already, 0 rejected\n"
    assert done.peak_mib < 100
