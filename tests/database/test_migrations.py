"""The schema: fresh, upgraded in place whatever a real database holds, never half of one."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool
from tests import host_system
from tests.write_side import DATA, TABLE, dead_letters_of, event, rows_of, run_python, start_python

from autopack.database import migrations
from autopack.database.destination import parse_database_url
from autopack.estimation.metrics import accuracy
from autopack.models import Base, TokenEstimationV2Event
from autopack.telemetry import Telemetry
from autopack.telemetry.event.schema import TABLE as SCHEMA

OLD_ROW: dict[str, Any] = {
    "event_id": 7,
    "run_id": "r",
    "phase_id": "p",
    "timestamp": "2025-12-23 10:00:00.500000",
    "category": "docs",
    "complexity": "low",
    "deliverable_count": 1,
    "deliverables_json": '["ö.md"]',
    "predicted_output_tokens": 900,
    "actual_output_tokens": 700,
    "selected_budget": 1000,
    "actual_max_tokens": 16384,
    "success": 1,
    "truncated": 0,
    "stop_reason": "end_turn",
    "model": "m",
    "smape_percent": 1.25,
    "waste_ratio": 1.2857,
    "underestimated": 0,
    "is_truncated_output": 1,
    "context_quality": "good",
    "created_at": "2025-12-23 10:00:01",
}
COLUMNS = {"event_id", *SCHEMA.names}
HOST_COLUMNS = [name for name in OLD_ROW if name != "event_id"]


def insert(connection: sqlite3.Connection, **changes: Any) -> None:
    row = OLD_ROW | changes
    connection.execute("INSERT OR IGNORE INTO runs VALUES (?)", (row["run_id"],))
    connection.execute("INSERT OR IGNORE INTO phases VALUES (?, ?)", (row["run_id"], row["phase_id"]))
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {TABLE} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


@pytest.fixture
def old(database: Path) -> Callable[..., Path]:
    """Makes a database of the host system, with a row in it and whatever else is asked for."""

    def make(*statements: str, **changes: Any) -> Path:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.executescript(host_system.ON_SQLITE)
            insert(connection, **changes)
            for statement in statements:
                connection.executescript(statement)
        return database

    return make


def upgrade_by_recording(database: Path, count: int = 1, *, timeout_s: float = 10) -> Telemetry:
    with Telemetry(f"sqlite:///{database}", shutdown_timeout_s=0.1) as telemetry:
        for number in range(count):
            telemetry.record(**event(phase_id=f"new{number}"))
        assert telemetry.flush(timeout_s), telemetry.stats()
    return telemetry


def schema_of(database: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master ORDER BY 1, 2").fetchall()
    return [(kind, name, sql) for kind, name, sql in found]


def test_a_fresh_database_has_the_columns_of_model_and_row(database: Path) -> None:
    """A fresh database has the model's columns, and they are those of a row."""
    upgrade_by_recording(database)
    engine = create_engine(f"sqlite:///{database}", poolclass=NullPool)
    found = {column["name"]: column for column in inspect(engine).get_columns(TABLE)}
    model = TokenEstimationV2Event.__table__.columns
    assert set(found) == set(model.keys()) == COLUMNS
    assert {name for name, column in found.items() if column["nullable"]} - {"event_id"} == {
        column.name for column in model if column.nullable
    } - {"event_id"}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.VERSION_TABLE})
        differences = compare_metadata(context, Base.metadata)
    assert [difference for difference in differences if "index" in str(difference[0]).lower()] == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the real table is not beside this checkout (../shared/data)")
def test_the_host_systems_table_is_made_here_as_it_really_is() -> None:
    """What the tests take for a database of the host system has the columns, keys and indexes of a real one."""
    questions = (
        f"SELECT name, type, [notnull], pk FROM pragma_table_info('{TABLE}')",
        f"SELECT [table], [from], [to], on_delete FROM pragma_foreign_key_list('{TABLE}') ORDER BY 1, 2",
        f"SELECT name, [unique] FROM pragma_index_list('{TABLE}') ORDER BY 1",
    )

    def shape_of(statements: str) -> list[list[Any]]:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(statements)
            return [connection.execute(question).fetchall() for question in questions]

    assert shape_of(host_system.ON_SQLITE) == shape_of((DATA / "plan_table.sql").read_text())


