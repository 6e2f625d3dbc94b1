"""The schema on PostgreSQL: fresh, upgraded in place whatever a real database holds, never half of one."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import host_system
from tests.postgres import Database
from tests.write_side import TABLE, event, run_python

from autopack.database import engine_for, migrations
from autopack.database.destination import parse_database_url
from autopack.estimation.metrics import accuracy
from autopack.models import Base, TokenEstimationV2Event
from autopack.telemetry import Telemetry

AT = datetime(2025, 12, 23, 10, 0, 0, 500_000, UTC)
OLD_ROW: dict[str, Any] = {
    "event_id": 7,
    "run_id": "r",
    "phase_id": "p",
    "timestamp": AT.replace(tzinfo=None),
    "category": "docs",
    "complexity": "low",
    "deliverable_count": 1,
    "deliverables_json": '["ö.md"]',
    "predicted_output_tokens": 900,
    "actual_output_tokens": 700,
    "selected_budget": 1000,
    "actual_max_tokens": 16384,
    "success": True,
    "truncated": False,
    "stop_reason": "end_turn",
    "model": "m",
    "smape_percent": 1.25,
    "waste_ratio": 1.2857,
    "underestimated": False,
    "is_truncated_output": True,
    "context_quality": "good",
    "created_at": AT.replace(tzinfo=None),
}
DERIVED = {"smape_percent", "waste_ratio", "event_uid"}


def insert(postgres: Database, **changes: Any) -> None:
    row = OLD_ROW | changes
    postgres.execute("INSERT INTO runs VALUES (%s) ON CONFLICT DO NOTHING", row["run_id"])
    postgres.execute("INSERT INTO phases VALUES (%s, %s) ON CONFLICT DO NOTHING", row["run_id"], row["phase_id"])
    marks = ", ".join(["%s"] * len(row))
    postgres.execute(f"INSERT INTO {TABLE} ({', '.join(row)}) VALUES ({marks})", *row.values())


@pytest.fixture
def old(postgres: Database) -> Callable[..., Database]:
    """Makes a database of the host system, as SQLAlchemy makes it on PostgreSQL, with a row in it."""

    def make(*statements: str, **changes: Any) -> Database:
        postgres.execute(host_system.ON_POSTGRESQL)
        insert(postgres, **changes)
        for statement in statements:
            postgres.execute(statement)
        return postgres

    return make


def upgrade_by_recording(postgres: Database, count: int = 1) -> Telemetry:
    with Telemetry(postgres.url, shutdown_timeout_s=0.1) as telemetry:
        for number in range(count):
            telemetry.record(**event(phase_id=f"new{number}"))
        assert telemetry.flush(20), telemetry.stats()
    return telemetry


def columns_of(postgres: Database) -> dict[str, tuple[str, bool, str | None]]:
    found = postgres.execute(
        "SELECT column_name, data_type, is_nullable = 'YES' AS nullable, column_default "
        "FROM information_schema.columns WHERE table_name = %s AND table_schema = current_schema() "
        "ORDER BY ordinal_position",
        TABLE,
    )
    return {row["column_name"]: (row["data_type"], row["nullable"], row["column_default"]) for row in found}


def constraints_of(postgres: Database) -> set[str]:
    found = postgres.execute(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conrelid = to_regclass(%s) "
        "AND contype <> 'n'",
        TABLE,
    )
    return {row["text"] for row in found}


def test_a_fresh_database_is_as_modelled_and_distributable_by_run(postgres: Database) -> None:
    """A fresh database is as the models say, and can be distributed by run."""
    upgrade_by_recording(postgres)
    columns = columns_of(postgres)
    model = TokenEstimationV2Event.__table__.columns
    assert set(columns) == set(model.keys())
    assert {name for name, (_, nullable, _) in columns.items() if nullable} == {c.name for c in model if c.nullable}
    assert columns["timestamp"][0] == "timestamp with time zone"
    defaults = {name: default for name, (_, _, default) in columns.items() if default is not None}
    assert defaults == {"event_uid": "(gen_random_uuid())::text"}, "no sequence"
    assert constraints_of(postgres) == {"PRIMARY KEY (run_id, event_uid)"}
    indexes = postgres.execute("SELECT indexname FROM pg_indexes WHERE tablename = %s ORDER BY 1", TABLE)
    assert [row["indexname"] for row in indexes] == [f"ix_{TABLE}_timestamp", f"pk_{TABLE}"]
    with engine_for(parse_database_url(postgres.url)).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.VERSION_TABLE})
        found = [difference for difference in compare_metadata(context, Base.metadata) if "table" not in difference[0]]
        assert [str(difference) for difference in found if "constraint" not in difference[0]] == []
        assert migrations.current_revision(connection) == migrations.HEAD


def test_an_upgrade_in_place_loses_no_row_and_no_column(old: Callable[..., Database]) -> None:
    postgres = old(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY); INSERT INTO alembic_version VALUES ('x')",
        f"ALTER TABLE {TABLE} ADD COLUMN note jsonb",
        f"""UPDATE {TABLE} SET note = '{{"a": 1}}'""",
        f"CREATE INDEX by_model ON {TABLE} (lower(model)) WHERE success",
        "CREATE TABLE log (x text)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (NEW.model); "
        "RETURN NEW; END $$",
        f"CREATE TRIGGER watch AFTER INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION note()",
    )
    upgrade_by_recording(postgres)
    kept, new = postgres.rows()
    unchanged = {k: v for k, v in OLD_ROW.items() if k not in DERIVED} | {"timestamp": AT}
    assert {name: kept[name] for name in unchanged} == unchanged
    assert kept["note"] == {"a": 1}
    assert (kept["smape_percent"], kept["waste_ratio"]) == (25, 128)
    assert kept["event_uid"] < new["event_uid"]
    assert (len(kept["event_uid"]), kept["event_uid"][14]) == (36, "7")
    milliseconds = int(kept["event_uid"].replace("-", "")[:12], 16)
    assert milliseconds == AT.timestamp() * 1000
    assert new["event_id"] is not None, "the sequence of the host system still numbers"
    assert constraints_of(postgres) == {"PRIMARY KEY (run_id, event_uid)"}
    assert postgres.execute("SELECT * FROM alembic_version") == [{"version_num": "x"}]
    assert postgres.execute("SELECT * FROM log") == [{"x": "claude-sonnet-4-5"}], "no trigger fired for the old row"
    indexes = {row["indexname"] for row in postgres.execute("SELECT indexname FROM pg_indexes")}
    assert {"by_model", f"ix_{TABLE}_run_id", f"ix_{TABLE}_timestamp"} <= indexes


def test_an_upgraded_table_has_the_types_of_a_fresh_one(old: Callable[..., Database]) -> None:
    postgres = old()
    upgrade_by_recording(postgres)
    upgraded = columns_of(postgres)
    postgres.execute(f"DROP TABLE {TABLE}, {migrations.VERSION_TABLE} CASCADE")
    upgrade_by_recording(postgres)
    fresh = columns_of(postgres)
    assert {name: upgraded[name][0] for name in fresh} == {name: kind for name, (kind, _, _) in fresh.items()}
    assert {name for name in fresh if upgraded[name][2] is not None} == {"event_id", "event_uid"}


def test_an_upgraded_table_needs_no_run_and_no_host_column(
    old: Callable[..., Database],
) -> None:
    """After an upgrade a row needs neither a run nor the columns of the host system."""
    postgres = old()
    telemetry = upgrade_by_recording(postgres, 3)
    assert telemetry.stats().dead_lettered == 0
    for row in postgres.rows()[1:]:
        assert (row["run_id"], row["is_truncated_output"], row["context_quality"]) == ("nightly", False, None)
        assert row["created_at"] is not None


NEEDED = (
    "event_id, run_id, phase_id, timestamp, category, complexity, deliverable_count, deliverables_json, "
    "predicted_output_tokens, actual_output_tokens, selected_budget, success, truncated, model, is_truncated_output, "
    "created_at"
)
COMPLICATIONS = {
    "a table that refers to it": (
        f"CREATE TABLE child (id SERIAL PRIMARY KEY, e INTEGER REFERENCES {TABLE} (event_id) ON DELETE CASCADE)",
        "INSERT INTO child (e) VALUES (7)",
    ),
    "a table that refers to itself": (f"ALTER TABLE {TABLE} ADD COLUMN parent INTEGER REFERENCES {TABLE} (event_id)",),
    "required columns of many types": (
        f"ALTER TABLE {TABLE} ADD COLUMN a uuid NOT NULL DEFAULT gen_random_uuid(), ADD COLUMN b jsonb, "
        "ADD COLUMN c integer[], ADD COLUMN d date, ADD COLUMN e varchar(3), ADD COLUMN f numeric(5, 2), "
        "ADD COLUMN g bytea, ADD COLUMN h time, ADD COLUMN i inet, ADD COLUMN j timestamptz, ADD COLUMN k interval",
        f"UPDATE {TABLE} SET b = '1', c = '{{1}}', d = now(), e = 'x', f = 1, g = 'x', h = now()::time, i = '::1', "
        "j = now(), k = '1 day'",
        *(f"ALTER TABLE {TABLE} ALTER COLUMN {name} SET NOT NULL" for name in "bcdefghijk"),
    ),
    "an enumeration and a domain": (
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
        f"ALTER TABLE {TABLE} ADD COLUMN mood mood NOT NULL DEFAULT 'good', ADD COLUMN n positive NOT NULL DEFAULT 1",
        f"ALTER TABLE {TABLE} ALTER COLUMN mood DROP DEFAULT, ALTER COLUMN n DROP DEFAULT",
    ),
    "columns of odd names": (
        f"""ALTER TABLE {TABLE} ADD COLUMN "order by" text DEFAULT 'a:b%c', ADD COLUMN "q""x" text DEFAULT '',
            ADD COLUMN "p%s:z" text, ADD COLUMN "größe" integer DEFAULT -1, ADD COLUMN "MODEL" text DEFAULT 'x'""",
        f"""ALTER TABLE {TABLE} ALTER COLUMN "q""x" SET NOT NULL, ALTER COLUMN "q""x" DROP DEFAULT,
            ALTER COLUMN "MODEL" SET NOT NULL, ALTER COLUMN "MODEL" DROP DEFAULT""",
    ),
    "texts with limits": (
        f"ALTER TABLE {TABLE} ALTER COLUMN run_id TYPE varchar(3), ALTER COLUMN phase_id TYPE char(4)",
    ),
    "a generated column": (f"ALTER TABLE {TABLE} ADD COLUMN g integer GENERATED ALWAYS AS (length(model)) STORED",),
    "checks": (
        f"ALTER TABLE {TABLE} ADD CONSTRAINT small CHECK (waste_ratio < 100), ADD CONSTRAINT of_ours "
        "CHECK (category IN ('docs', 'tests'))",
    ),
    "an identity column": (
        f"ALTER TABLE {TABLE} ALTER COLUMN event_id DROP DEFAULT",
        f"ALTER TABLE {TABLE} ALTER COLUMN event_id ADD GENERATED ALWAYS AS IDENTITY",
    ),
    "defaults of their own": (
        f"ALTER TABLE {TABLE} ALTER COLUMN timestamp SET DEFAULT now(), ALTER COLUMN deliverables_json TYPE jsonb "
        "USING deliverables_json::jsonb, ALTER COLUMN deliverables_json SET DEFAULT '[]', ALTER COLUMN success "
        "SET DEFAULT true, ALTER COLUMN smape_percent SET DEFAULT 0.5",
    ),
    "instants with a zone": (f"ALTER TABLE {TABLE} ALTER COLUMN timestamp TYPE timestamptz",),
    "an infinite timestamp": (f"UPDATE {TABLE} SET timestamp = '-infinity'",),
    "no tokens": (f"UPDATE {TABLE} SET actual_output_tokens = 0",),
    "an event_uid of its own with a NULL": (f"ALTER TABLE {TABLE} ADD COLUMN event_uid uuid",),
    "a materialised view beside it": ("CREATE MATERIALIZED VIEW other AS SELECT 1 AS x",),
    "many rows": (
        f"INSERT INTO {TABLE} ({NEEDED}) SELECT n, {NEEDED.partition(', ')[2]} "
        f"FROM {TABLE}, generate_series(1000, 3000) n",
    ),
}


# Texts of a fixed length end in blanks, and JSON may have become text.
AS_JSON = f"""
    SELECT (SELECT jsonb_object_agg(key, rtrim(value)) FROM jsonb_each_text(to_jsonb(t) - 'timestamp')) AS row
    FROM {TABLE} t WHERE event_id = 7
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPLICATIONS)
def test_an_upgrade_survives_what_real_databases_hold(old: Callable[..., Database], name: str) -> None:
    postgres = old(*COMPLICATIONS[name])
    (before,) = postgres.execute(AS_JSON)
    count = postgres.execute(f"SELECT count(*) AS n FROM {TABLE}")[0]["n"]
    telemetry = upgrade_by_recording(postgres, 2)
    assert telemetry.stats().dead_lettered == 0
    (kept,) = postgres.execute(AS_JSON)
    for column, value in before["row"].items():
        assert column in DERIVED or kept["row"][column] == value, column
    uids = postgres.execute(f"SELECT count(DISTINCT event_uid) AS n FROM {TABLE}")
    assert uids == [{"n": count + 2}]
    if name == "a table that refers to it":
        assert postgres.execute("SELECT e FROM child") == [{"e": 7}]
        assert "UNIQUE (run_id, event_uid)" in constraints_of(postgres)
    else:
        assert "PRIMARY KEY (run_id, event_uid)" in constraints_of(postgres)


