import csv
import io
import json
import os
import pty
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import host_system
from tests.read_side import ROOT, START, autopack, environment, event, make_database

from autopack._util.files import atomic_write
from autopack.analysis.exporting.text import encoded_lines
from autopack.analysis.reading.reader import BLOCK_ROWS
from autopack.analysis.reading.records import (
    COLUMNS,
    KINDS,
    RECORD_FIELDS,
    EventRecord,
    Unreadable,
    records_of,
)
from autopack.analysis.reading.rows import open_events
from autopack.analysis.reading.selection import Selection, parse_instant
from autopack.database.destination import Destination, parse_database_url
from autopack.errors import ReadError
from autopack.telemetry.event.schema import FIELD_NAMES

CAPTURED = FIELD_NAMES[FIELD_NAMES.index("provider") :]
PLAN_FIELDS = [
    "run_id",
    "phase_id",
    "timestamp",
    "category",
    "complexity",
    "deliverable_count",
    "deliverables",
    "predicted_output_tokens",
    "actual_output_tokens",
    "selected_budget",
    "success",
    "truncated",
    "stop_reason",
    "model",
    "smape_percent",
    "waste_ratio",
    "underestimated",
]

# The host system's own programs, as its plan prints them.
PLAN_EXPORT = '''
"""
Export TokenEstimationV2 telemetry from database to NDJSON for analysis.
"""
import json
from autopack.database import SessionLocal
from autopack.models import TokenEstimationV2Event

def main():
    session = SessionLocal()
    try:
        events = session.query(TokenEstimationV2Event).order_by(TokenEstimationV2Event.timestamp.desc()).all()

        print(f"# TokenEstimationV2 Telemetry Export")
        print(f"# Total events: {len(events)}")
        print()

        for event in events:
            deliverables = json.loads(event.deliverables_json)
            record = {
                "run_id": event.run_id,
                "phase_id": event.phase_id,
                "timestamp": event.timestamp.isoformat(),
                "category": event.category,
                "complexity": event.complexity,
                "deliverable_count": event.deliverable_count,
                "deliverables": deliverables,
                "predicted_output_tokens": event.predicted_output_tokens,
                "actual_output_tokens": event.actual_output_tokens,
                "selected_budget": event.selected_budget,
                "success": event.success,
                "truncated": event.truncated,
                "stop_reason": event.stop_reason,
                "model": event.model,
                "smape_percent": event.smape_percent,
                "waste_ratio": event.waste_ratio / 100.0 if event.waste_ratio else None,
                "underestimated": event.underestimated,
            }
            print(json.dumps(record))
    finally:
        session.close()

if __name__ == "__main__":
    main()
'''
PLAN_CHECK = """
from autopack.database import SessionLocal
from autopack.models import TokenEstimationV2Event
session = SessionLocal()
count = session.query(TokenEstimationV2Event).count()
print(f'TokenEstimationV2 events in DB: {count}')
if count > 0:
    latest = session.query(TokenEstimationV2Event).order_by(TokenEstimationV2Event.timestamp.desc()).first()
    print(f'Latest event: {latest.phase_id}, {latest.category}/{latest.complexity}, {latest.deliverable_count} deliverables')
session.close()
"""  # noqa: E501 (as the host system's plan prints it)


