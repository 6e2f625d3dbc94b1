"""The database is away: events wait on disk, however many, and arrive in order when it is back."""

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

import pytest
from tests.journals import child, folder_of, recover_into, segments_in
from tests.misbehaving_stores import FlakyStore, WrappedStore
from tests.write_side import event, phases_of, rows_of, run_python, url_of

from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry
from autopack.telemetry.event.schema import Row
from autopack.telemetry.stores import Store
from autopack.telemetry.stores.sqlite import SqliteStore

HOLD_THE_LOCK = """
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    sys.stdin.readline()
    connection.execute("COMMIT")
"""


class TimedStore(WrappedStore):
    """Notes when each write was tried, and can be away."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.tries_s: list[float] = []

    async def write(self, rows: Sequence[Row]) -> int:
        self.tries_s.append(monotonic())
        return await super().write(rows)


def sqlite_store(database: Path) -> SqliteStore:
    return SqliteStore(parse_database_url(url_of(database)))


@contextmanager
def locked_by_another_process(database: Path) -> Iterator[None]:
    """The database, in exclusive use by another process until the context ends."""
    with child(HOLD_THE_LOCK, database) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
        process.communicate("done\n", timeout=30)


def make_ready(database: Path) -> None:
    """A database that has been used before."""
    with Telemetry(url_of(database)) as telemetry:
        telemetry.record(**event(phase_id="before"))


def anonymous_bytes() -> int:
    """The memory of this process that is not a file's: the journal's own pages belong to its files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@pytest.mark.slow
