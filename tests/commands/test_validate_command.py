"""`autopack validate` as a user runs it: sources, exit codes, what is printed, and the recorded data of issue 7."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from tests.postgres import Database
from tests.read_side import START, autopack, autopack_process, event, make_database
from tests.recorded import REAL, RecordedRun, made_run, real_run
from tests.verdicts import independent_figures

from autopack.analysis.validating.validation import Validation
from autopack.database import engine_for
from autopack.models import TokenEstimationV2Event

FORMER = ("--rules", "plan", "--one-look", "--assume-independent")
LOG_LINE = (
    "[2025-12-23 19:47:57] INFO: [TokenEstimationV2] predicted_output=5200 actual_output=4000 smape=26.1% "
    "selected_budget=12288 category=implementation complexity=medium deliverables=2 success=True stop_reason=end_turn "
    "truncated=False model=claude-sonnet-4-5\n"
)


def good(count: int) -> list[TokenEstimationV2Event]:
    """Rows that make as many good samples of five strata."""
    return [
        event(
            n,
            run_id=f"nightly-{n // 5}",
            actual_output_tokens=4000 + 37 * n % 90,
            category=f"c{n % 5}",
            complexity=("low", "high")[n % 2],
        )
        for n in range(count)
    ]


def verdict(*arguments: str | Path, **where: Any) -> Validation:
    done = autopack("validate", "--json", *arguments, **where)
    return msgspec.json.decode(done.stdout, type=Validation)


@pytest.mark.parametrize(
    ("count", "options", "code", "word"),
    [
        (240, (), 0, "VALIDATED"),
        (40, (), 2, "INSUFFICIENT DATA"),
        (240, ("--rules", "plan", "--max-waste-p90", "1.2"), 1, "NOT VALIDATED"),
        (50, ("--provisional", "--min-per-stratum", "2"), 0, "PROVISIONAL, points only: VALIDATED"),
        (200, FORMER, 0, "VALIDATED (the former verdict)"),
        (240, ("--one-look",), 0, "VALIDATED (at one look)"),
        (240, ("--assume-independent",), 0, "VALIDATED (every sample taken to be independent)"),
    ],
)
def test_the_exit_code_is_the_verdict(
    database: Path, count: int, options: tuple[str, ...], code: int, word: str
) -> None:
    make_database(database, good(count))
    done = autopack("validate", *options, database=database)
    assert done.returncode == code
    said, _, former = done.stdout.splitlines()[0].partition(" [the former verdict: ")
    assert said == f"verdict: {word}"
    assert former == ("" if options == FORMER else " ".join(FORMER) + "]")
    assert autopack("validate", "--json", *options, database=database).returncode == code


@pytest.mark.parametrize(
    "arguments",
    [
        ["--formt"],
        ["--level-percent", "40"],
        ["--stratum", "implementation"],
        ["--source", "log"],
        ["x.log"],
        ["--source", "log", "x.log", "--limit", "3"],
    ],
)
def test_a_wrong_command_line_is_no_verdict(database: Path, arguments: list[str]) -> None:
    make_database(database, good(1))
    done = autopack("validate", *arguments, database=database)
    assert (done.returncode, done.stdout) == (64, "")
    assert "Error: " in done.stderr


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_limit_that_everything_keeps_is_refused(database: Path, number: str) -> None:
    done = autopack("validate", "--underestimation-factor", number, database=database)
    assert done.returncode == 64
    assert "--underestimation-factor" in done.stderr


def test_what_cannot_be_read_is_no_verdict(tmp_path: Path) -> None:
    for done in (
        autopack("validate", database=tmp_path / "none.db"),
        autopack("validate", "--source", "log", tmp_path / "none.log"),
        autopack("validate", database="mysql://u:hunter2@x/y"),
    ):
        assert (done.returncode, done.stdout) == (66, "")
        assert done.stderr.count("Error: ") == 1
        assert "hunter2" not in done.stderr


def test_all_rules_are_printed_with_their_values(database: Path) -> None:
    make_database(database, good(1))
    printed = autopack("validate", "--max-truncation-percent", "3.5", "--stratum", "a/low", database=database).stdout
    for rule in (
        "level=0.95",
        "min_samples=30",
        "max_truncation_percent=3.5",
        "max_waste_p90=3.0",
        "strata=a/low",
        "underestimation_factor=1.1",
        "drift_days=30.0",
        "provisional=False",
    ):
        assert rule in printed


def test_an_export_and_the_database_give_the_same_verdict(database: Path, tmp_path: Path) -> None:
    rows = [*good(60), event(60, truncated=True, success=False), event(61, phase_id="p60", actual_output_tokens=9000)]
    make_database(database, [*rows, event(62, model="simulated-1"), event(63, deliverables_json="[]")])
    export = tmp_path / "events.ndjson"
    autopack("export", "--output", export, database=database)
    export.write_text("# a header\n\n" + export.read_text() + "not JSON\n")
    now = ("--as-of", "2026-01-01")
    from_database = verdict(*now, database=database)
    from_export = verdict(*now, "--source", "ndjson", export)
    assert from_export.counts.unreadable == 1
    assert from_database.counts.repeated == from_database.counts.simulated == from_database.counts.truncated == 1
    assert from_database.counts.without_deliverables == 1
    for name in ("verdict", "results", "strata", "drift", "reasons", "missing"):
        assert getattr(from_export, name) == getattr(from_database, name)


def test_each_line_of_a_log_is_a_sample_also_one_that_is_there_twice(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(LOG_LINE + "something else\n" + LOG_LINE + LOG_LINE.replace("predicted_output=", "predicted="))
    counts = verdict("--source", "log", log).counts
    assert (counts.read, counts.unreadable, counts.used, counts.imported) == (3, 1, 2, 2)


def test_an_imported_log_gives_the_verdict_of_the_log(tmp_path: Path) -> None:
    log, database = tmp_path / "build.log", tmp_path / "autopack.db"
    log.write_text("".join(LOG_LINE.replace("actual_output=4000", f"actual_output={n}") for n in [4000, 4000, 5000]))
    assert autopack("import", log, database=database).returncode == 0
    assert autopack("import", log, database=database).returncode == 0
    now = ("--as-of", "2026-01-01")
    assert verdict(*now, database=database).results == verdict(*now, "--source", "log", log).results
    assert verdict(*now, database=database).counts.used == 3


def test_selected_events_are_judged_alone(database: Path) -> None:
    make_database(database, good(60))
    assert verdict("--category", "c1", database=database).counts.read == 12
    newest = verdict("--limit", "7", database=database)
    assert (newest.counts.read, newest.drift.earlier) == (7, 7)


def test_as_of_says_where_the_last_days_end(database: Path) -> None:
    make_database(database, good(60))
    drift = verdict("--as-of", "2025-12-30", database=database).drift
    assert (drift.recent, drift.earlier) == (60, 0)
    assert verdict("--as-of", "2026-12-30", database=database).drift.recent == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("predicted_output_tokens", "many"),
        ("actual_output_tokens", -5),
        ("selected_budget", 2**60),
        ("success", "yes"),
        ("truncated", 7),
        ("category", b"x"),
        ("model", b"\xff"),
    ],
)
def test_a_row_that_holds_what_it_should_not_costs_only_itself(database: Path, column: str, value: Any) -> None:
    destination = make_database(database, good(60))
    with engine_for(destination).begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE token_estimation_v2_events SET {column} = ? WHERE phase_id = 'p7'", (value,)
        )
    counts = verdict(database=database).counts
    assert (counts.read, counts.unreadable, counts.used) == (60, 1, 59)


@pytest.mark.parametrize("stored", ["", "yesterday", "0000-00-00", None])
def test_a_sample_without_a_time_counts_and_is_in_neither_period(database: Path, stored: str | None) -> None:
    """A sample without a readable time counts, and is in neither period."""
    destination = make_database(database, good(60))
    with engine_for(destination).begin() as connection:
        connection.exec_driver_sql(
            "UPDATE token_estimation_v2_events SET timestamp = coalesce(?, x'ff') WHERE phase_id = 'p7'", (stored,)
        )
    validation = verdict(database=database)
    assert validation.counts.used == 60
    assert validation.drift.recent + validation.drift.earlier == 59


def test_the_tokens_of_a_whole_call_are_no_output(database: Path) -> None:
    rows = [event(1, attributes_json='{"usage": "total"}'), event(2, attributes_json='{"note": "total"}')]
    make_database(database, [*rows, event(3, attributes_json="total, not JSON")])
    counts = verdict(database=database).counts
    assert (counts.totals, counts.used) == (1, 2)


@pytest.mark.parametrize(
    ("stored", "known"),
    [
        ('["a"]', True),
        ('[\n "a"]', True),
        ("[]", False),
        ("", False),
        ("{}", False),
        ("null", False),
        ("nonsense", False),
    ],
)
def test_deliverables_are_real_where_a_path_is_recorded(database: Path, stored: str, known: bool) -> None:
    make_database(database, [event(1, deliverables_json=stored)])
    assert verdict(database=database).counts.used == known


def test_what_others_named_cannot_move_the_cursor(database: Path) -> None:
    make_database(database, [event(n, category="\x1b[2J\u202eevil", complexity="low\n") for n in range(6)])
    done = autopack("validate", database=database)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\u202e" not in done.stdout
    assert "\\x1b[2J" in done.stdout


def test_many_strata_are_listed_only_so_far_and_all_in_json(database: Path) -> None:
    make_database(database, [event(n, category=f"c{n:03}") for n in range(60)])
    done = autopack("validate", database=database)
    assert "(35 more)" in done.stdout
    assert len(verdict(database=database).strata) == 60


def test_nothing_but_the_verdict_is_on_standard_output(database: Path) -> None:
    make_database(database, good(3))
    done = autopack_process("validate", "--json", database=database)
    assert (json.loads(done.stdout)["verdict"], done.returncode) == ("insufficient data", 2)
    assert done.stderr == f"# Database: sqlite:///{database}\n"


def test_every_interval_in_the_text_is_that_of_the_json(database: Path) -> None:
    make_database(database, good(240))
    printed = autopack("validate", database=database).stdout
    for rule in verdict(database=database).results:
        line = next(line for line in printed.splitlines() if line.startswith(rule.title))
        shown = re.findall(r"\[([\d.]+), ([\d.?]+)\]", line)[0]
        assert float(shown[0]) == pytest.approx(rule.estimate.lower, rel=5e-3)
        assert float(shown[1]) == pytest.approx(rule.estimate.upper, rel=5e-3)


def recorded_rows(recorded: RecordedRun) -> list[TokenEstimationV2Event]:
    return [
        event(
            number,
            run_id="telemetry-collection-v5",
            phase_id=reply["phase_id"],
            timestamp=datetime.fromisoformat(reply["at"]),
            category=reply["category"],
            complexity=reply["complexity"],
            deliverable_count=len(reply["deliverables"]),
            deliverables_json=json.dumps(reply["deliverables"]),
            predicted_output_tokens=reply["predicted_output_tokens"],
            actual_output_tokens=reply["output_tokens"],
            selected_budget=reply["selected_budget"],
            success=reply["success"],
            truncated=reply["stop_reason"] == "max_tokens",
            stop_reason=reply["stop_reason"],
            model=reply["model"],
        )
        for number, reply in enumerate(recorded.joined())
    ]


def test_a_recorded_run_has_the_figures_of_numpy_and_scipy(database: Path, recorded: RecordedRun) -> None:
    """The recorded data are not validated, and every figure is what NumPy and SciPy compute."""
    make_database(database, recorded_rows(recorded))
    assert autopack("import", recorded.log, database=database).returncode == 0
    validation = verdict("--as-of", "2026-01-01", *FORMER, database=database)

    first = {reply["phase_id"]: reply for reply in reversed(recorded.joined())}.values()
    logged = recorded.logged()
    frame = {
        "p": [r["predicted_output_tokens"] for r in first] + [int(line["predicted_output"]) for line in logged],
        "a": [r["output_tokens"] for r in first] + [int(line["actual_output"]) for line in logged],
        "b": [r["selected_budget"] for r in first] + [int(line["selected_budget"]) for line in logged],
        "success": [r["success"] for r in first] + [line["success"] == "True" for line in logged],
        "truncated": [r["stop_reason"] == "max_tokens" for r in first] + [False] * len(logged),
    }
    expected = independent_figures(frame)
    for rule in validation.results:
        found = msgspec.structs.asdict(rule.estimate)
        assert {name: found[name] for name in ("point", "lower", "upper")} == pytest.approx(expected[rule.name])

    counts = validation.counts
    assert (counts.read, counts.used, counts.repeated, counts.imported) == (56, 55, 1, 31)
    assert (counts.truncated, counts.failed) == (1, 1 + [line["success"] for line in logged].count("False"))
    assert validation.verdict == "not validated"
    assert tuple(reason.split(":")[0] for reason in validation.reasons) == recorded.failing


def test_the_counts_of_a_run_are_those_of_its_replies(database: Path, tmp_path: Path) -> None:
    """The twin, on a run that is made here, of the counts that were checked by hand."""
    run = made_run(tmp_path)
    make_database(database, recorded_rows(run))
    overall = verdict("--as-of", "2026-01-01", database=database).overall
    first = {reply["phase_id"]: reply for reply in reversed(run.joined())}.values()
    assert (overall.n, overall.successes) == (24, 23)
    assert overall.underestimation_percent.events == sum(
        reply["output_tokens"] * 10 > reply["predicted_output_tokens"] * 11 for reply in first
    )
    assert overall.truncation_percent.events == 1
    assert overall.budget_overrun_percent.events == sum(
        reply["output_tokens"] > reply["selected_budget"] for reply in first
    )


@pytest.mark.skipif(not REAL, reason="the recorded data is not beside this checkout (../shared/data)")
def test_the_counts_of_the_recorded_data_can_be_checked_by_hand(database: Path) -> None:
    make_database(database, recorded_rows(real_run()))
    validation = verdict("--as-of", "2026-01-01", database=database)
    overall = validation.overall
    assert (overall.n, overall.successes) == (24, 23)
    assert overall.underestimation_percent.events == 3  # t7: 4968 > 4862, d1: 3485 > 2860, d2: 16384 > 2860
    assert overall.truncation_percent.events == 1  # d2, at 16384
    assert overall.budget_overrun_percent.events == 1  # d2: 16384 > 8192
    assert [coverage.present for coverage in validation.coverage] == [24, 3, 2]
    assert {stratum.name: stratum.measures.n for stratum in validation.strata} == {
        "docs/low": 2,
        "implementation/low": 8,
        "implementation/medium": 7,
        "tests/low": 4,
        "tests/medium": 3,
    }
    assert "3 more of docs/low" in validation.missing
    assert "6 more samples (24 of 30)" in validation.missing


def test_a_later_attempt_that_was_recorded_first_changes_nothing(database: Path) -> None:
    destination = make_database(database, [event(1, truncated=True), event(2, phase_id="p1")])
    assert verdict(database=database).counts.truncated == 1
    with Session(engine_for(destination)) as session:
        session.execute(
            update(TokenEstimationV2Event)
            .where(TokenEstimationV2Event.truncated)
            .values(timestamp=START.replace(year=2026))
        )
        session.commit()
    assert verdict(database=database).counts.truncated == 0


def test_the_same_events_give_the_same_verdict_on_postgresql(
    database: Path, postgres: Database, tmp_path: Path
) -> None:
    make_database(database, [*good(60), event(60, truncated=True), event(61, phase_id="p60")])
    export = tmp_path / "events.ndjson"
    autopack("export", "--output", export, database=database)
    assert autopack("import", export, database=postgres.url).returncode == 0
    there, here = (verdict("--as-of", "2026-01-01", database=where) for where in (postgres.url, database))
    assert there.counts == here.counts
    assert (there.results, there.strata, there.drift) == (here.results, here.strata, here.drift)
