import io
import json
import os
import pty
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.read_side import ROOT, autopack, environment, event, make_database
from tests.recorded import RecordedRun
from tests.write_side import PACKAGE

from autopack.analysis.accuracy import accuracy_of, percent, quantile
from autopack.analysis.reading.lines import LONGEST_LINE_BYTES, bounded_lines, exported
from autopack.analysis.replaying.observations import Exported, Observation, deliverables_of, from_log
from autopack.analysis.replaying.replay import Replay, ReplayReport, deliverables_group
from autopack.analysis.replaying.table import HEADER, sections
from autopack.analysis.tables import plain_sections
from autopack.commands._output import rich_sections

FIGURES = ["median_smape_percent", "mean_smape_percent", "median_waste", "p90_waste", "underestimated_percent"]


def observation(**changes: Any) -> Observation:
    values: dict[str, Any] = {
        "category": "implementation",
        "complexity": "low",
        "deliverable_count": 1,
        "predicted_output_tokens": 1000,
        "actual_output_tokens": 2000,
        "truncated": False,
        "model": "claude-sonnet-4-5",
        "deliverables": ["src/app.py"],
        "existing": [],
        "run_id": "r",
        "phase_id": "p",
        "stop_reason": "end_turn",
    }
    return Observation(**values | changes)


def replayed(*observations: Observation | None, include_simulated: bool = False, today: int = 4000) -> ReplayReport:
    replay = Replay(lambda *_: today, include_simulated=include_simulated)
    replay.add_all(observations)
    return replay.report("a test", "a constant")


def replay_json(*arguments: str | Path, database: Path | None = None) -> dict[str, Any]:
    done = autopack("replay", "--json", *arguments, database=database)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def independent_figures(pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """The same figures of (predicted, actual) in another way."""
    smapes = [200 * abs(a - p) / (a + p) for p, a in pairs]
    wastes = [p / a for p, a in pairs]
    p90 = statistics.quantiles(wastes, n=10, method="inclusive")[8] if len(wastes) > 1 else wastes[0]
    figures = [
        statistics.median(smapes),
        statistics.fmean(smapes),
        statistics.median(wastes),
        p90,
        100 * statistics.fmean(a > p for p, a in pairs),
    ]
    return dict(zip(FIGURES, figures, strict=True))


def test_every_figure_of_a_log_equals_an_independent_computation(recorded: RecordedRun) -> None:
    """Every figure of the recorded log equals an independent computation."""
    lines = recorded.logged()
    figures = json.loads((PACKAGE / "data/estimator_coefficients.json").read_text())

    def today(line: dict[str, str]) -> int:
        overhead = figures["overhead"][f"{line['category']}/{line['complexity']}"]
        return int((overhead + int(line["deliverables"]) * figures["marginal"]["new"]["backend"]) * 1.3)

    def expected(name: str, group: list[dict[str, str]]) -> dict[str, Any]:
        then = [(int(line["predicted_output"]), int(line["actual_output"])) for line in group]
        now = [(today(line), int(line["actual_output"])) for line in group]
        return {
            "name": name,
            "events": len(group),
            "truncated": 0,
            "truncation_percent": 0,
            "recorded": independent_figures(then),
            "today": independent_figures(now),
        }

    report = replay_json("--source", "log", recorded.log)
    assert (report["counts"]["read"], report["counts"]["skipped"], report["counts"]["compared"]) == (31, 0, 31)
    assert (report["counts"]["synthetic"], report["counts"]["existing_unknown"]) == (31, 31)
    assert_close(report["overall"], expected("all", lines))
    for key, field in (
        ("by_category", "category"),
        ("by_complexity", "complexity"),
        ("by_deliverables", "deliverables"),
    ):
        groups = [(group_of(line[field]), line) for line in lines]
        assert {group["name"] for group in report[key]} == {name for name, _ in groups}
        for group in report[key]:
            assert_close(group, expected(group["name"], [line for name, line in groups if name == group["name"]]))


def factor(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def group_of(value: str) -> str:
    """A number of deliverables is a group for itself up to 10."""
    return value if not value.isdigit() or int(value) <= 10 else "11-20"


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {key: value for key, value in found.items() if not isinstance(value, dict)} == {
        key: value for key, value in expected.items() if not isinstance(value, dict)
    }
    for key in ("recorded", "today"):
        assert found[key] == pytest.approx(expected[key], rel=1e-12)


def test_the_table_shows_the_log_and_says_what_it_assumed(recorded: RecordedRun) -> None:
    """Each cell shows a figure as recorded, and as today's estimator has it."""
    done = autopack("replay", "--source", "log", recorded.log)
    shown = json.loads(autopack("replay", "--json", "--source", "log", recorded.log).stdout)["overall"]
    then, now = shown["recorded"], shown["today"]
    assert done.returncode == 0
    assert "31 read, 0 skipped, 31 compared" in done.stdout
    assert done.stderr == "WARNING: no deliverables found for 31 events, using synthetic\n"
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("all ")]
    assert row == [
        "all",
        "31",
        *(f"{then[name]:.0f}/{now[name]:.0f}" for name in ("median_smape_percent", "mean_smape_percent")),
        *(f"{factor(then[name])}/{factor(now[name])}" for name in ("median_waste", "p90_waste")),
        f"{then['underestimated_percent']:.0f}/{now['underestimated_percent']:.0f}",
        "0",
    ]


@given(st.lists(st.floats(0, 1e9), min_size=2), st.integers(2, 20))
def test_a_quantile_is_that_of_statistics_with_the_inclusive_method(values: list[float], parts: int) -> None:
    expected = statistics.quantiles(values, n=parts, method="inclusive")
    found = [quantile(sorted(values), (index + 1) / parts) for index in range(parts - 1)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_of_nothing_there_is_no_figure() -> None:
    assert quantile([], 0.5) is None
    assert percent(0, 0) is None
    assert set(msgspec.structs.astuple(accuracy_of([], [], []))) == {None}


def test_a_quantile_of_one_value_is_that_value() -> None:
    assert [quantile([3.0], fraction) for fraction in (0.0, 0.5, 0.9, 1.0)] == [3.0] * 4


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.booleans()), min_size=1, max_size=30))
def test_a_truncated_reply_counts_for_the_risk_but_not_for_the_error(rows: list[tuple[int, int, bool]]) -> None:
    predicted, actual, truncated = zip(*rows, strict=True)
    found = msgspec.to_builtins(accuracy_of(predicted, actual, truncated))
    exact = [(p, a) for p, a, cut in rows if not cut]
    expected: dict[str, Any] = independent_figures(exact) if exact else {}
    expected["underestimated_percent"] = 100 * statistics.fmean(a > p for p, a, _ in rows)
    assert [name for name in FIGURES if found[name] is None] == ([] if exact else FIGURES[:4])
    found = {name: value for name, value in found.items() if value is not None}
    assert found == pytest.approx(expected, rel=1e-9)


