"""PostgreSQL goes away, hangs, refuses or forgets to answer: nothing is lost, nothing is there twice."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from tests.postgres import Database
from tests.telemetry.stores.proxy import Proxy, proxy_to
from tests.telemetry.stores.test_stores import rows
from tests.waiting import wait_for_error
from tests.write_side import TABLE, event

from autopack.database.destination import parse_database_url
from autopack.database.migrations import HEAD, VERSION_TABLE
from autopack.telemetry import Telemetry, TelemetryStats
from autopack.telemetry.event.schema import replaced
from autopack.telemetry.stores.by_url import store_of
from autopack.telemetry.stores.postgres.store import PostgresStore


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other quickly, so that a test need not wait for the one after the server has healed."""
    monkeypatch.setenv("TELEMETRY_BACKOFF_CAP_S", "0.1")
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "0.1")
    monkeypatch.setenv("TELEMETRY_FLUSH_INTERVAL_S", "0.05")


@pytest.fixture
def proxy(postgres: Database) -> Iterator[Proxy]:
    with proxy_to(postgres.address()) as proxy:
        yield proxy


def url_through(postgres: Database, *proxies: Proxy, options: str = "") -> str:
    return postgres.url_through(*(proxy.port for proxy in proxies), options=options)


def record(telemetry: Telemetry, first: int, last: int) -> None:
    for number in range(first, last):
        assert telemetry.record(**event(phase_id=str(number)))


def each_once(postgres: Database, count: int) -> bool:
    return sorted(postgres.phases(), key=int) == [str(number) for number in range(count)]


def adds_up(stats: TelemetryStats) -> bool:
    return stats.accepted == stats.written + stats.duplicates + stats.dead_lettered + stats.pending


@pytest.mark.parametrize("cuts", [1, 3])
def test_when_the_answer_to_a_commit_is_lost_each_row_is_there_once(
    postgres: Database, proxy: Proxy, cuts: int
) -> None:
    with Telemetry(url_through(postgres, proxy)) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        proxy.cut_answers(cuts)
        record(telemetry, 1, 21)
        assert telemetry.flush(30)
        assert proxy.cuts == cuts
    stats = telemetry.stats()
    assert (stats.written + stats.duplicates, stats.dead_lettered, stats.pending) == (21, 0, 0)
    assert stats.duplicates > 0
    assert each_once(postgres, 21)


def test_terminated_backends_lose_nothing_and_double_nothing(postgres: Database) -> None:
    """When backends are terminated all the time, nothing is lost and nothing doubled."""
    terminated = 0
    with Telemetry(postgres.url, batch_size=50) as telemetry:
        for turn in range(20):
            record(telemetry, turn * 100, turn * 100 + 100)
            if turn % 4 == 0:
                assert telemetry.flush(60)
            terminated += postgres.terminate_others()
        assert telemetry.flush(60)
    stats = telemetry.stats()
    assert terminated > 0
    assert adds_up(stats)
    assert (stats.written + stats.duplicates, stats.dead_lettered) == (2000, 0)
    assert each_once(postgres, 2000)


def test_a_server_that_refuses_is_waited_for(postgres: Database, proxy: Proxy) -> None:
    proxy.refuse()
    with Telemetry(url_through(postgres, proxy)) as telemetry:
        record(telemetry, 0, 100)
        wait_for_error(telemetry, "ConnectionRefusedError")
        assert telemetry.stats().pending == 100
        proxy.heal()
        assert telemetry.flush(30)
        proxy.refuse()
        record(telemetry, 100, 200)
        wait_for_error(telemetry, "ConnectionRefusedError")
        proxy.heal()
        assert telemetry.flush(30)
    assert (telemetry.stats().written, telemetry.stats().duplicates) == (200, 0)
    assert each_once(postgres, 200)


@pytest.mark.slow
def test_a_server_that_accepts_and_says_nothing_is_tried_again(postgres: Database, proxy: Proxy) -> None:
    """A server that accepts a connection and says nothing is given up, and tried again."""
    proxy.hang()
    with Telemetry(url_through(postgres, proxy, options="&connect_timeout=1")) as telemetry:
        record(telemetry, 0, 10)
        wait_for_error(telemetry, "TimeoutError")
        proxy.heal()
        assert telemetry.flush(30)
    assert each_once(postgres, 10)


