"""Whose fault a refusal is: tried out on real tables, with columns, triggers and policies of the user's own."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.misbehaving_stores import WrappedStore
from tests.postgres import Database
from tests.waiting import wait_for
from tests.write_side import TABLE, dead_letters_of, event, phases_of, url_of

from autopack.database.destination import parse_database_url
from autopack.errors import DataRejectedError, TransientStoreError
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.dead_letters import MemoryDeadLetters
from autopack.telemetry.event.sample import sample_row
from autopack.telemetry.event.schema import Row, as_read
from autopack.telemetry.stores.sqlite import SqliteStore

pytestmark = pytest.mark.usefixtures("_nothing_left_running")


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BACKOFF_BASE_S": "0.001", "BACKOFF_CAP_S": "0.002", "PROBE_INTERVAL_S": "0.01"}.items():
        monkeypatch.setenv(f"TELEMETRY_{name}", value)


def record(telemetry: Telemetry, count: int, prefix: str = "p", **changes: Any) -> list[str]:
    phases = [f"{prefix}{number}" for number in range(count)]
    for phase in phases:
        assert telemetry.record(**event(phase_id=phase, **changes))
    return phases


def execute(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def edit_table(database: Path, old: str, new: str) -> None:
    """Change the definition of the table as a user does who rebuilds it: SQLite adds no such column to a table."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(f"UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = '{TABLE}'", (old, new))
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        connection.execute(f"PRAGMA schema_version = {version + 1}")
        connection.execute("COMMIT")


def make_table(database: Path) -> None:
    """An empty one, of this program."""
    with Telemetry(url_of(database)) as telemetry:
        telemetry.record(**event())
    execute(database, f"DELETE FROM {TABLE}")


FOREIGN = ("PRIMARY KEY", "tenant TEXT NOT NULL, PRIMARY KEY")