def test_then_and_now_stand_side_by_side() -> None:
    report = replayed(observation(), observation(actual_output_tokens=500, truncated=True), today=4000)
    assert report.overall is not None
    assert (report.overall.events, report.overall.truncated, report.overall.truncation_percent) == (2, 1, 50)
    assert (report.overall.recorded.median_waste, report.overall.today.median_waste) == (0.5, 2)
    assert (report.overall.recorded.underestimated_percent, report.overall.today.underestimated_percent) == (50, 0)


@pytest.mark.parametrize(
    ("left_out", "counter"),
    [
        (None, "skipped"),
        (observation(model="simulated-writer-1"), "simulated"),
        (observation(deliverables=None, deliverable_count=10_001), "skipped"),
        (observation(actual_is_total=True), "totals"),
        (observation(attributes={"attempt": 1, "usage": "total"}), "totals"),
        (observation(actual_output_tokens=0), "without_counts"),
        (observation(predicted_output_tokens=0), "without_counts"),
        (observation(stop_reason="refusal"), "incomplete"),
        (observation(stop_reason="pause_turn"), "incomplete"),
    ],
)
def test_what_is_left_out_is_counted(left_out: Observation | None, counter: str) -> None:
    report = replayed(left_out, observation())
    assert (report.counts.read, report.counts.compared, getattr(report.counts, counter)) == (2, 1, 1)


@pytest.mark.parametrize("reason", [None, "end_turn", "STOP", "tool_calls", "max_tokens"])
def test_what_is_complete_or_cut_is_compared(reason: str | None) -> None:
    report = replayed(observation(stop_reason=reason), observation(stop_reason="refusal", truncated=True))
    assert (report.counts.compared, report.counts.incomplete) == (2, 0)


def test_nothing_left_is_no_group() -> None:
    report = replayed(observation(model="simulated"))
    assert (report.overall, report.by_category, report.counts.simulated) == (None, [], 1)


def test_simulated_replies_are_taken_in_when_asked() -> None:
    assert replayed(observation(model="simulated"), include_simulated=True).counts.compared == 1