def test_a_server_that_stops_answering_gets_the_batch_again(postgres: Database, proxy: Proxy) -> None:
    """A server that stops answering in the middle is given up, and the batch is sent again."""
    destination = parse_database_url(url_through(postgres, proxy, options="&connect_timeout=1"))
    with Telemetry(PostgresStore(destination, command_timeout_s=0.5)) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        proxy.hang()
        record(telemetry, 1, 11)
        wait_for_error(telemetry, "TimeoutError")
        proxy.heal()
        assert telemetry.flush(30)
    assert each_once(postgres, 11)


@pytest.mark.slow
def test_close_keeps_its_deadline_while_the_server_hangs(postgres: Database, proxy: Proxy) -> None:
    """A close keeps its deadline while the server hangs, and the next writer delivers."""
    url = url_through(postgres, proxy)
    telemetry = Telemetry(url)
    record(telemetry, 0, 1)
    assert telemetry.flush(30)
    proxy.hang()
    record(telemetry, 1, 11)
    began_s = time.monotonic()
    telemetry.close(0.5)
    assert time.monotonic() - began_s < 0.5 + 1
    assert telemetry.stats().pending == 10
    proxy.heal()
    proxy.end_connections()
    while telemetry.stats().worker_alive:  # it holds its journal as long
        telemetry.flush(0.05)
    with Telemetry(url) as successor:
        record(successor, 11, 12)
        assert successor.flush(30)
    assert successor.stats().recovered == 10
    assert each_once(postgres, 12)


def test_a_read_only_server_is_waited_for(postgres: Database) -> None:
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        postgres.execute(f"ALTER DATABASE {postgres.name} SET default_transaction_read_only = on")
        postgres.terminate_others()
        record(telemetry, 1, 11)
        wait_for_error(telemetry, "ReadOnlySQLTransactionError 25006")
        assert telemetry.stats().pending == 10
        with postgres.connect(options="-c default_transaction_read_only=off") as connection:
            connection.execute(f"ALTER DATABASE {postgres.name} RESET default_transaction_read_only".encode())
        assert telemetry.flush(30)
    assert telemetry.stats().dead_lettered == 0
    assert each_once(postgres, 11)


@contextmanager
def table_locked(postgres: Database) -> Iterator[None]:
    with postgres.connect() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
        yield


def test_a_statement_that_the_server_ends_for_its_time_is_tried_again(postgres: Database) -> None:
    store = PostgresStore(parse_database_url(postgres.url), command_timeout_s=1)
    with Telemetry(store) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        with table_locked(postgres):
            record(telemetry, 1, 11)
            wait_for_error(telemetry, "QueryCanceledError 57014")
            assert telemetry.stats().pending == 10
        assert telemetry.flush(30)
    assert each_once(postgres, 11)


@pytest.mark.parametrize("code", ["40001", "40P01", "53100", "55P03", "57014"])
def test_a_conflict_is_tried_again_until_it_is_over(postgres: Database, code: str) -> None:
    """Raised by a trigger, as the server would: the first three tries fail."""
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        raise_in_trigger(postgres, code, times=3)
        record(telemetry, 1, 11)
        assert telemetry.flush(30)
    stats = telemetry.stats()
    assert (stats.written, stats.dead_lettered) == (11, 0)
    assert stats.retries >= 3
    assert each_once(postgres, 11)


