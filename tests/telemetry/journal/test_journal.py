"""The journal while its process lives: bounds, re-entrancy, folders that fail, several writers in one folder."""

import contextlib
import errno
import os
import resource
import shutil
import stat
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from tests.journals import (
    SMALL,
    abandon,
    child,
    drained,
    fill,
    folder_of,
    identity_of,
    make_journal,
    payload,
    recover_into,
    segments_in,
)
from tests.misbehaving_stores import FlakyStore
from tests.waiting import wait_for
from tests.write_side import event, phases_of, run_python, url_of

from autopack.database.destination import parse_database_url
from autopack.errors import QueueRejected
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.journal_queue import JournalQueue
from autopack.telemetry.journal.appender import Appender
from autopack.telemetry.stores.sqlite import SqliteStore

RECORD_OF_64_KIB = 64 << 10


def test_events_are_taken_in_order_across_segments(tmp_path: Path) -> None:
    """What is appended is taken in order across segments, and their files go."""
    journal = make_journal(tmp_path, bytes(32))
    sent = [b"%d" % n * 100 for n in range(3000)]
    for item in sent:
        journal.append(item)
        journal.maintain()
    assert len(segments_in(tmp_path)) > 3
    assert drained(journal) == sent
    assert len(segments_in(tmp_path)) <= 2, "the one that is written and the one that is ready"
    journal.close()
    assert segments_in(tmp_path) == []


def test_an_append_says_when_to_wake_the_worker(tmp_path: Path) -> None:
    """The first of a segment, and from the threshold on, until the worker is awake."""
    journal = make_journal(tmp_path, bytes(32))
    assert journal.append(b"first")
    journal.clear_wake_threshold()
    assert not any(journal.append(b"x") for _ in range(4))
    journal.set_wake_threshold(8)  # five wait already
    assert [journal.append(b"x") for _ in range(4)] == [False, False, True, True]
    journal.clear_wake_threshold()
    assert not journal.append(b"x")
    journal.set_wake_threshold(1)
    assert journal.append(b"x"), "more wait already than were asked for: the next one wakes"
    assert len(drained(journal)) == 11
    journal.close()


def test_at_threshold_0_an_append_that_is_under_way_wakes_too(tmp_path: Path) -> None:
    """A thread may be switched, or a signal handler may fork, between its number and its record."""
    journal = make_journal(tmp_path, bytes(32))
    journal.append(b"first")
    under_way = journal.journal._appender.last
    sequence = next(under_way.sequences)
    journal.set_wake_threshold(0)
    assert sequence >= under_way.wake_at, "which is looked at when the record is in"
    assert journal.append(b"next")
    journal.close()


def test_taking_while_others_append_misses_nothing(tmp_path: Path) -> None:
    """Taking while other threads append misses nothing, and trips over no new segment."""
    journal = make_journal(tmp_path, bytes(32))
    each = 4000

    def write(name: int) -> None:
        for n in range(each):
            journal.append(b"%d:%d:" % (name, n) + b"x" * 400)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    taken: list[bytes] = []
    while any(thread.is_alive() for thread in threads):
        taken += drained(journal)
        journal.maintain()
    taken += drained(journal)
    for name in range(3):
        mine = [int(item.split(b":")[1]) for item in taken if item.startswith(b"%d:" % name)]
        assert mine == list(range(each))
    journal.close()


