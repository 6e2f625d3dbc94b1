"""COPY, the fast way into PostgreSQL: any text arrives as it was, and what is there already costs nothing but time."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.postgres import Database
from tests.telemetry.stores.proxy import proxy_to
from tests.write_side import TABLE, event

from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import FIELD_NAMES, Rejected, Row, as_read
from autopack.telemetry.event.schema import TABLE as SCHEMA
from autopack.telemetry.event.wire import encode
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
