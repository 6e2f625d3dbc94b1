"""A living writer takes over what dead ones leave: when, in which order, at what cost, and without a word too many."""

import fcntl
import logging
import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from tests.journals import (
    SMALL,
    drained,
    folder_of,
    identity_of,
    left_behind,
    make_journal,
    payload,
    segments_in,
)
from tests.waiting import wait_for
from tests.write_side import event, phases_of, run_python, url_of

from autopack.errors import QueueRejected
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.journal_queue import ROUND_INTERVAL_S, JournalQueue
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal import journal_status
from autopack.telemetry.journal.format import FORMAT_VERSION, Header, RecordFinder, pack_head, pack_record
from autopack.telemetry.journal.segment import SUFFIX, process_of
from autopack.telemetry.journal.segment_maker import JournalSizes, SegmentMaker

FOR_ALL = bytes(32)


def phases_in(batch: Mapping[int, bytes]) -> list[str]:
    """In the order of an event on the wire: when, its sequence, its run, its phase."""
    return [msgspec.msgpack.decode(item)[3] for item in batch.values()]


def test_a_living_writer_looks_once_a_minute(tmp_path: Path) -> None:
    now_s = 1000.0
    living = JournalQueue(tmp_path, FOR_ALL, SMALL, clock_s=lambda: now_s)
    living.recover()
    left_behind(tmp_path, FOR_ALL, ["dead"])
    now_s += ROUND_INTERVAL_S - 1
    living.maintain()
    assert drained(living) == []
    now_s += 1
    living.maintain()
    assert len(drained(living)) == 1
    assert segments_in(tmp_path) == []
    assert living.account().recovered == 1
    living.close()


def test_a_crowded_folder_is_looked_at_at_once(tmp_path: Path) -> None:
    """The bound is 8 segments of 64 KiB, and dead ones have left 7: without a look the second segment is refused."""
    crowded = Settings(
        journal_first_segment_bytes=64 << 10,
        journal_segment_bytes=64 << 10,
        max_event_bytes=8 << 10,
        journal_bytes=8 * (64 << 10),
    )
    living = JournalQueue(tmp_path, FOR_ALL, crowded, clock_s=lambda: 1000.0)
    living.recover()
    for n in range(7):
        left_behind(tmp_path, FOR_ALL, [f"dead{n}"])
    living.append(payload("first"))
    living.maintain()
    assert len(drained(living)) == 8
    for _ in range(4):
        for n in range(100):
            living.append(b"%d" % n * 300)
        living.maintain()
        drained(living)
    living.close()


def test_a_backlog_delays_living_events_by_half_a_batch_at_most(tmp_path: Path) -> None:
    large = Settings(journal_first_segment_bytes=8 << 20)
    left_behind(tmp_path, FOR_ALL, [f"dead{n}" for n in range(2000)], large)
    living = make_journal(tmp_path, FOR_ALL)
    living.recover()
    for n in range(100):
        living.append(payload(f"live{n}"))
    order: list[str] = []
    while batch := living.take(50):
        order += phases_in(batch)
        living.settle(batch, written=len(batch))
    places = [order.index(f"live{n}") for n in range(100)]
    assert all(place <= 2 * n + 25 for n, place in enumerate(places))
    assert sorted(order) == sorted([f"dead{n}" for n in range(2000)] + [f"live{n}" for n in range(100)])
    living.close()


def test_segments_are_surveyed_one_at_a_time(tmp_path: Path) -> None:
    """A batch opens no more of what dead ones left than it can take."""
    for n in range(5):
        left_behind(tmp_path, FOR_ALL, [f"dead{n}-{k}" for k in range(10)])
    living = make_journal(tmp_path, FOR_ALL)
    living.recover()
    assert living.account().recovered == 0
    first = dict(living.take(10))
    assert (living.account().recovered, living.has_more_to_recover) == (10, True)
    living.settle(first, written=10)
    assert len(drained(living)) == 40
    assert not living.has_more_to_recover
    living.close()


def test_files_that_are_gone_since_they_were_found_are_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Processes that close at once find each other's files, which are gone when they come to them."""
    made = [left_behind(tmp_path, FOR_ALL, ["dead"]) for _ in range(3)]
    living = make_journal(tmp_path, FOR_ALL)
    with caplog.at_level(logging.DEBUG, "autopack.telemetry"):
        living.recover()
        for path in made:
            path.unlink()
        assert drained(living) == []
        assert segments_in(tmp_path) == []
    assert caplog.records == []
    living.close()


