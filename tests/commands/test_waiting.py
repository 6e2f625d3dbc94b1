"""What the commands that read events say of those that wait in the journal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.journals import abandon, folder_of, identity_of, left_behind, make_journal, payload
from tests.read_side import autopack, event, make_database

NO_FOLLOW = ("tail", "--no-follow")
REPORT = pytest.param(("report",), marks=pytest.mark.needs("plotly"), id="report")
READING = [("export",), ("replay",), ("validate",), ("summary",), REPORT, NO_FOLLOW, ("calibrate",)]
each_command = pytest.mark.parametrize("command", READING, ids=lambda command: command[0])

OF_DEAD = "# Not in the database yet: 3 event(s) of dead processes wait in the journal; autopack recover delivers them"
OF_LIVE = "# Not in the database yet: 2 event(s) of running processes wait in the journal; they are being written"


@pytest.fixture
def filled(database: Path) -> Path:
    """A database with one event."""
    make_database(database, [event(1)])
    return database


@contextmanager
def living_writer(folder: Path, fingerprint: bytes) -> Iterator[None]:
    """A writer that has accepted two events and not written them."""
    journal = make_journal(folder, fingerprint)
    for phase in ("p0", "p1"):
        journal.append(payload(phase))
    try:
        yield
    finally:
        abandon(journal)


@each_command
def test_events_of_dead_writers_are_counted_and_recover_named(
    filled: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    before = autopack(*command, database=filled, cwd=tmp_path)
    left_behind(folder_of(filled), identity_of(filled), ["p0", "p1", "p2"])
    done = autopack(*command, database=filled, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (before.returncode, before.stdout)
    first, *rest = before.stderr.splitlines()
    assert done.stderr.splitlines() == [first, OF_DEAD, *rest]


@each_command
def test_events_of_a_living_writer_are_said_to_be_on_their_way(
    filled: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with living_writer(folder_of(filled), identity_of(filled)):
        done = autopack(*command, database=filled, cwd=tmp_path)
    assert OF_LIVE in done.stderr.splitlines()
    assert "recover" not in done.stderr


def test_both_kinds_are_told_apart(filled: Path) -> None:
    left_behind(folder_of(filled), identity_of(filled), ["p0", "p1", "p2"])
    with living_writer(folder_of(filled), identity_of(filled)):
        done = autopack("export", database=filled)
    assert done.stderr.splitlines()[1:3] == [OF_DEAD, OF_LIVE]


def test_where_no_table_was_made_yet_the_waiting_events_are_said(database: Path) -> None:
    left_behind(folder_of(database), identity_of(database), ["p0", "p1", "p2"])
    done = autopack("export", database=database)
    assert done.returncode == 1
    assert OF_DEAD in done.stderr
    assert "there is no database" in done.stderr


def test_the_journal_that_the_environment_names_is_looked_at(filled: Path, tmp_path: Path) -> None:
    left_behind(tmp_path / "elsewhere", identity_of(filled), ["p0", "p1", "p2"])
    done = autopack("export", database=filled, TELEMETRY_JOURNAL_DIR=str(tmp_path / "elsewhere"))
    assert OF_DEAD in done.stderr


@pytest.mark.parametrize("journal_dir", ["auto", "off"])
def test_without_waiting_events_there_is_no_line_and_nothing_is_made(filled: Path, journal_dir: str) -> None:
    done = autopack("export", database=filled, TELEMETRY_JOURNAL_DIR=journal_dir)
    assert "Not in the database yet" not in done.stderr
    assert not folder_of(filled).exists()


def test_events_for_another_database_are_not_counted(filled: Path, tmp_path: Path) -> None:
    left_behind(folder_of(filled), identity_of(tmp_path / "other.db"), ["p0"])
    assert "Not in the database yet" not in autopack("export", database=filled).stderr


@pytest.mark.parametrize("command", ["replay", "validate", "calibrate"])
def test_a_file_is_read_without_a_look_at_the_journal(filled: Path, tmp_path: Path, command: str) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(autopack("export", database=filled).stdout)
    left_behind(folder_of(filled), identity_of(filled), ["p0", "p1", "p2"])
    done = autopack(command, "--source", "ndjson", file, database=filled)
    assert "Not in the database yet" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"\xff" * 70_000])
def test_a_broken_segment_keeps_nothing_from_being_read(filled: Path, content: bytes) -> None:
    left_behind(folder_of(filled), identity_of(filled), ["p0", "p1", "p2"])
    (folder_of(filled) / "broken.seg").write_bytes(content)
    done = autopack("export", database=filled)
    assert done.returncode == 0
    assert OF_DEAD in done.stderr
    assert done.stdout.count("\n") == 1


def test_a_folder_that_cannot_be_looked_at_is_no_failure(filled: Path) -> None:
    done = autopack("export", database=filled, TELEMETRY_JOURNAL_DIR=f"/{'x' * 300}")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