def test_the_same_event_twice_counts_once_but_attempts_count_each() -> None:
    first, second = observation(event_uid="1"), observation(event_uid="2")
    counts = replayed(first, second, first, observation(run_id="other", event_uid="1")).counts
    assert (counts.compared, counts.duplicates, counts.phases, counts.repeated_attempts) == (3, 1, 2, 1)


def test_an_event_is_compared_by_its_deliverables_not_its_phase() -> None:
    """Each event is compared by its own deliverables, not by those of its phase."""
    seen: list[list[str]] = []

    def predict(deliverables: Sequence[str], *_: object) -> int:
        seen.append(list(deliverables))
        return 1

    replay = Replay(predict)
    replay.add_all(
        [
            observation(deliverables=["a.py"]),
            observation(run_id="b", deliverables=["b.py"]),
            observation(deliverables=["c.py"]),
        ]
    )
    assert seen == [["a.py"], ["b.py"], ["c.py"]]


@pytest.mark.parametrize(
    ("changes", "counter"),
    [
        ({"deliverables": None}, "synthetic"),
        ({"deliverables": []}, "synthetic"),
        ({"deliverable_count": 25}, "cut"),
        ({"existing": None}, "existing_unknown"),
        ({"stop_reason": None}, "without_stop_reason"),
        ({"truncated": True}, "truncated"),
    ],
)
def test_what_is_assumed_is_counted(changes: dict[str, Any], counter: str) -> None:
    counts = replayed(observation(), observation(**changes)).counts
    assert (counts.compared, getattr(counts, counter)) == (2, 1)


def test_synthetic_deliverables_are_the_plans() -> None:
    assert deliverables_of(observation(deliverables=None, deliverable_count=2)) == ["src/file0.py", "src/file1.py"]
    assert deliverables_of(observation(deliverables=[], deliverable_count=0)) == []


def test_numbers_of_deliverables_are_grouped_in_their_order() -> None:
    counts = [21, 10, 2, 0, 11, 20, 1, 999]
    groups = replayed(*[observation(deliverable_count=count) for count in counts]).by_deliverables
    assert [group.name for group in groups] == ["0", "1", "2", "10", "11-20", "21+"]
    assert [group.events for group in groups] == [1, 1, 1, 1, 2, 2]
    assert deliverables_group(10) == "10"


def filled(tmp_path: Path) -> Path:
    rows = [
        event(1),
        event(2, phase_id="p1", existing_json='["src/app.py"]'),
        event(
            3,
            run_id="other",
            phase_id="p1",
            deliverables_json='["docs/a.md"]',
            deliverable_count=1,
            category="documentation",
        ),
        event(4, truncated=True, stop_reason="max_tokens", actual_output_tokens=16384),
        event(5, model="simulated-writer-1"),
        event(6, deliverables_json="broken"),
        event(7, deliverable_count=-1),
        event(8, complexity="high", stop_reason=None, existing_json="[]"),
    ]
    make_database(tmp_path / "x.db", rows)
    return tmp_path / "x.db"


def test_the_database_is_replayed_with_todays_estimator(tmp_path: Path) -> None:
    report = replay_json(database=filled(tmp_path))
    assert report["counts"] == {
        "read": 8,
        "skipped": 1,
        "duplicates": 0,
        "simulated": 1,
        "totals": 0,
        "without_counts": 0,
        "incomplete": 0,
        "compared": 6,
        "truncated": 1,
        "phases": 5,
        "repeated_attempts": 1,
        "synthetic": 1,
        "cut": 0,
        "existing_unknown": 4,
        "without_stop_reason": 1,
    }
    (high,) = [group for group in report["by_complexity"] if group["name"] == "high"]
    assert high["today"]["median_waste"] == int((5000 + 2000 + 1400) * 1.3) / 2600
    (documentation,) = [group for group in report["by_category"] if group["name"] == "documentation"]
    assert documentation["today"]["median_waste"] == int((2500 + 500) * 1.3) / 2600


def test_existing_deliverables_are_modifications(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1, existing_json='["src/app.py"]')])
    report = replay_json(database=tmp_path / "x.db")
    assert report["overall"]["today"]["median_waste"] == int((3000 + 700 + 1400) * 1.3) / 2600
    assert report["counts"]["existing_unknown"] == 0