def test_the_head_is_alembics_own_head() -> None:
    assert ScriptDirectory.from_config(migrations.alembic_config()).get_current_head() == migrations.HEAD


def test_an_upgrade_in_place_loses_no_row_and_no_column(old: Callable[..., Path]) -> None:
    """With FKs on, an `alembic_version` of the user's own, and columns, indexes and a trigger of theirs."""
    database = old(
        "PRAGMA foreign_keys = ON",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY); INSERT INTO alembic_version VALUES ('x')",
        f"ALTER TABLE {TABLE} ADD COLUMN note TEXT",
        f"UPDATE {TABLE} SET note = 'mine'",
        f"CREATE INDEX by_model ON {TABLE} (model) WHERE success",
        "CREATE TABLE log (x)",
        f"CREATE TRIGGER watch AFTER INSERT ON {TABLE} BEGIN INSERT INTO log VALUES (NEW.model); END",
    )
    upgrade_by_recording(database)
    kept, new = rows_of(database)
    unchanged = {k: v for k, v in OLD_ROW.items() if k not in ("smape_percent", "waste_ratio")}
    assert {name: kept[name] for name in unchanged} == unchanged
    assert kept["note"] == "mine"
    assert (kept["smape_percent"], kept["waste_ratio"], kept["underestimated"]) == (25, 128, 0)
    assert kept["event_uid"] < new["event_uid"]
    assert kept["event_uid"][14] == "7"
    assert new["event_id"] == 8
    names = {name for _, name, _ in schema_of(database)}
    assert {"by_model", "watch", "ix_token_estimation_v2_events_run_id", "alembic_version"} <= names
    assert not any("REFERENCES" in sql for _, name, sql in schema_of(database) if name == TABLE)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("x",)]
        assert connection.execute("SELECT * FROM log").fetchall() == [("claude-sonnet-4-5",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_an_upgraded_table_needs_no_run_and_no_host_column(
    old: Callable[..., Path],
) -> None:
    """After an upgrade a row needs neither a run nor the columns of the host system."""
    database = old()
    upgrade_by_recording(database, 3)
    for row in rows_of(database)[1:]:
        assert row["run_id"] == "nightly"
        assert row["is_truncated_output"] == 0
        assert row["created_at"] is not None
    assert dead_letters_of(database) == []


COMPLICATIONS = {
    "a view on the table": (f"CREATE VIEW v AS SELECT model FROM {TABLE}",),
    "a view on that view": (f"CREATE VIEW v AS SELECT model FROM {TABLE}", "CREATE VIEW w AS SELECT * FROM v"),
    "a trigger of another table": (
        f"CREATE TABLE log (x); CREATE TRIGGER t AFTER INSERT ON log BEGIN DELETE FROM {TABLE} WHERE 0; END",
    ),
    "a table that refers to it": (
        f"CREATE TABLE child (id INTEGER PRIMARY KEY, e INTEGER REFERENCES {TABLE} (event_id) ON DELETE CASCADE)",
        "INSERT INTO child VALUES (1, 7)",
    ),
    "a column without a type": (f"ALTER TABLE {TABLE} ADD COLUMN note",),
    "columns of odd types": (
        f"ALTER TABLE {TABLE} ADD COLUMN g GEOMETRY; ALTER TABLE {TABLE} ADD COLUMN j JSON",
        f"ALTER TABLE {TABLE} ADD COLUMN b BLOB; UPDATE {TABLE} SET g = x'00ff', j = '{{}}', b = x'ff'",
    ),
    "columns of odd names": (
        f"""ALTER TABLE {TABLE} ADD COLUMN "order by" TEXT DEFAULT 'a:b%c'""",
        f"""ALTER TABLE {TABLE} ADD COLUMN "q""x" TEXT""",
        f"""ALTER TABLE {TABLE} ADD COLUMN "p%s:z" TEXT; ALTER TABLE {TABLE} ADD COLUMN "größe" INT DEFAULT -1""",
    ),
    "a column in capital letters": (f"ALTER TABLE {TABLE} RENAME COLUMN model TO MODEL",),
    "a generated column": (f"ALTER TABLE {TABLE} ADD COLUMN g INTEGER GENERATED ALWAYS AS (event_id * 2) VIRTUAL",),
    "an index on an expression": (f"CREATE INDEX e ON {TABLE} (lower(model))",),
    "our index's name for another index": (
        f"CREATE INDEX ix_token_estimation_v2_events_timestamp2 ON {TABLE} (model)",
    ),
    "a NULL in an event_uid of its own": (f"ALTER TABLE {TABLE} ADD COLUMN event_uid TEXT",),
    "text in the token columns": (f"UPDATE {TABLE} SET predicted_output_tokens = 'abc', actual_output_tokens = 'x'",),
    "a timestamp that is none": (f"UPDATE {TABLE} SET timestamp = 'yesterday'",),
    "no tokens": (f"UPDATE {TABLE} SET actual_output_tokens = 0",),
    "a fraction of a token": (f"UPDATE {TABLE} SET actual_output_tokens = 1.5",),
    "NUL, quotes and controls in texts": (f"UPDATE {TABLE} SET model = char(0, 27, 10, 34, 39) || 'x'",),
    "two tables with foreign keys to each other": (
        "CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER REFERENCES b (id))",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER REFERENCES a (id))",
    ),
}


@pytest.mark.parametrize("name", COMPLICATIONS)
def test_an_upgrade_survives_what_real_databases_hold(old: Callable[..., Path], name: str) -> None:
    database = old(*COMPLICATIONS[name])
    (before,) = rows_of(database)
    others = {kind_name: sql for kind, kind_name, sql in schema_of(database) if kind in ("view", "trigger", "index")}
    telemetry = upgrade_by_recording(database, 2)
    kept, *new = rows_of(database)
    assert len(new) == 2
    assert telemetry.stats().dead_lettered == 0
    derived = {"smape_percent", "waste_ratio", "underestimated", "event_uid"}
    folded = {key.lower(): value for key, value in kept.items()}
    for column, value in before.items():
        assert column in derived or folded[column.lower()] == value, column
    assert others.keys() <= {name for _, name, _ in schema_of(database)}
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for kind, view, _ in schema_of(database):
            if kind == "view":
                connection.execute(f"SELECT * FROM {view}").fetchall()
        if "child" in [name for _, name, _ in schema_of(database)]:
            assert connection.execute("SELECT * FROM child").fetchall() == [(1, 7)]


@pytest.mark.parametrize("name", ["text in the token columns", "no tokens"])
def test_without_two_counts_the_derived_columns_become_null(old: Callable[..., Path], name: str) -> None:
    """Where there are no two counts, the derived columns become NULL."""
    upgrade_by_recording(database := old(*COMPLICATIONS[name]))
    kept = rows_of(database)[0]
    assert (kept["smape_percent"], kept["waste_ratio"]) == (None, None)


@pytest.mark.parametrize(
    ("key", "without_rowid"),
    [
        ("event_id INTEGER PRIMARY KEY AUTOINCREMENT", False),
        ("event_id INTEGER PRIMARY KEY", False),
        ("event_id INTEGER PRIMARY KEY", True),
        ("id INTEGER PRIMARY KEY", False),
        ("id INTEGER PRIMARY KEY", True),
        ("", False),
    ],
)
def test_a_table_of_another_make_with_nulls_everywhere_is_upgraded(
    database: Path, key: str, *, without_rowid: bool
) -> None:
    kinds = {
        "run_id": "TEXT",
        "phase_id": "TEXT",
        "timestamp": "DATETIME",
        "category": "TEXT",
        "complexity": "TEXT",
        "deliverable_count": "INT",
        "deliverables_json": "TEXT",
        "predicted_output_tokens": "INT",
        "actual_output_tokens": "INT",
        "selected_budget": "INT",
        "success": "BOOL",
        "truncated": "BOOL",
        "stop_reason": "TEXT",
        "model": "TEXT",
    }
    columns = ", ".join([*filter(None, [key]), *(f"{name} {kind}" for name, kind in kinds.items())])
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"CREATE TABLE {TABLE} ({columns}){' WITHOUT ROWID' if without_rowid else ''}")
        names, values = (f"{key.split(maxsplit=1)[0]}, run_id", "5, 'r'") if key else ("run_id", "'r'")
        connection.execute(f"INSERT INTO {TABLE} ({names}) VALUES ({values})")
    upgrade_by_recording(database, 2)
    found = rows_of(database)
    assert [row["run_id"] for row in found] == ["r", "nightly", "nightly"]
    assert len({row["event_uid"] for row in found}) == 3
    assert found[0]["model"] is None


