"""Dead letters: nothing that was refused vanishes, and the file is safe to share."""

import errno
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.misbehaving_stores import RefusingStore
from tests.waiting import wait_for
from tests.write_side import dead_letter_file, dead_letters_of, event, phases_of, run_python, start_python

from autopack.database.destination import parse_database_url
from autopack.maintenance.redelivery import Redelivered, resend
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.dead_letters import (
    DeadLetter,
    DeadLetterFile,
    MemoryDeadLetters,
    dead_letter,
    dead_letters_in,
)
from autopack.telemetry.event.schema import Rejected
from autopack.telemetry.stores.sqlite import SqliteStore


def letter(number: int, **fields: Any) -> DeadLetter:
    return dead_letter(Rejected("wrong", {"number": number, **fields}, 1_766_500_000_000_000_000, number), kind="data")


def numbers(dead_letters: DeadLetterFile) -> list[int | None]:
    return [None if found is None else found.event["number"] for found in dead_letters.read()]


def no_sleep(_seconds: float) -> None:
    """A lock that is never given up shall not make the test wait."""


def store_at(database: Path) -> SqliteStore:
    return SqliteStore(parse_database_url(f"sqlite:///{database}"))


def test_a_dead_letter_says_what_why_when_and_how_often(database: Path, database_url: str) -> None:
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(predicted_output_tokens=-5, attributes={"git": "1"}))
    (found,) = dead_letters_of(database)
    assert found["event"] == {**event(predicted_output_tokens=-5), "attributes": {"git": "1"}}
    assert found["reason"] == "Expected `int` >= 0 - at `predicted_output_tokens`"
    assert (found["kind"], found["code"], found["attempts"]) == ("invalid", None, 0)
    assert found["at"].endswith("Z")
    assert found["event_uid"].split("-")[2].startswith("7")


def test_hostile_content_stays_one_line_of_valid_json(database: Path, database_url: str) -> None:
    hostile = 'a"b\\c\nd\re\u2028f\x1b[31m\u202eg\x00</script>'
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(phase_id=hostile, deliverables=[hostile], attributes={hostile: hostile}))
        misspelt: Any = {hostile: hostile}
        telemetry.record(**misspelt)
    lines = dead_letter_file(database).read_bytes().split(b"\n")
    assert len(lines) == 3
    assert lines[2] == b""
    assert json.loads(lines[0])["event"]["phase_id"] == hostile
    assert json.loads(lines[1])["event"][hostile] == hostile
    assert not any(b"\x1b" in line or b"\0" in line for line in lines)


def test_the_log_line_of_a_dead_letter_is_safe_for_a_terminal(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line of a dead letter holds nothing that a terminal acts upon."""
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(**{"\x1b[31m\u202e\n": 1}))
    said = "".join(caplog.messages)
    assert "dead letters" in said
    assert not {"\x1b", "\u202e", "\n"} & set(said)


def test_the_file_is_capped_and_what_finds_no_place_is_counted(tmp_path: Path) -> None:
    """The size of the file is capped, and what finds no place is counted."""
    dead_letters = DeadLetterFile(tmp_path / "folder", max_bytes=1000)
    lost = dead_letters.append([letter(number) for number in range(10)])
    kept = numbers(dead_letters)
    assert kept == list(range(10 - lost))
    assert 0 < len(kept) < 10
    assert dead_letters.path.stat().st_size <= 1000
    assert dead_letters.append([letter(1, text="x" * 1000)]) == 1


@pytest.fixture
def _never_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What found no room is not offered again by the clock within a test."""
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "3600")


def record_bad_and_good(telemetry: Telemetry, count: int) -> None:
    for number in range(count):
        assert telemetry.record(**event(phase_id=f"bad{number}", predicted_output_tokens=-1))
        assert telemetry.record(**event(phase_id=f"good{number}"))


