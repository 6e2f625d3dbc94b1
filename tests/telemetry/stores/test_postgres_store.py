"""PostgreSQL as the writer's database: what is sent to it, what its errors mean, many processes, and no password."""

import inspect as inspection
import json
import logging
import os
import re
import signal
import ssl
import textwrap
import traceback
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select, text
from tests.journals import RECORD_UNTIL_KILLED, accepted_by, child
from tests.postgres import Database
from tests.read_side import RUNNER
from tests.telemetry.stores.proxy import parse_names, proxy_to
from tests.write_side import TABLE, event, read_dead_letters, run_python

from autopack.cli import cli
from autopack.database import SessionLocal, engine_for
from autopack.database.destination import parse_database_url
from autopack.errors import DatabaseUrlError, DataRejectedError, StoreUnusableError, TransientStoreError
from autopack.maintenance.schema import upgrade
from autopack.models import TokenEstimationV2Event
from autopack.telemetry import ConfigError, Telemetry
from autopack.telemetry.stores.postgres.errors import translate

pytestmark = pytest.mark.usefixtures("_nothing_left_running")

SECRET = "geheim-4711"  # noqa: S105 (what must not appear)


def telemetry_dir(postgres: Database) -> Path:
    folder = parse_database_url(postgres.url).telemetry_dir
    assert folder is not None
    return folder


def with_options(postgres: Database, options: str) -> str:
    return f"{postgres.url}{'&' if '?' in postgres.url else '?'}{options}"


def test_no_statement_has_a_name_as_pgbouncer_needs_it(
    postgres: Database,
) -> None:
    """No statement has a name, so that PgBouncer may change the server between transactions."""
    with proxy_to(postgres.address()) as proxy:
        with Telemetry(postgres.url_through(proxy.port)) as telemetry:
            for _ in range(2):
                telemetry.record(**event())
                telemetry.record(**event(run_id=None))
                assert telemetry.flush(30)
        names = parse_names(bytes(proxy.sent))
        assert len(postgres.rows()) == 2
    assert proxy.connections == 3, "one that finds no schema, one that makes it, and the one for everything"
    assert len(names) > 5
    assert set(names) == {b""}


def test_the_synchronous_session_has_no_named_statement_either(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)
    with SessionLocal() as session:
        for _ in range(20):
            session.execute(text("SELECT 1 + :x"), {"x": 1})
        assert session.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar() == 0


def test_a_server_knows_the_client_and_its_statement_timeout(postgres: Database) -> None:
    """A server knows who is connected, and how long a statement may take."""
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event())
        assert telemetry.flush(30)
        (connected,) = postgres.execute(
            "SELECT DISTINCT application_name, state FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        assert connected == {"application_name": "autopack", "state": "idle"}
    postgres.execute("CREATE SCHEMA mine")
    with Telemetry(with_options(postgres, "application_name=nightly&options=-csearch_path%3Dmine")) as telemetry:
        telemetry.record(**event())
        assert telemetry.flush(30)
        assert postgres.terminate_others("nightly") > 0
    assert len(postgres.execute(f"SELECT 1 FROM mine.{TABLE}")) == 1


def test_a_pooler_that_refuses_our_settings_is_used_without_them(postgres: Database) -> None:
    """PgBouncer refuses a connection that asks for a setting that it does not know."""
    with proxy_to(postgres.address()) as proxy:
        proxy.refused_setting = b"statement_timeout"
        with Telemetry(postgres.url_through(proxy.port)) as telemetry:
            telemetry.record(**event())
            assert telemetry.flush(30)
        assert proxy.refusals > 0
    assert telemetry.stats().last_error is None
    assert len(postgres.rows()) == 1


@pytest.mark.slow
def test_a_pooler_that_refuses_what_the_user_asked_for_is_no_loop(postgres: Database) -> None:
    with proxy_to(postgres.address()) as proxy:
        proxy.refused_setting = b"statement_timeout"
        with Telemetry(postgres.url_through(proxy.port, options="&options=-cstatement_timeout%3D9")) as telemetry:
            telemetry.record(**event())
            assert not telemetry.flush(0.5)
            assert telemetry.stats().last_error == "ProtocolViolationError 08P01"
            proxy.refused_setting = None
            assert telemetry.flush(30)


def test_a_limit_of_the_users_own_is_not_overruled(postgres: Database) -> None:
    with Telemetry(with_options(postgres, "options=-cstatement_timeout%3D1234")) as telemetry:
        telemetry.record(**event())
        assert telemetry.flush(30)
        postgres.execute(f"""
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                NEW.model := current_setting('statement_timeout'); RETURN NEW;
            END $$;
            CREATE TRIGGER note BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION note()
        """)
        telemetry.record(**event())
        assert telemetry.flush(30)
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event())
    assert [row["model"] for row in postgres.rows()] == ["claude-sonnet-4-5", "1234ms", "24s"]


