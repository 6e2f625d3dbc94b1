"""Import: what logs and exports say is in the database once, and what is not is in a file with its reason."""

import io
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.misbehaving_stores import FlakyStore, RefusingStore, WrappedStore
from tests.read_side import autopack, autopack_process, environment, event, make_database
from tests.recorded import RecordedRun
from tests.write_side import event as fields_of_an_event
from tests.write_side import rows_of

from autopack.analysis.reading.lines import LONGEST_LINE_BYTES, bounded_lines
from autopack.errors import StoreUnusableError
from autopack.maintenance.import_lines import FileReader
from autopack.maintenance.import_rows import NoEvent, RowMaker
from autopack.maintenance.importing import Imported, import_stream
from autopack.maintenance.rejects import RejectFile
from autopack.models import TokenEstimationV2Event
from autopack.telemetry.event.schema import as_read

FIELDS = (
    "predicted_output=822 actual_output=3137 smape=116.9% selected_budget=12288 category=implementation "
    "complexity=medium deliverables=2 success=True stop_reason=end_turn truncated=False model=claude-sonnet-4-5"
)
LINE = f"[2025-12-23 22:07:12] INFO: [TokenEstimationV2] {FIELDS}"
RECORD: dict[str, Any] = fields_of_an_event() | {
    "timestamp": "2025-12-29T19:40:01.000123+00:00",
    "deliverable_count": 2,
}