@pytest.mark.parametrize("keyword", [True, False], ids=["given by keyword", "given by the environment"])
@pytest.mark.usefixtures("_never_again_by_itself")
def test_beyond_the_cap_refused_events_stay_in_the_journal(
    database: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    keyword: bool,
) -> None:
    """All others become rows. The next writer, with more room, finds every one of them, once."""
    if not keyword:
        monkeypatch.setenv("TELEMETRY_DEAD_LETTER_BYTES", "20000")
    with Telemetry(database_url, dead_letter_bytes=20_000 if keyword else None) as telemetry:
        record_bad_and_good(telemetry, 1000)
        wait_for(telemetry, written=1000)
        assert not telemetry.flush(0)
    stats = telemetry.stats()
    assert (stats.written, stats.dead_lettered + stats.pending) == (1000, 1000)
    assert stats.pending == stats.dead_letters_waiting > 900
    assert stats.dead_letters_lost == 0
    assert dead_letter_file(database).stat().st_size <= 20_000
    assert "has reached its 20000 bytes" in caplog.text
    assert f"{stats.pending} not written, kept in" in caplog.text
    monkeypatch.delenv("TELEMETRY_DEAD_LETTER_BYTES", raising=False)
    with Telemetry(database_url) as later:
        later.record(**event())
        assert later.flush(30)
    assert {found["event"]["phase_id"] for found in dead_letters_of(database)} == {f"bad{n}" for n in range(1000)}
    assert len(dead_letters_of(database)) == 1000
    assert len(phases_of(database)) == 1001


@pytest.mark.usefixtures("_never_again_by_itself")
def test_room_that_a_person_makes_is_used_at_the_next_flush(database: Path, database_url: str) -> None:
    with Telemetry(database_url, dead_letter_bytes=5_000) as telemetry:
        record_bad_and_good(telemetry, 10)
        wait_for(telemetry, lambda stats: stats.dead_letters_waiting > 0, written=10)
        DeadLetterFile(dead_letter_file(database).parent).claim()
        assert telemetry.flush(30)
        assert telemetry.stats().dead_lettered == 10
        assert telemetry.stats().dead_letters_waiting == 0


@pytest.mark.usefixtures("_never_again_by_itself")
def test_letters_without_room_are_offered_at_a_bounded_rate(
    database: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an interval, at a flush and at the end, however many events come meanwhile."""
    dead_letter_file(database).mkdir(parents=True, mode=0o700)
    offers: list[int] = []
    append = DeadLetterFile.append

    def counted(self: DeadLetterFile, letters: Sequence[DeadLetter]) -> int:
        offers.append(len(letters))
        return append(self, letters)

    monkeypatch.setattr(DeadLetterFile, "append", counted)
    telemetry = Telemetry(database_url, batch_size=1)
    record_bad_and_good(telemetry, 20)
    wait_for(telemetry, written=20, dead_letters_waiting=20)
    assert len(offers) == 1
    telemetry.flush(0)
    wait_for(telemetry, lambda _: len(offers) == 2)
    telemetry.close(5)
    assert len(offers) == 3
    assert telemetry.stats().pending == 20


@pytest.mark.usefixtures("_never_again_by_itself")
def test_in_memory_only_the_close_says_that_they_are_lost(
    database_url: str, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They keep their places in the queue until then, and are tried again: nothing else can be done."""
    dead_letter_file(database).mkdir(parents=True, mode=0o700)
    with Telemetry(database_url, journal_dir=None) as telemetry:
        record_bad_and_good(telemetry, 5)
        wait_for(telemetry, written=5)
    assert telemetry.stats().pending == 5
    assert "5 not written, LOST with this process, 5 of the former refused, without room" in caplog.text


@pytest.mark.parametrize("fault", ["short write", "no write", "fsync"])
def test_a_disk_that_fills_up_in_the_middle_keeps_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """However many bytes of a batch find room: what is said to be kept is there, whole and in order, and no more."""
    write = os.write
    dead_letters = DeadLetterFile(tmp_path)
    dead_letters.append([letter(100)])
    size = dead_letters.path.stat().st_size
    failing: dict[str, Callable[[int], None]] = {
        "short write": lambda room: monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:room])),
        "no write": lambda _room: monkeypatch.setattr(os, "write", no_space),
        "fsync": lambda _room: monkeypatch.setattr(os, "fsync", no_space),
    }
    for room in range(0, 3 * size, 7):
        before = numbers(dead_letters)
        with monkeypatch.context():
            failing[fault](room)
            not_kept = dead_letters.append([letter(number) for number in range(4)])
            monkeypatch.undo()
        added = numbers(dead_letters)[len(before) :]
        if fault == "fsync":
            assert (not_kept, added) == (4, [0, 1, 2, 3]), "it may be on the disk, or not"
        else:
            assert added == list(range(4 - not_kept))
    assert dead_letters.append([letter(0)]) == 0