@pytest.mark.parametrize("count", [1, 500, pytest.param(30_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("before", [0, 1], ids=["nothing was accepted before", "a row was accepted before"])
def test_a_foreign_column_without_a_default_costs_no_event(
    database: Path, caplog: pytest.LogCaptureFixture, count: int, before: int
) -> None:
    """Good events stay, none becomes a dead letter, and all become rows once the column is mended."""
    make_table(database)
    with Telemetry(url_of(database)) as telemetry:
        first = record(telemetry, before, "first")
        assert telemetry.flush(30)
        edit_table(database, *FOREIGN)
        execute(database, f"UPDATE {TABLE} SET tenant = 'mine'")
        phases = record(telemetry, count)
        wait_for(telemetry, lambda _: "refuses every row" in caplog.text)
        stats = telemetry.stats()
        assert (stats.written, stats.dead_lettered, stats.pending) == (before, 0, count)
        edit_table(database, "tenant TEXT NOT NULL", "tenant TEXT")
        assert telemetry.flush(300)
    assert phases_of(database) == first + phases
    assert dead_letters_of(database) == []
    (said,) = [line for line in caplog.messages if "refuses every row" in line]
    assert "column tenant" in said
    assert [line for line in caplog.messages if "takes rows again" in line]


@pytest.mark.slow
def test_a_table_that_stays_wrong_is_asked_at_a_bounded_rate(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows of two batches are tried one by one at most a few times; the events stay in the journal at the end."""
    make_table(database)
    edit_table(database, *FOREIGN)
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "0.02")
    store = WrappedStore(SqliteStore(parse_database_url(url_of(database))))
    telemetry = Telemetry(store, batch_size=10)
    record(telemetry, 20)
    wait_for(telemetry, lambda _: store.writes > 80)
    wait_for(telemetry, retries=70)
    writes, rounds = store.writes, telemetry.stats().retries
    telemetry.close(0)
    # 39 for twenty rows, at the start and in rounds 1, 2, 4, … and 64; one in every round.
    assert writes <= 39 * 8 + rounds + 5
    assert telemetry.stats().pending == 20
    assert dead_letters_of(database) == []
    edit_table(database, "tenant TEXT NOT NULL", "tenant TEXT")
    with Telemetry(url_of(database)) as later:
        record(later, 1, "later")
        assert later.flush(30)
        assert later.stats().recovered == 20
    assert len(phases_of(database)) == 21


def trigger(action: str, condition: str) -> str:
    return f"CREATE TRIGGER own BEFORE INSERT ON {TABLE} WHEN {condition} BEGIN SELECT RAISE({action}); END"


ACTIONS = {"IGNORE": "left out in silence", "ABORT, 'mine'": "SQLITE_CONSTRAINT_TRIGGER"}


@pytest.mark.parametrize("action", ACTIONS)
def test_rows_that_a_trigger_refuses_are_dead_letters_and_others_rows(database: Path, action: str) -> None:
    make_table(database)
    execute(database, trigger(action, "NEW.phase_id LIKE 'odd%'"))
    with Telemetry(url_of(database)) as telemetry:
        for number in range(200):
            record(telemetry, 1, "odd" if number % 10 == 0 else f"even{number}-")
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert (stats.written, stats.duplicates, stats.dead_lettered, stats.pending) == (180, 0, 20, 0)
    assert len(phases_of(database)) == 180
    letters = dead_letters_of(database)
    assert {letter["event"]["phase_id"] for letter in letters} == {"odd0"}
    assert all(ACTIONS[action] in letter["reason"] for letter in letters)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_trigger_that_refuses_all_rows_is_the_fault_of_the_table(
    database: Path, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_table(database)
    execute(database, trigger(action, "TRUE"))
    with Telemetry(url_of(database)) as telemetry:
        phases = record(telemetry, 50)
        wait_for(telemetry, lambda _: "refuses every row" in caplog.text)
        assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (50, 0)
        execute(database, "DROP TRIGGER own")
        assert telemetry.flush(30)
    assert phases_of(database) == phases


@pytest.mark.parametrize("action", ACTIONS)
def test_a_good_row_behind_many_that_are_refused_gets_through(database: Path, action: str) -> None:
    """Also where even the row that was known to be good is refused now: a policy has changed in the middle."""
    make_table(database)
    with Telemetry(url_of(database), batch_size=10) as telemetry:
        record(telemetry, 1, "first")
        assert telemetry.flush(30)
        execute(database, trigger(action, "NEW.category <> 'bugfix'"))
        record(telemetry, 100, "refused")
        record(telemetry, 1, "good", category="bugfix")
        assert telemetry.flush(60)
        stats = telemetry.stats()
    assert phases_of(database) == ["first0", "good0"]
    assert (stats.written, stats.dead_lettered, stats.pending) == (2, 100, 0)


def test_a_unique_index_of_the_users_own_is_not_the_tables_fault(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses a copy of any row that is there, and a new row it takes."""
    make_table(database)
    execute(database, f"CREATE UNIQUE INDEX own ON {TABLE} (run_id, phase_id)")
    with Telemetry(url_of(database)) as telemetry:
        for _ in range(2):
            phases = record(telemetry, 1)
            assert telemetry.flush(30)
        assert (telemetry.stats().written, telemetry.stats().dead_lettered) == (1, 1)
        phases += record(telemetry, 5, "later")
        assert telemetry.flush(30)
    assert phases_of(database) == phases
    assert "refuses every row" not in caplog.text


def test_a_trigger_that_moves_rows_elsewhere_gets_each_once(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks the table again is rolled back, and so is what the trigger does then."""
    make_table(database)
    execute(
        database,
        "CREATE TABLE archive (phase)",
        f"CREATE TRIGGER own BEFORE INSERT ON {TABLE} BEGIN INSERT INTO archive VALUES (NEW.phase_id); "
        "SELECT RAISE(IGNORE); END",
    )
    monkeypatch.setenv("TELEMETRY_FLUSH_INTERVAL_S", "60")
    with Telemetry(url_of(database)) as telemetry:
        phases = record(telemetry, 20)
        telemetry.flush(0.01)
        wait_for(telemetry, lambda stats: stats.retries > 40)
        execute(database, "DROP TRIGGER own")
        assert telemetry.flush(30)
    assert phases_of(database) == phases
    with closing(sqlite3.connect(database)) as connection:
        assert sorted(phase for (phase,) in connection.execute("SELECT phase FROM archive")) == sorted(phases)


class Flapping(WrappedStore):
    """Refuses a row and, when it is asked at once, every row; when it is asked again it would take one."""

    async def write(self, rows: Sequence[Row]) -> int:
        self.writes += 1
        if self.writes <= 2 * 1500:
            raise DataRejectedError("NOT NULL", "column tenant")
        return await self.inner.write(rows)

    async def refusal(self, row: Row) -> str | None:  # noqa: ARG002 (it refuses all or none)
        return "NOT NULL" if self.writes % 2 else None


@pytest.mark.slow
def test_a_table_that_changes_its_mind_for_ever_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "0.001")
    with Telemetry(Flapping()) as telemetry:
        record(telemetry, 1)
        assert telemetry.flush(60)
        assert (telemetry.stats().written, telemetry.stats().worker_restarts) == (1, 0)


def test_true_duplicates_are_still_duplicates(database: Path) -> None:
    make_table(database)
    store = LostAnswers(SqliteStore(parse_database_url(url_of(database))))
    with Telemetry(store) as telemetry:
        phases = record(telemetry, 20)
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert phases_of(database) == phases
    assert (stats.written + stats.duplicates, stats.dead_lettered) == (20, 0)
    assert stats.duplicates > 0


class LostAnswers(WrappedStore):
    """Loses the answer to its first commit."""

    async def write(self, rows: Sequence[Row]) -> int:
        new = await super().write(rows)
        if self.writes == 1:
            raise TransientStoreError("lost")
        return new


class Fickle(WrappedStore):
    """Refuses some rows for themselves, for one of two reasons; its table is at fault for the second."""

    async def write(self, rows: Sequence[Row]) -> int:
        self.writes += 1
        for phase in (as_read(row).phase_id for row in rows):
            if phase.startswith("own"):
                raise DataRejectedError("CHECK")
        if self.at_fault:
            raise DataRejectedError("NOT NULL", "column tenant")
        return await self.inner.write(rows)

    async def refusal(self, row: Row) -> str | None:  # noqa: ARG002 (it refuses all or none)
        return "NOT NULL" if self.at_fault else None

    at_fault = True


def test_rows_with_a_fault_of_their_own_do_not_wait_for_the_table(caplog: pytest.LogCaptureFixture) -> None:
    store = Fickle()
    with Telemetry(store) as telemetry:
        record(telemetry, 3, "own")
        phases = record(telemetry, 3)
        wait_for(telemetry, lambda _: "refuses every row" in caplog.text)
        wait_for(telemetry, dead_lettered=3)
        assert telemetry.stats().pending == 3
        store.at_fault = False
        assert telemetry.flush(30)
        assert isinstance(telemetry.dead_letters, MemoryDeadLetters)
        assert [letter.event["phase_id"][:3] for letter in telemetry.dead_letters.letters] == ["own"] * 3
    assert [row.phase_id for row in store.rows] == phases


@contextmanager
def writing_role(postgres: Database) -> Iterator[str]:
    """The URL for a role that is bound by policies; the table is there."""
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 1, "first")
    role = f"app_{postgres.name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    try:
        postgres.execute(f"GRANT SELECT, INSERT ON {TABLE}, autopack_telemetry_version TO {role}")
        postgres.execute(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
        yield postgres.url_as(role, "geheim")
    finally:
        postgres.terminate_others()
        postgres.execute(f"DROP OWNED BY {role}")
        postgres.execute(f"DROP ROLE {role}")


def test_a_policy_that_refuses_some_rows_blocks_no_others(postgres: Database) -> None:
    with writing_role(postgres) as url:
        postgres.execute(f"CREATE POLICY own ON {TABLE} USING (true) WITH CHECK (category <> 'secret')")
        with Telemetry(url) as telemetry:
            for number in range(100):
                record(telemetry, 1, f"p{number}-", category="secret" if number % 25 == 0 else "bugfix")
            assert telemetry.flush(30)
            stats = telemetry.stats()
            assert (stats.written, stats.dead_lettered, stats.pending) == (96, 4, 0)
            assert len(postgres.rows()) == 97


def test_a_policy_that_refuses_all_rows_makes_them_wait(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    with writing_role(postgres) as url:
        postgres.execute(f"CREATE POLICY own ON {TABLE} USING (true) WITH CHECK (false)")
        with Telemetry(url) as telemetry:
            record(telemetry, 20)
            wait_for(telemetry, lambda _: "refuses every row" in caplog.text)
            assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (20, 0)
            postgres.execute(f"ALTER POLICY own ON {TABLE} WITH CHECK (true)")
            assert telemetry.flush(30)
        assert len(postgres.rows()) == 21
    assert "row-level security" in caplog.text


def test_a_foreign_column_on_postgresql_costs_no_event(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 1, "first")
        assert telemetry.flush(30)
        postgres.execute(f"ALTER TABLE {TABLE} ADD tenant text")
        postgres.execute(f"UPDATE {TABLE} SET tenant = 'mine'")
        postgres.execute(f"ALTER TABLE {TABLE} ALTER tenant SET NOT NULL")
        record(telemetry, 300)
        wait_for(telemetry, lambda _: "refuses every row" in caplog.text)
        assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (300, 0)
        postgres.execute(f"ALTER TABLE {TABLE} ALTER tenant SET DEFAULT 'none'")
        assert telemetry.flush(30)
    assert len(postgres.rows()) == 301
    assert "column tenant" in caplog.text


def test_rows_that_a_trigger_of_postgresql_drops_are_dead_letters(postgres: Database) -> None:
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 1, "first")
        assert telemetry.flush(30)
        postgres.execute("""
            CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.phase_id LIKE 'odd%' THEN RETURN NULL; END IF; RETURN NEW;
            END $$
        """)
        postgres.execute(f"CREATE TRIGGER odd BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION drop_odd()")
        for number in range(100):
            record(telemetry, 1, "odd" if number % 10 == 0 else f"even{number}-")
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert (stats.written, stats.duplicates, stats.dead_lettered) == (91, 0, 10)
    assert len(postgres.rows()) == 91


async def test_the_plain_row_to_ask_with_is_one_that_every_store_takes(database: Path) -> None:
    """Also like another row, but under an id of its own."""
    store = SqliteStore(parse_database_url(url_of(database)))
    row = sample_row(1_766_500_000_000_000_000, 1)
    like = sample_row(1_766_500_000_000_000_000, 2, row)
    try:
        assert [await store.refusal(row), await store.write([row]), await store.write([row, like])] == [None, 1, 1]
    finally:
        await store.close()