def strict_json(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    value = json.loads(line, parse_constant=refuse)
    assert isinstance(value, dict)
    return value


def records_in(text: str) -> list[dict[str, Any]]:
    return [strict_json(line) for line in text.splitlines()]


def read(destination: Destination, selection: Selection = Selection()) -> list[EventRecord]:  # noqa: B008 (frozen)
    with open_events(destination, selection) as events:
        records = list(events.records)
        assert len(records) == events.total
        return records


@pytest.fixture
def database(tmp_path: Path) -> Path:
    make_database(tmp_path / "events.db", [event(1), event(2, waste_ratio=123), event(3, underestimated=True)])
    return tmp_path / "events.db"


@pytest.mark.slow
def test_the_hosts_export_script_runs_unchanged_and_agrees(database: Path, tmp_path: Path) -> None:
    """The host system's own export script runs unchanged, and agrees with `autopack export`."""
    script = tmp_path / "plan_export.py"
    script.write_text(PLAN_EXPORT)
    run = [sys.executable, str(script)]
    printed = subprocess.run(run, env=environment(database), capture_output=True, check=True, text=True).stdout
    header, total, blank, *lines = printed.splitlines()
    assert (header, total, blank) == ("# TokenEstimationV2 Telemetry Export", "# Total events: 3", "")
    ours = records_in(autopack("export", database=database).stdout)
    assert [dict(list(record.items())[:17]) for record in ours] == records_in("\n".join(lines))
    assert [record["waste_ratio"] for record in ours] == [2.0, 1.23, 2.0]


def test_the_hosts_own_check_runs_unchanged(database: Path) -> None:
    run = [sys.executable, "-c", PLAN_CHECK]
    printed = subprocess.run(run, env=environment(database), capture_output=True, check=True, text=True).stdout
    assert printed == "TokenEstimationV2 events in DB: 3\nLatest event: p3, implementation/medium, 2 deliverables\n"


@pytest.mark.slow
def test_script_and_command_write_the_same_lines_newest_first(database: Path) -> None:
    """The script and the command write the same lines, the newest first, and headers on standard error."""
    command = autopack("export", database=database)
    script = subprocess.run(
        [sys.executable, ROOT / "scripts" / "export_token_estimation_telemetry.py"],
        env=environment(database),
        capture_output=True,
        check=False,
        text=True,
    )
    assert (script.returncode, script.stdout, script.stderr) == (0, command.stdout, command.stderr)
    assert [record["phase_id"] for record in records_in(command.stdout)] == ["p3", "p2", "p1"]
    assert command.stderr == (
        f"# Database: sqlite:///{database}\n# TokenEstimationV2 Telemetry Export\n# Total events: 3\n"
    )


def test_a_record_has_the_hosts_fields_then_the_added_ones(database: Path) -> None:
    """A record has the host system's fields in the host system's order, and then the added ones."""
    record = records_in(autopack("export", database=database).stdout)[0]
    assert list(record)[: len(PLAN_FIELDS)] == PLAN_FIELDS
    assert list(record)[len(PLAN_FIELDS) :] == [
        "event_uid",
        "actual_max_tokens",
        "input_tokens",
        "duration_ms",
        "existing",
        "attributes",
        *CAPTURED,
    ]
    assert record["timestamp"] == "2025-12-29T19:40:04+00:00"
    assert record["deliverables"] == ["src/app.py", "tests/test_app.py"]
    assert (record["success"], record["truncated"], record["underestimated"]) == (True, False, True)


def test_the_added_fields_are_decoded(tmp_path: Path) -> None:
    row = event(1, existing_json='["src/app.py"]', attributes_json='{"git": "3f2a91c"}', input_tokens=7, duration_ms=9)
    (record,) = read(make_database(tmp_path / "x.db", [row]))
    assert (record.existing, record.attributes) == (["src/app.py"], {"git": "3f2a91c"})
    assert (record.input_tokens, record.duration_ms, record.actual_max_tokens) == (7, 9, None)


def test_events_of_one_instant_are_ordered_by_their_id(tmp_path: Path) -> None:
    destination = make_database(tmp_path / "x.db", [event(n, timestamp=START) for n in (2, 3, 1)])
    assert [record.phase_id for record in read(destination)] == ["p3", "p2", "p1"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(run_ids=("a",)), ["p4", "p1"]),
        (Selection(run_ids=("a", "b")), ["p4", "p2", "p1"]),
        (Selection(categories=("testing",)), ["p3"]),
        (Selection(models=("haiku",), run_ids=("a",)), ["p4"]),
        (Selection(since=START + timedelta(seconds=2)), ["p4", "p3", "p2"]),
        (Selection(until=START + timedelta(seconds=2)), ["p1"]),
        (Selection(limit=1), ["p4"]),
        (Selection(limit=9), ["p4", "p3", "p2", "p1"]),
        (Selection(run_ids=("nobody",)), []),
    ],
)
def test_a_selection_holds_for_count_and_records_alike(
    tmp_path: Path, selection: Selection, expected: list[str]
) -> None:
    rows = [
        event(1, run_id="a"),
        event(2, run_id="b"),
        event(3, run_id="c", category="testing"),
        event(4, run_id="a", model="haiku"),
    ]
    assert [record.phase_id for record in read(make_database(tmp_path / "x.db", rows), selection)] == expected


