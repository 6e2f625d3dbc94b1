"""Log lines as loggers, terminals, collectors and other systems leave them: the same events as the plain lines."""

import bz2
import codecs
import gzip
import json
import lzma
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.analysis.test_logs import FIELDS, LINE, RECORD
from tests.read_side import autopack

from autopack.analysis.reading.logs import TAG, logged, parse_line

MESSAGE = f"{TAG} {FIELDS}"
AT = "2025-12-23 22:07:12"
QUOTED = MESSAGE.replace("claude-sonnet-4-5", 'a\\"b')
WRAPPED = {
    "colours": f"\x1b[2m[{AT}]\x1b[0m \x1b[32mINFO\x1b[0m: {TAG} {FIELDS}\x1b[0m",
    "colours in fields": LINE.replace("model=", "\x1b[1mmodel\x1b[0m=\x1b[36m") + "\x1b[0m\x1b[K",
    "a link": LINE.replace("[TokenE", "\x1b]8;;http://x/\x07[TokenE") + "\x1b]8;;\x1b\\",
    "rsyslog's colours": f"#033[32m[{AT}]#033[0m {MESSAGE}#033[0m",
    "logfmt": f'time="{AT}" level=info msg="{MESSAGE}" logger=autopack',
    "logfmt, the message last": f'time={AT.replace(" ", "T")}Z level=info msg="{MESSAGE}"',
    "JSON": json.dumps({"time": AT, "message": MESSAGE, "level": "INFO"}),
    "JSON of structlog": json.dumps({"event": MESSAGE, "timestamp": "2025-12-23T22:07:12Z", "logger": "x"}),
    "JSON of Docker": json.dumps({"log": f"[{AT}] INFO: {MESSAGE}\n", "stream": "stdout"}),
    "JSON with colours": json.dumps({"time": AT, "message": f"\x1b[32m{MESSAGE}\x1b[0m"}),
    "JSON of a cloud": json.dumps({"jsonPayload": {"message": MESSAGE}, "timestamp": "2025-12-23T22:07:12+00:00"}),
    "JSON of journald": json.dumps({"__REALTIME_TIMESTAMP": "1766527632000000", "MESSAGE": MESSAGE}),
    "JSON with seconds": json.dumps({"ts": 1766527632, "msg": MESSAGE}),
    "JSON with milliseconds": json.dumps({"ts": 1766527632000, "msg": MESSAGE}),
    "JSON behind a time": f"{AT} app " + json.dumps({"level": "INFO", "message": MESSAGE, "pid": 7}),
    "JSON in a JSON text": f"{AT} app " + json.dumps({"line": json.dumps({"message": MESSAGE, "pid": 7})}),
    "a zone of digits": f"2025-12-24T07:07:12+0900 host build[7]: {MESSAGE}",
    "a zone behind a blank": f"2025-12-23 15:07:12,000 -0700 INFO {MESSAGE}",
    "a zone of hours": f"2025-12-23 15:07:12-07 INFO {MESSAGE}",
    "a zone by its name": f"{AT} UTC INFO {MESSAGE}",
    "journald around a clock of its own": f"2025-12-24T07:07:12+0900 host x[7]: 2025-12-24 07:07:12,004 - {MESSAGE}",
}


@pytest.mark.parametrize("line", WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_line_is_the_record_in_it(line: str) -> None:
    assert parse_line(line) == RECORD


def test_the_escapes_of_a_quoted_message_are_undone() -> None:
    record = parse_line(f'time="{AT}" msg="{QUOTED}" pid=7')
    assert record is not None
    assert record.model == 'a"b'


def test_a_mark_that_is_never_closed_ends_nothing() -> None:
    record = parse_line(f'[{AT}] he said " {MESSAGE}')
    assert record == RECORD


def test_a_zone_that_leaves_the_calendar_is_no_time() -> None:
    record = parse_line(f"0001-01-01T00:00:00+0900 {MESSAGE}")
    assert record is not None
    assert record.at is None


def test_a_clock_without_a_zone_is_left_alone() -> None:
    record = parse_line(f"2025-12-23 22:07:12,427 - 1234 - INFO - {MESSAGE}")
    assert record is not None
    assert record.at == datetime(2025, 12, 23, 22, 7, 12, 427_000)  # noqa: DTZ001 (a log's clock names no zone)


@given(st.text() | st.text(alphabet='{}[]":\\\x1b#0123m,= '))
def test_whatever_stands_around_never_raises(text: str) -> None:
    for line in (text + MESSAGE, MESSAGE + text, json.dumps({"message": text + MESSAGE}), "{" + text + MESSAGE):
        parse_line(line)


def test_that_a_record_could_not_be_written_is_no_record() -> None:
    lines = [f"[{AT}] WARNING: {TAG} Failed to write DB telemetry: OperationalError".encode(), LINE.encode()]
    assert list(logged(lines)) == [RECORD]


def imported(path: Path, *files: Path) -> dict[str, int]:
    done = autopack("import", "--json", *files, database=path)
    found = json.loads(done.stdout)["files"]
    return {name: sum(file[name] for file in found) for name in ("events", "written", "duplicates", "rejected")}


def test_a_coloured_copy_is_a_duplicate(tmp_path: Path) -> None:
    plain, coloured = tmp_path / "plain.log", tmp_path / "coloured.log"
    plain.write_text(LINE + "\n")
    coloured.write_text(WRAPPED["colours"] + "\n")
    found = imported(tmp_path / "x.db", plain, coloured)
    assert found == {"events": 2, "written": 1, "duplicates": 1, "rejected": 0}
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        models = connection.execute("SELECT model FROM token_estimation_v2_events").fetchall()
    assert models == [("claude-sonnet-4-5",)]


def test_the_log_of_a_json_logger_is_told_from_an_export(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(json.dumps({"message": "begin"}) + "\n" + WRAPPED["JSON"] + "\n")
    assert imported(tmp_path / "x.db", log)["written"] == 1


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF16_LE + (LINE + "\r\n").encode("utf-16-le"),
        codecs.BOM_UTF16_BE + (LINE + "\r\n").encode("utf-16-be"),
        gzip.compress(LINE.encode() + b"\n"),
        gzip.compress(LINE.encode()[:50]) + gzip.compress(LINE.encode()[50:]),
        gzip.compress(codecs.BOM_UTF16_LE + LINE.encode("utf-16-le")),
    ],
    ids=["UTF-16", "UTF-16 BE", "gzip", "gzip in two parts", "gzip of UTF-16"],
)
def test_what_other_programs_write_is_read(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "build.log"
    log.write_bytes(content)
    assert imported(tmp_path / "x.db", log) == {"events": 1, "written": 1, "duplicates": 0, "rejected": 0}
    replayed = autopack("replay", "--source", "log", log)
    assert replayed.returncode == 0, replayed.stderr


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (lzma.compress(LINE.encode()), "compressed by xz"),
        (bz2.compress(LINE.encode()), "compressed by bzip2"),
        (b"\x28\xb5\x2f\xfd....", "compressed by zstd"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"SQLite format 3\0....", "a SQLite database"),
        (gzip.compress(LINE.encode() * 99)[:-20], "its gzip data cannot be unpacked to the end"),
        (gzip.compress(gzip.compress(LINE.encode())), "no event in"),
    ],
    ids=["xz", "bzip2", "zstd", "ZIP", "SQLite", "torn gzip", "gzip twice"],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    file = tmp_path / "build.log"
    file.write_bytes(content)
    done = autopack("import", file, database=tmp_path / "x.db")
    assert done.returncode == 1
    assert name in done.stdout + done.stderr
    assert str(file) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