def test_an_export_gives_what_the_database_gives(tmp_path: Path) -> None:
    database = filled(tmp_path)
    autopack("export", "--output", tmp_path / "events.ndjson", database=database)
    from_file = replay_json("--source", "ndjson", tmp_path / "events.ndjson")
    assert from_file.pop("source") == str(tmp_path / "events.ndjson")
    from_database = replay_json("--source", "db", database=database)
    assert from_database.pop("source") == f"sqlite:///{database}"
    assert from_file == from_database


def test_the_options_select_events_of_the_database(tmp_path: Path) -> None:
    report = replay_json("--run-id", "other", database=filled(tmp_path))
    assert (report["counts"]["read"], report["overall"]["events"]) == (1, 1)


def test_users_own_coefficients_are_used_and_named(tmp_path: Path) -> None:
    figures = msgspec.json.decode((PACKAGE / "data/estimator_coefficients.json").read_bytes())
    (tmp_path / "own.json").write_bytes(msgspec.json.encode(figures | {"safety_margin": 2.0}))
    make_database(tmp_path / "x.db", [event(1)])
    own = str(tmp_path / "own.json")
    done = autopack("replay", "--json", database=tmp_path / "x.db", AUTOPACK_ESTIMATOR_COEFFICIENTS=own)
    report = json.loads(done.stdout)
    assert (report["estimator"], report["overall"]["today"]["median_waste"]) == (own, (3000 + 2000 + 1400) * 2 / 2600)


def test_only_simulated_events_are_said_and_are_no_error(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1, model="simulated-writer-1")])
    done = autopack("replay", database=tmp_path / "x.db")
    assert done.returncode == 0
    assert "left out: 1 simulated (--include-simulated takes them in)" in done.stdout
    assert done.stdout.endswith("Nothing to compare.\n")
    assert "by category" in autopack("replay", "--include-simulated", database=tmp_path / "x.db").stdout


@pytest.mark.slow
def test_the_hosts_script_is_the_same(tmp_path: Path) -> None:
    database = filled(tmp_path)
    run = [sys.executable, str(ROOT / "scripts" / "replay_telemetry.py"), "--source", "db"]
    script = subprocess.run(run, env=environment(database), capture_output=True, check=True, encoding="utf-8")
    assert script.stdout == autopack("replay", database=database).stdout


def test_lines_that_are_no_records_are_counted_headers_are_not() -> None:
    """Lines that are no records are skipped and counted; headers are skipped and not counted."""
    good = msgspec.json.encode(observation())
    lines = [
        b"# Total events: 3\n",
        b"\n",
        good,
        b"{}",
        b"[1]",
        b"\xff\xfe",
        good[:40],
        b"[" * 99_999,
        good.replace(b'"truncated":false', b'"truncated":"no"'),
        good.replace(b'"run_id":"r",', b""),
    ]
    found = list(exported(lines, Exported))
    assert (len(found), found.count(None)) == (8, 7)


def test_a_log_that_claims_too_many_deliverables_is_skipped() -> None:
    line = (
        b"[TokenEstimationV2] predicted_output=1 actual_output=1 selected_budget=1 category=a complexity=b "
        b"deliverables=%d success=True stop_reason=end_turn truncated=False model=m\n"
    )
    counts = replayed(*from_log([line % 10_001, line % 10_000, b"other\n"])).counts
    assert (counts.read, counts.skipped, counts.synthetic) == (2, 1, 1)


def test_an_event_that_names_its_very_many_deliverables_is_compared() -> None:
    many = observation(deliverables=[f"src/{number}.py" for number in range(20_000)], deliverable_count=20_000)
    assert replayed(*exported([msgspec.json.encode(many)], Exported)).counts.compared == 1


def test_every_source_leaves_out_a_reply_without_usage(tmp_path: Path) -> None:
    """Every source leaves a reply without usage out of the figures."""
    fallback = event(1, stop_reason=None, attributes_json='{"attempt": 1, "usage": "total"}')
    make_database(tmp_path / "x.db", [fallback, event(2, attributes_json='["odd"]'), event(3)])
    autopack("export", "--output", tmp_path / "out", database=tmp_path / "x.db")
    found = replay_json(database=tmp_path / "x.db"), replay_json("--source", "ndjson", tmp_path / "out")
    for report in found:
        counts = report["counts"]
        assert (counts["read"], counts["skipped"], counts["totals"], counts["compared"]) == (3, 0, 1, 2)
    shown = autopack("replay", database=tmp_path / "x.db").stdout
    assert "left out: 1 of which only the tokens of the whole call are known" in shown


