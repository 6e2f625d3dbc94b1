from tests.write_side import event

from autopack.telemetry import Telemetry
from autopack.telemetry.stores import MemoryStore, Store


def test_a_users_test_sees_what_was_recorded() -> None:
    store = MemoryStore()
    with Telemetry(store) as telemetry:
        telemetry.record(**event(phase_id="a"))
        telemetry.record(**event(phase_id="b"))
    assert [row.phase_id for row in store.rows] == ["a", "b"]


def test_the_memory_store_is_a_store_without_a_folder_or_a_journal() -> None:
    store: Store = MemoryStore()
    assert store.telemetry_dir is None
    assert store.identity is None


def test_the_rows_are_a_copy() -> None:
    store = MemoryStore()
    with Telemetry(store) as telemetry:
        telemetry.record(**event())
    store.rows.clear()
    assert len(store.rows) == 1


async def test_the_same_row_twice_is_a_duplicate() -> None:
    store = MemoryStore()
    with Telemetry(store) as telemetry:
        telemetry.record(**event())
        telemetry.record(**event())
    first, second = store.rows
    assert await store.write([first, second]) == 0
    assert len(store.rows) == 2


def test_the_rows_outlive_telemetry_and_serve_a_second_one() -> None:
    store = MemoryStore()
    for _ in range(2):
        with Telemetry(store) as telemetry:
            telemetry.record(**event())
    assert len(store.rows) == 2
