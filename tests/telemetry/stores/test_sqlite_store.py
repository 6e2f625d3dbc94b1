"""SQLite as it fails in real life: locked, full, gone, replaced, read-only, damaged; and healed again."""

import asyncio
import gc
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.waiting import wait_for_error
from tests.write_side import TABLE, dead_letters_of, event, phases_of, rows_of, run_python, start_python

from autopack.database.destination import parse_database_url
from autopack.errors import DataRejectedError, StoreUnusableError, TransientStoreError
from autopack.models import TokenEstimationV2Event
from autopack.telemetry import Telemetry
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import FIELD_NAMES, Rejected, Row, replaced
from autopack.telemetry.event.schema import TABLE as SCHEMA
from autopack.telemetry.event.wire import encode
from autopack.telemetry.stores.sqlite import BUSY_TIMEOUT_MS, SqliteStore, translate

pytestmark = pytest.mark.usefixtures("_nothing_left_running")


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BACKOFF_CAP_S": "0.05", "PROBE_INTERVAL_S": "0.05"}.items():
        monkeypatch.setenv(f"TELEMETRY_{name}", value)


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Another connection holds the database for itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


def rows(count: int, start: int = 0, **changes: object) -> list[Row]:
    fields = event(**changes)
    made = []
    for number in range(start, start + count):
        values = [fields.get(name) for name in FIELD_NAMES]
        row = Decoder()(encode((time.time_ns(), number, *values)))
        assert not isinstance(row, Rejected)
        made.append(row)
    return made


def store_at(path: Path) -> SqliteStore:
    return SqliteStore(parse_database_url(f"sqlite:///{path}"))


async def test_the_largest_batch_is_one_statement(database: Path) -> None:
    store = store_at(database)
    assert store.max_batch_rows == 32_766 // len(SCHEMA.columns)
    assert await store.write(rows(store.max_batch_rows)) == store.max_batch_rows
    await store.close()


async def test_last_columns_that_no_row_of_a_batch_fills_are_left_out(database: Path) -> None:
    """To write NULL costs SQLite as much as any value, and nine columns belong to captured calls alone."""
    store = store_at(database)
    statements: list[str] = []
    plain, captured = rows(4), rows(1, start=10, call_id="msg_1", attempt=0)
    await store.write(plain[:1])
    assert store._connection is not None
    await store._connection.set_trace_callback(statements.append)
    assert await store.write(plain[1:3]) == 2
    assert await store.write([plain[3], *captured]) == 2
    await store.close()
    named = [text.partition("(")[2].partition(")")[0].split(", ") for text in statements if text.startswith("INSERT")]
    assert [names[-1] for names in named] == ["model", "attempt"]
    assert [tuple(row.values())[1:] for row in rows_of(database)] == [*plain, *captured]


async def test_a_batch_is_written_in_one_transaction_or_not_at_all(database: Path) -> None:
    store = store_at(database)
    await store.write(rows(1))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {TABLE} WHEN NEW.phase_id = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    batch = rows(5, start=10)
    with pytest.raises(DataRejectedError):
        await store.write([*batch[:4], replaced(batch[4], phase_id="bad")])
    assert len(rows_of(database)) == 1
    assert await store.write(batch[:4]) == 4
    await store.close()


def test_journal_mode_timeout_and_types_are_as_promised(database: Path, database_url: str) -> None:
    before = datetime.now(UTC).replace(tzinfo=None)
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(truncated=True, success=False))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        kinds = connection.execute(
            f"SELECT typeof(timestamp), typeof(success), typeof(predicted_output_tokens), timestamp FROM {TABLE}"
        ).fetchone()
    assert kinds[:3] == ("text", "integer", "integer")
    assert before <= datetime.fromisoformat(kinds[3]) <= datetime.now(UTC).replace(tzinfo=None)
    assert BUSY_TIMEOUT_MS <= 250


def test_the_models_read_back_what_was_recorded(
    database_url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autopack.database import SessionLocal

    monkeypatch.setenv("DATABASE_URL", database_url)
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(stop_reason=None))
    with SessionLocal() as session:
        found = session.query(TokenEstimationV2Event).one()
        assert (found.phase_id, found.success, found.truncated, found.stop_reason) == ("p1", True, False, None)
        assert found.timestamp.tzinfo is UTC
        assert abs((datetime.now(UTC) - found.timestamp).total_seconds()) < 60
        assert found.event_id == 1