def test_a_line_without_end_does_not_take_the_memory() -> None:
    stream = io.BytesIO(b"a\n" + b"x" * (3 * LONGEST_LINE_BYTES) + b"\nb")
    assert list(map(len, bounded_lines(stream.readline))) == [2, LONGEST_LINE_BYTES, 1]


@pytest.mark.slow
def test_standard_input_can_be_replayed(tmp_path: Path) -> None:
    lines = autopack("export", database=filled(tmp_path)).stdout
    run = [sys.executable, "-m", "autopack.cli", "replay", "--source", "ndjson", "-"]
    done = subprocess.run(run, input=lines, capture_output=True, check=True, encoding="utf-8")
    assert "8 read, 1 skipped, 6 compared (5 phases, 1 repeated attempts)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "log"], "needs a FILE"),
        (["events.ndjson"], "for a FILE use --source"),
        (["--source", "ndjson", "x", "--limit", "3"], "are for --source db"),
        (["--source", "csv"], "is not one of"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], message: str) -> None:
    done = autopack("replay", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("source", ["db", "log", "ndjson"])
def test_a_source_that_is_not_there_is_one_clear_line(tmp_path: Path, source: str) -> None:
    file = [] if source == "db" else [tmp_path / "nothing\x1b\u202e"]  # click takes whole escape sequences out
    done = autopack("replay", "--source", source, *file, database=tmp_path / "nothing.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "nothing" in done.stderr
    assert not {"\x1b", "\u202e"} & set(done.stderr)
    assert list(tmp_path.iterdir()) == []


HOSTILE = "[bold]x[/bold]\x1b[2J\u202e"


def plain(report: ReplayReport) -> str:
    return plain_sections(HEADER, list(sections(report)))


def drawn(report: ReplayReport) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    with console.capture() as capture:
        console.print(rich_sections(HEADER, sections(report)))
    return capture.get()


@pytest.mark.parametrize("draw", [plain, pytest.param(drawn, marks=pytest.mark.needs("rich"))])
def test_names_are_shown_and_not_obeyed(draw: Callable[[ReplayReport], str]) -> None:
    shown = draw(replayed(observation(category=HOSTILE, complexity="[/]")))
    assert "[bold]x[/bold]\\x1b[2J" in shown or "[bold]x[/bold]\\x1b..." in shown
    assert "[/]" in shown
    assert not {"\x1b", "\u202e"} & set(shown.replace("\x1b[1m", "").replace("\x1b[0m", ""))


@pytest.mark.parametrize("draw", [plain, pytest.param(drawn, marks=pytest.mark.needs("rich"))])
def test_both_tables_show_every_figure(draw: Callable[[ReplayReport], str]) -> None:
    report = replayed(observation(), observation(category="other", actual_output_tokens=3, truncated=True))
    shown = draw(report)
    rows = [line.split() for line in shown.splitlines()]
    assert ["all", "2", "67/67", "67/67", "0.50/2.00", "0.50/2.00", "50/0", "50"] in rows
    assert ["other", "1", "-/-", "-/-", "-/-", "-/-", "0/0", "100"] in rows
    assert max(map(len, shown.splitlines())) <= 100
    assert len(HEADER) == 8


@pytest.mark.needs("rich")
def test_a_long_name_is_folded_and_no_figure_is() -> None:
    report = replayed(observation(category="infrastructure-as-code", actual_output_tokens=13))
    shown = drawn(report)
    rows = [line.split()[-7:] for line in shown.splitlines() if "76.9/308" in line]
    assert rows == [["1", "195/199", "195/199", "76.9/308", "76.9/308", "0/0", "0"]] * 4
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_very_many_groups_are_cut_in_the_table_and_said() -> None:
    shown = plain(replayed(*[observation(category=f"c{number}") for number in range(40)]))
    assert "(15 more)" in shown


@pytest.mark.slow
def test_a_terminal_gets_a_table_that_fits_80_columns(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0) as reading:
        with subprocess.Popen(
            [sys.executable, "-m", "autopack.cli", "replay"],
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.DEVNULL,
            env=environment(filled(tmp_path), COLUMNS="80", TERM="dumb", NO_COLOR="1"),
        ) as process:
            os.close(terminal)
            shown = b""
            try:
                while block := reading.read(4096):
                    shown += block
            except OSError:
                pass  # EIO: how Linux says that nobody has the other end any more
        assert process.returncode == 0
    table = shown.decode().partition("Each pair")[2].splitlines()[1:]
    assert any(line.startswith("implementation") for line in table)
    assert max(map(len, table)) <= 80
