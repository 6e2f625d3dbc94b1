"""Parquet: typed columns that another program reads as they were stored. The reader is DuckDB, not the writer."""

import json
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.read_side import START, autopack, environment, event, make_database

from autopack.analysis.exporting.parquet import GROUP_ROWS
from autopack.telemetry.event.schema import FIELD_NAMES, FIELDS

TYPES = {
    "run_id": "VARCHAR",
    "phase_id": "VARCHAR",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "category": "VARCHAR",
    "complexity": "VARCHAR",
    "deliverable_count": "BIGINT",
    "deliverables": "VARCHAR[]",
    "predicted_output_tokens": "BIGINT",
    "actual_output_tokens": "BIGINT",
    "selected_budget": "BIGINT",
    "success": "BOOLEAN",
    "truncated": "BOOLEAN",
    "stop_reason": "VARCHAR",
    "model": "VARCHAR",
    "smape_percent": "BIGINT",
    "waste_ratio": "DOUBLE",
    "underestimated": "BOOLEAN",
    "event_uid": "VARCHAR",
    "actual_max_tokens": "BIGINT",
    "input_tokens": "BIGINT",
    "duration_ms": "BIGINT",
    "existing": "VARCHAR[]",
    "attributes": "MAP(VARCHAR, VARCHAR)",
    "provider": "VARCHAR",
    "call_id": "VARCHAR",
    "attempt": "BIGINT",
    "turn": "BIGINT",
    "reasoning_tokens": "BIGINT",
    "reasoning_level": "VARCHAR",
    "cache_read_tokens": "BIGINT",
    "cache_write_tokens": "BIGINT",
    "estimator": "VARCHAR",
} | {
    field.name: {"text": "VARCHAR", "count": "BIGINT", "truth": "BOOLEAN"}[field.kind]
    for field in FIELDS[FIELD_NAMES.index("estimator") + 1 :]
}
HOSTILE = 'a"b\\c\nd\x1b[31m\u202e</script>é'


def rows_in(files: Path | str, **options: Any) -> list[dict[str, Any]]:
    """What DuckDB reads, newest first; instants as ISO 8601 in UTC."""
    with duckdb.connect(":memory:") as connection:
        found = connection.read_parquet(str(files), **options).order("timestamp DESC")
        found = found.project("* REPLACE (epoch_us(timestamp) AS timestamp)")  # DuckDB's own objects need pytz
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    for row in rows:
        row["timestamp"] = None if row["timestamp"] is None else _iso(row["timestamp"])
    return rows


