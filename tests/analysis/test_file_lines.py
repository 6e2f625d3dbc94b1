"""Files that are handed to the read side: what is an event in them, and what a file without one is."""

import io
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.read_side import autopack, environment
from tests.write_side import event

from autopack.analysis.reading.lines import LONGEST_LINE_BYTES, bounded_lines

RECORD = event() | {"timestamp": "2025-12-29T19:40:01+00:00", "deliverable_count": 2}
MARK = b"\xef\xbb\xbf"  # byte order mark of UTF-8
EXPORTED = msgspec.json.encode(RECORD) + b"\n"
LOGGED = (
    b"[2025-12-23 19:47:57] INFO: [TokenEstimationV2] predicted_output=5200 actual_output=4000 selected_budget=12288 "
    b"category=implementation complexity=medium deliverables=2 success=True stop_reason=end_turn truncated=False "
    b"model=claude-sonnet-4-5\n"
)
COMMANDS = {  # and how each ends: where nothing can be read, and where there is nothing
    ("validate", "ndjson"): (66, 2),
    ("validate", "log"): (66, 2),
    ("replay", "ndjson"): (1, 0),
    ("replay", "log"): (1, 0),
    ("calibrate", "ndjson"): (1, 1),
}
each_command = pytest.mark.parametrize(("command", "source"), COMMANDS)


@each_command
@pytest.mark.parametrize(
    "content",
    [b"garbage\nand more\n", b"\xff\xfe\0\1\nx", b'{"run_id": "r"}\n[1]', b"[TokenEstimationV2] torn\nINFO: x\n"],
)
def test_a_file_of_lines_that_are_no_events_cannot_be_read(
    tmp_path: Path, command: str, source: str, content: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"# a header\n\n" + content)
    done = autopack(command, "--source", source, file)
    assert (done.returncode, done.stdout) == (COMMANDS[command, source][0], "")
    assert done.stderr.startswith(f"Error: {file}: none of its 2 line(s) can be read as an event; --source {source} ")
    assert done.stderr.count("\n") == 1


@each_command
@pytest.mark.parametrize("content", [b"", b"\n \n", b"# Total events: 0\n"])
def test_a_file_without_anything_is_no_data(tmp_path: Path, command: str, source: str, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    done = autopack(command, "--source", source, tmp_path / "file")
    assert done.returncode == COMMANDS[command, source][1]
    assert "can be read" not in done.stdout + done.stderr


@each_command
def test_one_event_among_lines_that_are_none_is_read(tmp_path: Path, command: str, source: str) -> None:
    (tmp_path / "file").write_bytes(b"garbage\n" + EXPORTED + LOGGED)
    done = autopack(command, "--json", "--source", source, tmp_path / "file")
    counts = msgspec.json.decode(done.stdout)["counts"]
    assert counts["read"] - counts.get("unreadable", 0) - counts.get("skipped", 0) == 1


def test_simulated_events_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(EXPORTED.replace(b"claude", b"simulated"))
    assert autopack("validate", "--source", "ndjson", tmp_path / "file").returncode == 2


@pytest.mark.slow
def test_standard_input_is_named() -> None:
    run = [sys.executable, "-m", "autopack.cli", "validate", "--source", "ndjson", "-"]
    done = subprocess.run(
        run, input="garbage\n", env=environment(None), capture_output=True, check=False, encoding="utf-8", timeout=60
    )
    assert done.returncode == 66
    assert done.stderr.startswith("Error: standard input: none of its 1 line(s) ")


@each_command
def test_a_byte_order_mark_hides_no_event(tmp_path: Path, command: str, source: str) -> None:
    (tmp_path / "file").write_bytes(MARK + (EXPORTED if source == "ndjson" else LOGGED))
    counts = msgspec.json.decode(autopack(command, "--json", "--source", source, tmp_path / "file").stdout)["counts"]
    assert (counts["read"], counts.get("unreadable", 0) + counts.get("skipped", 0)) == (1, 0)


def test_a_byte_order_mark_hides_no_event_from_an_import(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(MARK + EXPORTED)
    done = autopack("import", file, database=tmp_path / "autopack.db")
    assert (done.returncode, done.stdout) == (
        0,
        f"{file} (ndjson): 1 events: 1 written, 0 were there already; 0 rejected, 0 other lines\n",
    )


@given(st.lists(st.sampled_from([MARK, b"a", b"\n", b"\xef"])).map(b"".join))
def test_lines_are_those_of_the_file_without_the_mark_at_its_start(content: bytes) -> None:
    """Lines are those of the file, without the one byte order mark at its beginning."""
    lines = list(bounded_lines(io.BytesIO(content).readline))
    assert lines == content.removeprefix(MARK).splitlines(keepends=True)


@pytest.mark.parametrize("mark", [b"", MARK])
def test_a_first_line_without_end_is_cut_where_every_line_is(mark: bytes) -> None:
    stream = io.BytesIO(mark + b"x" * (3 * LONGEST_LINE_BYTES) + b"\nb")
    assert list(map(len, bounded_lines(stream.readline))) == [LONGEST_LINE_BYTES, 1]