@pytest.mark.slow
def test_a_view_on_the_table_is_named_as_the_obstacle(old: Callable[..., Database]) -> None:
    """A view on the table is named as the obstacle, and nothing is changed."""
    postgres = old(f"CREATE VIEW shown AS SELECT model, waste_ratio FROM {TABLE}")
    before = columns_of(postgres), constraints_of(postgres)
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event())
        assert not telemetry.flush(2)
        assert "drop shown, start again" in (telemetry.stats().last_error or "")
        assert (columns_of(postgres), constraints_of(postgres)) == before
        postgres.execute("DROP VIEW shown")
        assert telemetry.flush(30)
    assert len(postgres.rows()) == 2


def test_a_key_that_is_no_number_is_kept_under_another_name(postgres: Database) -> None:
    postgres.execute(f"CREATE TABLE {TABLE} (event_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), run_id text)")
    postgres.execute(f"INSERT INTO {TABLE} (run_id) VALUES ('r'), (NULL)")
    upgrade_by_recording(postgres)
    found = postgres.execute(f"SELECT run_id, model, former_event_id IS NOT NULL AS former FROM {TABLE} ORDER BY model")
    assert [tuple(row.values()) for row in found] == [
        ("nightly", "claude-sonnet-4-5", True),
        ("r", "unknown", True),
        (None, "unknown", True),
    ]
    assert constraints_of(postgres) == {"UNIQUE (run_id, event_uid)"}