def test_a_locked_database_that_is_released_drains_by_itself(database: Path, database_url: str) -> None:
    with Telemetry(database_url, batch_size=10) as telemetry:
        telemetry.record(**event(phase_id="before"))
        assert telemetry.flush(30)
        with locked(database):
            for number in range(100):
                assert telemetry.record(**event(phase_id=str(number)))
            wait_for_error(telemetry, "OperationalError SQLITE_BUSY")
            assert telemetry.stats().pending == 100
        assert telemetry.flush(30)
        assert telemetry.stats().duplicates == 0
    assert phases_of(database) == ["before", *map(str, range(100))]


def test_a_database_locked_before_the_first_event_drains_later(database: Path, database_url: str) -> None:
    """A database that is locked before the first event drains when it is released."""
    with Telemetry(database_url) as telemetry:
        with locked(database):
            telemetry.record(**event())
            wait_for_error(telemetry, "OperationalError SQLITE_BUSY")
        assert telemetry.flush(30)
    assert phases_of(database) == ["p1"]


def test_close_of_a_locked_database_keeps_its_deadline(
    database: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A close while the database is locked keeps its deadline, and says what is left."""
    telemetry = Telemetry(database_url, journal_dir=None)
    telemetry.record(**event())
    assert telemetry.flush(30)
    with locked(database):
        for _ in range(5):
            telemetry.record(**event())
        began = time.monotonic()
        telemetry.close(0.5)
        assert time.monotonic() - began < 0.5 + 1
    assert telemetry.stats().pending == 5
    said = caplog.messages[-1]
    assert said.startswith(
        "Closed; of 6 accepted event(s): 5 not written, LOST with this process (last error: OperationalError"
    )


def test_the_next_writer_writes_what_an_expired_deadline_left(database: Path, database_url: str) -> None:
    """What an expired deadline leaves is written by the next writer."""
    telemetry = Telemetry(database_url)
    telemetry.record(**event(phase_id="first"))
    assert telemetry.flush(30)
    with locked(database):
        for number in range(5):
            telemetry.record(**event(phase_id=str(number)))
        telemetry.close(0.3)
    assert telemetry.stats().pending == 5
    with Telemetry(database_url) as successor:
        successor.record(**event(phase_id="last"))
    assert successor.stats().recovered == 5
    assert phases_of(database) == ["first", "0", "1", "2", "3", "4", "last"]


def test_a_deleted_database_file_is_made_again(database: Path, database_url: str) -> None:
    """In WAL mode commits into the unlinked file succeed, and no reader ever sees them."""
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(phase_id="gone with the file"))
        assert telemetry.flush(30)
        for name in (database, Path(f"{database}-wal"), Path(f"{database}-shm")):
            name.unlink(missing_ok=True)
        for number in range(20):
            telemetry.record(**event(phase_id=str(number)))
        assert telemetry.flush(30)
    assert phases_of(database) == [str(number) for number in range(20)]


def test_a_telemetry_folder_that_is_deleted_is_made_again(database: Path, database_url: str) -> None:
    """`rm -rf` of everything that looks like the database, between two runs in one process and within one."""
    folder = database.with_name(database.name + ".telemetry")
    for turn in range(2):
        with Telemetry(database_url) as telemetry:
            assert telemetry.record(**event(phase_id=f"{turn}"))
            assert telemetry.flush(30)
            assert folder.exists()
            remove(folder)
            for _ in range(300):
                assert telemetry.record(**event(phase_id=f"{turn} large", deliverables=["x" * 20_000]))
            assert telemetry.record(**event(run_id=None))
            assert telemetry.flush(30)
            assert telemetry.stats().dropped == {}
            assert telemetry.stats().dead_letters_lost == 0
        remove(folder)
    assert len(rows_of(database)) == 602


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_a_removed_table_is_made_again_and_that_is_said(
    database: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(phase_id="before"))
        assert telemetry.flush(30)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(f"DROP TABLE {TABLE}")
        telemetry.record(**event(phase_id="after"))
        assert telemetry.flush(30)
        assert telemetry.stats().dead_lettered == 0
    assert phases_of(database) == ["after"]
    assert f"The table {TABLE} was removed, and is made again" in caplog.text


def test_a_restored_backup_gets_all_events_after_it(database: Path, database_url: str, tmp_path: Path) -> None:
    """`rm x.db-wal x.db-shm; cp backup x.db` under a living writer: commits into the old log would be seen by none."""
    run_python(
        """
        import shutil, sqlite3
        from contextlib import closing
        from pathlib import Path
        from autopack.telemetry import Telemetry
        path, backup = Path(sys.argv[1]), sys.argv[2]
        telemetry = Telemetry(f"sqlite:///{path}")
        for number in range(50):
            telemetry.record(**event(phase_id=f"before {number}"))
        assert telemetry.flush(30)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        for number in range(50):
            telemetry.record(**event(phase_id=f"lost with what the backup does not have {number}"))
        assert telemetry.flush(30)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        shutil.copyfile(backup, path)
        for number in range(2000):
            assert telemetry.record(**event(phase_id=f"after {number}"))
        assert telemetry.flush(30), telemetry.stats()
        assert telemetry.stats().pending == 0
        os._exit(0) if sys.argv[3] == "kill" else telemetry.close()
        """,
        database,
        tmp_path / "backup.db",
        "kill",
    )
    found = phases_of(database)
    assert sorted(phase for phase in found if phase.startswith("after")) == sorted(f"after {n}" for n in range(2000))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_connection_to_replaced_files_ends_without_a_change(database: Path, tmp_path: Path) -> None:
    """SQLite copies the log of the last connection into the database when that is closed: not into another one."""
    run_python(
        """
        import shutil, sqlite3
        from pathlib import Path
        from autopack.telemetry import Telemetry
        path = Path(sys.argv[1])
        with Telemetry(f"sqlite:///{path}") as telemetry:
            for number in range(300):
                telemetry.record(**event(phase_id=str(number)))
            assert telemetry.flush(30)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink()
            path.write_bytes(b"")
            telemetry.record(**event(phase_id="last"))
            assert telemetry.flush(30), telemetry.stats()
        """,
        database,
    )
    assert phases_of(database) == ["last"]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_row_that_a_trigger_ignores_is_absent(database: Path) -> None:
    store = store_at(database)
    await store.write(rows(1))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            f"CREATE TRIGGER ignore BEFORE INSERT ON {TABLE} WHEN NEW.phase_id = 'unwanted' "
            "BEGIN SELECT RAISE(IGNORE); END"
        )
    batch = rows(4, start=10)
    batch[2] = replaced(batch[2], phase_id="unwanted")
    assert await store.write(batch) == 3
    assert await store.absent(batch) == [2]
    await store.close()


async def test_a_refusal_is_told_and_nothing_is_written(database: Path) -> None:
    store = store_at(database)
    good, bad = rows(2)
    assert await store.refusal(good) is None
    assert await store.refusal(replaced(bad, model=None)) == "IntegrityError SQLITE_CONSTRAINT_NOTNULL"
    assert rows_of(database) == []
    assert await store.write([good]) == 1
    await store.close()


def test_a_folder_in_place_of_the_file_is_waited_for(database: Path, database_url: str) -> None:
    with Telemetry(database_url, journal_dir=None) as telemetry:
        database.mkdir()
        telemetry.record(**event())
        wait_for_error(telemetry, "OperationalError SQLITE_CANTOPEN")
        database.rmdir()
        assert telemetry.flush(30)
    assert phases_of(database) == ["p1"]


def test_a_file_that_is_no_database_loses_nothing_and_is_left_alone(database: Path, database_url: str) -> None:
    database.write_text("my diary, " * 500)
    with Telemetry(database_url, journal_dir=None) as telemetry:
        telemetry.record(**event())
        wait_for_error(telemetry, "DatabaseError SQLITE_NOTADB")
        assert database.read_text() == "my diary, " * 500
        assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (1, 0)
        database.unlink()
        assert telemetry.flush(30)
    assert phases_of(database) == ["p1"]


@pytest.mark.slow
def test_a_full_disk_is_waited_for(database: Path) -> None:
    """A limit on the size of files stands for the disk; when it is lifted everything drains."""
    run_python(
        """
        import resource
        from autopack.telemetry import Telemetry
        telemetry = Telemetry(f"sqlite:///{sys.argv[1]}", batch_size=50, journal_dir=None)
        telemetry.record(**event()); assert telemetry.flush(30)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        for _ in range(400):
            assert telemetry.record(**event(deliverables=["x" * 200] * 20))
        assert not telemetry.flush(0.5)
        stats = telemetry.stats()
        assert stats.pending > 0 and stats.dead_lettered == 0, stats
        assert stats.last_error.startswith("OperationalError SQLITE_"), stats
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert telemetry.flush(30), telemetry.stats()
        telemetry.close()
        assert telemetry.stats().written == 401
        """,
        database,
        env={"TELEMETRY_PROBE_INTERVAL_S": "0.1", "TELEMETRY_BACKOFF_CAP_S": "0.1"},
    )
    assert len(rows_of(database)) == 401


def test_a_users_unique_index_makes_a_dead_letter_not_a_duplicate(database: Path, database_url: str) -> None:
    """A unique index of the user's makes a dead letter, not a silent duplicate."""
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(phase_id="first try"))
        assert telemetry.flush(30)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(f"CREATE UNIQUE INDEX mine ON {TABLE} (run_id, phase_id)")
        telemetry.record(**event(phase_id="first try"))
        telemetry.record(**event(phase_id="second try"))
    stats = telemetry.stats()
    assert (stats.written, stats.duplicates, stats.dead_lettered) == (2, 0, 1)
    assert phases_of(database) == ["first try", "second try"]
    (letter,) = dead_letters_of(database)
    assert (letter["kind"], letter["code"]) == ("data", "IntegrityError SQLITE_CONSTRAINT_UNIQUE")