def test_an_outage_loses_nothing_and_costs_no_memory(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of more events than the queue holds loses nothing, and costs no memory."""
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "0.05")
    monkeypatch.setenv("TELEMETRY_BACKOFF_CAP_S", "0.05")
    store = FlakyStore(sqlite_store(database), failures=float("inf"))
    with Telemetry(store, queue_size=100, batch_size=50) as telemetry:
        for n in range(2_000):
            assert telemetry.record(**event(phase_id=f"p{n}"))
        assert store.failed.wait(30)
        before = anonymous_bytes()
        for n in range(2_000, 20_000):
            assert telemetry.record(**event(phase_id=f"p{n}"))
        grown = anonymous_bytes() - before
        assert telemetry.stats().pending == 20_000
        store.failures_left = 0
        assert telemetry.flush(60)
        assert telemetry.stats().retries > 0
    assert phases_of(database) == [f"p{n}" for n in range(20_000)], "all of them, oldest first"
    assert grown < 2 << 20, "18,000 events are 4 MB"
    assert segments_in(folder_of(database)) == []


@pytest.mark.slow
def test_a_database_locked_by_another_process_gets_everything(database: Path) -> None:
    """A database that is locked by another process gets everything when it is free."""
    make_ready(database)
    with Telemetry(url_of(database), flush_interval_s=0.02) as telemetry:
        with locked_by_another_process(database):
            for n in range(500):
                assert telemetry.record(**event(phase_id=f"p{n}"))
            assert not telemetry.flush(1)
            stats = telemetry.stats()
            assert stats.pending == 500
            assert stats.last_error is not None
            assert "BUSY" in stats.last_error
        assert telemetry.flush(30)
    assert phases_of(database) == ["before", *(f"p{n}" for n in range(500))]


@pytest.mark.slow
def test_an_exit_with_a_hung_database_keeps_its_deadline(database: Path) -> None:
    """An exit with a hung database keeps its deadline, and the next start delivers, in order.

    The next one's own event waits for half a batch of them, not for all.
    """
    make_ready(database)
    code = """
        import atexit, time
        begun_s = []
        atexit.register(lambda: print(time.monotonic() - begun_s[0]))  # the first to register is the last to run
        from autopack.telemetry import Telemetry
        telemetry = Telemetry(sys.argv[1], shutdown_timeout_s=1)
        for n in range(500):
            assert telemetry.record(**event(phase_id=f"p{n}"))
        begun_s.append(time.monotonic())
    """
    with locked_by_another_process(database):
        took_s = float(run_python(code, url_of(database)).stdout)
    assert 0.9 < took_s < 1 + 1, "the deadline is 1 s, and there is nothing else to wait for"
    stats = recover_into(database)
    assert (stats.recovered, stats.pending) == (500, 0)
    delivered = phases_of(database)
    assert delivered.index("later") == 1 + 250
    delivered.remove("later")
    assert delivered == ["before", *(f"p{n}" for n in range(500))]


@pytest.mark.slow
def test_tries_during_an_outage_are_few_and_counted(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_RETRY_ATTEMPTS", "3")
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "0.5")
    store = TimedStore(FlakyStore(sqlite_store(database), failures=12))
    with Telemetry(store, flush_interval_s=0.01) as telemetry:
        for n in range(3000):
            telemetry.record(**event(phase_id=f"p{n}"))
        assert telemetry.flush(60)
        assert telemetry.stats().retries == 12
    assert len(store.tries_s) - 12 <= 1 + 3000 / 500, "what failed once is tried alone, not each batch"
    took_s = store.tries_s[12] - store.tries_s[0]
    assert took_s > 0.3, "twelve tries in a row would be a storm"
    assert len(phases_of(database)) == 3000


def test_a_deleted_database_file_gets_what_was_not_written(database: Path) -> None:
    """A database file that is deleted while it is used gets what was not written."""
    with Telemetry(url_of(database)) as telemetry:
        telemetry.record(**event(phase_id="gone with the file"))
        assert telemetry.flush(30)
        for path in database.parent.glob("events.db*"):
            if path.is_file():
                path.unlink()
        for n in range(100):
            telemetry.record(**event(phase_id=f"p{n}"))
        assert telemetry.flush(30)
        assert telemetry.stats().pending == 0
    assert phases_of(database) == [f"p{n}" for n in range(100)]


def test_a_folder_that_is_deleted_in_an_outage_is_made_again(database: Path) -> None:
    """The writer looks after the journal while it waits for the database, however long that is."""
    store = FlakyStore(sqlite_store(database), failures=1e9)
    with Telemetry(store) as telemetry:
        telemetry.record(**event(phase_id="p0"))
        assert not telemetry.flush(0.2)
        shutil.rmtree(folder_of(database))
        number = 0
        wait_s = monotonic() + 20
        while not (folder_of(database).exists() and segments_in(folder_of(database))):
            assert monotonic() < wait_s
            number += 1
            assert telemetry.record(**event(phase_id=f"p{number}"))
            telemetry.flush(0.05)
        assert telemetry.stats().written == 0
        store.failures_left = 0
        assert telemetry.flush(60)
    assert phases_of(database) == [f"p{n}" for n in range(number + 1)]


def test_a_read_only_database_keeps_everything_in_the_journal(database: Path) -> None:
    """A table of that name which cannot take the events stands for one that was migrated away."""
    make_ready(database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("ALTER TABLE token_estimation_v2_events RENAME TO moved")
        connection.execute("CREATE VIEW token_estimation_v2_events AS SELECT * FROM moved")
    with Telemetry(url_of(database), flush_interval_s=0.01) as telemetry:
        for n in range(100):
            assert telemetry.record(**event(phase_id=f"p{n}"))
        telemetry.flush(0.5)
        stats = telemetry.stats()
        assert (stats.pending, stats.dead_lettered) == (100, 0)
        telemetry.close(0.1)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP VIEW token_estimation_v2_events")
        connection.execute("ALTER TABLE moved RENAME TO token_estimation_v2_events")
    assert recover_into(database).recovered == 100
    assert [row["phase_id"] for row in rows_of(database)] == ["before", *(f"p{n}" for n in range(100)), "later"]


@pytest.mark.slow
def test_an_outage_to_the_end_is_told_once_and_its_events_wait(database: Path) -> None:
    """An outage that outlives the process is told once, and its events wait."""
    make_ready(database)
    code = """
        from autopack.telemetry import Telemetry
        with Telemetry(sys.argv[1], shutdown_timeout_s=0.5, flush_interval_s=0.01) as telemetry:
            for n in range(100):
                telemetry.record(**event(phase_id=f"p{n}"))
            while telemetry.stats().retries < 4:
                telemetry.flush(0.1)
    """
    environment = {"TELEMETRY_RETRY_ATTEMPTS": "2", "TELEMETRY_RETRY_TOTAL_S": "0.1", "TELEMETRY_BACKOFF_CAP_S": "0.05"}
    with locked_by_another_process(database):
        done = run_python(code, url_of(database), env=environment)
    said = done.stderr.splitlines()
    assert sum("cannot be written" in line for line in said) == 1
    assert sum(line.startswith("Closed") for line in said) == 1
    assert recover_into(database).recovered == 100
