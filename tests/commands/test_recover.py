"""`autopack recover` and what `autopack status` says of the write side."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.journals import abandon, folder_of, identity_of, left_behind, make_journal, payload, segments_in
from tests.read_side import autopack, make_database
from tests.write_side import dead_letter_file, phases_of

from autopack.telemetry.engine.dead_letters import MAX_BYTES
from autopack.telemetry.journal.format import FORMAT_VERSION, Header


@pytest.fixture
def journal(database: Path) -> Path:
    """The folder of a journal in which a dead writer left three events."""
    left_behind(folder_of(database), identity_of(database), ["p0", "p1", "p2"])
    return folder_of(database)


def status(database: Path, journal_dir: str = "auto") -> tuple[int, dict[str, Any]]:
    done = autopack("status", "--json", database=database, TELEMETRY_JOURNAL_DIR=journal_dir)
    return done.returncode, json.loads(done.stdout)


def make_newer(path: Path) -> None:
    newer = Header(FORMAT_VERSION + 1, 4096, 0, 0, bytes(16), bytes(32))
    path.write_bytes((newer.pack() * 2).ljust(4096, b"\x01"))


def test_recover_delivers_what_dead_writers_left(database: Path, journal: Path) -> None:
    done = autopack("recover", database=database)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"journal:       {journal}",
        "found:         3 event(s) of dead processes in 1 segment(s)",
        "written:       3",
        "duplicates:    0",
        "dead letters:  0",
        "damaged:       0 record(s)",
        "left:          0",
    ]
    assert phases_of(database) == ["p0", "p1", "p2"]
    assert segments_in(journal) == []


def test_the_example_in_its_help_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"Example: autopack (.+)", autopack("recover", "--help").stdout)
    left_behind(tmp_path / "autopack.db.telemetry", identity_of(tmp_path / "autopack.db"), ["p0"])
    done = autopack(*shlex.split(example), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events"]["written"] == 1


def test_nothing_to_recover_is_no_fault_and_makes_nothing(tmp_path: Path) -> None:
    done = autopack("recover", database=tmp_path / "x.db")
    assert done.returncode == 0
    assert "found:         0 event(s)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_goes_to_the_dead_letters_and_is_counted(database: Path) -> None:
    left = make_journal(folder_of(database), identity_of(database))
    left.append(payload("good"))
    left.append(payload("bad", predicted_output_tokens=-1))
    abandon(left)
    report = json.loads(autopack("recover", "--json", database=database).stdout)
    counts = {name: report["events"][name] for name in ("found", "written", "dead_lettered", "left")}
    assert counts == {"found": 2, "written": 1, "dead_lettered": 1, "left": 0}
    assert dead_letter_file(database).exists()


def test_recovering_twice_writes_nothing_twice(database: Path, journal: Path) -> None:
    (segment,) = segments_in(journal)
    copy = segment.read_bytes()
    autopack("recover", database=database)
    segment.write_bytes(copy)
    report = json.loads(autopack("recover", "--json", database=database).stdout)
    assert (report["events"]["written"], report["events"]["duplicates"]) == (0, 3)
    assert phases_of(database) == ["p0", "p1", "p2"]


def test_events_for_another_database_are_left_alone_unless_asked_for(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for name in ("one", "other"):
        left_behind(journal, identity_of(tmp_path / f"{name}.db"), [name])
    done = autopack("recover", "--journal-dir", journal, database=tmp_path / "one.db")
    assert done.returncode == 0
    assert "its writer is gone, 1 event(s) wait, for another database" in done.stdout
    assert phases_of(tmp_path / "one.db") == ["one"]
    done = autopack("recover", "--journal-dir", journal, "--any-destination", database=tmp_path / "one.db")
    assert done.returncode == 0
    assert phases_of(tmp_path / "one.db") == ["one", "other"]
    assert segments_in(journal) == []


def test_what_stays_is_said_and_is_1(database: Path, journal: Path) -> None:
    database.write_bytes(b"this is no database" * 100)
    done = autopack("recover", "--timeout", "0.2", "--json", database=database)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["left"] == 3
    assert "NOTADB" in report["events"]["last_error"]
    assert len(segments_in(journal)) == 1


def test_a_newer_segment_is_left_alone_with_a_clear_line_and_is_1(database: Path, journal: Path) -> None:
    make_newer(journal / "newer.seg")
    done = autopack("recover", database=database)
    assert done.returncode == 1
    expected = (
        f"newer.seg: no usable segment: format {FORMAT_VERSION + 1} is newer than this program's {FORMAT_VERSION}"
    )
    assert expected in done.stdout
    assert phases_of(database) == ["p0", "p1", "p2"]
    assert (journal / "newer.seg").exists()


def test_a_living_writer_keeps_its_segment(database: Path) -> None:
    living = make_journal(folder_of(database), identity_of(database))
    living.append(payload("mine"))
    done = autopack("recover", database=database)
    assert done.returncode == 0
    assert "its writer lives, 1 event(s) wait" in done.stdout
    assert living.account().pending == 1
    assert len(segments_in(folder_of(database))) == 1
    abandon(living)


def test_a_damaged_file_is_named_and_quarantined(database: Path, journal: Path) -> None:
    (segment,) = segments_in(journal)
    data = bytearray(segment.read_bytes())
    data[data.index(b"p1")] ^= 0xFF
    segment.write_bytes(data)
    done = autopack("recover", database=database)
    assert "damaged:       1 record(s)" in done.stdout
    assert f"quarantined:   {segment.with_suffix('.corrupt').name}" in done.stdout
    assert phases_of(database) == ["p0", "p2"]
    code, report = status(database)
    assert code == 1
    assert report["problems"] == ["1 damaged journal file(s) were quarantined"]


def refusal(*arguments: str, database: Path | str, **changes: str) -> str:
    """What is said where nothing can be recovered: one line."""
    done = autopack("recover", *arguments, database=database, cwd=None, **changes)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()[-1]


def test_what_cannot_be_is_one_clear_line(database: Path) -> None:
    assert "/nowhere/at all is not a folder" in refusal("--journal-dir", "/nowhere/at all", database=database)
    assert "TELEMETRY_JOURNAL_DIR is off" in refusal(database=database, TELEMETRY_JOURNAL_DIR="off")
    assert "TELEMETRY_BATCH_SIZE='many'" in refusal(database=database, TELEMETRY_BATCH_SIZE="many")
    assert "a database in memory has no journal" in refusal(database="sqlite://")
    bad = refusal(database="mysql://u:hunter2@h/x")
    assert "'mysql' is not supported" in bad
    assert "hunter2" not in bad


def test_a_hostile_name_cannot_act_on_the_terminal(database: Path, journal: Path) -> None:
    (journal / "a\x1b[2J\u202e.seg").write_bytes(b"")
    for command in ("recover", "status"):
        done = autopack(command, database=database)
        assert "\\x1b[2J\\u202e.seg: no usable segment" in done.stdout
        assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)


def test_status_counts_what_dead_writers_left_and_is_1_until_then(database: Path, journal: Path) -> None:
    """The status counts what dead writers left, and its exit code is 1 until that is delivered."""
    make_database(database)
    before = {path: path.read_bytes() for path in segments_in(journal)}
    code, report = status(database)
    assert code == 1
    assert (report["waiting"], report["waiting_of_dead_writers"], report["healthy"]) == (3, 3, False)
    assert report["problems"] == ["3 event(s) of dead processes wait in the journal; autopack recover delivers them"]
    assert {path: path.read_bytes() for path in segments_in(journal)} == before, "looking changes nothing"
    autopack("recover", database=database)
    code, report = status(database)
    assert (code, report["waiting"], report["rows"], report["healthy"]) == (0, 0, 3, True)


def test_status_leaves_a_segment_free_for_the_next_writer(database: Path, journal: Path) -> None:
    status(database)
    assert json.loads(autopack("recover", "--json", database=database).stdout)["events"]["written"] == 3


def test_events_of_a_living_writer_and_other_databases_are_healthy(database: Path, tmp_path: Path) -> None:
    """Events of a living writer and of other databases are shown, and count as healthy."""
    make_database(database)
    living = make_journal(folder_of(database), identity_of(database))
    living.append(payload("mine"))
    left_behind(folder_of(database), identity_of(tmp_path / "other.db"), ["a", "b"])
    code, report = status(database)
    abandon(living)
    assert code == 0
    assert (report["waiting"], report["waiting_of_dead_writers"]) == (1, 0)
    assert sorted((f["state"], f["ours"], f["events"]) for f in report["journal"]["files"]) == [
        ("live", True, 1),
        ("orphaned", False, 2),
    ]


def test_dead_letters_are_counted_and_lost_ones_are_a_fault(database: Path) -> None:
    make_database(database)
    left = make_journal(folder_of(database), identity_of(database))
    left.append(payload("bad", predicted_output_tokens=-1))
    abandon(left)
    autopack("recover", database=database)
    code, report = status(database)
    assert (code, report["dead_letters"]) == (0, {"waiting": 1, "unreadable": 0, "full": False})
    with dead_letter_file(database).open("a") as file:
        file.write('{"torn\n')
    code, report = status(database)
    assert (code, report["problems"]) == (1, ["1 dead letter(s) cannot be read"])
    os.truncate(dead_letter_file(database), 0)
    os.truncate(dead_letter_file(database), MAX_BYTES)
    assert (
        "there is no room for further dead letters: refused events stay in the journal"
        in status(database)[1]["problems"]
    )


def test_status_without_a_journal_says_so(database: Path) -> None:
    make_database(database)
    code, report = status(database, "off")
    assert (code, report["journal"]) == (0, None)
    assert "journal:      none" in autopack("status", database=database, TELEMETRY_JOURNAL_DIR="off").stdout