def ndjson(*records: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def lines_of(data: str | bytes, **options: Any) -> list[Any]:
    """The lines, with the row of each as people read it."""
    raw = data.encode() if isinstance(data, str) else data
    lines = FileReader(**options).read(bounded_lines(io.BytesIO(raw).readline))
    return [replace(line, row=as_read(line.row)) if line.row else line for line in lines]


def reason(data: str | bytes, **options: Any) -> str:
    (line,) = lines_of(data, **options)
    assert line.row is None
    return str(line.reason)


def stored(database: Path) -> int:
    """How many events are in the database, which may be in the middle of being made."""
    try:
        return len(rows_of(database))
    except sqlite3.OperationalError:
        return 0


def rejects_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def imported(data: str, rejects: Path, store: WrappedStore) -> Imported:
    with RejectFile(rejects) as file:
        return await import_stream(io.BytesIO(data.encode()), "events", FileReader(), file, store)


def test_a_line_of_a_log_becomes_a_row(tmp_path: Path, database: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(f"INFO: something else\n{LINE}\n")
    done = autopack("import", log, database=database)
    assert (done.returncode, done.stderr) == (0, f"# Database: sqlite:///{database}\n")
    assert done.stdout == f"{log} (log): 1 events: 1 written, 0 were there already; 0 rejected, 1 other lines\n"
    (row,) = rows_of(database)
    assert row["run_id"] == "imported-log-2025-12-23"
    assert row["phase_id"].startswith("line-")
    assert row["timestamp"] == "2025-12-23 22:07:12.000000"
    assert (row["predicted_output_tokens"], row["actual_output_tokens"], row["selected_budget"]) == (822, 3137, 12288)
    assert (row["deliverable_count"], row["deliverables_json"]) == (2, "[]")
    assert (row["smape_percent"], row["waste_ratio"], row["underestimated"]) == (116, 26, 1)
    assert (row["attributes_json"], row["existing_json"]) == (None, None)


def test_the_same_file_twice_changes_nothing(tmp_path: Path, database: Path) -> None:
    log, export = tmp_path / "build.log", tmp_path / "events.ndjson"
    log.write_text(f"{LINE}\n{LINE}\n")
    export.write_text(ndjson(RECORD, RECORD, RECORD | {"phase_id": "p2"}))
    first = autopack("import", log, export, database=database)
    before = rows_of(database)
    second = autopack("import", log, export, database=database)
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(before) == 5
    assert rows_of(database) == before
    assert "2 events: 0 written, 2 were there already" in second.stdout
    assert "3 events: 0 written, 3 were there already" in second.stdout


def test_the_same_line_twice_is_two_events_and_two_phases() -> None:
    for text in (f"{LINE}\n{LINE}\n", ndjson(RECORD, RECORD)):
        first, second = (line.row for line in lines_of(text))
        assert first is not None
        assert second is not None
        assert first.event_uid != second.event_uid
        assert (first.phase_id != second.phase_id) == text.startswith("[")


def test_the_id_follows_from_what_a_line_says_not_its_form() -> None:
    """The id follows from what a line says, not from how it is written."""
    other_form = f"2025-12-23 22:07:12,000 - autopack - INFO - [TokenEstimationV2] {FIELDS}\r\n"
    reordered = ndjson(dict(reversed(RECORD.items())) | {"smape_percent": 66.7, "existing": None, "waste_ratio": None})
    for one, other in ((LINE, other_form), (ndjson(RECORD), reordered)):
        (first,), (second,) = lines_of(one), lines_of(other)
        assert first.row is not None
        assert first.row == second.row


def test_every_field_counts_for_the_id() -> None:
    others = {str: "other", bool: False, int: 7, list: []}
    changes = [{name: others[type(value)]} for name, value in RECORD.items() if name != "timestamp"]
    changes += [{"timestamp": "2025-12-30"}, {"truncated": True}, {"existing": []}, {"attributes": {}}]
    changes = [change for change in changes if RECORD | change != RECORD]
    uids = {line.row.event_uid for change in [{}, *changes] for line in lines_of(ndjson(RECORD | change)) if line.row}
    assert len(uids) == len(changes) + 1


@pytest.mark.parametrize("change", [field for field in FIELDS.split() if not field.startswith("smape=")])
def test_every_field_of_a_log_line_counts_for_the_id(change: str) -> None:
    name, _, value = change.partition("=")
    other = {"True": "False", "False": "True"}.get(value, "7")
    uids = {line.row.event_uid for line in lines_of(f"{LINE}\n{LINE.replace(change, f'{name}={other}')}") if line.row}
    assert len(uids) == 2


def test_log_lines_of_a_day_are_a_run_and_each_is_a_phase() -> None:
    later = LINE.replace("3137", "3138"), LINE.replace("12-23", "12-24")
    rows = [line.row for line in lines_of("\n".join([LINE, *later])) if line.row]
    assert [row.run_id for row in rows] == [f"imported-log-2025-12-{day}" for day in (23, 23, 24)]
    assert len({row.phase_id for row in rows}) == 3


def test_a_total_and_a_simulated_model_stay_recognisable() -> None:
    """A total is marked as one, and a simulated model stays recognisable."""
    total = LINE.replace("actual_output", "actual_total").replace("claude-sonnet-4-5", "simulated-claude")
    (line,) = lines_of(total)
    assert line.row is not None
    assert (line.row.attributes_json, line.row.model) == ('{"usage":"total"}', "simulated-claude")


def test_a_line_without_a_time_needs_one_and_keeps_its_id() -> None:
    """A line without a time needs one to be assumed, and keeps its id whatever that time is."""
    assert "--assume-time" in reason(f"[TokenEstimationV2] {FIELDS}")
    rows = [
        line.row
        for year in (2024, 2025)
        for line in lines_of(f"[TokenEstimationV2] {FIELDS}", assumed_time=datetime(year, 1, 1, tzinfo=UTC))
        if line.row
    ]
    assert [row.timestamp.year for row in rows] == [2024, 2025]
    assert [row.run_id for row in rows] == ["imported-log", "imported-log"]
    assert rows[0].event_uid == rows[1].event_uid


def odd_rows() -> list[TokenEstimationV2Event]:
    return [
        event(1),
        event(2, model="simulated-claude", phase_id='</script>\u202e\x1b[31m"', existing_json='["src/app.py"]'),
        event(3, truncated=True, stop_reason="max_tokens", actual_max_tokens=16384, input_tokens=7, duration_ms=0),
        event(4, actual_output_tokens=0, smape_percent=None, waste_ratio=None, underestimated=None, stop_reason=None),
        event(5, deliverable_count=31, deliverables_json=json.dumps([f"src/{n}.py" for n in range(20)])),
        event(6, deliverable_count=0, deliverables_json="[]", existing_json="[]", attributes_json="{}"),
        event(7, attributes_json='{"git":"3f2a91c","retry":2,"share":0.1,"cache":true,"none":null}'),
    ]


def test_an_export_that_is_imported_and_exported_again_is_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    make_database(first, odd_rows())
    autopack("export", "--output", tmp_path / "first.ndjson", database=first)
    done = autopack("import", tmp_path / "first.ndjson", database=second)
    autopack("export", "--output", tmp_path / "second.ndjson", database=second)
    assert done.returncode == 0
    assert (tmp_path / "first.ndjson").read_bytes().count(b"\n") == len(odd_rows())
    assert (tmp_path / "first.ndjson").read_bytes() == (tmp_path / "second.ndjson").read_bytes()


def test_what_is_in_the_database_is_not_written_by_its_own_export(tmp_path: Path, database: Path) -> None:
    make_database(database, odd_rows())
    autopack("export", "--output", tmp_path / "events.ndjson", database=database)
    done = autopack("import", tmp_path / "events.ndjson", database=database)
    assert "7 events: 0 written, 7 were there already" in done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("not json", "not valid JSON"),
        ('{"run_id": NaN}', "not valid JSON"),
        ('{"run_id": "torn', "not valid JSON"),
        ("[]", "no JSON object"),
        ("[" * 100_000, "not valid JSON"),
        (ndjson(RECORD | {"timestamp": None}), "timestamp is missing"),
        (ndjson(RECORD | {"timestamp": 5}), "timestamp is no text"),
        (ndjson(RECORD | {"timestamp": "yesterday"}), "is not an ISO date"),
        (ndjson(RECORD | {"timestamp": "1969-12-31"}), "outside the years"),
        (ndjson(RECORD | {"timestamp": "9999-12-31T23:59:59Z"}), "outside the years"),
        (ndjson(RECORD | {"predicted_output_tokens": -5}), "`predicted_output_tokens`"),
        (ndjson(RECORD | {"actual_output_tokens": 2**53}), "`actual_output_tokens`"),
        (ndjson(RECORD | {"actual_output_tokens": 10**400}), "actual_output_tokens"),
        (ndjson(RECORD | {"actual_output_tokens": 1.5}), "`actual_output_tokens`"),
        (ndjson(RECORD | {"success": 1}), "`success`"),
        (ndjson(RECORD | {"run_id": "x" * 501}), "`run_id`"),
        (ndjson(RECORD | {"run_id": None}), "`run_id`"),
        (ndjson({name: value for name, value in RECORD.items() if name != "model"}), "model is missing"),
        (ndjson(RECORD | {"phase_id": "a\0b"}), "a NUL character"),
        (ndjson(RECORD | {"deliverables": ["a\0b"]}), "a NUL character"),
        (ndjson(RECORD | {"phase_id": "\ud800"}), ""),
        (ndjson(RECORD | {"deliverable_count": 1}), "2 deliverables are listed"),
        (ndjson(RECORD | {"deliverable_count": True}), "deliverable_count"),
        (ndjson(RECORD | {"deliverable_count": 2**60}), "deliverable_count"),
        (ndjson(RECORD | {"deliverables": [None, {"a": object.__name__}, [[True]]], "x": 1}), "unknown field 'x'"),
        (ndjson(RECORD | {"event_uid": "x" * 37}), "event_uid"),
        (ndjson(RECORD | {"event_uid": ""}), "event_uid"),
        (ndjson(RECORD | {"event_uid": 5}), "event_uid"),
        (ndjson(RECORD | {"event_uid": "a\0"}), "event_uid"),
        (ndjson(RECORD | {"attributes": {"a": [1]}}), "attributes"),
        (ndjson(RECORD | {"deliverables": ["x" * (300 << 10)]}), "larger than 256 KiB"),
        ('{"a": "' + "x" * LONGEST_LINE_BYTES + '"}', "longer than 2 MiB"),
    ],
    ids=lambda value: value[:30] if len(value) < 60 else None,
)
def test_a_line_that_is_no_event_says_why_and_costs_only_itself(line: str, expected: str) -> None:
    """A line of an export that is no event says why, and costs only itself."""
    first, bad, last = lines_of(ndjson(RECORD) + line.strip() + "\n" + ndjson(RECORD))
    assert (first.row is None, bad.row is None, last.row is None) == (False, True, False)
    assert expected in bad.reason
    assert bad.number == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (LINE.encode().replace(b"medium", b"med\xffium"), "not UTF-8: byte 0xff"),
        (LINE.replace("medium", "med\0ium").encode(), "complexity: a NUL character"),
        (LINE.replace("medium", "x" * 501).encode(), "`complexity`"),
        (LINE.replace("model=", "category=x model=").encode(), "there twice"),
        (LINE.replace("3137", "-1").encode(), "has a value that it cannot have"),
        (LINE.encode() + b" " * LONGEST_LINE_BYTES, "longer than 2 MiB"),
        (LINE.replace("2025", "1925").encode(), "outside the years"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_of_a_log_that_is_no_event_says_why(line: bytes, expected: str) -> None:
    assert expected in reason(b"a line\n" + line)


@given(st.binary() | st.text().map(lambda text: f"{{{text}".encode()) | st.just(LINE.encode()).map(bytes.upper))
def test_no_bytes_raise(data: bytes) -> None:
    lines_of(data)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5),
    st.sampled_from([*RECORD, "event_uid", "existing", "attributes"]),
)
def test_no_value_of_a_field_raises(value: Any, name: str) -> None:
    (line,) = lines_of(ndjson(RECORD | {name: value}))
    assert (line.row is None) == bool(line.reason)