def test_two_writers_in_one_process_share_a_file(database: Path, database_url: str) -> None:
    first, second = Telemetry(database_url, batch_size=5), Telemetry(database_url, batch_size=5)
    for number in range(100):
        assert (first if number % 2 else second).record(**event(phase_id=str(number)))
    first.close(30)
    second.close(30)
    assert sorted(map(int, phases_of(database))) == list(range(100))


def test_several_new_databases_in_one_process_stay_apart(tmp_path: Path) -> None:
    """Alembic's proxies belong to the process; each upgrade has to reach its own database."""
    together = threading.Barrier(8)

    def use(number: int) -> None:
        with Telemetry(f"sqlite:///{tmp_path}/{number}.db") as telemetry:
            together.wait()
            telemetry.record(**event(phase_id=str(number)))
            telemetry.close(30)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [phases_of(tmp_path / f"{number}.db") for number in range(8)] == [[str(number)] for number in range(8)]


@pytest.mark.slow
def test_eight_processes_write_one_file_and_every_event_is_there_once(database: Path) -> None:
    code = """
        from autopack.telemetry import Telemetry
        telemetry = Telemetry(f"sqlite:///{sys.argv[1]}", batch_size=20, shutdown_timeout_s=50)
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(200):
            assert telemetry.record(**event(run_id=sys.argv[2], phase_id=str(number)))
        telemetry.close()
        stats = telemetry.stats()
        assert (stats.written, stats.duplicates, stats.pending) == (200, 0, 0), stats
    """
    children = [start_python(code, database, str(number)) for number in range(8)]
    for child in children:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    found = [(row["run_id"], row["phase_id"]) for row in rows_of(database)]
    assert len(found) == len(set(found)) == 1600