def test_the_models_read_back_what_was_recorded(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)
    before = datetime.now(UTC)
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event(truncated=True, success=False, attributes={"größe": 1}))
    with SessionLocal() as session:
        found = session.scalars(select(TokenEstimationV2Event)).one()
        assert before <= found.timestamp <= datetime.now(UTC)
        assert (found.truncated, found.success, found.event_id) == (True, False, None)
        assert json.loads(found.attributes_json or "") == {"größe": 1}
        session.add(
            TokenEstimationV2Event(
                **{
                    name: getattr(found, name)
                    for name in TokenEstimationV2Event.__table__.columns.keys()  # noqa: SIM118
                    if name not in ("event_uid", "timestamp")
                }
            )
        )
        session.commit()
    assert len(postgres.rows()) == 2


def test_a_users_check_makes_a_dead_letter_and_says_no_value(postgres: Database) -> None:
    """A CHECK of the user's makes a dead letter of one event, and says no value."""
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event(phase_id="0"))
        assert telemetry.flush(30)
        postgres.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT mine CHECK (phase_id <> 'bad')")
        for phase in ("1", "bad", "2"):
            telemetry.record(**event(phase_id=phase))
    assert (telemetry.stats().written, telemetry.stats().dead_lettered) == (3, 1)
    assert sorted(postgres.phases()) == ["0", "1", "2"]
    (letter,) = read_dead_letters(telemetry_dir(postgres) / "dead-letters.ndjson")
    assert (letter["kind"], letter["code"]) == ("data", "CheckViolationError 23514")


def test_files_beside_a_server_are_private(postgres: Database) -> None:
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event(run_id=None))
        assert telemetry.flush(30)
        folder = telemetry_dir(postgres)
        assert str(folder) == telemetry.stats().journal_dir
        modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert (folder.stat().st_mode & 0o777, modes) == (0o700, {0o600})


# Ten interpreters would spend their time on imports: one imports, and becomes as many as are asked for. `work` gets the
# URL and the number of its process, says when it is ready, and goes on when it is let go.
TOGETHER = """
    from autopack.telemetry import Telemetry
    from autopack.telemetry.stores.by_url import store_for
    store_for(sys.argv[1]).load()
    ready, go = os.pipe(), os.pipe()

    def meet():
        os.write(ready[1], b".")
        os.read(go[0], 1)

    {work}

    children = []
    for number in range(int(sys.argv[2])):
        process = os.fork()
        if not process:
            code = 1
            try:
                work(sys.argv[1], f"process{{number}}")
                code = 0
            except BaseException:
                logging.exception("process %s", number)
            finally:
                os._exit(code)
        children.append(process)
    for process in children:
        assert os.read(ready[0], 1) == b"."
    os.write(go[1], b"." * len(children))
    assert [os.waitpid(process, 0)[1] for process in children] == [0] * len(children)
"""


def run_together(postgres: Database, work: str, *, count: int) -> None:
    """Run a function in so many processes, which begin at the same moment; each has to succeed."""
    code = textwrap.dedent(TOGETHER).format(work=textwrap.dedent(work))
    run_python(code, postgres.url, str(count), timeout_s=240)


@pytest.mark.slow
def test_many_processes_write_one_database_each_event_once(postgres: Database, request: pytest.FixtureRequest) -> None:
    """Many processes write one database, and every event is there once."""
    processes, events = request.config.getoption("--postgres-load")
    work = f"""
        def work(url, name):
            telemetry = Telemetry(url, shutdown_timeout_s=200)
            meet()
            for number in range({events}):
                assert telemetry.record(**event(run_id=name, phase_id=str(number)))
                stats = telemetry.stats() if number % 500 == 0 else None
                assert stats is None or stats.accepted == stats.written + stats.duplicates + stats.pending, stats
            telemetry.close()
            stats = telemetry.stats()
            assert (stats.accepted, stats.written, stats.duplicates, stats.pending) == ({events}, {events}, 0, 0), stats
    """
    run_together(postgres, work, count=processes)
    found = [(row["run_id"], row["phase_id"]) for row in postgres.execute(f"SELECT run_id, phase_id FROM {TABLE}")]
    assert len(found) == len(set(found)) == processes * events


@pytest.mark.slow
def test_ten_processes_at_once_end_with_one_schema_and_all_rows(postgres: Database) -> None:
    """Ten processes that start at once end with one schema and all rows."""
    work = """
        def work(url, name):
            telemetry = Telemetry(url, shutdown_timeout_s=100)
            meet()
            for number in range(5):
                assert telemetry.record(**event(run_id=name, phase_id=str(number)))
            telemetry.close()
            assert telemetry.stats().written == 5, telemetry.stats()
    """
    run_together(postgres, work, count=10)
    assert len(postgres.rows()) == 50
    assert len(postgres.execute("SELECT * FROM autopack_telemetry_version")) == 1