tokens = st.integers(1, 2_000_000_000)


@settings(max_examples=1, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(tokens, tokens), min_size=150, max_size=200))
def test_derived_columns_of_old_rows_are_as_record_stores_them(
    old: Callable[..., Database], pairs: list[tuple[int, int]]
) -> None:
    """The derived columns of old rows are those that `record()` would have stored."""
    postgres = old()
    pairs = [*pairs, *((predicted, actual) for predicted in range(1, 6) for actual in range(1, 6))]
    with postgres.connect() as connection:
        connection.cursor().executemany(
            f"INSERT INTO {TABLE} ({NEEDED}) VALUES (%s, 'r', 'p', now(), '', '', 0, '', %s, %s, 1, true, false, '', "
            "false, now())".encode(),
            [(number, *pair) for number, pair in enumerate(pairs, 100)],
        )
    upgrade_by_recording(postgres)
    found = postgres.execute(
        f"SELECT smape_percent, waste_ratio FROM {TABLE} WHERE run_id = 'r' AND event_id >= 100 ORDER BY event_id"
    )
    assert [tuple(row.values()) for row in found] == [accuracy(*pair)[:2] for pair in pairs]


def test_an_upgrade_that_is_cut_off_leaves_the_old_table_as_it_was(old: Callable[..., Database]) -> None:
    """The process dies after everything is done but the commit."""
    postgres = old()
    before = postgres.execute(f"SELECT * FROM {TABLE}"), columns_of(postgres), constraints_of(postgres)
    run_python(
        """
        from autopack.database import migrations
        from autopack.database import engine_for
        from autopack.database.destination import parse_database_url
        with engine_for(parse_database_url(sys.argv[1])).connect() as connection:
            migrations._upgrade(connection)
            assert migrations.current_revision(connection) == migrations.HEAD
            os._exit(9)
        """,
        postgres.url,
        exit_code=9,
    )
    assert (postgres.execute(f"SELECT * FROM {TABLE}"), columns_of(postgres), constraints_of(postgres)) == before
    upgrade_by_recording(postgres)
    assert len(postgres.rows()) == 2