def test_a_file_is_what_its_first_line_says_unless_it_is_said(tmp_path: Path, database: Path) -> None:
    headed = f"# header\n\n{ndjson(RECORD)}garbage\n"
    assert [line.row is None for line in lines_of(headed)] == [False, True]
    torn_first = f"orn line\n{ndjson(RECORD)}"
    assert lines_of(torn_first) == []
    assert [line.row is None for line in lines_of(torn_first, wanted="ndjson")] == [True, False]
    (tmp_path / "torn").write_text(torn_first)
    done = autopack("import", tmp_path / "torn", database=database)
    assert done.returncode == 1
    assert f"problem: no event in {tmp_path / 'torn'}; --format says what it is\n" in done.stdout


def test_rejects_never_replace_a_file_that_is_imported(tmp_path: Path, database: Path) -> None:
    export = tmp_path / "events.ndjson"
    export.write_text("no event\n")
    done = autopack("import", export, "--rejects", export, database=database)
    assert done.returncode == 2
    assert "would replace a file that is imported" in done.stderr
    assert export.read_text() == "no event\n"


def test_rejected_lines_are_in_a_private_file_with_their_reasons(tmp_path: Path, database: Path) -> None:
    export = tmp_path / "events.ndjson"
    export.write_bytes(ndjson(RECORD).encode() + b'{"\xff\n' + ndjson(RECORD | {"model": None}).encode())
    done = autopack("import", export, database=database)
    rejects = tmp_path / "events.ndjson.rejects.ndjson"
    assert done.returncode == 1
    assert f"problem: 2 line(s) rejected, see {rejects}\n" in done.stdout
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    first, second = rejects_in(rejects)
    assert first["line"] == 2
    assert first["text"] == '{"\\xff'
    assert (second["file"], second["line"]) == (str(export), 3)
    assert "`model`" in second["reason"]
    assert json.loads(second["text"]) == RECORD | {"model": None}
    assert len(rows_of(database)) == 1


