"""What dead writers left is found, taken over by one, and delivered; what is not ours is left alone."""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.journals import (
    abandon,
    folder_of,
    identity_of,
    left_behind,
    make_journal,
    payload,
    recover_into,
    segments_in,
)
from tests.write_side import dead_letters_of, event, phases_of, run_python, url_of

from autopack.telemetry import Telemetry
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal.format import FORMAT_VERSION, Header
from autopack.telemetry.journal.recovery import remove_unfinished

RECORD_HEAD_BYTES = 12  # of an event of less than 256 bytes
LARGE = Settings(journal_first_segment_bytes=8 << 20)


def phases(count: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


def delivered(database: Path) -> list[str]:
    return [phase for phase in phases_of(database) if phase != "later"]


def test_what_a_dead_writer_left_is_delivered_first(database: Path) -> None:
    """What a dead writer left is delivered first, and its file is gone."""
    left_behind(folder_of(database), identity_of(database), phases(100))
    stats = recover_into(database)
    assert phases_of(database) == [*phases(100), "later"]
    assert (stats.accepted, stats.written, stats.recovered, stats.pending) == (101, 101, 100, 0)
    assert segments_in(folder_of(database)) == []


def test_several_dead_writers_are_recovered_oldest_first(database: Path) -> None:
    for name in ("c", "a", "b"):
        left_behind(folder_of(database), identity_of(database), phases(3, name))
    recover_into(database)
    assert delivered(database) == [*phases(3, "c"), *phases(3, "a"), *phases(3, "b")]


def test_a_segment_that_was_copied_is_delivered_once(database: Path) -> None:
    made = left_behind(folder_of(database), identity_of(database), phases(20))
    shutil.copy2(made, made.with_name("copy.seg"))
    stats = recover_into(database)
    assert Counter(delivered(database)) == Counter(phases(20))
    assert (stats.recovered, stats.duplicates, stats.pending) == (40, 20, 0)


def test_a_poisoned_event_in_the_journal_is_dead_lettered_alone(database: Path) -> None:
    """A poisoned event in the journal goes to the dead letters, and the others land."""
    journal = make_journal(folder_of(database), identity_of(database))
    for item in (payload("good"), payload("bad", predicted_output_tokens="many"), b"\xc1 no MessagePack", payload("x")):
        journal.append(item)
    abandon(journal)
    stats = recover_into(database)
    assert delivered(database) == ["good", "x"]
    assert (stats.dead_lettered, stats.pending) == (2, 0)
    assert len(dead_letters_of(database)) == 2


def test_a_damaged_record_costs_itself_and_its_file_is_kept(database: Path) -> None:
    """A damaged record costs itself, is counted, and its file is kept for a person to look at."""
    made = left_behind(folder_of(database), identity_of(database), phases(50))
    data = bytearray(made.read_bytes())
    at = data.index(b"p25")
    data[at] ^= 0xFF
    made.write_bytes(data)
    stats = recover_into(database)
    assert delivered(database) == [p for p in phases(50) if p != "p25"]
    assert (stats.recovered, stats.journal_damaged, stats.pending) == (49, 1, 0)
    assert segments_in(folder_of(database)) == []
    assert made.with_suffix(".corrupt").read_bytes()[at - 100 : at + 100] == data[at - 100 : at + 100]
    assert recover_into(database).recovered == 0, "it is not read again"


def test_of_a_file_whose_pages_are_zero_the_rest_is_kept(database: Path) -> None:
    made = left_behind(folder_of(database), identity_of(database), phases(100))
    data = bytearray(made.read_bytes())
    data[4096:8192] = bytes(4096)
    made.write_bytes(data)
    stats = recover_into(database)
    kept = delivered(database)
    assert kept[0] == "p0"
    assert kept[-1] == "p99"
    per_page = 4096 / (RECORD_HEAD_BYTES + len(payload("p10")))
    assert per_page - 1 <= 100 - len(kept) <= per_page + 2
    assert stats.journal_damaged >= 100 - len(kept)


def test_two_databases_with_one_journal_folder_recover_each_its_own(tmp_path: Path) -> None:
    folder, one, other = tmp_path / "journal", tmp_path / "one.db", tmp_path / "other.db"
    left_behind(folder, identity_of(one), phases(5, "one"))
    theirs = left_behind(folder, identity_of(other), phases(5, "other"))
    recover_into(one, journal_dir=folder)
    assert delivered(one) == phases(5, "one")
    assert segments_in(folder) == [theirs]
    recover_into(other, journal_dir=folder)
    assert delivered(other) == phases(5, "other")
    assert segments_in(folder) == []


def test_one_database_under_two_names_is_one_destination(tmp_path: Path) -> None:
    database = tmp_path / "real.db"
    (tmp_path / "link.db").symlink_to(database)
    left_behind(tmp_path / "journal", identity_of(database), phases(5))
    recover_into(tmp_path / "link.db", journal_dir=tmp_path / "journal")
    assert delivered(database) == phases(5)


def test_the_segment_of_a_living_writer_is_left_to_it(database: Path) -> None:
    living = make_journal(folder_of(database), identity_of(database))
    living.append(payload("mine"))
    assert recover_into(database).recovered == 0
    assert delivered(database) == []
    abandon(living)
    assert recover_into(database).recovered == 1


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


def make_newer(path: Path) -> None:
    newer = Header(FORMAT_VERSION + 1, 4096, 0, 0, bytes(16), bytes(32))
    path.write_bytes((newer.pack() * 2).ljust(4096, b"\x01"))


def segment_for_the_same_database(folder: Path) -> Path:
    """One that would be recovered if it were an honest file of this user."""
    return left_behind(folder / "elsewhere", identity_of(folder.with_name("events.db")), ["not to be delivered"])


def make_foreign(path: Path) -> None:
    segment_for_the_same_database(path.parent).rename(path)
    os.chown(path, 12345, 12345)


def make_link_to_a_segment(path: Path) -> None:
    path.symlink_to(segment_for_the_same_database(path.parent))


STRANGERS: dict[str, Callable[[Path], object]] = {
    "0 bytes": Path.touch,
    "10 GiB, sparse": make_sparse,
    "newer version": make_newer,
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
    "text": lambda path: path.write_text("#!/bin/sh\n" * 100),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to a segment": make_link_to_a_segment,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "foreign owner": make_foreign,
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_foreign_file_in_the_folder_is_left_alone(database: Path, kind: str) -> None:
    if kind == "foreign owner" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    folder = folder_of(database)
    left_behind(folder, identity_of(database), phases(5))
    stranger = folder / "stranger.seg"
    STRANGERS[kind](stranger)
    before = stranger.lstat()
    begun_s = time.monotonic()
    stats = recover_into(database)
    assert time.monotonic() - begun_s < 10
    assert delivered(database) == phases(5)
    assert (stats.recovered, stats.journal_damaged, stats.pending, stats.worker_restarts) == (5, 0, 0, 0)
    assert stats.dropped == {}
    after = stranger.lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def test_of_two_that_start_at_once_one_gets_the_segment(database: Path) -> None:
    """Of two writers that start at once one gets the segment, and each event lands once."""
    for n in range(8):
        left_behind(folder_of(database), identity_of(database), phases(20, f"w{n}-"))
    barrier = threading.Barrier(4)
    every: list[int] = []

    def start() -> None:
        telemetry = Telemetry(url_of(database))
        barrier.wait()
        telemetry.record(**event(phase_id="later"))
        telemetry.close(30)
        stats = telemetry.stats()
        assert (stats.pending, stats.worker_restarts) == (0, 0)
        every.append(stats.recovered)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(every) == 160
    assert Counter(delivered(database)) == Counter(p for n in range(8) for p in phases(20, f"w{n}-"))


def test_flush_and_close_include_the_recovery(database: Path) -> None:
    left_behind(folder_of(database), identity_of(database), phases(3000, "old"), LARGE)
    with Telemetry(url_of(database)) as telemetry:
        telemetry.record(**event(phase_id="later"))
        assert telemetry.flush(30)
        assert len(phases_of(database)) == telemetry.stats().written
        assert delivered(database)[:1] == ["old0"]
        assert telemetry.stats().pending == 0


def test_a_file_that_was_never_finished_is_removed_once_it_is_old(tmp_path: Path) -> None:
    young, old, locked = tmp_path / "a.tmp", tmp_path / "b.tmp", tmp_path / "c.txt"
    for path in (young, old, locked):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == [young, locked]


def test_a_clock_that_went_back_changes_the_order_of_recovery_only(database: Path) -> None:
    folder = folder_of(database)
    late = left_behind(folder, identity_of(database), phases(3, "late"))
    data = late.read_bytes()
    header = Header(FORMAT_VERSION, len(data), 1 << 63, int.from_bytes(data[32:40], "little"), data[40:56], data[56:88])
    late.write_bytes(header.pack() * 2 + data[192:])
    left_behind(folder, identity_of(database), phases(3, "early"))
    stats = recover_into(database)
    assert delivered(database) == [*phases(3, "early"), *phases(3, "late")]
    assert (stats.recovered, stats.pending) == (6, 0)


def test_journal_off_leaves_what_is_there_to_others(database: Path) -> None:
    made = left_behind(folder_of(database), identity_of(database), phases(3))
    assert recover_into(database, journal_dir=None).recovered == 0
    assert made.exists()


@pytest.mark.slow
def test_a_second_death_during_recovery_loses_nothing(database: Path) -> None:
    left_behind(folder_of(database), identity_of(database), phases(20_000, "old"), LARGE)
    code = """
        from autopack.telemetry import Telemetry
        from tests.waiting import wait_for
        telemetry = Telemetry(sys.argv[1])
        telemetry.record(**event(phase_id="later"))
        at_least = int(sys.argv[2])
        wait_for(telemetry, written=at_least)
        os._exit(3)
    """
    for at_least in (1, 1000, 500):
        run_python(code, url_of(database), str(at_least), exit_code=3)
    assert segments_in(folder_of(database)), "the last one had finished before it died"
    stats = recover_into(database)
    assert stats.recovered > 0
    assert Counter(delivered(database)) == Counter(phases(20_000, "old"))