@pytest.mark.slow
def test_a_forked_child_has_its_own_connection(postgres: Database) -> None:
    """A forked child has a connection of its own, and the parent's stays."""
    run_python(
        """
        from autopack.telemetry import Telemetry
        telemetry = Telemetry(sys.argv[1], shutdown_timeout_s=20)
        telemetry.record(**event(phase_id="before")); assert telemetry.flush(30)
        children = []
        for number in range(3):
            process = os.fork()
            if not process:
                code = 1
                try:
                    for _ in range(20):
                        assert telemetry.record(**event(phase_id="child"))
                    telemetry.close()
                    code = int(telemetry.stats().written != 20)
                finally:
                    os._exit(code)
            children.append(process)
            telemetry.record(**event(phase_id="parent"))
        for process in children:
            assert os.waitpid(process, 0)[1] == 0
        telemetry.close()
        assert telemetry.stats().written == 4, telemetry.stats()
        """,
        postgres.url,
        options=["-W", "ignore::DeprecationWarning"],
    )
    assert Counter(postgres.phases()) == {"before": 1, "child": 60, "parent": 3}


@pytest.mark.slow
def test_whatever_was_accepted_before_a_sigkill_is_there_once(postgres: Database) -> None:
    accepted = []

    def live(name: str, after_s: float) -> None:
        with child(RECORD_UNTIL_KILLED, postgres.url, name, "1000000") as process:
            accepted.extend(accepted_by(process, after_s, signal.SIGKILL))

    live("first", 0.05)
    live("second", 0.6)
    upgrade(parse_database_url(postgres.url))  # where neither came so far
    with postgres.connect() as connection, connection.transaction():  # this one leaves something for certain
        connection.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
        live("third", 0.6)
    with Telemetry(postgres.url) as successor:
        successor.record(**event(phase_id="later"))
        assert successor.flush(100)
    assert successor.stats().recovered > 0
    rows = Counter(postgres.phases())
    assert not [phase for phase in accepted if rows[phase] != 1]


def test_recover_delivers_what_a_dead_process_left_for_a_server(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)
    with child(RECORD_UNTIL_KILLED, postgres.url, "life", "1000000") as process:
        accepted = accepted_by(process, 0.05, signal.SIGKILL)
    done = RUNNER.invoke(cli, ["recover", "--json"])
    assert done.exit_code == 0, done.output
    assert set(accepted) <= set(postgres.phases())


def test_nothing_is_left_open_after_close(postgres: Database) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event())
    before = descriptors()
    for _ in range(3):
        with Telemetry(postgres.url) as telemetry:
            telemetry.record(**event())
            telemetry.record(**event(run_id=None))
    assert descriptors() == before
    assert postgres.terminate_others() == 0


def all_errors() -> list[type[BaseException]]:
    found = [value for _, value in inspection.getmembers(asyncpg.exceptions, inspection.isclass)]
    return [value for value in found if issubclass(value, Exception) and not issubclass(value, Warning)]


# What waiting cannot help and no row is the reason for; what a row is the reason for. Everything else is transient.
UNUSABLE = {"0A", "0P", "28", "3D", "3F", "42", "F0"}
DATA = {"21", "22", "23", "44", "54", "P0"}
KNOWN_TRANSIENT = {"08", "25", "26", "40", "53", "55", "57", "58"}
# Nothing that an INSERT of ours can bring about, or of which nobody can say what it means: tried again.
UNKNOWN = {
    "02",
    "03",
    "09",
    "0B",
    "0F",
    "0L",
    "0Z",
    "10",
    "20",
    "24",
    "27",
    "2B",
    "2D",
    "2F",
    "34",
    "38",
    "39",
    "3B",
    "72",
    "HV",
    "XX",
}


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_every_error_of_the_driver_has_a_kind_on_purpose(error: type[BaseException]) -> None:
    found = translate(error("geheim"))
    code: str | None = getattr(error, "sqlstate", None)
    expected: type[Exception] = TransientStoreError
    if code is None:
        unusable = ("ClientConfigurationError", "UnsupportedClientFeatureError", "UnsupportedServerFeatureError")
        expected = StoreUnusableError if error.__name__ in unusable else TransientStoreError
    elif code == "42501":  # a policy refuses a row, or the role may not insert: it is tried out
        expected = DataRejectedError
    elif code[:2] in UNUSABLE or code in ("23514", "XX001", "XX002"):  # a check that has no name is a partition
        expected = StoreUnusableError
    elif code[:2] in DATA:
        expected = DataRejectedError
    else:
        assert code[:2] in KNOWN_TRANSIENT | UNKNOWN
    assert type(found) is expected
    assert error.__name__ in str(found)
    assert "geheim" not in str(found)


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (ConnectionRefusedError("geheim"), TransientStoreError),
        (ConnectionResetError("geheim"), TransientStoreError),
        (TimeoutError("geheim"), TransientStoreError),
        (OSError("geheim"), TransientStoreError),
        (ssl.SSLCertVerificationError("geheim"), StoreUnusableError),
        (RuntimeError("geheim"), TransientStoreError),
        (OverflowError("geheim"), DataRejectedError),
        (TypeError("geheim"), DataRejectedError),
        (UnicodeEncodeError("utf-8", "geheim", 0, 1, "geheim"), DataRejectedError),
        (asyncpg.InterfaceError("connection is closed"), TransientStoreError),
    ],
)
def test_an_error_without_a_code_is_judged_by_its_class(exc: Exception, kind: type[Exception]) -> None:
    found = translate(exc)
    assert type(found) is kind
    assert "geheim" not in str(found)