def test_a_database_in_memory_lives_as_long_as_its_telemetry() -> None:
    """A database in memory lives as long as its telemetry, and leaves nothing."""
    threads = threading.active_count()
    with Telemetry("sqlite://") as telemetry:
        for _ in range(10):
            telemetry.record(**event())
        assert telemetry.flush(30)
        telemetry.record(**event(run_id=None))
        assert telemetry.flush(30)
    assert (telemetry.stats().written, telemetry.stats().dead_lettered) == (10, 1)
    del telemetry
    gc.collect()
    assert threading.active_count() == threads


def test_writing_in_a_folder_that_does_not_exist_yet_makes_it(tmp_path: Path) -> None:
    database = tmp_path / "a" / "b" / "x.db"
    with Telemetry(f"sqlite:///{database}") as telemetry:
        telemetry.record(**event())
    assert phases_of(database) == ["p1"]


def test_a_link_to_a_database_file_is_followed(tmp_path: Path) -> None:
    """The user's own link, to a file that they chose; only what we make ourselves is never reached through one."""
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    with Telemetry(f"sqlite:///{tmp_path / 'link.db'}") as telemetry:
        telemetry.record(**event())
    assert phases_of(tmp_path / "real.db") == ["p1"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("SQLITE_BUSY", TransientStoreError),
        ("SQLITE_BUSY_SNAPSHOT", TransientStoreError),
        ("SQLITE_LOCKED", TransientStoreError),
        ("SQLITE_IOERR_WRITE", TransientStoreError),
        ("SQLITE_FULL", TransientStoreError),
        ("SQLITE_CANTOPEN", TransientStoreError),
        ("SQLITE_CONSTRAINT_NOTNULL", DataRejectedError),
        ("SQLITE_TOOBIG", DataRejectedError),
        ("SQLITE_MISMATCH", DataRejectedError),
        ("SQLITE_ERROR", StoreUnusableError),
        ("SQLITE_READONLY", StoreUnusableError),
        ("SQLITE_NOTADB", StoreUnusableError),
        ("SQLITE_CORRUPT", StoreUnusableError),
    ],
)
def test_an_error_is_judged_by_its_code_never_by_its_text(code: str, kind: type[Exception]) -> None:
    exc = sqlite3.OperationalError("no such table: UNIQUE constraint failed: database is locked geheim")
    exc.sqlite_errorcode = getattr(sqlite3, code)
    exc.sqlite_errorname = code
    found = translate(exc)
    assert type(found) is kind
    assert code in str(found)
    assert "geheim" not in str(found)