def test_an_upgrade_waits_for_the_one_that_has_the_lock(postgres: Database) -> None:
    lock = f"SELECT pg_advisory_xact_lock({migrations._ADVISORY_LOCK})"
    waiting = (
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with engine_for(parse_database_url(postgres.url)).connect() as second, ThreadPoolExecutor(1) as pool:
        with postgres.connect() as first, first.transaction():
            first.execute(lock.encode())
            slower = pool.submit(migrations.ensure, second)
            while not postgres.execute(waiting):
                assert not slower.done()
            assert not postgres.has_table()
        slower.result(30)
    assert postgres.has_table()


def test_without_advisory_locks_the_slower_finds_the_work_done(postgres: Database) -> None:
    """A function of that name that is found first answers as a server that has none."""
    postgres.execute("""
        CREATE FUNCTION public.pg_advisory_xact_lock(bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'no' USING ERRCODE = '0A000'; END $$
    """)
    postgres.execute(f"ALTER DATABASE {postgres.name} SET search_path = public, pg_catalog")
    engine = engine_for(parse_database_url(postgres.url))
    with engine.connect() as first, engine.connect() as second, ThreadPoolExecutor(1) as pool:
        migrations._begin_alone(first)
        migrations._upgrade(first)
        slower = pool.submit(migrations.ensure, second)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not postgres.execute(waiting):
            assert not slower.done()
        first.commit()
        slower.result(30)
        assert migrations.is_current(second)
    upgrade_by_recording(postgres)


def test_ensuring_the_schema_twice_changes_nothing(postgres: Database) -> None:
    upgrade_by_recording(postgres)
    before = columns_of(postgres), constraints_of(postgres)
    upgrade_by_recording(postgres)
    assert (columns_of(postgres), constraints_of(postgres)) == before
    assert len(postgres.execute(f"SELECT * FROM {migrations.VERSION_TABLE}")) == 1


def test_the_schema_is_made_where_the_search_path_leads(postgres: Database) -> None:
    postgres.execute("CREATE SCHEMA mine")
    postgres.execute(f"ALTER DATABASE {postgres.name} SET search_path = mine")
    upgrade_by_recording(postgres)
    assert postgres.has_table(f"mine.{TABLE}")
    assert not postgres.has_table(f"public.{TABLE}")


def test_the_statements_for_a_dba_make_the_programs_schema(postgres: Database, tmp_path: Path) -> None:
    """The statements for a database administrator make the schema that the program takes as its own."""
    postgres.execute(migrations.upgrade_sql("postgresql"))
    made = columns_of(postgres), constraints_of(postgres)
    upgrade_by_recording(postgres)
    assert (columns_of(postgres), constraints_of(postgres)) == made
    postgres.execute(f"DROP TABLE {TABLE}, {migrations.VERSION_TABLE}")
    upgrade_by_recording(postgres)
    assert (columns_of(postgres), constraints_of(postgres)) == made
    file = tmp_path / "x.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(migrations.upgrade_sql("sqlite"))
    with Telemetry(f"sqlite:///{file}") as telemetry:
        telemetry.record(**event())
    assert telemetry.stats().written == 1


def test_the_host_systems_mapper_still_works_on_an_upgraded_table(old: Callable[..., Database]) -> None:
    """It names no `event_uid`, and asks for the `event_id` of its row. Also on a table that revision 0002 has left."""
    postgres = old()
    upgrade_by_recording(postgres)
    engine = engine_for(parse_database_url(postgres.url))
    host_system.insert_by_its_mapper(engine, host_system.row())
    postgres.execute(f"ALTER TABLE {TABLE} ALTER event_uid DROP DEFAULT, ALTER event_id DROP DEFAULT")
    postgres.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '0002'")
    upgrade_by_recording(postgres)
    host_system.insert_by_its_mapper(engine, host_system.row())
    found = postgres.rows()
    assert len({row["event_uid"] for row in found}) == len(found) == 5
    own = [row["event_id"] for row in found if row["phase_id"] == "own"]
    assert len(set(own)) == len(own) == 2
