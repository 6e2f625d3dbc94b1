"""What every store promises, on each of them: memory, SQLite, PostgreSQL."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest
from tests.misbehaving_stores import RefusingStore
from tests.postgres import Database
from tests.write_side import event, rows_of, url_of

from autopack.database.destination import parse_database_url
from autopack.errors import DataRejectedError
from autopack.telemetry import Telemetry
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import FIELD_NAMES, Rejected, Row, as_read, replaced
from autopack.telemetry.event.wire import encode
from autopack.telemetry.stores import MemoryStore, Store
from autopack.telemetry.stores.by_url import store_of


def rows(count: int, start: int = 0, **changes: object) -> list[Row]:
    """Rows as events become them."""
    fields = event(**changes)
    made = []
    for number in range(start, start + count):
        row = Decoder()(encode((time.time_ns(), number, *(fields.get(name) for name in FIELD_NAMES))))
        assert not isinstance(row, Rejected)
        made.append(row)
    return made


class Subject:
    """A store, further ones for the same database, and how many rows that has."""

    def __init__(self, make: Callable[[], Store], count: Callable[[], int]) -> None:
        self.make = make
        self.count = count
        self.store = make()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def subject(request: pytest.FixtureRequest, database: Path) -> Subject:
    if request.param == "memory":
        store = MemoryStore()
        return Subject(lambda: store, lambda: len(store.rows))
    if request.param == "sqlite":
        destination = parse_database_url(url_of(database))
        return Subject(lambda: store_of(destination), lambda: len(rows_of(database)))
    server: Database = request.getfixturevalue("postgres")
    destination = parse_database_url(server.url)
    return Subject(lambda: store_of(destination), lambda: len(server.rows()))


async def test_new_and_duplicate_rows_are_counted_apart(subject: Subject) -> None:
    batch = rows(10)
    assert await subject.store.write(batch[:6]) == 6
    assert await subject.store.write(batch) == 4
    assert await subject.store.write(batch) == 0
    await subject.store.close()
    assert await subject.store.write(rows(1, start=50)) == 1, "it connects again"
    await subject.store.close()
    assert subject.count() == 11


async def test_the_same_event_twice_in_one_batch_is_one_row(subject: Subject) -> None:
    batch = rows(3)
    assert await subject.store.write([*batch, *batch]) == 3
    await subject.store.close()
    assert subject.count() == 3


async def test_the_same_id_in_another_run_is_another_event(subject: Subject) -> None:
    (row,) = rows(1)
    assert await subject.store.write([row, replaced(row, run_id="other")]) == 2
    await subject.store.close()


async def test_the_largest_batch_is_written_and_written_again(subject: Subject) -> None:
    batch = rows(subject.store.max_batch_rows)
    assert len(batch) == subject.store.max_batch_rows
    assert await subject.store.write(batch) == len(batch)
    assert await subject.store.write(batch) == 0
    await subject.store.close()


async def test_the_longest_texts_and_the_largest_counts_are_stored(subject: Subject) -> None:
    """Four bytes a character: the entry of an index on run and id must hold them."""
    largest = 2**53 - 1
    (row,) = rows(
        1,
        run_id="\U0001f4a5" * 500,
        phase_id="ß" * 500,
        model="\u202e" * 500,
        deliverables=["\U0001f4a5" * 200] * 20,
        predicted_output_tokens=largest,
        actual_output_tokens=1,
        selected_budget=largest,
        input_tokens=largest,
    )
    assert await subject.store.write([row]) == 1
    await subject.store.close()
    assert subject.count() == 1


async def test_several_stores_write_at_the_same_time(subject: Subject) -> None:
    """The same rows from each: every row is new for exactly one."""
    new: Counter[str] = Counter()

    async def write(batches: Sequence[Sequence[Row]]) -> None:
        store = subject.make()
        for batch in batches:
            count = await store.write(batch)
            new[as_read(batch[0]).event_uid] += count
        await store.close()

    if not isinstance(subject.store, MemoryStore):
        await subject.store.write(rows(1, start=10_000))
        await subject.store.close()
    batches = [rows(50, start=50 * number) for number in range(6)]
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(write, batches)
    assert set(new.values()) == {50}


async def test_closing_twice_and_without_a_connection_does_nothing(subject: Subject) -> None:
    await subject.store.close()
    await subject.store.write(rows(1))
    await subject.store.close(final=False)
    await subject.store.close()
    await subject.store.close()
    assert subject.count() == 1


def test_what_the_database_refuses_costs_one_event_wherever_it_stands(subject: Subject) -> None:
    bad = {"0", "57", "99"}
    with Telemetry(RefusingStore(subject.store, bad=lambda row: row.phase_id in bad), journal_dir=None) as telemetry:
        for number in range(100):
            telemetry.record(**event(phase_id=str(number)))
    stats = telemetry.stats()
    assert (stats.written, stats.dead_lettered) == (97, 3)
    assert subject.count() == 97


async def test_a_store_in_a_forked_child_is_another_one_for_the_same_place(subject: Subject) -> None:
    child = subject.store.reset_in_child()
    assert (child.identity, child.telemetry_dir) == (subject.store.identity, subject.store.telemetry_dir)
    assert child.max_batch_rows == subject.store.max_batch_rows


@pytest.mark.parametrize("subject", ["sqlite", "postgresql"], indirect=True)
async def test_a_refusal_leaves_a_usable_store_and_nothing_of_the_batch(subject: Subject) -> None:
    """A refusal leaves the store usable, and nothing of the batch behind. Memory refuses nothing."""
    good = rows(5)
    (bad,) = rows(1, start=100)
    await subject.store.write(good[:1])
    with pytest.raises(DataRejectedError):
        await subject.store.write([*good, replaced(bad, deliverable_count=2**70)])
    with pytest.raises(DataRejectedError):
        await subject.store.write([*good, replaced(bad, model="\ud800")])
    assert subject.count() == 1
    assert await subject.store.write(good) == 4
    await subject.store.close()