@pytest.mark.parametrize("name", sorted(name for name in dir(sqlite3) if name.startswith("SQLITE_") and name.isupper()))
def test_every_error_code_of_sqlite_has_a_kind(name: str) -> None:
    exc = sqlite3.OperationalError("x")
    exc.sqlite_errorcode = getattr(sqlite3, name)
    assert isinstance(translate(exc), TransientStoreError | DataRejectedError | StoreUnusableError)


@pytest.mark.parametrize(
    "exc", [OSError(5, "geheim"), TimeoutError("geheim"), RuntimeError("geheim"), KeyError("geheim")]
)
def test_an_unknown_error_is_transient_and_tells_nothing_of_the_row(exc: Exception) -> None:
    """An error that is not known counts as transient, and tells nothing of the row."""
    found = translate(exc)
    assert type(found) is TransientStoreError
    assert "geheim" not in str(found)


def test_a_read_only_database_is_said_and_drains_once_writable(database: Path, database_url: str) -> None:
    """`query_only` is a matter of each connection, so a read-only file is the real thing; root may write it anyway."""
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event())
    if os.geteuid() == 0:
        pytest.skip("root may write every file")
    database.chmod(0o400)
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event())
        wait_for_error(telemetry, "OperationalError SQLITE_READONLY")
        database.chmod(0o600)
        assert telemetry.flush(30)


def test_nothing_is_left_open_after_close(database_url: str) -> None:
    descriptors = Path("/proc/self/fd")
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event())
    before = len(list(descriptors.iterdir()))
    threads = threading.active_count()
    for _ in range(5):
        with Telemetry(database_url) as telemetry:
            telemetry.record(**event())
            telemetry.record(**event(run_id=None))
    assert len(list(descriptors.iterdir())) == before
    assert threading.active_count() == threads


def test_the_store_is_used_from_one_thread_whatever_the_callers_do(database: Path, database_url: str) -> None:
    async def use() -> None:
        async with Telemetry(database_url) as telemetry:
            await asyncio.gather(*(asyncio.to_thread(telemetry.record, **event()) for _ in range(50)))

    asyncio.run(use())
    assert len(rows_of(database)) == 50


def test_a_connection_that_fails_leaves_no_thread_behind(database: Path) -> None:
    """The thread would tell a loop that is closed by then what became of it, on standard error."""
    database.write_text("this is no database, " * 100)
    done = run_python(
        """
        import anyio
        from autopack.database.destination import parse_database_url
        from autopack.errors import StoreUnusableError
        from autopack.telemetry.stores.by_url import store_of
        from tests.telemetry.stores.test_stores import rows
        sys.setswitchinterval(1e-6)

        async def write_once():
            try:
                await store_of(parse_database_url(f"sqlite:///{sys.argv[1]}")).write(rows(1))
            except StoreUnusableError:
                return threading.active_count()

        print({anyio.run(write_once) for _ in range(100)})
        """,
        database,
    )
    assert (done.stdout, done.stderr) == ("{1}\n", "")


def test_processes_that_begin_at_once_migrate_nothing(tmp_path: Path) -> None:
    """The tables of one come between the look and the try of another: they are current, and nothing is to be migrated,
    which would import SQLAlchemy.
    """
    code = """
        import sqlite3
        from autopack.database.destination import parse_database_url
        from autopack.telemetry.stores import sqlite
        from autopack.telemetry.event import TABLE
        destination = parse_database_url(f"sqlite:///{sys.argv[1]}")
        look, looks = sqlite._is_current, []
        def look_before_another_is_quicker(connection, table):
            found = look(connection, table)
            looks.append(found)
            if len(looks) == 1:
                other = sqlite3.connect(sys.argv[1], isolation_level=None)
                assert sqlite._made_fresh(other)
                other.close()
            return found
        sqlite._is_current = look_before_another_is_quicker
        sqlite._opened(destination, TABLE).close()
        assert looks[0] is False and "sqlalchemy" not in sys.modules, looks
    """
    run_python(code, tmp_path / "x.db")
