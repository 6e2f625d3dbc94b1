"""COPY, the fast way into PostgreSQL: any text arrives as it was, and what is there already costs nothing but time."""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.postgres import Database
from tests.telemetry.stores.proxy import proxy_to
from tests.write_side import TABLE, event

from autopack.database.destination import parse_database_url
from autopack.errors import DataRejectedError
from autopack.telemetry import Telemetry
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import FIELD_NAMES, Rejected, Row, as_read, replaced
from autopack.telemetry.event.schema import TABLE as SCHEMA
from autopack.telemetry.event.wire import encode
from autopack.telemetry.stores.postgres import binary
from autopack.telemetry.stores.postgres.copy import copy_text
from autopack.telemetry.stores.postgres.store import PostgresStore

pytestmark = pytest.mark.usefixtures("_nothing_left_running")

HOSTILE = [
    "",
    "\\N",
    "\\",
    "\\.",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\\t",
    "'\"",
    "x\u2028y",
    "\x1b[31m",
    "\x7f",
    "ü😀",
    "\x02",
]
UNESCAPED = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}


def row_of(sequence: int, **changes: Any) -> Row:
    fields = event(**changes)
    row = Decoder()(encode((1_700_000_000_000_000_000, sequence, *(fields.get(name) for name in FIELD_NAMES))))
    assert not isinstance(row, Rejected)
    return row


def fields_of(line: str) -> list[str | None]:
    """A line of COPY's text format as the manual describes it, read by other code than wrote it."""
    return [None if field == "\\N" else _unescaped(field) for field in line.split("\t")]


def _unescaped(field: str) -> str:
    out, rest = "", iter(field)
    for character in rest:
        out += UNESCAPED[next(rest)] if character == "\\" else character
    return out


def stored(postgres: Database) -> list[dict[str, Any]]:
    return [{name: row[name] for name in SCHEMA.names} for row in postgres.rows("event_uid")]