def test_the_options_select_and_repeat(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(n, run_id=f"r{n}") for n in range(1, 6)])
    options = "--run-id r1 --run-id r4 --run-id r5 --since 2025-12-29 --until 2025-12-29T20:40:06+01:00 --limit 1"
    done = autopack("export", *options.split(), database=tmp_path / "x.db")
    assert [record["run_id"] for record in records_in(done.stdout)] == ["r4"]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2025-12-29", datetime(2025, 12, 29, tzinfo=UTC)),
        ("2025-12-29T19:40:01", datetime(2025, 12, 29, 19, 40, 1, tzinfo=UTC)),
        ("2025-12-29 20:40:01+01:00", datetime(2025, 12, 29, 19, 40, 1, tzinfo=UTC)),
        ("2025-12-29T19:40:01Z", datetime(2025, 12, 29, 19, 40, 1, tzinfo=UTC)),
    ],
)
def test_an_instant_without_a_zone_is_utc(text: str, instant: datetime) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize("text", ["yesterday", "", "0001-01-01T00:00:00+14:00", "2025-02-30", "\x1b[31m"])
def test_what_is_no_instant_is_a_usage_error_in_one_line(database: Path, text: str) -> None:
    done = autopack("export", "--since", text, database=database)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not an ISO date or time" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_csv_is_read_back_by_a_strict_reader(tmp_path: Path) -> None:
    hostile = 'a "quoted", text\r\nwith\nbreaks\x00'
    make_database(tmp_path / "x.db", [event(1, phase_id=hostile, smape_percent=None), event(2)])
    done = subprocess.run(
        [sys.executable, "-m", "autopack.cli", "export", "--format", "csv"],
        env=environment(tmp_path / "x.db"),
        capture_output=True,
        check=True,
    )
    header, newest, oldest = csv.reader(io.StringIO(done.stdout.decode(), newline=""), strict=True)
    assert header == list(RECORD_FIELDS)
    assert oldest[1] == hostile
    assert dict(zip(header, newest, strict=True)) | {"event_uid": ""} == {
        "run_id": "nightly",
        "phase_id": "p2",
        "timestamp": "2025-12-29T19:40:03+00:00",
        "category": "implementation",
        "complexity": "medium",
        "deliverable_count": "2",
        "deliverables": '["src/app.py","tests/test_app.py"]',
        "predicted_output_tokens": "5200",
        "actual_output_tokens": "2600",
        "selected_budget": "8192",
        "success": "true",
        "truncated": "false",
        "stop_reason": "end_turn",
        "model": "claude-sonnet-4-5",
        "smape_percent": "66",
        "waste_ratio": "2.0",
        "underestimated": "false",
        "event_uid": "",
        "actual_max_tokens": "",
        "input_tokens": "",
        "duration_ms": "",
        "existing": "",
        "attributes": "",
        **dict.fromkeys(CAPTURED, ""),
    }
    assert oldest[header.index("smape_percent")] == ""
    assert done.stdout.count(b"\r\n") == 4  # three rows, and the one inside a quoted cell


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_formula_for_a_spreadsheet_is_shielded_unless_raw(tmp_path: Path, start: str) -> None:
    """Text that a spreadsheet takes for a formula is shielded, unless raw text is asked for."""
    name = f"{start}cmd|' /C calc'!A0"
    make_database(tmp_path / "x.db", [event(1, phase_id=name, predicted_output_tokens=-5)])
    for options, cell in (([], f"'{name}"), (["--raw"], name)):
        output = tmp_path / "out.csv"
        autopack("export", "--format", "csv", "--output", output, *options, database=tmp_path / "x.db")
        _, row = csv.reader(io.StringIO(output.read_bytes().decode(), newline=""), strict=True)
        assert row[1] == cell
        assert row[7] == "-5"


