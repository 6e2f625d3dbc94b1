"""Segments that are not mapped: each record is one `pwrite`, and one that fails is a hole that costs nobody else."""

import errno
import os
import resource
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.journals import (
    abandon,
    drained,
    fill,
    left_behind,
    make_journal,
    orphans_in,
    payload,
    recover_into,
    segments_in,
)
from tests.telemetry.journal.interrupts import at_c_call
from tests.write_side import event, phases_of, run_python, url_of

from autopack.errors import QueueRejected, SegmentWriteError
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.journal_queue import JournalQueue
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal.file_systems import medium_in
from autopack.telemetry.journal.format import FIRST_RECORD, FORMAT_VERSION, Header, Medium
from autopack.telemetry.journal.medium import Written

WRITTEN = Settings(
    journal_first_segment_bytes=64 << 10,
    journal_segment_bytes=64 << 10,
    max_event_bytes=8 << 10,
    journal_append="written",
)
FOR_ALL = bytes(32)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does to a write, in this process: an error, or a write that is cut off."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_written_events_are_taken_in_order_across_segments(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, FOR_ALL, WRITTEN)
    sent = [b"%d" % n * 100 for n in range(3000)]
    for item in sent[:2000]:
        journal.append(item)
    assert len(segments_in(tmp_path)) > 5
    assert journal.account().pending == 2000
    taken = drained(journal)
    for item in sent[2000:]:
        journal.append(item)
    assert taken + drained(journal) == sent
    assert journal.settled_through >= journal.accepted_through
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_outlives_the_process(tmp_path: Path) -> None:
    made = left_behind(tmp_path, FOR_ALL, [f"p{n}" for n in range(50)], WRITTEN)
    assert made.stat().st_blocks * 512 < 32 << 10, "its room is not made before it is used"
    (orphan,) = orphans_in(tmp_path, FOR_ALL)
    assert (orphan.segment.header.medium, orphan.events, orphan.damaged) == (Medium.WRITTEN, 50, 0)
    orphan.next_records(20)
    orphan.segment.acknowledge_before(None)
    orphan.segment.release()
    (again,) = orphans_in(tmp_path, FOR_ALL)
    assert again.events == 30
    again.segment.release()


def test_a_short_write_is_refused_counted_and_passed(tmp_path: Path) -> None:
    """The limit cuts a record in two. The others are kept, the rest of this segment is given up."""
    journal = make_journal(tmp_path, FOR_ALL, WRITTEN)
    before = [b"%d" % n * 100 for n in range(10)]
    for item in before:
        journal.append(item)
    (made,) = segments_in(tmp_path)
    end = made.read_bytes().rstrip(b"\0")
    with files_of_at_most(len(end) + 50), pytest.raises(QueueRejected, match="journal_full"):
        journal.append(b"x" * 200)
    assert made.read_bytes().rstrip(b"\0") == end, "what was written of it is void"
    assert journal.account().pending == 10
    taken: list[bytes] = []
    while True:
        try:
            journal.append(b"after")
        except QueueRejected:  # for 0.25 s no other segment is tried
            continue
        break
    taken = drained(journal)
    assert taken == [*before, b"after"]
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_recovery_passes_the_hole_of_a_refused_record(tmp_path: Path) -> None:
    """A hole in the middle: two records are reserved, the first of which is never written."""
    journal = make_journal(tmp_path, FOR_ALL, WRITTEN)
    journal.append(payload("first"))

    def refused() -> None:
        with files_of_at_most(100), pytest.raises(QueueRejected):
            journal.append(payload("refused"))

    at_c_call("pwrite", refused)
    journal.append(payload("last"))
    assert journal.account().pending == 2
    abandon(journal)
    (orphan,) = orphans_in(tmp_path, FOR_ALL)
    assert (orphan.events, orphan.damaged) == (2, 0)
    orphan.segment.release()


def test_the_reader_waits_for_a_write_in_progress(tmp_path: Path) -> None:
    """A call reserves, and before it writes another one writes behind it: what is behind is not taken before it."""
    journal = make_journal(tmp_path, FOR_ALL, WRITTEN)
    journal.append(b"first" * 10)
    seen: list[list[bytes]] = []
    flushed: list[bool] = []

    def overtake() -> None:
        journal.append(b"behind" * 10)
        target = journal.accepted_through
        seen.append(drained(journal))
        flushed.append(journal.settled_through >= target)

    at_c_call("pwrite", overtake)
    journal.append(b"in progress" * 10)
    assert (seen, flushed) == ([[b"first" * 10]], [False])
    assert drained(journal) == [b"in progress" * 10, b"behind" * 10]
    assert journal.settled_through >= journal.accepted_through
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_the_reader_waits_also_where_the_next_segment_has_begun(tmp_path: Path) -> None:
    """What is behind a write in progress is not overtaken by the events of the next segment."""
    journal = make_journal(tmp_path, FOR_ALL, WRITTEN)
    journal.append(b"first" * 10)
    behind = [b"%d" % n * 100 for n in range(300)]
    seen: list[list[bytes]] = []

    def overtake() -> None:
        for item in behind:
            journal.append(item)
        seen.append(drained(journal))

    at_c_call("pwrite", overtake)
    journal.append(b"in progress" * 10)
    assert len(segments_in(tmp_path)) > 1
    assert seen == [[b"first" * 10]]
    assert drained(journal) == [b"in progress" * 10, *behind]
    assert journal.settled_through >= journal.accepted_through
    journal.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["extend", "pwrite"])