def as_stored(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return sorted((as_read(row)._asdict() for row in rows), key=lambda row: str(row["event_uid"]))


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(texts, st.none() | texts, st.lists(texts, max_size=3), st.none() | st.dictionaries(texts, texts, max_size=2))
def test_a_row_is_one_line_that_reads_back_as_it_was(
    run_id: str, stop_reason: str | None, paths: list[str], attributes: dict[str, str] | None
) -> None:
    row = row_of(1, run_id=run_id, stop_reason=stop_reason, deliverables=paths, attributes=attributes)
    data = copy_text([row, row], SCHEMA).decode()
    first, second, rest = data.split("\n")
    assert (first, rest) == (second, "")
    instant = SCHEMA.names.index("timestamp")
    expected = [None if value is None else str(value) for value in row]
    expected[instant] = f"{expected[instant]}+00"
    assert fields_of(first) == expected


async def test_hostile_text_arrives_as_it_was(postgres: Database) -> None:
    rows = [
        row_of(number, run_id=text, stop_reason=text, model=text, deliverables=[text], attributes={"a": text})
        for number, text in enumerate(HOSTILE)
    ]
    store = PostgresStore(parse_database_url(postgres.url))
    assert await store.write(rows) == len(rows)
    assert stored(postgres) == as_stored(rows)
    await store.close()


async def test_a_batch_that_is_there_in_part_is_completed(
    postgres: Database,
) -> None:
    """A batch that is there in part is completed, and the next ones are copied again."""
    rows = [row_of(number) for number in range(40)]
    store = PostgresStore(parse_database_url(postgres.url))
    assert await store.write(rows[:10]) == 10
    assert await store.write(rows[5:20]) == 10
    assert await store.write(rows[:20]) == 0
    assert await store.write(rows[20:30]) == 10
    assert await store.write(rows[30:]) == 10
    assert stored(postgres) == as_stored(rows)
    await store.close()


async def test_the_slower_way_is_gone_only_until_a_batch_is_all_new_again(postgres: Database) -> None:
    rows = [row_of(number) for number in range(6)]
    with proxy_to(postgres.address()) as proxy:
        store = PostgresStore(parse_database_url(postgres.url_through(proxy.port)))
        ways = []
        for batch in (rows[:2], rows[:3], rows[:3], rows[3:4], rows[4:]):
            before = len(proxy.sent)
            await store.write(batch)
            sent = bytes(proxy.sent[before:])
            ways.append((b"FROM STDIN" in sent, b"INSERT INTO token_estimation" in sent))
        await store.close()
    copied, copied_then_inserted, inserted = (True, False), (True, True), (False, True)
    assert ways == [copied, copied_then_inserted, inserted, inserted, copied]


async def test_the_same_row_twice_in_one_batch_is_one(postgres: Database) -> None:
    store = PostgresStore(parse_database_url(postgres.url))
    assert await store.write([row_of(1), row_of(2), row_of(1)]) == 2
    assert stored(postgres) == as_stored([row_of(1), row_of(2)])
    await store.close()


def test_events_arrive_where_row_level_security_allows_no_copy(postgres: Database) -> None:
    """Where row level security allows no COPY, events arrive all the same."""
    with Telemetry(postgres.url) as telemetry:
        telemetry.record(**event(phase_id="first"))
    role = f"app_{postgres.name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    try:
        for statement in (
            f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY all_of_it ON {TABLE} USING (true) WITH CHECK (true)",
            f"GRANT SELECT, INSERT ON {TABLE}, autopack_telemetry_version TO {role}",
        ):
            postgres.execute(statement)
        with Telemetry(postgres.url.replace("postgres@", f"{role}@", 1)) as telemetry:
            telemetry.record(**event(phase_id="second"))
            assert telemetry.flush(30)
            stats = telemetry.stats()
        assert (stats.written, stats.retries, stats.dead_lettered) == (1, 0, 0)
        assert postgres.phases() == ["first", "second"]
    finally:
        postgres.execute(f"DROP OWNED BY {role}")
        postgres.execute(f"DROP ROLE {role}")


MANY = 120  # enough for the binary format


def many(start: int = 0, **changes: Any) -> list[Row]:
    return [row_of(number, **changes) for number in range(start, start + MANY)]


@contextmanager
def watched_store(postgres: Database) -> Iterator[tuple[PostgresStore, Callable[[], str]]]:
    """A store, and what the format of its last COPY was."""
    with proxy_to(postgres.address()) as proxy:

        def last_format() -> str:
            end_of_statement = bytes(proxy.sent).rpartition(b"FROM STDIN")[2]
            return "binary" if end_of_statement.startswith(b" (FORMAT binary)") else "text"

        yield PostgresStore(parse_database_url(postgres.url_through(proxy.port))), last_format


async def test_a_large_batch_goes_in_binary_and_a_small_one_as_text(postgres: Database) -> None:
    """A process that records little is not to import psycopg for it."""
    hostile = [
        row_of(
            1000 + number,
            run_id=text,
            stop_reason=text,
            model=text,
            deliverables=[text],
            attributes={"a": text},
            call_id=text,
            attempt=number,
            predicted_output_tokens=2**53 - 1,
        )
        for number, text in enumerate(HOSTILE)
    ]
    with watched_store(postgres) as (store, last_format):
        assert await store.write(hostile[:2]) == 2
        assert last_format() == "text"
        assert await store.write([*many(), *hostile[2:]]) == MANY + len(hostile) - 2
        assert last_format() == "binary"
        await store.close()
    assert stored(postgres) == as_stored([*many(), *hostile])


async def test_a_large_batch_that_is_there_in_part_is_completed(postgres: Database) -> None:
    with watched_store(postgres) as (store, last_format):
        assert await store.write(many()) == MANY
        assert await store.write(many(MANY // 2)) == MANY // 2
        assert await store.write(many(2 * MANY)) == MANY
        assert await store.write(many(3 * MANY)) == MANY
        assert last_format() == "binary"
        await store.close()
    assert len(stored(postgres)) == int(3.5 * MANY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "type_", "sent"),
    [
        ("predicted_output_tokens", "double precision", "text"),  # eight bytes as well
        ("predicted_output_tokens", "numeric", "text"),
        ("predicted_output_tokens", "integer", "text"),
        ("predicted_output_tokens", "varchar", "text"),
        ("attributes_json", "jsonb USING attributes_json::jsonb", "text"),
        ("model", "char(30)", "binary"),
        ("model", "varchar(40)", "binary"),
        ("timestamp", "timestamp USING timestamp AT TIME ZONE 'UTC'", "binary"),
    ],
)
async def test_a_column_of_another_type_gets_the_values_all_the_same(
    postgres: Database, column: str, type_: str, sent: str
) -> None:
    """Also one that is given another type while the store is connected."""
    attributes = {"a": "ä"}
    rows, later = many(attributes=attributes), many(MANY, attributes=attributes)
    with watched_store(postgres) as (store, last_format):
        assert await store.write(rows) == MANY
        assert last_format() == "binary"
        postgres.execute("SET TIME ZONE 'Asia/Tokyo'")
        postgres.execute(f"ALTER TABLE {TABLE} ALTER COLUMN {column} TYPE {type_}")
        assert await store.write(later) == MANY
        assert last_format() == sent
        await store.close()
    first, *others = postgres.execute(f"SELECT DISTINCT {column} FROM {TABLE}")
    assert others == []
    expected = as_read(rows[0])._asdict()[column]
    value = first[column]
    if type_ == "varchar":
        assert value == str(expected)
    elif column == "attributes_json":
        assert value == attributes
    elif column == "timestamp":
        assert value.replace(tzinfo=UTC) == expected
    else:
        assert str(value).strip() == str(expected) or value == expected


async def test_without_psycopgs_c_code_the_batch_is_sent_as_text(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg._cmodule", None)
    with watched_store(postgres) as (store, last_format):
        assert await store.write(many()) == MANY
        assert last_format() == "text"
        await store.close()
    assert stored(postgres) == as_stored(many())


@pytest.mark.needs("psycopg")
def test_an_encoder_that_makes_other_bytes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function is psycopg's own affair, and may change with any version of it."""
    module = importlib.import_module("psycopg._cmodule")

    def changed(_row: Any, _transformer: Any, data: bytearray) -> None:
        data += b"?"

    assert binary.encoder(SCHEMA) is not None
    monkeypatch.setattr(module, "_psycopg", SimpleNamespace(format_row_binary=changed))
    assert binary.encoder(SCHEMA) is None


async def test_a_value_that_does_not_fit_its_column_is_refused_as_before(postgres: Database) -> None:
    """By the server, which says why: not by the encoder."""
    store = PostgresStore(parse_database_url(postgres.url))
    rows = many()
    rows[7] = replaced(rows[7], model="x" * 501)
    await store.write(rows[:1])
    postgres.execute(f"ALTER TABLE {TABLE} ALTER COLUMN model TYPE varchar(500)")
    with pytest.raises(DataRejectedError, match="22001"):
        await store.write(rows[1:])
    rows[7] = replaced(rows[7], model="m", success="perhaps")
    with pytest.raises(DataRejectedError, match="22P02"):
        await store.write(rows[1:])
    assert len(stored(postgres)) == 1
    await store.close()