def _iso(microseconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()


def types_in(file: Path) -> dict[str, str]:
    with duckdb.connect(":memory:") as connection:
        found = connection.read_parquet(str(file))
        return dict(zip(found.columns, map(str, found.types), strict=True))


def exported(database: Path, output: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    return autopack("export", "--format", "parquet", "--output", output, *options, database=database)


def test_every_column_has_its_type_also_in_an_export_of_nothing(tmp_path: Path, database: Path) -> None:
    make_database(database)
    done = exported(database, tmp_path / "x.parquet")
    assert done.returncode == 0
    assert types_in(tmp_path / "x.parquet") == TYPES
    assert rows_in(tmp_path / "x.parquet") == []


def test_another_reader_finds_what_the_ndjson_export_says(tmp_path: Path, database: Path) -> None:
    make_database(
        database,
        [
            event(1, phase_id=HOSTILE, deliverables_json=json.dumps([HOSTILE, "src/app.py"])),
            event(2, existing_json="[]", input_tokens=7, duration_ms=0, actual_max_tokens=2**53 - 1, success=False),
            event(3, smape_percent=None, waste_ratio=None, underestimated=None, stop_reason=None, truncated=True),
            event(4, timestamp=START.replace(microsecond=123)),
        ],
    )
    exported(database, tmp_path / "x.parquet")
    autopack("export", "--output", tmp_path / "x.ndjson", database=database)
    lines = [json.loads(line) for line in (tmp_path / "x.ndjson").read_text().splitlines()]
    read = rows_in(tmp_path / "x.parquet")
    assert len(read) == 4
    assert read == lines


def test_attributes_are_a_map_of_text_with_numbers_as_in_json(tmp_path: Path, database: Path) -> None:
    """Attributes are a map of text, whose numbers are as JSON has them."""
    attributes = {"git": "3f2a91c", "retry": 2, "share": 0.5, "cache": True, "none": None, HOSTILE: "a"}
    make_database(
        database, [event(1, attributes_json=json.dumps(attributes)), event(2, attributes_json="{}"), event(3)]
    )
    exported(database, tmp_path / "x.parquet")
    assert [row["attributes"] for row in rows_in(tmp_path / "x.parquet")] == [
        None,
        {},
        {"git": "3f2a91c", "retry": "2", "share": "0.5", "cache": "true", "none": None, HOSTILE: "a"},
    ]


def test_what_is_not_of_its_columns_type_is_null_and_counted(tmp_path: Path, database: Path) -> None:
    make_database(database, [event(1), event(2)])
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "UPDATE token_estimation_v2_events SET predicted_output_tokens = 'many', actual_output_tokens = 1.5, "
            "success = 'yes', model = x'ff', deliverables_json = '[1]', existing_json = '\"ab\"', "
            "attributes_json = '{\"a\": [1]}', timestamp = 'yesterday' WHERE phase_id = 'p2'"
        )
        connection.commit()
    done = exported(database, tmp_path / "x.parquet")
    by_phase = {row["phase_id"]: row for row in rows_in(tmp_path / "x.parquet")}
    assert "Warning: 7 values are not of their column's type; null stands in their place." in done.stderr
    assert {name for name, value in by_phase["p2"].items() if value is None} >= {
        "timestamp",
        "predicted_output_tokens",
        "actual_output_tokens",
        "success",
        "model",
        "deliverables",
        "existing",
        "attributes",
    }
    assert by_phase["p2"]["selected_budget"] == 8192
    assert by_phase["p1"]["predicted_output_tokens"] == 5200


def test_the_file_is_private_and_nothing_is_left_beside_it(tmp_path: Path, database: Path) -> None:
    make_database(database, [event(1)])
    (tmp_path / "out").mkdir()
    exported(database, tmp_path / "out" / "x.parquet")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.parquet"]
    assert stat.S_IMODE((tmp_path / "out" / "x.parquet").stat().st_mode) == 0o600


@pytest.mark.slow
def test_a_large_export_is_several_row_groups_in_the_same_order(tmp_path: Path, database: Path) -> None:
    count = GROUP_ROWS + 10
    make_database(database, (event(number) for number in range(count)))
    exported(database, tmp_path / "x.parquet")
    with duckdb.connect(":memory:") as connection:
        groups = connection.execute(
            f"SELECT DISTINCT row_group_num_rows FROM parquet_metadata('{tmp_path / 'x.parquet'}')"
        ).fetchall()
    assert sorted(groups) == [(10,), (GROUP_ROWS,)]
    assert [row["phase_id"] for row in rows_in(tmp_path / "x.parquet")] == [f"p{n}" for n in reversed(range(count))]


def monthly_events() -> list[Any]:
    newest = datetime(2026, 1, 1, 2, tzinfo=UTC)
    ages = [timedelta(hours=hours) for hours in (0, 1, 2, 3, 900, 901)]
    return [event(number, timestamp=newest - age) for number, age in enumerate(ages)]


def test_a_folder_is_partitioned_by_the_month_in_utc(tmp_path: Path, database: Path) -> None:
    make_database(database, monthly_events())
    done = exported(database, f"{tmp_path}/events/")
    assert done.returncode == 0
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "events").rglob("*.parquet"))
    assert files == [f"events/month=2025-{n}/events-0.parquet" for n in (11, 12)] + [
        "events/month=2026-01/events-0.parquet"
    ]
    rows = rows_in(f"{tmp_path}/events/*/*.parquet", hive_partitioning=True)
    assert len(rows) == 6
    assert all(row["timestamp"].startswith(row["month"]) for row in rows)