def no_space(*_arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_letter_larger_than_the_cap_is_kept_alone(tmp_path: Path) -> None:
    dead_letters = DeadLetterFile(tmp_path, max_bytes=1000)
    assert dead_letters.append([letter(0, text="x" * 2000), letter(1)]) == 1
    assert numbers(dead_letters) == [0]


def test_a_line_that_a_crash_has_torn_costs_only_itself(tmp_path: Path) -> None:
    dead_letters = DeadLetterFile(tmp_path)
    dead_letters.append([letter(0), letter(1)])
    with dead_letters.path.open("r+b") as file:
        file.truncate(dead_letters.path.stat().st_size - 20)
    dead_letters.append([letter(2)])
    assert numbers(dead_letters) == [0, None, 2]


@pytest.mark.parametrize(
    "junk", [b"\n\n  \n", b"[]\n", b"null\n", b"\xff\xfe\n", b"{}\n", b'{"event": 1}\n', b"\0" * 50]
)
def test_junk_in_the_file_costs_only_itself(tmp_path: Path, junk: bytes) -> None:
    dead_letters = DeadLetterFile(tmp_path)
    dead_letters.append([letter(0)])
    with dead_letters.path.open("ab") as file:
        file.write(junk)
    dead_letters.append([letter(1)])
    assert [number for number in numbers(dead_letters) if number is not None] == [0, 1]


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "folder", "fifo"])
def test_what_stands_in_place_of_the_file_is_not_followed(
    database: Path, database_url: str, tmp_path: Path, kind: str
) -> None:
    """Whatever stands in place of the file is not followed; the event stays in the journal until it is gone."""
    victim = tmp_path / "victim"
    file = dead_letter_file(database)
    file.parent.mkdir(mode=0o700)
    if kind == "link":
        victim.write_text("untouched")
    make: dict[str, Callable[[], object]] = {
        "link": lambda: file.symlink_to(victim),
        "link to nowhere": lambda: file.symlink_to(victim),
        "folder": file.mkdir,
        "fifo": lambda: os.mkfifo(file),
    }
    make[kind]()
    with Telemetry(database_url) as telemetry:
        telemetry.record(**event(run_id=None))
        telemetry.record(**event())
    stats = telemetry.stats()
    assert (stats.written, stats.dead_lettered, stats.pending, stats.dead_letters_waiting) == (1, 0, 1, 1)
    assert victim.exists() == (kind == "link")
    assert kind != "link" or victim.read_text() == "untouched"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_place_of_the_folder_is_not_followed(
    database: Path, database_url: str, tmp_path: Path, kind: str
) -> None:
    """Whatever stands in place of the folder is not followed, and it is said that there is no room."""
    folder = dead_letter_file(database).parent
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        folder.symlink_to(elsewhere)
    else:
        folder.write_text("mine")
    with Telemetry(database_url, journal_dir=tmp_path / "journal") as telemetry:
        telemetry.record(**event(run_id=None))
        telemetry.record(**event())
    stats = telemetry.stats()
    assert (stats.written, stats.dead_lettered, stats.pending, stats.dead_letters_waiting) == (1, 0, 1, 1)
    assert list(elsewhere.iterdir()) == []
    assert phases_of(database) == ["p1"]


@pytest.mark.slow
def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    run_python(
        """
        os.umask(0)
        from autopack.telemetry import Telemetry
        with Telemetry(f"sqlite:///{sys.argv[1]}/new/x.db") as telemetry:
            telemetry.record(**event())
            telemetry.record(**event(run_id=None))
            assert telemetry.flush(30)
            for folder, _, names in os.walk(sys.argv[1] + "/new"):
                for name, wanted in [(".", 0o700), *((name, 0o600) for name in names)]:
                    mode = os.stat(os.path.join(folder, name)).st_mode & 0o7777
                    assert mode == wanted, (folder, name, oct(mode))
                    print(name)
        """,
        tmp_path,
    )
    assert stat.S_IMODE((tmp_path / "new" / "x.db").stat().st_mode) == 0o600