STORED = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1) | st.none() | st.floats()
RECORDS = st.builds(lambda values: records_of([values], Unreadable())[0], st.tuples(*[STORED for _ in COLUMNS]))
INSTANTS = st.datetimes() | st.datetimes(timezones=st.just(UTC))
FORMS = ("isoformat", " ", "%Y-%m-%d %H:%M:%S,%f", "%G-W%V-%u %H:%M:%S.%f", "%Y%m%dT%H%M%S.%f", "%Y-%m-%d")
TIMES = st.builds(
    lambda at, form: at.strftime(form) if "%" in form else at.isoformat(*[" "] * (form == " ")),
    INSTANTS,
    st.sampled_from(FORMS),
)
ODD_ROWS = st.tuples(
    *[
        {
            "timestamp": TIMES | STORED,
            "deliverables_json": st.sampled_from(['["a"]', '[ "a" ]', "[1e5]", "[", b"[1]", b"\xff", None, 1, 1.0]),
            "success": st.sampled_from([0, 1, 7, True, 1.0, "1", None]),
            "waste_ratio": st.sampled_from([0, 133, 1.5, "200", True, None]),
        }.get(name, st.just(name))
        for name in COLUMNS
    ]
)


def one_by_one(row: tuple[Any, ...], unreadable: Unreadable) -> EventRecord:
    """The record of a row, value by value, as an export was made before it was made by columns."""
    values, bad = list(row), False
    for number, name in enumerate(RECORD_FIELDS):
        value = values[number]
        if KINDS[name] == "truth" and type(value) is int:
            values[number] = bool(value)
        elif KINDS[name] in {"paths", "tags"} and value is not None:
            try:
                values[number] = msgspec.json.decode(value)
            except (msgspec.MsgspecError, TypeError):
                values[number], bad = None, True
        elif name == "waste_ratio":
            values[number] = value / 100 if type(value) in {int, float} else None
        elif name == "timestamp":
            try:
                at = datetime.fromisoformat(value)
                values[number] = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
            except (TypeError, ValueError, OverflowError):
                values[number] = None
    unreadable.rows += bad or values[RECORD_FIELDS.index("timestamp")] is None
    return EventRecord(*values)


@given(st.lists(ODD_ROWS, min_size=1, max_size=5))
def test_records_by_columns_are_those_made_one_by_one(rows: list[tuple[Any, ...]]) -> None:
    by_columns, single = Unreadable(), Unreadable()
    found = records_of(rows, by_columns)
    expected = [one_by_one(row, single) for row in rows]
    assert [msgspec.json.encode(record) for record in found] == [msgspec.json.encode(record) for record in expected]
    assert by_columns.rows == single.rows


@pytest.mark.slow
@given(st.lists(RECORDS, max_size=4))
def test_whatever_a_row_holds_both_formats_stay_valid(records: list[EventRecord]) -> None:
    encoded = b"".join(encoded_lines(records, "ndjson", raw=False, to_terminal=False))
    lines = encoded.splitlines()
    assert encoded.count(b"\n") == len(lines) == len(records)
    assert all(list(strict_json(line.decode())) == list(RECORD_FIELDS) for line in lines)
    text = b"".join(encoded_lines(records, "csv", raw=False, to_terminal=False)).decode()
    assert {len(row) for row in csv.reader(io.StringIO(text, newline=""), strict=True)} == {len(RECORD_FIELDS)}


@pytest.mark.parametrize(
    "broken",
    [
        {"deliverables_json": "[not json"},
        {"deliverables_json": "[NaN]"},
        {"attributes_json": '{"a": }'},
        {"existing_json": "[" * 100_000},
    ],
)
def test_an_unreadable_value_costs_its_field_and_is_said(tmp_path: Path, broken: dict[str, str]) -> None:
    make_database(tmp_path / "x.db", [event(1), event(2, **broken), event(3)])
    done = autopack("export", database=tmp_path / "x.db")
    assert done.returncode == 0
    assert records_in(done.stdout)[1][next(iter(broken)).removesuffix("_json")] is None
    assert len(done.stdout.splitlines()) == 3
    assert "Warning: 1 events have an unreadable" in done.stderr