def urls_with_the_secret(postgres: Database, port: int) -> list[str]:
    user = f"{postgres.name}_user"
    return [
        f"postgresql://{user}:{SECRET}@127.0.0.1:{port}/{postgres.name}?sslmode=disable",
        f"postgresql://127.0.0.1:{port}/{postgres.name}?user={user}&password={SECRET}&sslmode=disable",
        f"postgresql://{user}:{SECRET}@127.0.0.1:{port}/no_such_database?sslmode=disable",
        f"postgresql://{user}:{SECRET}@127.0.0.1:1/{postgres.name}?connect_timeout=1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_the_password_appears_nowhere(
    postgres: Database, number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a log, an error, `status`, a dead letter, the journal or a traceback, whether it is used or refused."""
    caplog.set_level(logging.DEBUG)
    shown = []
    with proxy_to(postgres.address()) as proxy:
        url = urls_with_the_secret(postgres, proxy.port)[number]
        monkeypatch.setenv("DATABASE_URL", url)
        telemetry = Telemetry(url, flush_interval_s=0.05)
        telemetry.record(**event())
        telemetry.record(**event(run_id=None))
        telemetry.flush(1)
        kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
        telemetry.close(0.2)
        shown += [repr(telemetry.stats()), repr(parse_database_url(url)), kept.decode("latin-1")]
        for command in (["status"], ["status", "--json"], ["dead-letters", "list"], ["recover", "--timeout", "0.1"]):
            done = RUNNER.invoke(cli, command)
            shown += [done.output, done.stderr, "".join(traceback.format_exception(done.exception))]
        try:
            with engine_for(parse_database_url(url)).connect():
                pass
        except Exception:  # noqa: BLE001 (whatever it is)
            shown.append(traceback.format_exc())
    shown += [f"{record.getMessage()} {record.exc_text} {record.args}" for record in caplog.records]
    assert kept
    assert not [text for text in shown if SECRET in text]


def test_without_its_driver_a_server_is_refused_in_one_line() -> None:
    """Without its driver a server is refused, in one line that says what to install."""
    code = """
        sys.modules |= {"asyncpg": None, "psycopg": None}
        from autopack.telemetry import ConfigError, Telemetry
        from autopack.database import engine_for
        from autopack.database.destination import parse_database_url
        from autopack.errors import MissingExtraError
        from autopack.database.preflight import database_problem
        for use in (
            Telemetry,
            lambda url: engine_for(parse_database_url(url)),
            lambda url: database_problem(parse_database_url(url)),
        ):
            try:
                use("postgresql://h/d")
            except (ConfigError, MissingExtraError) as exc:
                print(exc)
        os.environ |= {"TELEMETRY_DB_ENABLED": "1", "DATABASE_URL": "postgresql://h/d"}
        assert not Telemetry.from_env().enabled
    """
    lines = run_python(code).stdout.splitlines()
    assert len(lines) == 3
    assert all("pip install 'autopack-telemetry[postgres]'" in line for line in lines)


@pytest.mark.parametrize("url", ["postgresql://h/d?foo=1", "postgresql://h:x/d"])
def test_a_url_that_cannot_be_used_is_refused_when_telemetry_is_made(url: str) -> None:
    with pytest.raises(ConfigError, match="database URL"):
        Telemetry(url)
    with pytest.raises(DatabaseUrlError):
        parse_database_url(url)


def test_status_tells_of_a_server(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event())
    done = RUNNER.invoke(cli, ["status", "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["reachable"], found["rows"], found["healthy"]) == (True, 1, True)
    assert re.match(r"\d{4}-\d\d-\d\dT", found["last_event"])
    assert found["journal"]["folder"].startswith(os.environ["XDG_STATE_HOME"])