def test_two_processes_that_append_at_once_keep_every_line_whole(tmp_path: Path) -> None:
    code = """
        from pathlib import Path
        from tests.telemetry.engine.test_dead_letters import letter
        from autopack.telemetry.engine.dead_letters import DeadLetterFile
        dead_letters = DeadLetterFile(Path(sys.argv[1]))
        start = int(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        lost = sum(dead_letters.append([letter(start + turn), letter(start + turn + 1)]) for turn in range(0, 400, 2))
        assert lost == 0, lost
    """
    children = [start_python(code, tmp_path, str(number * 1000)) for number in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    found = numbers(DeadLetterFile(tmp_path))
    assert sorted(map(int, filter(lambda n: n is not None, found))) == [*range(400), *range(1000, 1400)]  # type: ignore[arg-type]


def test_what_is_claimed_is_out_of_the_way_of_those_that_append(tmp_path: Path) -> None:
    dead_letters = DeadLetterFile(tmp_path)
    dead_letters.append([letter(0)])
    (claimed,) = dead_letters.claim()
    dead_letters.append([letter(1)])
    assert [found.event["number"] for found in dead_letters_in(claimed) if found] == [0]
    assert numbers(dead_letters) == [0, 1], "a reader sees both, oldest first"
    first, second = dead_letters.claim()
    assert first == claimed
    assert [found.event["number"] for found in dead_letters_in(second) if found] == [1]
    assert dead_letters.claim() == [first, second]


def test_nothing_to_claim_is_no_error(tmp_path: Path) -> None:
    dead_letters = DeadLetterFile(tmp_path / "nowhere")
    assert dead_letters.claim() == []
    assert list(dead_letters.read()) == []


def test_appending_while_others_claim_loses_no_line(tmp_path: Path) -> None:
    dead_letters = DeadLetterFile(tmp_path)
    over = threading.Event()

    def claim() -> None:
        while not over.is_set():
            dead_letters.claim()

    claimer = threading.Thread(target=claim)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    claimer.start()
    try:
        lost = sum(dead_letters.append([letter(number)]) for number in range(200))
    finally:
        over.set()
        claimer.join()
        sys.setswitchinterval(before)
    assert lost == 0
    assert sorted(filter(lambda n: n is not None, numbers(dead_letters))) == list(range(200))  # type: ignore[type-var]


def test_a_lock_that_is_never_released_costs_letters_not_the_worker(tmp_path: Path) -> None:
    """A lock that is never given up costs the dead letters, not the worker."""
    holder, other = DeadLetterFile(tmp_path), DeadLetterFile(tmp_path, sleep=no_sleep)
    with holder._opened():
        assert other.append([letter(1)]) == 1
    assert other.append([letter(2)]) == 0
    assert numbers(other) == [2]


def test_in_memory_the_newest_are_kept_and_the_forgotten_counted() -> None:
    dead_letters = MemoryDeadLetters(limit=3)
    assert dead_letters.append([letter(number) for number in range(2)]) == 0
    assert dead_letters.append([letter(number) for number in range(2, 5)]) == 0
    assert dead_letters.forgotten == 2
    assert [found.event["number"] for found in dead_letters.letters] == [2, 3, 4]


async def test_a_retry_writes_what_is_good_now_and_keeps_the_rest(database: Path, database_url: str) -> None:
    """A retry writes what is good now under its own id, and keeps the rest."""
    store = RefusingStore(store_at(database), bad=lambda row: row.phase_id in {"curable", "incurable"})
    with Telemetry(store) as telemetry:
        for phase in ("good", "curable", "incurable"):
            telemetry.record(**event(phase_id=phase))
        telemetry.record(**event(phase_id="invalid", success="maybe"))
    letters = {found["event"]["phase_id"]: found for found in dead_letters_of(database)}
    assert letters.keys() == {"curable", "incurable", "invalid"}
    dead_letters = DeadLetterFile(dead_letter_file(database).parent)
    again = RefusingStore(store_at(database), bad=lambda row: row.phase_id == "incurable")
    assert await resend(dead_letters, again) == Redelivered(written=1, duplicates=0, kept=2)
    assert phases_of(database) == ["good", "curable"]
    left = {found["event"]["phase_id"]: found for found in dead_letters_of(database)}
    assert left.keys() == {"incurable", "invalid"}
    assert {phase: found["event_uid"] for phase, found in left.items()} == {
        phase: letters[phase]["event_uid"] for phase in left
    }
    assert (left["incurable"]["attempts"], letters["incurable"]["attempts"]) == (2, 1)
    assert [path.name for path in dead_letters.path.parent.iterdir() if "retrying" in path.name] == []


async def test_a_retry_that_was_cut_off_can_be_repeated_without_doubling(database: Path) -> None:
    store = RefusingStore(store_at(database), bad=lambda _row: True)
    with Telemetry(store) as telemetry:
        telemetry.record(**event())
    dead_letters = DeadLetterFile(dead_letter_file(database).parent)
    text = dead_letters.path.read_text()
    assert await resend(dead_letters, store_at(database)) == Redelivered(1, 0, 0)
    dead_letters.path.with_suffix(".1-1.retrying").write_text(text)
    assert await resend(dead_letters, store_at(database)) == Redelivered(0, 1, 0)
    assert phases_of(database) == ["p1"]
    assert list(dead_letters.read()) == []
