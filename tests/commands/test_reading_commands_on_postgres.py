"""Import, Parquet, tail, summary and report on a real PostgreSQL: the same as on SQLite."""

import json
from pathlib import Path
from typing import Any

import duckdb
from tests.postgres import Database
from tests.read_side import autopack, event, make_database

from autopack.analysis.reading.selection import EVERYTHING, Selection
from autopack.analysis.tailing.tail import Tail
from autopack.database.destination import parse_database_url


def exported(tmp_path: Path, count: int, **changes: Any) -> Path:
    """An export of a SQLite database; a higher number is a later event."""
    source, output = tmp_path / "source.db", tmp_path / "events.ndjson"
    source.unlink(missing_ok=True)
    make_database(source, (event(number, **changes) for number in range(count)))
    autopack("export", "--output", output, database=source)
    return output


def phases(records: Any) -> list[str]:
    return [record.phase_id for record in records]


def test_an_export_is_imported_once_and_exported_as_it_was(tmp_path: Path, postgres: Database) -> None:
    events = exported(tmp_path, 5)
    first = autopack("import", events, database=postgres.url)
    second = autopack("import", events, database=postgres.url)
    autopack("export", "--output", tmp_path / "again.ndjson", database=postgres.url)
    assert "5 events: 5 written, 0 were there already" in first.stdout
    assert "5 events: 0 written, 5 were there already" in second.stdout
    assert (tmp_path / "again.ndjson").read_bytes() == events.read_bytes()


def test_parquet_holds_what_the_database_holds(tmp_path: Path, postgres: Database) -> None:
    autopack("import", exported(tmp_path, 3), database=postgres.url)
    done = autopack("export", "--format", "parquet", "--output", f"{tmp_path}/by-month/", database=postgres.url)
    assert done.returncode == 0, done.stderr
    with duckdb.connect(":memory:") as connection:
        read = connection.execute(
            "SELECT phase_id, predicted_output_tokens, success, deliverables, month FROM "
            f"read_parquet('{tmp_path}/by-month/*/*.parquet', hive_partitioning = true) ORDER BY 1"
        ).fetchall()
    paths = ["src/app.py", "tests/test_app.py"]
    assert read == [(f"p{number}", 5200, True, paths, "2025-12") for number in range(3)]


def test_tail_shows_what_is_new_once(tmp_path: Path, postgres: Database) -> None:
    autopack("import", exported(tmp_path, 20), database=postgres.url)
    destination = parse_database_url(postgres.url)
    tail = Tail(destination, EVERYTHING)
    chosen = Tail(destination, Selection(run_ids=("other",)))
    assert phases(tail.begin(3)) == ["p17", "p18", "p19"]
    assert phases(chosen.begin(3)) == []
    assert phases(tail.look()) == []
    autopack("import", exported(tmp_path, 25), database=postgres.url)
    autopack("import", exported(tmp_path, 2, run_id="other"), database=postgres.url)
    assert sorted(phases(tail.look())) == sorted(["p0", "p1", *(f"p{number}" for number in range(20, 25))])
    assert phases(tail.look()) == []
    assert sorted(phases(chosen.look())) == ["p0", "p1"]


def test_summary_and_report_have_the_figures_of_validate(tmp_path: Path, postgres: Database) -> None:
    for run in range(5):
        autopack("import", exported(tmp_path, 40, run_id=f"run-{run}"), database=postgres.url)
    as_of = ("--as-of", "2026-01-15")
    verdict = json.loads(autopack("validate", "--json", *as_of, database=postgres.url).stdout)
    summary = json.loads(autopack("summary", "--json", *as_of, database=postgres.url).stdout)
    done = autopack("report", "--output", tmp_path / "report.html", *as_of, database=postgres.url)
    page = (tmp_path / "report.html").read_text()
    assert summary["validation"] == verdict
    assert done.returncode == 0, done.stderr
    ends = [upper for result in verdict["results"] if (upper := result["estimate"]["upper"]) is not None]
    assert len(ends) == len({"underestimation", "truncation", "budget overrun"}), "five runs give no P90 an end"
    assert all(f'<data value="{upper!r}">' in page for upper in ends)
