import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from autopack._util.ids import SEQUENCE_BITS, event_uid, new_event_uid, random_sequence_start

INSTANTS_NS = st.integers(0, (1 << 48) * 1_000_000 - 1)
SEQUENCES = st.integers(0, (1 << SEQUENCE_BITS) - 1)


@given(INSTANTS_NS, SEQUENCES)
def test_an_id_is_a_uuid_of_version_7_that_holds_its_instant(timestamp_ns: int, sequence: int) -> None:
    made = uuid.UUID(event_uid(timestamp_ns, sequence))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == timestamp_ns // 1_000_000
    assert made.int & ((1 << SEQUENCE_BITS) - 1) == sequence


@given(st.tuples(INSTANTS_NS, SEQUENCES), st.tuples(INSTANTS_NS, SEQUENCES))
def test_ids_sort_by_time(first: tuple[int, int], second: tuple[int, int]) -> None:
    """To the 4,096th of a millisecond; below that by sequence."""
    earlier, later = sorted(
        [first, second], key=lambda made: (made[0] // 1_000_000, made[0] % 1_000_000 * 4096 // 1_000_000, made[1])
    )
    assert event_uid(*earlier) <= event_uid(*later)


@given(INSTANTS_NS, SEQUENCES)
def test_the_next_of_a_sequence_has_another_id(timestamp_ns: int, sequence: int) -> None:
    assert event_uid(timestamp_ns, sequence) != event_uid(timestamp_ns, sequence + 1)


def test_writers_begin_at_different_numbers_with_room() -> None:
    starts = [random_sequence_start() for _ in range(1000)]
    assert len(set(starts)) == 1000
    assert max(starts) < 1 << (SEQUENCE_BITS - 1)


def test_a_fresh_id_is_of_now() -> None:
    before = datetime.now(UTC).timestamp()
    made = uuid.UUID(new_event_uid())
    assert int(before * 1000) <= made.int >> 80 <= datetime.now(UTC).timestamp() * 1000