def test_a_handlers_exception_leaves_a_hole_that_is_passed(tmp_path: Path, where: str) -> None:
    """Before the reservation, and between it and the write."""
    journal = make_journal(tmp_path, FOR_ALL, WRITTEN)
    journal.append(b"first" * 10)

    def interrupt() -> None:
        raise KeyboardInterrupt

    at_c_call(where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        journal.append(b"interrupted" * 10)
    journal.append(b"last" * 10)
    assert drained(journal) == [b"first" * 10, b"last" * 10]
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    settings = Settings(journal_first_segment_bytes=64 << 10, journal_segment_bytes=256 << 10, journal_append="written")
    journal = JournalQueue(tmp_path, FOR_ALL, settings)
    names = [[b"%d-%d" % (thread, n) * 20 for n in range(2000)] for thread in range(4)]
    taken: list[bytes] = []

    def record(mine: list[bytes]) -> None:
        for item in mine:
            journal.append(item)

    threads = [threading.Thread(target=record, args=(mine,)) for mine in names]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += drained(journal)
        journal.maintain()
    taken += drained(journal)
    assert Counter(taken) == Counter(item for mine in names for item in mine)
    for mine in names:
        of_thread = set(mine)
        assert [item for item in taken if item in of_thread] == mine
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_journal_that_is_written_refuses_and_recovers(tmp_path: Path) -> None:
    settings = Settings(
        journal_first_segment_bytes=64 << 10,
        journal_segment_bytes=64 << 10,
        journal_bytes=256 << 10,
        max_event_bytes=8 << 10,
        journal_append="written",
    )
    journal = make_journal(tmp_path, FOR_ALL, settings)
    kept = fill(journal)
    assert drained(journal) == kept
    journal.close()


@pytest.mark.parametrize("append", ["mapped", "written"])
def test_no_room_is_false_and_counted_and_never_a_signal(database: Path, append: str) -> None:
    """`RLIMIT_FSIZE` in the place of a full disk, from the middle of the recording on. Python ignores SIGXFSZ."""
    code = """
        import resource
        from autopack.telemetry import Telemetry

        telemetry = Telemetry(sys.argv[1], flush_interval_s=60)
        answers = [telemetry.record(**event(phase_id=f"p{n}")) for n in range(100)]
        assert all(answers)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        answers += [telemetry.record(**event(phase_id=f"p{n}")) for n in range(100, 2000)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        stats = telemetry.stats()
        assert not all(answers)
        assert stats.dropped == {"journal_full": answers.count(False)}, stats
        assert stats.accepted == answers.count(True), stats
        telemetry.close(30)
        assert telemetry.stats().pending == 0, telemetry.stats()
        print(*(f"p{n}" for n, answer in enumerate(answers) if answer))
    """
    done = run_python(code, url_of(database), env={"TELEMETRY_JOURNAL_APPEND": append})
    assert phases_of(database) == done.stdout.split()


def test_what_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    """A process that records into a full journal for days grows by nothing."""
    with (tmp_path / "segment").open("wb") as file:
        written = Written(file.fileno(), Header(FORMAT_VERSION, 4096, 1, 77, bytes(16), FOR_ALL, medium=Medium.WRITTEN))
        for _ in range(1000):
            with pytest.raises(ValueError, match="no room"):
                written.write(b"x" * 8192)
            written.seal()
        assert len(written._refused) == 1


def test_a_write_after_the_close_reaches_no_other_file(tmp_path: Path) -> None:
    """The number of the closed file may be that of another one by now."""
    journal = make_journal(tmp_path, FOR_ALL, WRITTEN)
    journal.append(b"x" * 50)
    appender = journal.journal._appender
    drained(journal)
    journal.close()
    with (tmp_path / "other").open("w+b") as other:
        with pytest.raises((ValueError, SegmentWriteError)):
            appender.write(b"late" * 50)
        other.seek(0)
        assert other.read() == b""


def test_an_error_of_the_disk_is_told_with_its_reason() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    header = Header(FORMAT_VERSION, 64 << 10, 1, 77, bytes(16), FOR_ALL, medium=Medium.WRITTEN)
    written = Written(write_end, header)
    with pytest.raises(SegmentWriteError, match=os.strerror(errno.ESPIPE)):
        written.write(b"x" * 100)
    assert not written.has_unread(FIRST_RECORD)
    os.close(write_end)


@pytest.mark.parametrize(
    ("kind", "medium"),
    [
        ("ext4", Medium.MAPPED),
        ("xfs", Medium.MAPPED),
        ("tmpfs", Medium.MAPPED),
        ("btrfs", Medium.WRITTEN),
        ("zfs", Medium.WRITTEN),
        ("overlay", Medium.WRITTEN),
        ("a new one", Medium.WRITTEN),
    ],
)
def test_what_copies_on_write_is_written(tmp_path: Path, kind: str, medium: Medium) -> None:
    found = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    line = f"36 35 {os.major(found)}:{os.minor(found)} / / rw,noatime master:1 - {kind} /dev/root rw,errors=continue\n"
    mounts.write_text("24 30 0:22 / /proc rw - proc proc rw\n" + line)
    assert medium_in(tmp_path, mounts) == medium
    mounts.write_text("24 30 0:22 / /proc rw - proc proc rw\n")
    assert medium_in(tmp_path, mounts) == Medium.WRITTEN, "as a subvolume of btrfs, whose device is of no mount"
    assert medium_in(tmp_path, tmp_path / "no such file") == Medium.WRITTEN


def test_a_telemetry_whose_journal_is_written_loses_nothing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_JOURNAL_APPEND", "written")
    with Telemetry(url_of(database)) as telemetry:
        for n in range(3000):
            assert telemetry.record(**event(phase_id=f"p{n}"))
    assert telemetry.stats().written == 3000
    assert phases_of(database) == [f"p{n}" for n in range(3000)]
    assert recover_into(database).recovered == 0