def test_rejects_go_where_they_are_asked_to(tmp_path: Path, database: Path) -> None:
    (tmp_path / "a").write_text("{}\n")
    autopack("import", tmp_path / "a", "--rejects", tmp_path / "why", database=database)
    assert len(rejects_in(tmp_path / "why")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "why"]


def test_without_rejects_there_is_no_file_of_them(tmp_path: Path, database: Path) -> None:
    (tmp_path / "a").write_text(ndjson(RECORD))
    autopack("import", tmp_path / "a", database=database)
    assert sorted(path.name for path in tmp_path.glob("a*")) == ["a"]


def test_a_dry_run_touches_no_database_and_says_what_would_be(tmp_path: Path, database: Path) -> None:
    (tmp_path / "a").write_text(ndjson(RECORD, RECORD) + "{}\n")
    done = autopack("import", "--dry-run", tmp_path / "a", database=database)
    assert done.returncode == 1
    assert "2 events would be imported, but for those that are there already; 1 rejected" in done.stdout
    assert not database.exists()
    assert not database.with_name("events.db.telemetry").exists()


def test_json_for_programs_says_the_same(tmp_path: Path, database: Path) -> None:
    (tmp_path / "a").write_text(f"other\n{LINE}\n")
    (tmp_path / "b").write_text(ndjson(RECORD | {"event_uid": "x"}, RECORD | {"event_uid": "x"}) + "{}\n")
    done = autopack("import", "--json", tmp_path / "a", tmp_path / "b", database=database)
    rejects = str(tmp_path / "a.rejects.ndjson")
    counts = {"lines": 3, "events": 2, "written": 1, "duplicates": 1, "rejected": 1, "passed_over": 0}
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "database": f"sqlite:///{database}",
        "dry_run": False,
        "files": [
            {
                "file": str(tmp_path / "a"),
                "format": "log",
                "lines": 2,
                "events": 1,
                "written": 1,
                "duplicates": 0,
                "rejected": 0,
                "passed_over": 1,
            },
            {"file": str(tmp_path / "b"), "format": "ndjson", **counts},
        ],
        "rejects": rejects,
        "problems": [f"1 line(s) rejected, see {rejects}"],
    }