def test_files_are_private_and_so_are_folders(database: Path) -> None:
    before = os.umask(0)
    try:
        journal = make_journal(folder_of(database) / "a" / "b", bytes(32))
        journal.append(b"x")
    finally:
        os.umask(before)
    (segment,) = segments_in(folder_of(database) / "a" / "b")
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    for folder in (folder_of(database) / "a" / "b", folder_of(database) / "a", folder_of(database)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    abandon(journal)


def test_a_full_journal_refuses_the_newest_until_it_is_drained(tmp_path: Path) -> None:
    """A full journal refuses the newest event, keeps the rest, and goes on after draining."""
    settings = SMALL.__class__(
        journal_first_segment_bytes=64 << 10, journal_segment_bytes=64 << 10, journal_bytes=256 << 10
    )
    journal = make_journal(tmp_path, bytes(32), settings)
    kept = fill(journal)
    assert sum(path.stat().st_size for path in segments_in(tmp_path)) == 256 << 10
    assert journal.account().pending == len(kept)
    assert drained(journal) == kept
    journal.maintain()
    assert retried_until_accepted(journal)
    assert drained(journal) == [b"afterwards"]
    journal.close()


@pytest.mark.slow
def test_all_that_was_accepted_between_refusals_is_recovered(tmp_path: Path) -> None:
    """Whatever was refused in between, everything that was accepted is recovered."""
    settings = SMALL.__class__(
        journal_first_segment_bytes=64 << 10, journal_segment_bytes=64 << 10, journal_bytes=128 << 10
    )
    journal = make_journal(tmp_path, bytes(32), settings)
    kept = fill(journal)
    for _ in range(70_000):
        with pytest.raises(QueueRejected):
            journal.append(b"x" * 500)
    with contextlib.suppress(QueueRejected):
        journal.append(b"small enough for what is left")
        kept.append(b"small enough for what is left")
    abandon(journal)
    later = make_journal(tmp_path, bytes(32))
    later.recover()
    assert drained(later) == kept
    assert later.damaged == 0
    later.close()


def retried_until_accepted(journal: JournalQueue) -> bool:
    for _ in range(100):
        try:
            journal.append(b"afterwards")
        except QueueRejected:
            threading.Event().wait(0.05)  # a full journal is believed to be full for a quarter of a second
        else:
            return True
    return False


def test_drops_of_a_full_journal_are_counted_and_all_there_is(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped because the journal is full is counted, and nothing else is lost."""
    for name in ("JOURNAL_FIRST_SEGMENT_BYTES", "JOURNAL_SEGMENT_BYTES"):
        monkeypatch.setenv(f"TELEMETRY_{name}", str(64 << 10))
    monkeypatch.setenv("TELEMETRY_JOURNAL_BYTES", str(192 << 10))
    monkeypatch.setenv("TELEMETRY_BACKOFF_CAP_S", "0.01")
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "0.01")
    store = FlakyStore(SqliteStore(parse_database_url(url_of(database))), failures=float("inf"))
    telemetry = Telemetry(store)
    accepted = [n for n in range(3000) if telemetry.record(**event(phase_id=f"p{n}"))]
    assert telemetry.stats().dropped == {"journal_full": 3000 - len(accepted)}
    assert 0 < len(accepted) < 3000
    assert accepted == list(range(len(accepted))), "the newest are dropped"
    assert store.failed.wait(10)
    store.failures_left = 0
    assert telemetry.flush(30)
    telemetry.close()
    assert phases_of(database) == [f"p{n}" for n in accepted]


def test_an_event_that_no_segment_can_hold_is_too_large(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that no segment can hold is too large, and costs no segment."""
    for name in ("JOURNAL_FIRST_SEGMENT_BYTES", "JOURNAL_SEGMENT_BYTES"):
        monkeypatch.setenv(f"TELEMETRY_{name}", str(64 << 10))
    with Telemetry(url_of(database)) as telemetry:
        assert telemetry.record(**event(phase_id="before"))
        for _ in range(20):
            assert not telemetry.record(**event(deliverables=["x" * RECORD_OF_64_KIB]))
        assert telemetry.record(**event(phase_id="after"))
        assert telemetry.stats().dropped == {"too_large": 20}
        assert telemetry.stats().journal_inline_segments == 1
    assert phases_of(database) == ["before", "after"]


def test_a_long_chain_of_segments_is_counted_at_any_call_depth() -> None:
    """A chain of very many segments is counted in any depth of calls."""
    first = last = Appender()
    for _ in range(3 * sys.getrecursionlimit()):
        last = Appender(None, last)
    assert last.start + last.count == first.start == 0


def test_a_journal_folder_that_became_a_file_drops_and_counts(database: Path, tmp_path: Path) -> None:
    """The journal of a folder that has become a file drops events, and counts them."""
    with Telemetry(url_of(database), journal_dir=tmp_path / "journal", flush_interval_s=0.01) as telemetry:
        assert telemetry.record(**event(phase_id="before"))
        assert telemetry.flush(30)
        while not (tmp_path / "journal").is_file():  # the worker may make a file, or the folder, meanwhile
            shutil.rmtree(tmp_path / "journal", ignore_errors=True)
            with contextlib.suppress(IsADirectoryError):
                (tmp_path / "journal").write_text("not a folder")
        while telemetry.record(**event(phase_id="goes into memory until it is noticed")):
            assert telemetry.flush(30)
        assert telemetry.stats().dropped == {"journal_full": 1}
        assert telemetry.stats().worker_restarts == 0


def test_without_a_folder_nothing_is_accepted_until_there_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A journal was asked for: memory only would be less than what True promises. Said once in each way."""
    (tmp_path / "file").touch()
    for _ in range(2):
        with Telemetry(url_of(tmp_path / "x.db"), journal_dir=tmp_path / "file" / "journal") as telemetry:
            assert not telemetry.record(**event())
            assert telemetry.stats().dropped["journal_full"] == 1
    assert sum("no event is accepted until there is one" in message for message in caplog.messages) == 1
    telemetry = Telemetry(url_of(tmp_path / "x.db"), journal_dir=tmp_path / "file" / "journal")
    (tmp_path / "file").unlink()
    wait_for(telemetry, lambda _: telemetry.record(**event()))
    telemetry.close(30)
    assert len(phases_of(tmp_path / "x.db")) == 1


def test_a_folder_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "journal").symlink_to("real")
    with Telemetry(url_of(tmp_path / "x.db"), journal_dir=tmp_path / "journal") as telemetry:
        assert not telemetry.record(**event())
        assert list((tmp_path / "real").iterdir()) == []


def test_where_a_journal_can_never_be_events_are_in_memory_only(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the file system has no locks. Said once."""

    def no_locks(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    with monkeypatch.context() as patched:
        patched.setattr("fcntl.flock", no_locks)
        for _ in range(2):
            with Telemetry(url_of(database)) as telemetry:
                assert telemetry.record(**event())
                assert telemetry.stats().journal_dir is None
    assert len(phases_of(database)) == 2
    assert sum("memory only" in message for message in caplog.messages) == 1


@pytest.mark.slow
def test_a_disk_without_room_drops_and_counts_and_raises_nothing(database: Path) -> None:
    """A limit on the size of files stands in for a full disk: the next segment is refused when it is made."""
    code = """
        import resource
        from autopack.telemetry import Telemetry

        telemetry = Telemetry(sys.argv[1])
        telemetry.record(**event(phase_id="p0"))
        telemetry.flush(30)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        accepted = 1 + sum(telemetry.record(**event(phase_id=f"p{n}")) for n in range(1, 40000))
        dropped = dict(telemetry.stats().dropped)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        telemetry.close(60)
        stats = telemetry.stats()
        assert list(dropped) == ["journal_full"], dropped
        assert accepted == stats.accepted == stats.written and not stats.pending, stats
        assert accepted + dropped["journal_full"] == 40000
        assert stats.worker_restarts == 0
        print(accepted)
    """
    done = run_python(
        code, url_of(database), env={"TELEMETRY_FLUSH_INTERVAL_S": "60", "TELEMETRY_BATCH_SIZE": "100000"}
    )
    assert len(phases_of(database)) == int(done.stdout)
    assert done.stderr.count("No further journal segment") == 1


def test_a_folder_that_is_deleted_while_it_is_used_is_made_again(database: Path) -> None:
    with Telemetry(url_of(database)) as telemetry:
        telemetry.record(**event(phase_id="before"))
        assert telemetry.flush(30)
        for path in segments_in(folder_of(database)):
            path.unlink()
        folder_of(database).rmdir()
        telemetry.record(**event(phase_id="in between"))
        assert telemetry.flush(30)
        telemetry.record(**event(phase_id="after"))
        assert telemetry.flush(30)
        telemetry.record(**event(phase_id="journalled"))
        assert segments_in(folder_of(database))
    assert phases_of(database) == ["before", "in between", "after", "journalled"]


@pytest.mark.slow
def test_two_processes_in_one_folder_keep_to_their_own_segments(database: Path) -> None:
    """Two processes with one folder do not touch each other's segments."""
    code = """
        from autopack.telemetry import Telemetry
        with Telemetry(sys.argv[1], shutdown_timeout_s=60) as telemetry:
            print("ready", flush=True)
            sys.stdin.readline()
            for n in range(2000):
                assert telemetry.record(**event(phase_id=f"{sys.argv[2]}-{n}"))
        stats = telemetry.stats()
        print(stats.recovered, stats.written, stats.pending)
    """
    with child(code, url_of(database), "a") as a, child(code, url_of(database), "b") as b:
        for process in (a, b):
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.communicate()[0] for process in (a, b)] == ["0 2000 0\n"] * 2
    assert Counter(phases_of(database)) == Counter(f"{name}-{n}" for name in "ab" for n in range(2000))
    assert segments_in(folder_of(database)) == []


def test_a_close_leaves_a_segment_only_where_events_are_left(database: Path) -> None:
    """Closing with nothing left leaves no segment; with something left, it leaves the segment."""
    store = FlakyStore(SqliteStore(parse_database_url(url_of(database))), failures=float("inf"))
    telemetry = Telemetry(store)
    for n in range(10):
        telemetry.record(**event(phase_id=f"p{n}"))
    telemetry.close(0.2)
    assert telemetry.stats().pending == 10
    assert len(segments_in(folder_of(database))) == 1
    assert recover_into(database).recovered == 10
    assert segments_in(folder_of(database)) == []


def test_a_journal_that_is_closed_refuses(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, identity_of(tmp_path / "x.db"))
    journal.append(payload())
    journal.close_to_new()
    with pytest.raises(QueueRejected, match="closed"):
        journal.append(payload())
    assert len(drained(journal)) == 1
    journal.close()
    with pytest.raises(QueueRejected, match="closed"):
        journal.append(payload())


def test_what_was_taken_and_not_settled_outlives_a_death(tmp_path: Path) -> None:
    """What was taken and not settled is there after a death, whatever was settled behind it."""
    journal = make_journal(tmp_path, bytes(32))
    sent = [b"%d" % n for n in range(10)]
    for item in sent:
        journal.append(item)
    batch = journal.take(8)
    journal.settle([*batch][:2] + [*batch][5:], written=5)
    abandon(journal)
    later = make_journal(tmp_path, bytes(32))
    later.recover()
    assert drained(later) == sent[2:]
    later.close()


def test_open_files_stay_few_however_many_segments_were_used(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    journal = make_journal(tmp_path, bytes(32))
    for _ in range(20_000):
        journal.append(b"x" * 500)
        if journal.backlog >= 100:
            drained(journal)
            journal.maintain()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8
    journal.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 8


def test_a_segment_that_was_cut_is_left_before_it_is_touched(tmp_path: Path) -> None:
    """The worker looks between batches. What was taken before the cut is settled, what comes later goes elsewhere."""
    journal = make_journal(tmp_path, bytes(32))
    journal.append(b"taken" * 50)
    taken = drained(journal)
    (cut,) = segments_in(tmp_path)
    os.truncate(cut, 600)
    journal.maintain()
    for n in range(500):
        journal.append(b"%d" % n * 100)
    assert [*taken, *drained(journal)] == [b"taken" * 50, *(b"%d" % n * 100 for n in range(500))]
    journal.close()
    assert segments_in(tmp_path) == []