tokens = st.integers(1, 200_000)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(tokens, tokens), min_size=50, max_size=200))
def test_derived_columns_of_old_rows_are_as_record_stores_them(tmp_path: Path, pairs: list[tuple[int, int]]) -> None:
    """The derived columns of old rows are those that `record()` would have stored."""
    database = tmp_path / f"{hashlib.sha256(repr(pairs).encode()).hexdigest()}.db"
    if database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(host_system.ON_SQLITE)
        for number, (predicted, actual) in enumerate(pairs):
            insert(
                connection,
                event_id=number,
                predicted_output_tokens=predicted,
                actual_output_tokens=actual,
                underestimated=actual > predicted,
            )
    upgrade_by_recording(database)
    for row, (predicted, actual) in zip(rows_of(database), pairs, strict=False):
        assert (row["smape_percent"], row["waste_ratio"], bool(row["underestimated"])) == accuracy(predicted, actual)


@pytest.mark.slow
def test_ten_processes_at_once_end_with_one_schema_and_all_rows(database: Path) -> None:
    """Ten processes that start at once end with one schema and all rows."""
    code = """
        from autopack.telemetry import Telemetry
        from autopack.database import migrations
        migrations.load()
        telemetry = Telemetry(f"sqlite:///{sys.argv[1]}", shutdown_timeout_s=50)
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(5):
            assert telemetry.record(**event(run_id=sys.argv[2], phase_id=str(number)))
        telemetry.close()
        assert telemetry.stats().written == 5, telemetry.stats()
    """
    children = [start_python(code, database, str(number)) for number in range(10)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.communicate()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    assert len(rows_of(database)) == 50
    assert len(rows_of(database, migrations.VERSION_TABLE)) == 1


def test_an_upgrade_that_is_cut_off_leaves_the_old_table_as_it_was(old: Callable[..., Path]) -> None:
    """The process dies after everything is done but the commit."""
    database = old()
    before, schema = rows_of(database), schema_of(database)
    run_python(
        """
        from sqlalchemy import create_engine
        from autopack.database import migrations
        engine = create_engine(f"sqlite:///{sys.argv[1]}", connect_args={"isolation_level": None})
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            migrations._upgrade(connection)
            assert migrations.current_revision(connection) == migrations.HEAD
            os._exit(9)
        """,
        database,
        exit_code=9,
    )
    assert (rows_of(database), schema_of(database)) == (before, schema)
    upgrade_by_recording(database)
    assert len(rows_of(database)) == 2


@pytest.mark.slow
def test_a_killed_upgrade_leaves_the_old_table_or_the_new_one(database: Path) -> None:
    """A killed upgrade leaves the old table or the new one, never half of one."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(host_system.ON_SQLITE)
        insert(connection)
        connection.execute(
            f"WITH RECURSIVE n(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM n WHERE x < 15100) INSERT INTO {TABLE} "
            f"SELECT x, {', '.join(name for name in OLD_ROW if name != 'event_id')} FROM {TABLE}, n"
        )
    count = 15_002
    code = """
        from autopack.telemetry import Telemetry
        from autopack.database import migrations
        migrations.load()
        telemetry = Telemetry(f"sqlite:///{sys.argv[1]}", journal_dir=None)
        print("ready", flush=True)
        telemetry.record(**event())
        telemetry.flush(60)
        print("done", flush=True)
    """
    killed = 0
    for turn in range(3):
        child: subprocess.Popen[str] = start_python(code, database)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        wal = Path(f"{database}-wal")
        deadline_s = time.monotonic() + 30
        # Kill at another size of the write-ahead log each time: that far the copy has come.
        while child.poll() is None and time.monotonic() < deadline_s:
            if wal.exists() and wal.stat().st_size > turn * 1_000_000:
                break
        child.kill()
        output, _ = child.communicate()
        killed += "done" not in output
        with closing(sqlite3.connect(database)) as connection:
            found = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]
            width = len(connection.execute(f"SELECT * FROM {TABLE} LIMIT 1").fetchone())
        assert found >= count
        assert width in (len(OLD_ROW), len(COLUMNS) + 3)
    assert killed
    upgrade_by_recording(database, timeout_s=30)


@pytest.mark.slow
def test_a_newer_schema_is_left_alone_and_nothing_is_lost(database: Path) -> None:
    """A newer schema without a column of ours is left alone, with a clear reason, and nothing is lost."""
    upgrade_by_recording(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
        connection.execute(f"ALTER TABLE {TABLE} DROP COLUMN turn")
    schema = schema_of(database)
    telemetry = Telemetry(f"sqlite:///{database}")
    telemetry.record(**event(phase_id="later"))
    assert not telemetry.flush(1)
    expected = f"schema 9999 is newer than this program's {migrations.HEAD}, and its table has no column turn"
    assert telemetry.stats().last_error == expected
    assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (1, 0)
    telemetry.close(0.1)
    assert schema_of(database) == schema
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '{migrations.HEAD}'")
        connection.execute(f"ALTER TABLE {TABLE} ADD COLUMN turn BIGINT")
    successor = upgrade_by_recording(database)
    assert successor.stats().recovered == 1
    assert [row["phase_id"] for row in rows_of(database)] == ["new0", "later", "new0"]


def test_a_newer_schema_that_has_all_columns_is_written(database: Path) -> None:
    upgrade_by_recording(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
        connection.execute(f"ALTER TABLE {TABLE} ADD COLUMN of_the_future TEXT")
    upgrade_by_recording(database)
    assert len(rows_of(database)) == 2
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute(f"SELECT version_num FROM {migrations.VERSION_TABLE}").fetchall() == [("9999",)]


def test_a_table_that_lacks_columns_keeps_its_rows_and_takes_more(database: Path) -> None:
    """A table that lacks needed columns keeps its rows, and takes new ones."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"CREATE TABLE {TABLE} (event_id INTEGER PRIMARY KEY, run_id TEXT)")
        connection.execute(f"INSERT INTO {TABLE} VALUES (1, 'r')")
    upgrade_by_recording(database)
    kept, new = rows_of(database)
    assert (kept["event_id"], kept["run_id"], kept["model"]) == (1, "r", "unknown")
    assert (new["event_id"], new["run_id"]) == (2, "nightly")


def test_upgrading_prints_nothing_and_configures_no_logging(old: Callable[..., Path]) -> None:
    done = run_python(
        """
        from autopack.telemetry import Telemetry
        before = list(logging.getLogger().handlers), logging.getLogger().level
        with Telemetry(f"sqlite:///{sys.argv[1]}") as telemetry:
            telemetry.record(**event())
        assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
        """,
        old(),
        options=["-W", "error"],
    )
    assert done.stdout == done.stderr == ""


def test_ensuring_the_schema_twice_changes_nothing(database: Path) -> None:
    upgrade_by_recording(database)
    before = schema_of(database)
    upgrade_by_recording(database)
    assert schema_of(database) == before
    assert os.path.getsize(database) > 0  # noqa: PTH202 (the name of the file, not its path)


def test_the_rows_fields_are_the_models_columns_in_name_and_need() -> None:
    model = TokenEstimationV2Event.__table__.columns
    for column in SCHEMA.columns:
        assert model[column.name].nullable == column.nullable, column.name
    assert set(model.keys()) == {"event_id", *SCHEMA.names}
    assert parse_database_url("sqlite://").identity is None


def insert_as_the_host_system(database: Path) -> None:
    engine = create_engine(f"sqlite:///{database}", poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(host_system.EVENTS.insert(), host_system.row())


def test_the_host_system_still_inserts_into_an_upgraded_table(old: Callable[..., Path]) -> None:
    """By its own statement, which names no `event_uid`. Each row gets an id of its own."""
    database = old()
    upgrade_by_recording(database)
    insert_as_the_host_system(database)
    insert_as_the_host_system(database)
    upgrade_by_recording(database)
    ids = [row["event_uid"] for row in rows_of(database)]
    assert len(ids) == len(set(ids)) == 5


@pytest.fixture
def without_default(old: Callable[..., Path]) -> Path:
    """A database as revision 0002 left it, with parts of the user's own."""
    database = old()
    upgrade_by_recording(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' DEFAULT (lower(hex(randomblob(16))))', '')")
        connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '0002'")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE log (x)")
        connection.execute(f"CREATE TABLE notes (e REFERENCES {TABLE} (event_id))")
        connection.execute(f"CREATE TRIGGER t AFTER INSERT ON {TABLE} BEGIN INSERT INTO log VALUES (NEW.model); END")
        connection.execute(f"CREATE INDEX own ON {TABLE} (lower(model))")
        connection.execute(f"CREATE VIEW v AS SELECT model FROM {TABLE}")
    with pytest.raises(IntegrityError, match="event_uid"):
        insert_as_the_host_system(database)
    return database


UPGRADE = """
    import signal
    from sqlalchemy import create_engine, event
    from autopack.database import migrations
    engine = create_engine(f"sqlite:///{sys.argv[1]}", connect_args={"isolation_level": None})

    @event.listens_for(engine, "before_cursor_execute")
    def refuse(connection, cursor, statement, *_):
        if "defensive" in sys.argv and statement.startswith("UPDATE sqlite_master"):
            raise sqlite3.OperationalError("table sqlite_master may not be modified")

    @event.listens_for(engine, "after_cursor_execute")
    def kill(connection, cursor, statement, *_):
        if statement.startswith(sys.argv[-1]):
            os.kill(os.getpid(), signal.SIGKILL)

    with engine.connect() as connection:
        if "defensive" in sys.argv and hasattr(sqlite3.Connection, "setconfig"):
            connection.connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        migrations.ensure(connection)
"""


@pytest.mark.parametrize("how", ["edited", "defensive"])
def test_a_table_that_was_upgraded_before_takes_them_again(without_default: Path, how: str) -> None:
    """With each row, index, trigger, view and foreign key that it has, also where SQLite protects its schema."""
    before = [part for part in schema_of(without_default) if part[1] != TABLE]
    rows = rows_of(without_default)
    with closing(sqlite3.connect(without_default)) as reader:
        reader.execute(f"SELECT * FROM {TABLE}").fetchall()
        run_python("import sqlite3\n" + dedent(UPGRADE), without_default, how, "never")
        assert rows_of(without_default) == rows
        reader.execute(
            f"INSERT INTO {TABLE} ({', '.join(HOST_COLUMNS)}) SELECT {', '.join(HOST_COLUMNS)} FROM {TABLE} LIMIT 1"
        )
        reader.commit()
    insert_as_the_host_system(without_default)
    assert [part for part in schema_of(without_default) if part[1] != TABLE] == before
    with closing(sqlite3.connect(without_default)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (2,)
    assert len(rows_of(without_default)) == len(rows) + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "at"),
    [
        ("edited", "UPDATE sqlite_master"),
        ("edited", "PRAGMA schema_version ="),
        ("edited", "RELEASE"),
        ("defensive", "INSERT INTO autopack_rebuilt"),
        ("defensive", "PRAGMA legacy_alter_table = OFF"),
    ],
)
def test_a_kill_while_the_default_is_added_leaves_a_whole_file(without_default: Path, how: str, at: str) -> None:
    rows, schema = rows_of(without_default), schema_of(without_default)
    run_python("import sqlite3\n" + dedent(UPGRADE), without_default, how, at, exit_code=-signal.SIGKILL)
    assert (rows_of(without_default), schema_of(without_default)) == (rows, schema)
    with closing(sqlite3.connect(without_default)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    upgrade_by_recording(without_default)
    insert_as_the_host_system(without_default)
    assert len(rows_of(without_default)) == len(rows) + 2


def test_the_host_systems_mapper_still_works_on_an_upgraded_table(old: Callable[..., Path]) -> None:
    database = old()
    upgrade_by_recording(database)
    host_system.insert_by_its_mapper(create_engine(f"sqlite:///{database}", poolclass=NullPool), host_system.row())
    assert len(rows_of(database)) == 3