def test_a_forged_segment_costs_time_that_grows_with_its_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """4 MiB of heads, each of which claims all that follows: 5 · 10^11 bytes of checksums, if each were believed."""
    size = 4 << 20
    header = Header(FORMAT_VERSION, size, 1, 77, bytes(16), FOR_ALL)
    head = b"\x92\xcf" + (77).to_bytes(4, "big") + bytes(4) + b"\xc6" + (size // 2).to_bytes(4, "big")
    image = (pack_head(header, process_of(os.getpid())) + head * (size // len(head)))[:size]
    (tmp_path / f"forged{SUFFIX}").write_bytes(image)
    begun_s = time.process_time()
    living = make_journal(tmp_path, FOR_ALL)
    living.recover()
    with caplog.at_level(logging.WARNING, "autopack.telemetry"):
        assert drained(living) == []
    assert time.process_time() - begun_s < 10
    assert living.account().damaged == 1
    assert [path.name for path in tmp_path.iterdir()] == ["forged.corrupt"]
    living.close()


def test_a_record_behind_one_that_claims_too_much_is_found() -> None:
    data = bytearray(b"\0" * 600)
    good = b"\x92\xcf" + (78).to_bytes(4, "big")
    payload_78 = b"x" * 50
    from zlib import adler32

    record = good + adler32(payload_78, 78).to_bytes(4, "big") + b"\xc4" + bytes([50]) + payload_78
    data[0:12] = b"\x92\xcf" + (77).to_bytes(4, "big") + bytes(4) + b"\xc4\xff"
    data[100 : 100 + len(record)] = record
    found = RecordFinder(bytes(data), 70).next_from(0)
    assert found is not None
    assert (found.start, found.payload) == (100, payload_78)


def test_heads_that_no_record_follows_are_looked_at_within_a_bound() -> None:
    """A segment that is full of the two bytes with which a record begins: one look for each 32 of its bytes."""
    data = bytearray(b"\x92\xcf" * (32 << 10))
    record = pack_record(b"x" * 50, 77)
    data[-200 : -200 + len(record)] = record
    finder = RecordFinder(bytes(data), 70)
    assert finder.next_from(0) is None
    assert finder.next_from(len(data) - 200) is None, "what is left counts as damaged"
    few = bytes(data[-4000:]).replace(b"\x92\xcf" * 1000, bytes(2000), 1)
    found = RecordFinder(few + bytes(64 << 10), 70).next_from(0)
    assert found is not None
    assert found.payload == b"x" * 50


def test_a_segment_held_by_a_child_of_a_dead_process_says_so(tmp_path: Path) -> None:
    """A child that was forked in C and has recorded nothing keeps the lock of its parent."""
    code = """
        import pathlib, signal
        from tests.journals import make_journal

        journal = make_journal(pathlib.Path(sys.argv[1]), bytes(32))
        journal.append(b"x")
        os.write(1, f"{os.getpid()}".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    """
    made_by = int(run_python(code, str(tmp_path), exit_code=-signal.SIGKILL).stdout)
    (path,) = segments_in(tmp_path)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # what such a child does by being there
        (file,) = journal_status(tmp_path, FOR_ALL).files
    assert (file.state, file.pid, file.pid_is_gone) == ("live", made_by, True)
    assert file.why.startswith(f"held by a child of process {made_by}, which is gone")
    (file,) = journal_status(tmp_path, FOR_ALL).files
    assert file.why.startswith("its writer is gone, 1 event(s) wait")


def test_segments_grow_from_a_small_first_one(tmp_path: Path) -> None:
    maker = SegmentMaker(tmp_path, FOR_ALL, JournalSizes(256 << 10, 64 << 10, 8 << 20, 256 << 20))
    made = [maker.make() for _ in range(6)]
    assert [segment.size_bytes >> 10 for segment in made] == [64, 256, 1024, 4096, 8192, 8192]
    for segment in made:
        segment.remove()


def test_the_last_segment_is_as_large_as_the_folder_has_room_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maker = SegmentMaker(tmp_path, FOR_ALL, JournalSizes(256 << 10, 64 << 10, 8 << 20, 1 << 20))
    made = [maker.make() for _ in range(3)]
    assert [segment.size_bytes >> 10 for segment in made] == [64, 256, 704]
    with pytest.raises(QueueRejected):
        maker.make()
    assert "1048576 of 1048576 bytes are in use" in caplog.text
    for segment in made:
        segment.remove()


def test_where_the_disk_refuses_a_large_segment_a_smaller_one_is_made(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a disk that is nearly full."""
    maker = SegmentMaker(tmp_path, FOR_ALL, JournalSizes(256 << 10, 64 << 10, 8 << 20, 256 << 20))
    made = [maker.make() for _ in range(2)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, before[1]))
        made.append(maker.make())
        resource.setrlimit(resource.RLIMIT_FSIZE, (60 << 10, before[1]))
        with pytest.raises(QueueRejected):
            maker.make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [segment.size_bytes >> 10 for segment in made] == [64, 256, 64]
    assert len(segments_in(tmp_path)) == len(list(tmp_path.iterdir())) == 3, "what was refused leaves nothing behind"
    for segment in made:
        segment.remove()


def test_an_event_larger_than_the_first_segment_gets_a_larger_one(tmp_path: Path) -> None:
    settings = Settings()
    journal = make_journal(tmp_path, FOR_ALL, settings)
    largest = os.urandom(settings.max_event_bytes)
    journal.append(b"small")
    journal.append(largest)
    journal.append(b"small again")
    assert drained(journal) == [b"small", largest, b"small again"]
    journal.close()


def test_a_prepared_segment_that_is_too_small_serves_later(tmp_path: Path) -> None:
    settings = Settings(journal_first_segment_bytes=64 << 10)
    journal = make_journal(tmp_path, FOR_ALL, settings)
    for n in range(80):
        journal.append(b"%d" % n * 200)
    journal.maintain()  # the next one, of 256 KiB, is ready
    largest = [os.urandom(settings.max_event_bytes) for _ in range(2)]
    for item in largest:
        journal.append(item)
    for n in range(10):
        journal.append(b"%d" % n * 200)
    assert drained(journal) == [
        *(b"%d" % n * 200 for n in range(80)),
        *largest,
        *(b"%d" % n * 200 for n in range(10)),
    ]
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_flush_does_not_wait_for_what_a_later_round_finds(tmp_path: Path) -> None:
    now_s = 1000.0
    living = JournalQueue(tmp_path, FOR_ALL, SMALL, clock_s=lambda: now_s)
    living.recover()
    assert drained(living) == []
    left_behind(tmp_path, FOR_ALL, [f"dead{n}" for n in range(20)])
    living.append(payload("live"))
    target = living.accepted_through
    now_s += ROUND_INTERVAL_S
    living.maintain()
    batch = living.take(10)
    assert living.settled_through < target
    living.settle(batch, written=len(batch))
    assert living.settled_through >= target
    assert living.backlog > 0
    living.close()


SHORT_LIVES = """
    import signal
    from autopack.telemetry import Telemetry
    from autopack.telemetry.engine import journal_queue
    from tests.waiting import wait_for

    journal_queue.ROUND_INTERVAL_S = 0.2
    telemetry = Telemetry(sys.argv[1])
    assert telemetry.record(**event(phase_id="healthy")) and telemetry.flush(30)
    for n in range(300):
        child = os.fork()
        if not child:
            os._exit(0 if telemetry.record(**event(phase_id=f"short{n}")) else 1)
        assert os.waitpid(child, 0)[1] == 0
    for n in range(80_000):
        telemetry.record(**event(phase_id="healthy"))
    assert telemetry.stats().dropped == {}, telemetry.stats()
    wait_for(telemetry, written=80_301, timeout_s=100)
    assert telemetry.stats().recovered == 300, telemetry.stats()
    telemetry.close(60)
"""


@pytest.mark.slow
def test_three_hundred_short_lives_starve_no_living_writer(database: Path) -> None:
    """Each dies with one event; the writer that lives drops none of its 80,000, and writes theirs without `recover`."""
    run_python(SHORT_LIVES, url_of(database), options=["-W", "ignore::DeprecationWarning"], timeout_s=180)
    phases = phases_of(database)
    assert phases.count("healthy") == 80_001
    assert sorted(phase for phase in phases if phase != "healthy") == sorted(f"short{n}" for n in range(300))
    assert segments_in(folder_of(database)) == []


def test_events_of_a_writer_that_dies_beside_a_living_one_are_written(database: Path) -> None:
    """The whole way: the worker's own clock is put forward by a crowded folder, not by waiting for a minute."""
    with Telemetry(url_of(database)) as telemetry:
        telemetry.record(**event(phase_id="live"))
        assert telemetry.flush(30)
        left_behind(folder_of(database), identity_of(database), ["dead"])
        queue = telemetry.writer.queue
        assert isinstance(queue, JournalQueue)
        queue.journal._maker.crowded = True
        telemetry.record(**event(phase_id="live"))
        wait_for(telemetry, written=3)
    assert sorted(phases_of(database)) == ["dead", "live", "live"]


def test_a_folder_that_cannot_be_searched_does_not_end_the_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name is too long for a file system: nothing is accepted, and it is said once."""
    living = JournalQueue(tmp_path / ("x" * 300), FOR_ALL, SMALL, clock_s=lambda: 1000.0)
    living.recover()
    living.recover()
    assert drained(living) == []
    assert caplog.text.count("cannot be searched for events of earlier processes: File name too long") == 1
    living.close()