@pytest.mark.slow
def test_standard_input_is_a_file_like_any_other(tmp_path: Path, database: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autopack.cli", "import", "-"],
        input=f"{ndjson(RECORD)}{{}}\n",
        env=environment(database),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("- (ndjson): 1 events: 1 written")
    assert len(rejects_in(tmp_path / "stdin.rejects.ndjson")) == 1


def test_hostile_names_are_shown_harmlessly(tmp_path: Path, database: Path) -> None:
    hostile = tmp_path / "a\x1b[31m\n.log"
    hostile.write_text("nothing")
    done = autopack("import", hostile, database=database)
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_file_that_is_not_there_is_a_wrong_command_line(tmp_path: Path, database: Path) -> None:
    done = autopack("import", tmp_path / "none", database=database)
    assert done.returncode == 2
    assert not database.exists()


def test_nothing_is_imported_into_a_database_that_is_gone_afterwards(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(ndjson(RECORD))
    done = autopack("import", tmp_path / "a", database="sqlite://")
    assert (done.returncode, done.stdout) == (1, "")
    assert "a database in memory" in done.stderr


@pytest.mark.slow
def test_an_interrupted_import_is_completed_by_the_next(tmp_path: Path, database: Path) -> None:
    fifo = tmp_path / "a"
    os.mkfifo(fifo)
    lines = [ndjson(RECORD | {"event_uid": str(number)}) for number in range(4_000)]
    process = subprocess.Popen(
        [sys.executable, "-m", "autopack.cli", "import", "--format", "ndjson", fifo], env=environment(database)
    )
    with fifo.open("w") as end:
        end.writelines([*lines[:3_000], "{}\n"])
        end.flush()
        while not (database.exists() and stored(database)):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert sorted(path.name for path in tmp_path.iterdir() if "reject" in path.name) == []
    (tmp_path / "b").write_text("".join(lines))
    autopack("import", tmp_path / "b", database=database)
    assert stored(database) == 4_000


@pytest.mark.slow
def test_a_database_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(ndjson(RECORD))
    (tmp_path / "no.db").write_text("this is no database, " * 100)
    done = autopack_process("import", tmp_path / "a", database=tmp_path / "no.db")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "Error: the database cannot be written (DatabaseError SQLITE_NOTADB)"
    )


async def test_what_the_database_refuses_is_rejected_and_the_others_land(tmp_path: Path) -> None:
    records = [RECORD | {"phase_id": f"p{number}", "event_uid": f"u{number}"} for number in range(100)]
    store = RefusingStore(bad=lambda row: row.phase_id in {"p0", "p50", "p99"})
    found = await imported(ndjson(*records), tmp_path / "rejects", store)
    assert (found.events, found.written, found.duplicates, found.rejected) == (97, 97, 0, 3)
    assert [(reject["line"], reject["reason"]) for reject in rejects_in(tmp_path / "rejects")] == [
        (line, "the database refused it: CHECK") for line in (1, 51, 100)
    ]
    assert len(store.rows) == 97


async def test_a_busy_database_is_tried_again_and_nothing_is_doubled(tmp_path: Path) -> None:
    store = FlakyStore(failures=2, after_write=True)
    found = await imported(ndjson(RECORD, RECORD), tmp_path / "rejects", store)
    assert store.writes == 3
    assert (found.events, found.written, found.duplicates, len(store.rows)) == (2, 0, 2, 2)


async def test_a_database_that_cannot_be_used_ends_it(tmp_path: Path) -> None:
    store = FlakyStore(failures=9, error=lambda: StoreUnusableError("no table"))
    with pytest.raises(StoreUnusableError):
        await imported(ndjson(RECORD), tmp_path / "rejects", store)
    assert store.writes == 1


@pytest.mark.slow
async def test_rows_are_written_in_batches(tmp_path: Path) -> None:
    store = WrappedStore()
    records = [RECORD | {"event_uid": str(number)} for number in range(store.max_batch_rows * 2 + 1)]
    found = await imported(ndjson(*records), tmp_path / "rejects", store)
    assert (found.written, store.writes) == (len(records), 3)


async def test_a_batch_of_huge_lines_is_a_small_one(tmp_path: Path) -> None:
    store = WrappedStore()
    huge = [RECORD | {"event_uid": str(n), "deliverables": ["x" * 200_000]} for n in range(100)]
    found = await imported(ndjson(*huge), tmp_path / "rejects", store)
    assert found.written == 100
    assert store.writes == 3


def test_a_record_without_deliverables_has_none() -> None:
    (line,) = lines_of(ndjson(RECORD | {"deliverables": None, "deliverable_count": 3}))
    assert line.row is not None
    assert (line.row.deliverable_count, line.row.deliverables_json) == (3, "[]")


def test_a_maker_says_no_with_an_exception_of_its_own() -> None:
    with pytest.raises(NoEvent):
        RowMaker().from_export(b"{}")


def test_the_recorded_log_is_imported_completely(tmp_path: Path, database: Path, recorded: RecordedRun) -> None:
    log = tmp_path / "copy.log"
    shutil.copyfile(recorded.log, log)
    done = autopack("import", log, database=database)
    assert done.returncode == 0
    rows = rows_of(database)
    assert len({(row["run_id"], row["phase_id"]) for row in rows}) == 31
    assert len({row["event_uid"] for row in rows}) == 31
    replayed = json.loads(autopack("replay", "--json", database=database).stdout)
    from_log = json.loads(autopack("replay", "--json", "--source", "log", log).stdout)
    assert replayed["overall"] == from_log["overall"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, database: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    (folder / "a").write_text("{}\n")
    folder.chmod(0o500)
    done = autopack("import", folder / "a", database=database)
    folder.chmod(0o700)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