def test_what_other_programs_stored_does_not_stop_the_export(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(n) for n in range(1, 5)])
    with sqlite3.connect(tmp_path / "x.db") as connection:
        for column, value in (
            ("timestamp", "'soon'"),
            ("phase_id", "CAST(x'ff41' AS TEXT)"),
            ("waste_ratio", "'high'"),
            ("deliverable_count", "9e999"),
        ):
            number = connection.execute("SELECT count(*) FROM token_estimation_v2_events WHERE success = 7").fetchone()
            uid = f"%{number[0] + 1}"
            connection.execute(
                f"UPDATE token_estimation_v2_events SET {column} = {value}, success = 7 WHERE event_uid LIKE ?", [uid]
            )
    connection.close()
    done = autopack("export", database=tmp_path / "x.db")
    assert done.returncode == 0, done.stderr
    found = {record["event_uid"][-1]: record for record in records_in(done.stdout)}
    assert found["1"]["timestamp"] is None
    assert found["2"]["phase_id"] == "\ufffdA"
    assert found["3"]["waste_ratio"] is None
    assert found["4"]["deliverable_count"] is None


@pytest.mark.slow
def test_names_cannot_act_on_the_terminal_that_shows_the_export(tmp_path: Path) -> None:
    name = "\x1b[2J\x9b31m\u202egnp.exe\x7f"
    make_database(tmp_path / "x.db", [event(1, phase_id=name, category="[bold]x")])
    done = autopack("export", database=tmp_path / "x.db")
    assert done.stdout.rstrip("\n").isprintable()
    assert records_in(done.stdout)[0]["phase_id"] == name
    shown = on_a_terminal("export", "--format", "csv", database=tmp_path / "x.db")
    assert "\\x1b[2J\\x9b31m\\u202egnp.exe\\x7f" in shown
    assert not {"\x1b", "\x9b", "\u202e", "\x7f"} & set(shown)


def on_a_terminal(*arguments: str, database: Path) -> str:
    """What a terminal gets to see of standard output; standard error is not one."""
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0) as reading:
        with subprocess.Popen(
            [sys.executable, "-m", "autopack.cli", *arguments],
            env=environment(database),
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.DEVNULL,
        ) as process:
            os.close(terminal)
            shown = b"".join(until_hang_up(reading))
        assert process.returncode == 0
    return shown.decode()


def until_hang_up(terminal: io.FileIO) -> Iterator[bytes]:
    try:
        while block := terminal.read(4096):
            yield block
    except OSError:  # EIO: how Linux says that nobody has the other end any more
        return