def raise_in_trigger(postgres: Database, code: str, *, times: int) -> None:
    postgres.execute("CREATE SEQUENCE tries")
    postgres.execute(f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'as asked' USING ERRCODE = '{code}'; END IF;
            RETURN NULL;
        END $$
    """)
    postgres.execute(f"CREATE TRIGGER fail BEFORE INSERT ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION fail()")


@contextmanager
def role(postgres: Database) -> Iterator[tuple[str, str]]:
    """A role that may write, and the URL with it."""
    name = f"role_{postgres.name}"
    postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'geheim'")
    postgres.execute(f"GRANT ALL ON SCHEMA public TO {name}")
    try:
        yield name, postgres.url_as(name, "geheim")
    finally:
        postgres.terminate_others()
        postgres.execute(f"DROP OWNED BY {name}")
        postgres.execute(f"DROP ROLE {name}")


def test_a_server_without_a_free_connection_is_waited_for(postgres: Database) -> None:
    with role(postgres) as (name, url):
        postgres.execute(f"ALTER ROLE {name} CONNECTION LIMIT 0")
        with Telemetry(url) as telemetry:
            record(telemetry, 0, 10)
            wait_for_error(telemetry, "TooManyConnectionsError 53300")
            postgres.execute(f"ALTER ROLE {name} CONNECTION LIMIT -1")
            assert telemetry.flush(30)
        assert each_once(postgres, 10)


def test_one_connection_is_enough_also_for_the_first_start(postgres: Database) -> None:
    with role(postgres) as (name, url):
        postgres.execute(f"ALTER ROLE {name} CONNECTION LIMIT 1")
        with Telemetry(url) as telemetry:
            record(telemetry, 0, 10)
            assert telemetry.flush(30), telemetry.stats()
        assert each_once(postgres, 10)


def test_a_missing_privilege_keeps_everything_until_it_is_granted(postgres: Database) -> None:
    with role(postgres) as (name, url):
        with Telemetry(url) as telemetry:
            record(telemetry, 0, 1)
            assert telemetry.flush(30)
            postgres.execute(f"REVOKE INSERT ON {TABLE} FROM {name}")
            record(telemetry, 1, 11)
            wait_for_error(telemetry, "InsufficientPrivilegeError 42501")
            assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (10, 0)
            postgres.execute(f"GRANT INSERT ON {TABLE} TO {name}")
            assert telemetry.flush(30)
        assert each_once(postgres, 11)


def test_a_database_that_does_not_exist_yet_is_waited_for(postgres: Database) -> None:
    later = postgres.sibling(f"{postgres.name}_later")
    with Telemetry(later.url) as telemetry:
        record(telemetry, 0, 10)
        wait_for_error(telemetry, "InvalidCatalogNameError 3D000")
        postgres.execute(f"CREATE DATABASE {later.name}")
        try:
            assert telemetry.flush(30)
            assert each_once(later, 10)
        finally:
            postgres.execute(f"DROP DATABASE {later.name} WITH (FORCE)")


def test_a_removed_table_is_made_again_and_that_is_said(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        postgres.execute(f"DROP TABLE {TABLE}")
        record(telemetry, 1, 3)
        assert telemetry.flush(30)
        assert telemetry.stats().dead_lettered == 0
    assert len(postgres.rows()) == 2
    assert f"The table {TABLE} was removed, and is made again" in caplog.text


async def test_what_a_trigger_ignores_is_absent_and_a_refusal_is_told(postgres: Database) -> None:
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
    postgres.execute(
        "CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.phase_id = 'unwanted' THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    postgres.execute(f"CREATE TRIGGER ignore BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION ignore()")
    store = store_of(parse_database_url(postgres.url))
    batch = [replaced(row, phase_id="unwanted") if n == 1 else row for n, row in enumerate(rows(4, start=10))]
    assert await store.write(batch) == 3
    assert await store.absent(batch) == [1]
    assert await store.refusal(rows(1, start=50)[0]) is None
    assert await store.refusal(replaced(rows(1, start=51)[0], model=None)) == "NotNullViolationError 23502"
    assert len(postgres.rows()) == 4
    await store.close()


def test_a_column_of_another_type_keeps_every_event(postgres: Database) -> None:
    """A column of another type is the table's fault, and keeps every event."""
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        postgres.execute(f"ALTER TABLE {TABLE} ALTER COLUMN success TYPE integer USING success::integer")
        record(telemetry, 1, 11)
        wait_for_error(telemetry, "DatatypeMismatchError 42804")
        assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (10, 0)
        postgres.execute(f"ALTER TABLE {TABLE} ALTER COLUMN success TYPE boolean USING success <> 0")
        assert telemetry.flush(30)
    assert each_once(postgres, 11)


def test_a_text_that_its_column_cannot_read_costs_one_event(postgres: Database) -> None:
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        postgres.execute(f"ALTER TABLE {TABLE} ALTER COLUMN phase_id TYPE integer USING phase_id::integer")
        record(telemetry, 1, 11)
        telemetry.record(**event(phase_id="no number"))
        record(telemetry, 11, 21)
        assert telemetry.flush(30)
    assert (telemetry.stats().written, telemetry.stats().dead_lettered) == (21, 1)
    assert sorted(map(int, postgres.phases())) == list(range(21))


def test_a_row_that_a_trigger_leaves_out_is_not_counted_as_written(postgres: Database) -> None:
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
        assert telemetry.flush(30)
        postgres.execute(f"""
            CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.phase_id = '2' THEN RETURN NULL; END IF; RETURN NEW; END $$;
            CREATE TRIGGER skip BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION skip()
        """)
        record(telemetry, 1, 4)
    stats = telemetry.stats()
    assert (stats.written, stats.duplicates, stats.dead_lettered) == (3, 0, 1)
    assert sorted(postgres.phases()) == ["0", "1", "3"]


def test_a_newer_schema_is_left_alone_until_the_program_fits(
    postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer schema without a column of ours is left alone, and events are delivered when the program fits."""
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
    postgres.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    postgres.execute(f"ALTER TABLE {TABLE} DROP COLUMN turn")
    telemetry = Telemetry(postgres.url)
    record(telemetry, 1, 11)
    wait_for_error(telemetry, f"schema 9999 is newer than this program's {HEAD}")
    telemetry.close(0.2)
    assert telemetry.stats().pending == 10
    assert len([line for line in caplog.messages if "schema 9999 is newer" in line and "tried again" in line]) == 1
    postgres.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{HEAD}'")
    postgres.execute(f"ALTER TABLE {TABLE} ADD COLUMN turn bigint")
    with Telemetry(postgres.url) as successor:
        record(successor, 11, 12)
    assert successor.stats().recovered == 10
    assert each_once(postgres, 12)


def test_a_row_without_a_partition_waits_and_is_no_dead_letter(postgres: Database) -> None:
    """PostgreSQL says of it what it says of a violated check."""
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 1)
    postgres.execute(f"ALTER TABLE {TABLE} RENAME TO former")
    postgres.execute(f"CREATE TABLE {TABLE} (LIKE former) PARTITION BY LIST (run_id)")
    postgres.execute(f"ALTER TABLE {TABLE} ADD PRIMARY KEY (run_id, event_uid)")
    with Telemetry(postgres.url) as telemetry:
        record(telemetry, 0, 10)
        wait_for_error(telemetry, "CheckViolationError 23514")
        assert (telemetry.stats().pending, telemetry.stats().dead_lettered) == (10, 0)
        postgres.execute(f"CREATE TABLE part PARTITION OF {TABLE} FOR VALUES IN ('nightly')")
        assert telemetry.flush(30)
    assert each_once(postgres, 10)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_of_several_servers_the_next_is_used_when_one_is_gone(postgres: Database, fault: str) -> None:
    """With several servers the next one is used when the first is gone."""
    with proxy_to(postgres.address()) as first, proxy_to(postgres.address()) as second:
        url = url_through(postgres, first, second, options="&connect_timeout=1")
        with Telemetry(url) as telemetry:
            record(telemetry, 0, 10)
            assert telemetry.flush(30)
            assert (first.connections > 0, second.connections) == (True, 0)
            getattr(first, fault)()
            first.end_connections()
            record(telemetry, 10, 20)
            assert telemetry.flush(30)
            assert second.connections > 0
        assert (telemetry.stats().written, telemetry.stats().duplicates) == (20, 0)
        assert each_once(postgres, 20)


def test_of_several_servers_the_one_that_can_be_written_is_used(postgres: Database) -> None:
    with proxy_to(postgres.address()) as standby, proxy_to(postgres.address()) as primary:
        standby.seems_a_standby = True
        with Telemetry(url_through(postgres, standby, primary)) as telemetry:
            record(telemetry, 0, 10)
            assert telemetry.flush(30)
            assert postgres.terminate_others() > 0
        assert (standby.connections > 0, primary.connections > 0) == (True, True)
        assert each_once(postgres, 10)
        with Telemetry(url_through(postgres, standby)) as telemetry:
            record(telemetry, 10, 20)
            assert telemetry.flush(30), "one that is named alone is taken as it is"


@pytest.mark.slow
def test_faults_one_after_the_other_lose_nothing_and_double_nothing(postgres: Database, proxy: Proxy) -> None:
    faults: list[list[Callable[[], object]]] = [
        [partial(proxy.cut_answers, 1)],
        [proxy.end_connections],
        [partial(postgres.terminate_others)],
        [proxy.refuse, proxy.heal],
        [proxy.hang, proxy.end_connections, proxy.heal],
    ]
    with Telemetry(url_through(postgres, proxy), batch_size=20) as telemetry:
        for turn in range(30):
            record(telemetry, turn * 50, turn * 50 + 50)
            for step in faults[turn % len(faults)]:
                step()
            telemetry.flush(0.1)
        assert telemetry.flush(60), telemetry.stats()
    stats = telemetry.stats()
    assert proxy.cuts > 0
    assert stats.retries > 0
    assert (stats.accepted, stats.written + stats.duplicates) == (1500, 1500)
    assert each_once(postgres, 1500)
