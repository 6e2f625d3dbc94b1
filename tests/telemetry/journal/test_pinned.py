"""An event that cannot be settled keeps its own segment, and no other: wherever it stands, whoever made the segment."""

import threading
from pathlib import Path

import msgspec
import pytest
from tests.journals import SMALL, abandon, drained, fill, left_behind, make_journal, segments_in
from tests.waiting import wait_for
from tests.write_side import event, phases_of, url_of

from autopack.errors import QueueRejected
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.journal_queue import ROUND_INTERVAL_S, JournalQueue

FOR_ALL = bytes(32)
SMALL_FOLDER = msgspec.structs.replace(SMALL, journal_bytes=512 << 10)


def take_all(journal: JournalQueue) -> dict[int, bytes]:
    taken: dict[int, bytes] = {}
    while batch := journal.take(100):
        taken |= batch
    return taken


def settle_all_but(journal: JournalQueue, taken: dict[int, bytes], kept: set[int]) -> list[bytes]:
    """Settle what was taken but the events in these places; returns those."""
    keys = list(taken)
    others = [key for place, key in enumerate(keys) if place not in kept]
    journal.settle(others, written=len(others))
    return [taken[keys[place]] for place in sorted(kept)]


@pytest.mark.parametrize("medium", ["mapped", "written"])
def test_a_pinned_event_keeps_no_segment_but_its_own(tmp_path: Path, medium: str) -> None:
    """Five times as much as the folder may hold goes through; what dies then is recovered, and nothing else."""
    journal = make_journal(tmp_path, FOR_ALL, msgspec.structs.replace(SMALL_FOLDER, journal_append=medium))
    sent = 0
    pinned: list[bytes] = []
    for kept in ({0}, {150, 300}, *[set[int]()] * 8):
        sent += len(fill(journal))
        pinned += settle_all_but(journal, take_all(journal), kept)
        journal.maintain()
        assert journal.account().pending == len(pinned)
        assert journal.account().accepted == sent
        journal.journal._maker._full_until_s = 0.0  # what a quarter of a second does
    assert sent * 510 > 5 * (512 << 10)
    assert len(segments_in(tmp_path)) <= 3 + 2, "those with a pinned event, the one that is written and the next"
    assert not journal.settled_through >= journal.accepted_through
    journal.append(b"last")
    abandon(journal)
    later = make_journal(tmp_path, FOR_ALL)
    later.recover()
    recovered = drained(later)
    assert [item for item in recovered if item in pinned] == pinned
    assert recovered[-1] == b"last"
    assert later.damaged == 0
    later.close()
    assert segments_in(tmp_path) == []


def test_pinned_events_that_are_settled_at_last_leave_nothing(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, FOR_ALL, SMALL_FOLDER)
    sent = len(fill(journal))
    taken = take_all(journal)
    kept = {0, 150, 151, 300}
    settle_all_but(journal, taken, kept)
    assert len(segments_in(tmp_path)) == 3 + 1
    for place in (150, 0, 300, 151):
        journal.settle([list(taken)[place]], dead_lettered=1)
    assert len(segments_in(tmp_path)) == 1
    assert journal.settled_through >= journal.accepted_through
    account = journal.account()
    assert (account.written, account.dead_lettered, account.pending) == (sent - 4, 4, 0)
    journal.close()
    assert segments_in(tmp_path) == []


@pytest.mark.slow
def test_events_are_counted_right_while_segments_leave_the_chain(tmp_path: Path) -> None:
    """Another thread counts from the end of the chain while the worker lets go of segments in the middle of it."""
    journal = make_journal(tmp_path, FOR_ALL, SMALL_FOLDER)
    over = threading.Event()
    counts: list[int] = []

    def count() -> None:
        while not over.is_set():
            counts.append(journal.journal.accepted)

    counting = threading.Thread(target=count)
    counting.start()
    sent = 0
    for number in range(10_000):
        try:
            journal.append(b"x" * 500)
            sent += 1
        except QueueRejected:
            journal.journal._maker._full_until_s = 0.0
        if number % 400 == 399:
            settle_all_but(journal, take_all(journal), {0} if number == 399 else set())
    over.set()
    counting.join()
    assert counts == sorted(counts)
    assert journal.journal.accepted == sent
    abandon(journal)


def test_a_pinned_event_of_a_dead_process_keeps_its_segment_only(tmp_path: Path) -> None:
    """A living writer goes on to take over what other processes leave."""
    now_s = 1000.0
    for name in ("first", "second", "third"):
        left_behind(tmp_path, FOR_ALL, [f"{name}{n}" for n in range(3)])
    living = JournalQueue(tmp_path, FOR_ALL, SMALL, clock_s=lambda: now_s)
    living.recover()
    taken = take_all(living)
    assert len(taken) == 9
    settle_all_but(living, taken, {1})
    assert len(segments_in(tmp_path)) == 1
    left_behind(tmp_path, FOR_ALL, ["of another round"])
    now_s += ROUND_INTERVAL_S
    living.maintain()
    assert len(drained(living)) == 1
    assert len(segments_in(tmp_path)) == 1
    living.close()
    later = make_journal(tmp_path, FOR_ALL)
    later.recover()
    assert len(drained(later)) == 2, "from the pinned event on"
    later.close()
    assert segments_in(tmp_path) == []


def test_a_dead_letter_without_room_stops_no_good_event(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good events go through, four times as many as the journal holds, and what was refused waits."""
    monkeypatch.setenv("TELEMETRY_JOURNAL_BYTES", str(1 << 20))
    with Telemetry(url_of(database), dead_letter_bytes=1024, flush_interval_s=0.01) as telemetry:
        for number in range(10):
            assert telemetry.record(**event(phase_id=f"bad{number}", predicted_output_tokens=-1))
        wait_for(telemetry, lambda stats: stats.dead_letters_waiting > 0)
        for number in range(0, 10_000, 250):
            accepted = [telemetry.record(**event(phase_id=f"p{n}")) for n in range(number, number + 250)]
            assert all(accepted)
            wait_for(telemetry, written=number + 250)
        assert telemetry.stats().dropped == {}
        assert telemetry.stats().pending == telemetry.stats().dead_letters_waiting > 0
    assert len(phases_of(database)) == 10_000