def test_the_output_file_is_private_and_nothing_is_left_beside_it(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "events.ndjson").write_text("old and longer than nothing")
    done = autopack("export", "--output", folder / "events.ndjson", database=database)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(records_in((folder / "events.ndjson").read_text())) == 3
    assert stat.S_IMODE((folder / "events.ndjson").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["events.ndjson"]


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("before")

    def write_and_fail() -> None:
        with atomic_write(tmp_path / "events") as file:
            file.write(b"half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert [path.name for path in tmp_path.iterdir()] == ["events"]
    assert (tmp_path / "events").read_text() == "before"


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_is_not_a_regular_file_is_refused_and_left_alone(database: Path, tmp_path: Path, kind: str) -> None:
    target, output = tmp_path / "target", tmp_path / "output"
    target.write_text("precious")
    match kind:
        case "link":
            output.symlink_to(target)
        case "directory":
            output.mkdir()
        case _:
            os.mkfifo(output)
    before = output.lstat().st_ino
    done = autopack("export", "--output", output, database=database)
    assert done.returncode == 1
    assert "give the path of a file" in done.stderr
    assert "Traceback" not in done.stderr
    assert (output.lstat().st_ino, target.read_text()) == (before, "precious")


def test_a_place_where_nothing_can_be_written_is_one_clear_line(database: Path, tmp_path: Path) -> None:
    done = autopack("export", "--output", tmp_path / "no" / "such" / "x", database=database)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"Error: {tmp_path}/no/such/x: No such file or directory"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["export", "status"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_one_clear_line(database: Path, command: str, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "autopack.cli", command],
            env=environment(database, PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: [Errno 28] No space left on device"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "rows", "lines"),
    [("export", 3, 0), ("export", 2_000, 1), ("export", 2_000, 0), ("status", 1, 0), ("replay", 1, 0)],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(
    tmp_path: Path, command: str, rows: int, lines: int, unbuffered: str
) -> None:
    make_database(tmp_path / "x.db", [event(n) for n in range(rows)])
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as reader,
        subprocess.Popen(
            [sys.executable, "-m", "autopack.cli", command],
            env=environment(tmp_path / "x.db", PYTHONUNBUFFERED=unbuffered),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        os.close(writing)
        if lines:
            assert reader.read(10) == b'{"run_id":'
        reader.close()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line for line in errors.splitlines() if not line.startswith("# ")] == []


def test_zero_events_are_said_and_are_no_error(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db")
    done = autopack("export", database=tmp_path / "x.db")
    assert (done.returncode, done.stdout) == (0, "")
    assert "# Total events: 0" in done.stderr
    assert "No events" in done.stderr


def test_a_missing_database_is_said_and_not_created(tmp_path: Path) -> None:
    done = autopack("export", database=tmp_path / "x.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no database at {tmp_path}/x.db" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_the_table_is_said_and_not_changed(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "x.db").execute("CREATE TABLE other (a)").connection.close()
    before = (tmp_path / "x.db").read_bytes()
    done = autopack("export", database=tmp_path / "x.db")
    assert done.returncode == 1
    assert "has no table token_estimation_v2_events" in done.stderr
    assert (tmp_path / "x.db").read_bytes() == before


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is a text file, which somebody took for a database" * 99)
    done = autopack("export", database=tmp_path / "x.db")
    assert done.returncode == 1
    assert "file is not a database" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_in_memory_has_nothing_to_export() -> None:
    with pytest.raises(ReadError, match="in memory"), open_events(parse_database_url("sqlite://")):
        pass


def test_reading_leaves_no_file_and_sees_what_a_killed_writer_did(tmp_path: Path) -> None:
    """Reading leaves no file behind, and sees what a killed writer committed."""
    path = tmp_path / "x.db"
    make_database(path, [event(1)])
    killed = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('UPDATE token_estimation_v2_events SET phase_id = ?', ['late']); c.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed, path], check=True)
    assert (tmp_path / "x.db-wal").stat().st_size > 0
    assert [record.phase_id for record in read(parse_database_url(f"sqlite:///{path}"))] == ["late"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.db"]


def test_a_reader_and_a_writer_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A reader and a writer do not wait for each other, and the reader sees one snapshot."""
    rows = 2 * BLOCK_ROWS + 1
    destination = make_database(tmp_path / "x.db", [event(n) for n in range(rows)])
    with (
        open_events(destination) as events,
        sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None) as writer,
    ):
        writer.execute("DELETE FROM token_estimation_v2_events WHERE phase_id = 'p0'")
        first = next(events.records)
        writer.execute("DELETE FROM token_estimation_v2_events")
        assert 1 + len(list(events.records)) == events.total == rows
    writer.close()
    assert first.phase_id == f"p{rows - 1}"
    assert read(destination) == []


def test_a_host_database_is_exported_with_metrics_in_our_form(tmp_path: Path) -> None:
    """A database of the host system is exported with its metrics in autopack's form."""
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(host_system.ON_SQLITE)
        connection.execute(
            "INSERT INTO token_estimation_v2_events VALUES (1, 'r', 'p', '2025-12-29 19:40:01.000000', 'docs', 'low', "
            "1, '[\"a.md\"]', 3000, 2000, 8192, 16384, 1, 0, 'end_turn', 'm', 40.1, 1.5, 0, 0, NULL, '2025-12-29')"
        )
    connection.close()
    (record,) = read(parse_database_url(f"sqlite:///{path}"))
    assert (record.smape_percent, record.waste_ratio, record.underestimated) == (40, 1.5, False)
    assert (record.event_uid, record.actual_max_tokens, record.existing) == (None, 16384, None)


def test_without_sqlites_helper_files_the_database_is_read_as_it_is(tmp_path: Path) -> None:
    """Where SQLite cannot make its helper files, the database is read as it lies."""
    destination = make_database(tmp_path / "x.db", [event(1)])
    (tmp_path / "x.db-shm").symlink_to("x")  # stops root as well, which a directory without write permission does not
    with pytest.raises(sqlite3.OperationalError), closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("SELECT 1 FROM token_estimation_v2_events")
    assert [record.phase_id for record in read(destination)] == ["p1"]


def test_what_lies_in_a_wal_is_never_left_out_in_silence(tmp_path: Path) -> None:
    destination = make_database(tmp_path / "x.db", [event(1)])
    (tmp_path / "x.db-shm").symlink_to("x")
    (tmp_path / "x.db-wal").write_bytes(b"frames of a writer that died")
    with pytest.raises(ReadError, match="cannot be read"):
        read(destination)


def test_a_name_with_url_characters_names_the_same_file(tmp_path: Path) -> None:
    destination = Destination("sqlite", tmp_path / "100% ?mode=memory#x.db")
    assert destination.path is not None
    make_database(tmp_path / "plain.db", [event(1)])
    (tmp_path / "plain.db").rename(destination.path)
    assert len(read(destination)) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_events(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    make_database(path, [event(0)])
    columns = "event_uid, run_id, " + ", ".join(name for name in COLUMNS if name not in ("event_uid", "run_id"))
    with sqlite3.connect(path) as connection:
        connection.execute(
            f"INSERT INTO token_estimation_v2_events ({columns}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
            f"SELECT i + 1 FROM n WHERE i < 15000) SELECT 'u' || i, {columns.removeprefix('event_uid, ')} "
            "FROM token_estimation_v2_events, n"
        )
    connection.close()
    program = (
        "import tracemalloc; from autopack.analysis.reading.rows import open_events\n"
        "from autopack.analysis.exporting.text import *\n"
        "from autopack.database.destination import current_destination\n"
        "tracemalloc.start()\n"
        "with open_events(current_destination()) as events:\n"
        "    lines = encoded_lines(events.records, 'ndjson', raw=False, to_terminal=False)\n"
        "    count = sum(some.count(b'\\n') for some in lines)\n"
        "print(count, tracemalloc.get_traced_memory()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(path), capture_output=True, check=True)
    count, peak_bytes = map(int, done.stdout.split())
    assert count == 15_001
    assert peak_bytes < 8_000_000  # all rows at once take 15 MB, blocks of them 3


def test_the_documented_fields_are_those_of_the_record() -> None:
    assert tuple(field.name for field in msgspec.structs.fields(EventRecord)) == RECORD_FIELDS


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_export_that_is_stopped_leaves_nothing_behind(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    make_database(tmp_path / "x.db", (event(number, run_id="r" * 200) for number in range(2000)))
    target = tmp_path / "target"
    target.mkdir()
    program = (  # the block size makes it stop in the middle: it waits for a signal there
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have put us into the background
        "from autopack.commands import export as command\n"
        "from autopack.cli import main\n"
        "class Stopping:\n"
        "    def __init__(self, lines): self.lines = iter(lines)\n"
        "    def __iter__(self):\n"
        "        yield next(self.lines)\n"
        "        print('begun', flush=True)\n"
        "        while True: time.sleep(0.05)\n"  # `pause` may begin when the signal has just come
        "command._with_progress = lambda events, *_: Stopping(events.records)\n"
        "main(['export', '--output', sys.argv[1]])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(target / "out")],
        env=environment(tmp_path / "x.db"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert len(list(target.iterdir())) == 1
        process.send_signal(signum)
        try:
            assert process.wait(30) == code
        finally:
            process.kill()
    assert list(target.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, BLOCK_ROWS + 20])
def test_text_that_is_no_unicode_costs_no_row_and_repeats_none(tmp_path: Path, limit: int | None) -> None:
    """Text far down that is no Unicode costs no row, and repeats none."""
    count = 2 * BLOCK_ROWS + 10
    destination = make_database(tmp_path / "x.db", (event(number) for number in range(count)))
    bad = count - BLOCK_ROWS - 5  # in the second block of the newest first
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute(
            f"UPDATE token_estimation_v2_events SET model = CAST(x'ff41' AS TEXT) WHERE phase_id = 'p{bad}'"
        )
    records = read(destination, Selection(limit=limit))
    assert [record.phase_id for record in records] == [f"p{number}" for number in reversed(range(count))][:limit]
    assert [record.phase_id for record in records if record.model == "\ufffdA"] == [f"p{bad}"]