def test_the_folder_is_private_and_nothing_is_left_beside_it(tmp_path: Path, database: Path) -> None:
    make_database(database, monthly_events())
    (tmp_path / "out").mkdir()
    for _ in range(2):
        assert exported(database, f"{tmp_path}/out/events/").returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["events"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out" / "events").rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert stat.S_IMODE(next((tmp_path / "out").rglob("*.parquet")).stat().st_mode) == 0o600


def test_a_folder_of_an_earlier_export_is_replaced_as_a_whole(tmp_path: Path, database: Path) -> None:
    make_database(database, monthly_events())
    exported(database, f"{tmp_path}/events/")
    exported(database, f"{tmp_path}/events/", "--since", "2026-01-01")
    assert [path.name for path in (tmp_path / "events").iterdir()] == ["month=2026-01"]


@pytest.mark.parametrize("kind", ["foreign file", "foreign folder", "file", "link"])
def test_what_was_not_written_here_is_never_replaced(tmp_path: Path, database: Path, kind: str) -> None:
    make_database(database, [event(1)])
    target, precious = tmp_path / "events", tmp_path / "precious"
    precious.mkdir()
    if kind == "file":
        target.write_text("precious")
    elif kind == "link":
        target.symlink_to(precious)
    else:
        (target / "month=2025-12").mkdir(parents=True)
        (target / "month=2025-12" / ("notes.txt" if kind == "foreign file" else "sub")).mkdir()
    before = sorted(target.rglob("*")), target.lstat().st_ino
    done = exported(database, f"{target}/")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {target} ")
    assert (sorted(target.rglob("*")), target.lstat().st_ino) == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_events_without_a_time_are_in_hives_partition_for_null(tmp_path: Path, database: Path) -> None:
    """Events without a readable time are in Hive's partition for NULL."""
    make_database(database, [event(1), event(2), event(3)])
    with closing(sqlite3.connect(database)) as connection:
        # One sorts before every instant, the other after.
        connection.execute("UPDATE token_estimation_v2_events SET timestamp = 'zzz' WHERE phase_id = 'p1'")
        connection.execute("UPDATE token_estimation_v2_events SET timestamp = '!' WHERE phase_id = 'p2'")
        connection.commit()
    exported(database, f"{tmp_path}/events/")
    rows = rows_in(f"{tmp_path}/events/*/*.parquet", hive_partitioning=True)
    assert {(row["phase_id"], row["month"]) for row in rows} == {("p1", None), ("p2", None), ("p3", "2025-12")}


@pytest.mark.slow
def test_a_failing_export_leaves_an_earlier_folder_as_it_was(tmp_path: Path, database: Path) -> None:
    make_database(database, monthly_events())
    exported(database, f"{tmp_path}/events/")
    before = {path: path.stat().st_ino for path in (tmp_path / "events").rglob("*")}
    program = (
        "import resource, signal, sys\nfrom autopack.cli import main\n"
        "import autopack.commands.export, pyarrow.parquet\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "main(['export', '--format', 'parquet', '--output', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"{tmp_path}/events/"],
        env=environment(database),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr.splitlines()[-1]
    assert {path: path.stat().st_ino for path in (tmp_path / "events").rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_standard_output_takes_parquet_too(tmp_path: Path, database: Path) -> None:
    make_database(database, [event(1)])
    done = subprocess.run(
        [sys.executable, "-m", "autopack.cli", "export", "--format", "parquet"],
        env=environment(database),
        capture_output=True,
        check=True,
    )
    (tmp_path / "x.parquet").write_bytes(done.stdout)
    assert len(rows_in(tmp_path / "x.parquet")) == 1


@pytest.mark.parametrize("output_format", ["ndjson", "csv"])
def test_only_parquet_goes_into_a_folder(tmp_path: Path, database: Path, output_format: str) -> None:
    make_database(database, [event(1)])
    done = autopack("export", "--format", output_format, "--output", f"{tmp_path}/x/", database=database)
    assert done.returncode == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_without_pyarrow_one_line_says_what_to_install(tmp_path: Path, database: Path) -> None:
    make_database(database, [event(1)])
    program = (
        "import sys\nsys.modules['pyarrow'] = None\nfrom autopack.cli import main\n"
        "main(['export', '--format', 'parquet', '--output', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x"],
        env=environment(database),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "Error: Parquet needs pyarrow: pip install 'autopack-telemetry[parquet]'\n"
    assert not (tmp_path / "x").exists()
