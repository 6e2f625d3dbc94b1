from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.read_side import RUNNER
from tests.recorded import RecordedRun

from autopack.autonomous_executor import choose_provider, run_command
from autopack.build.progress import Outcome, outcome_line, summary_lines
from autopack.build.reply import PhaseResult
from autopack.build.run import exit_code
from autopack.telemetry import TelemetryStats
from autopack.telemetry.engine.settings import Settings

PROGRAM = [sys.executable, "-m", "autopack.autonomous_executor"]
UNSET = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE", "AUTOPACK_ESTIMATOR_COEFFICIENTS")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment with telemetry into a database outside it."""
    working_directory = tmp_path / "work"
    working_directory.mkdir()
    monkeypatch.chdir(working_directory)
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TELEMETRY_DB_ENABLED", "1")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/events.db")
    return tmp_path


SHUTDOWN_S = Settings().shutdown_timeout_s
LOADED_MACHINE_S = 10  # by which a machine of which other tests take all may be later; an idle one needs 1.5 s in all


def run(*arguments: object) -> Result:
    return RUNNER.invoke(run_command, [str(argument) for argument in arguments])


def rows(place: Path, columns: str = "*", name: str = "events.db") -> list[Any]:
    with contextlib.closing(sqlite3.connect(place / name)) as database:
        return database.execute(f"SELECT {columns} FROM token_estimation_v2_events ORDER BY phase_id").fetchall()


def plan_file(place: Path, *phases: Mapping[str, Any]) -> Path:
    path = place / "plan.json"
    path.write_text(json.dumps({"phases": phases}))
    return path


@pytest.mark.slow
def test_a_recorded_run_leaves_exactly_the_recorded_replies(place: Path, recorded: RecordedRun) -> None:
    plan, recording = recorded.plan, recorded.replies
    options = ["--run-id", "v5", "--provider", "recorded", "--plan", str(plan), "--recording", str(recording)]
    done = subprocess.run([*PROGRAM, *options], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("FAILED") == 1
    assert f"FAILED  {recorded.never_run}: 404 not_found_error: no recorded reply" in done.stderr
    assert done.stdout.splitlines()[0] == "run v5: 25 phases, 24 ok, 1 failed"
    assert "accepted=25 written=25 duplicates=0 dead_lettered=0 pending=0 dropped=0" in done.stdout

    deliverables = {phase["phase_id"]: phase["deliverables"] for phase in json.loads(plan.read_bytes())["phases"]}
    names = (
        "phase_id",
        "model",
        "input_tokens",
        "actual_output_tokens",
        "actual_max_tokens",
        "stop_reason",
        "selected_budget",
        "success",
        "deliverables_json",
        "predicted_output_tokens",
    )
    found = [(*row[:-3], bool(row[-3]), json.loads(row[-2]), row[-1]) for row in rows(place, ", ".join(names))]
    expected = [
        (
            entry["phase_id"],
            entry["model"],
            entry["input_tokens"],
            entry["output_tokens"],
            entry["max_tokens"],
            entry["stop_reason"],
            entry["selected_budget"],
            entry["success"],
            deliverables[entry["phase_id"]],
            entry["predicted_output_tokens"],
        )
        for entry in json.loads(recording.read_bytes())
    ]
    assert len(found) == 25
    assert sorted(map(str, (row[:-1] for row in found))) == sorted(map(str, (row[:-1] for row in expected)))
    predictions = {row[0]: row[-1] for row in found}
    differing = {row[0] for row in expected if predictions[row[0]] != row[-1]}
    assert differing == {recorded.predicted_by_others}


def test_without_key_plan_or_recording_the_shipped_plan_runs(place: Path) -> None:
    """Without key, plan or recording, the shipped plan is simulated and succeeds."""
    done = run("--run-id", "first", "--concurrency", 8)
    assert done.exit_code == 0, done.output
    assert "provider: simulated (ANTHROPIC_API_KEY is not set)" in done.stderr
    assert f"database: sqlite:///{place}/events.db" in done.stderr
    assert "telemetry: on\n" in done.stderr
    assert {model for (model,) in rows(place, "model")} == {"simulated-writer-1"}
    assert len({phase for (phase,) in rows(place, "phase_id")}) >= 40
    assert any(truncated for (truncated,) in rows(place, "truncated"))
    assert list((place / "work").iterdir()) == []


@pytest.mark.slow
def test_the_same_seed_leaves_the_same_rows_at_any_concurrency(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, seed, concurrency in (("a.db", 3, 1), ("b.db", 3, 8), ("c.db", 4, 8)):
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{place}/{name}")
        run("--run-id", "r", "--seed", seed, "--concurrency", concurrency)
        columns = "phase_id, actual_output_tokens, input_tokens, stop_reason, attributes_json"
        found.append(sorted(rows(place, columns, name)))
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.slow
def test_with_the_flag_off_there_is_no_file_and_no_sqlalchemy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELEMETRY_DB_ENABLED")
    program = (
        "import sys; from autopack.autonomous_executor import run_command;"
        "import atexit; atexit.register(lambda: print('sqlalchemy' in sys.modules));"
        "run_command(['--run-id', 'off'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "telemetry: off" in done.stderr
    assert done.stdout.splitlines()[-2:] == ["telemetry: off, nothing was recorded", "False"]
    assert [path.name for path in place.iterdir()] == ["work"]
    assert list((place / "work").iterdir()) == []


def test_a_failed_phase_does_not_stop_the_others(place: Path) -> None:
    done = run("--run-id", "r", "--fault", "drop=0.3")
    failed = done.stderr.count("FAILED")
    assert done.exit_code == 1
    assert 3 < failed < 40
    assert f"45 phases, {45 - failed} ok, {failed} failed" in done.stdout
    assert sum(success for (success,) in rows(place, "success")) == 45 - failed


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_run_and_every_finished_call_is_kept(place: Path, signum: signal.Signals, code: int) -> None:
    """A signal stops the run, and every finished call is in the database."""
    options = ["--run-id", "r", "--concurrency", "8", "--fault", "stall=0.4"]
    with subprocess.Popen([*PROGRAM, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("[5/"):
                break
        sent = time.monotonic()
        process.send_signal(signum)
        process.send_signal(signum)
        seen += list(process.stderr)
        said = process.stdout.read()
        assert process.wait(30) == code
    took_s = time.monotonic() - sent
    print(f"{signum.name}: {took_s:.2f} s from the signal to the exit; promised: {SHUTDOWN_S} s and one")  # noqa: T201 (the figure of interest)
    assert took_s < SHUTDOWN_S + 1 + LOADED_MACHINE_S
    finished_calls = sum("[TokenEstimationV2]" in line for line in seen)
    assert 5 <= finished_calls < 45
    assert len(rows(place)) == finished_calls
    assert f"stopped by {signum.name}: " in said
    assert "Traceback" not in "".join(seen)


def broken_pipe() -> int:
    """The end to write to of a pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk() -> int:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.slow
@pytest.mark.parametrize("program", [PROGRAM, [sys.executable, "-m", "autopack.cli", "run"]])
@pytest.mark.parametrize("unwritable", [broken_pipe, full_disk])
def test_an_unwritable_standard_error_does_not_stop_the_run(
    place: Path, program: list[str], unwritable: Callable[[], int]
) -> None:
    """A standard error that cannot be written does not stop the run."""
    stderr = unwritable()
    done = subprocess.run(
        [*program, "--run-id", "r"], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False, timeout=60
    )
    os.close(stderr)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "run r: 45 phases, 45 ok, 0 failed"
    assert len(rows(place)) >= 45


@pytest.mark.slow
def test_a_closed_standard_error_does_not_stop_the_run(place: Path) -> None:
    command = f"exec {shlex.join(PROGRAM)} --run-id r 2>&-"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "run r: 45 phases, 45 ok, 0 failed"


@pytest.mark.slow
def test_a_reader_that_left_changes_neither_run_nor_exit_code(place: Path) -> None:
    """A reader that went away from both streams changes neither the run nor its exit code."""
    both = broken_pipe()
    options = ["--run-id", "r", "--fault", "drop=0.3"]
    done = subprocess.run([*PROGRAM, *options], stdout=both, stderr=both, check=False, timeout=60)
    os.close(both)
    assert done.returncode == 1  # as some phases failed
    assert len(rows(place)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("program", [PROGRAM, [sys.executable, "-m", "autopack.cli", "run"]])
def test_a_summary_that_cannot_be_written_is_one_clear_line(place: Path, program: list[str]) -> None:
    stdout = full_disk()
    options = ["--run-id", "r"]
    done = subprocess.run(
        [*program, *options], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    os.close(stdout)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert len(rows(place)) >= 45


def opened_for(process: subprocess.Popen[bytes], fifo: Path) -> int:
    """The writing end, as soon as the program has opened the other one; a program that ends instead fails the test."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # there is no reader yet
                raise
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_program_while_it_waits_for_its_plan(place: Path, signum: signal.Signals, code: int) -> None:
    os.mkfifo(place / "plan")
    command = [*PROGRAM, "--run-id", "r", "--plan", str(place / "plan")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        writer = opened_for(process, place / "plan")
        try:
            process.send_signal(signum)
            assert process.wait(30) == code
        finally:
            os.close(writer)
        assert process.communicate() == (b"", b"")


def test_a_plan_without_an_end_is_refused(place: Path) -> None:
    done = run("--run-id", "r", "--plan", "/dev/zero")
    assert done.exit_code == 2
    assert done.stderr == "Error: /dev/zero: larger than 64 MiB\n"
    assert [path.name for path in place.iterdir()] == ["work"]


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (
            "DATABASE_URL",
            "mysql://u:hunter2@h/d",
            "DATABASE_URL: 'mysql://u:***@h/d': 'mysql' is not supported",
        ),
        ("TELEMETRY_QUEUE_SIZE", "abc", "TELEMETRY_QUEUE_SIZE='abc': "),
    ],
)
def test_a_run_that_is_to_be_recorded_and_cannot_be_is_not_started(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(name, value)
    done = run("--run-id", "r")
    assert done.exit_code == 2
    assert f"Error: {complaint}" in done.stderr
    assert "telemetry: off" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in place.iterdir()] == ["work"]


def test_an_unwritable_database_is_named_before_the_first_call(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that can never be written is named before the first call."""
    (place / "text").write_text("no database at all")
    for url, problem in (
        (f"{place}/text", f"{place}/text is not a SQLite database"),
        (f"{place}/text/x.db", f"{place}/text is not a folder"),
        (f"{place}/work", f"{place}/work is not a file"),
    ):
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{url}")
        done = run("--run-id", "r")
        assert done.exit_code == 2
        assert done.stderr.splitlines()[-1] == f"Error: the database cannot be written: {problem}"
    assert sorted(path.name for path in place.iterdir()) == ["text", "work"]


def test_without_permission_nothing_is_started() -> None:
    program = (
        "import os, sys; from pathlib import Path; from autopack.database.destination import Destination\n"
        "from autopack.database.preflight import database_problem\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "for path in sys.argv[1:]: print(database_problem(Destination('sqlite', Path(path))))"
    )
    with tempfile.TemporaryDirectory() as name:  # under tmp_path only its owner sees anything
        place = Path(name)
        place.chmod(0o777)
        (place / "x.db").touch(0o400)
        (place / "closed").mkdir(0o555)
        command = [sys.executable, "-c", program, f"{place}/x.db", f"{place}/closed/a/b.db"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        f"no permission to write {place}/x.db",
        f"no permission to write in {place}/closed",
    ]


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar(place: Path) -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*PROGRAM, "--run-id", "r"], stdout=subprocess.DEVNULL, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
            while piece := os.read(controller, 65536):
                shown += piece
        os.close(controller)
        assert process.wait(20) == 0
    assert b"45/45" in shown
    assert b"tide-12-storage" in shown
    assert b"[TokenEstimationV2]" not in shown


def test_existing_deliverables_are_recorded_as_modified(place: Path) -> None:
    """Existing deliverables of the workspace are recorded, and counted as modified."""
    workspace = place / "project"
    workspace.mkdir()
    (workspace / "here.py").touch()
    plan = plan_file(place, {"phase_id": "p1", "complexity": "low", "deliverables": {"all": ["here.py", "gone.py"]}})
    done = run("--run-id", "r", "--plan", plan, "--workspace", workspace)
    assert done.exit_code == 0
    assert rows(place, "existing_json, predicted_output_tokens") == [('["here.py"]', int((2000 + 700 + 2000) * 1.3))]


@pytest.mark.slow
def test_names_from_a_plan_cannot_act_on_the_terminal(place: Path) -> None:
    evil = "\x1b[2J\u202eevil\n[red]"
    done = run("--run-id", evil, "--plan", plan_file(place, {"phase_id": evil, "category": evil, "description": evil}))
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output
    assert "\\x1b[2J\\u202eevil\\n[red]" in done.stderr
    assert rows(place, "run_id, phase_id, category") == [(evil, evil, evil)]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--plan", "gone.json"], "gone.json: No such file or directory"),
        (["--plan", "text.txt"], "text.txt: not valid JSON"),
        (["--plan", "bad.json"], "bad.json: phase 2 ('p2'): Expected `str`, got `int` - at `$.complexity`"),
        (["--provider", "recorded", "--recording", "gone.json"], "gone.json: No such file or directory"),
        (["--provider", "recorded", "--recording", "text.txt"], "text.txt: not valid JSON"),
        (["--provider", "anthropic"], "set ANTHROPIC_API_KEY"),
    ],
)
def test_a_bad_file_or_no_key_is_one_line_and_nothing_starts(place: Path, options: list[str], complaint: str) -> None:
    """A bad file or no key is one clear line, and nothing is started."""
    Path("text.txt").write_text("no json")
    Path("bad.json").write_text('{"phases": [{"phase_id": "p1"}, {"phase_id": "p2", "complexity": 3}]}')
    done = run("--run-id", "r", *options)
    assert done.exit_code == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert done.stderr.count("Error: ") == 1
    assert done.stdout == ""
    assert [path.name for path in place.iterdir()] == ["work"]


@pytest.mark.slow
def test_with_another_base_url_the_output_says_why_calls_fail(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a base URL of the user's, the output says where the calls go and why they fail."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    done = run("--run-id", "r", "--plan", plan_file(place, {"phase_id": "p1"}))
    assert done.exit_code == 1
    assert f"provider: anthropic (ANTHROPIC_API_KEY is set), at {url}\n" in done.stderr
    assert "FAILED  p1: APIConnectionError: Connection error. (ConnectError: All connection" in done.stderr


def test_an_unusable_url_of_the_api_is_refused_before_anything_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "nonsense")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    done = run("--run-id", "r")
    assert done.exit_code == 2
    assert done.stderr == "Error: ANTHROPIC_BASE_URL: nonsense/ is no http:// or https:// URL\n"
    assert [path.name for path in place.iterdir()] == ["work"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "Missing option '--run-id'"),
        (["--run-id", " "], "--run-id"),
        (["--run-id", "x" * 201], "between 1 and 200"),
        (["--run-id", "caf\udce9"], "caf\\udce9 is not valid text"),
        (["--run-id", "r", "--provider", "recorded"], "go together"),
        (["--run-id", "r", "--recording", "x"], "go together"),
        (["--run-id", "r", "--provider", "anthropic", "--fault", "drop=1"], "--fault is for --provider simulated"),
        (["--run-id", "r", "--fault", "fire=1"], "unknown fault 'fire'"),
        (["--run-id", "r", "--concurrency", "0"], "--concurrency"),
        (["--run-id", "r", "--workspace", "gone"], "does not exist"),
        (["--run-id", "r", "--provider", "oracle"], "oracle"),
    ],
)
def test_wrong_use_is_refused_with_exit_code_2(place: Path, options: list[str], complaint: str) -> None:
    done = run(*options)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert [path.name for path in place.iterdir()] == ["work"]


def test_a_bad_file_of_coefficients_is_refused_before_anything_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPACK_ESTIMATOR_COEFFICIENTS", "none.json")
    done = run("--run-id", "r")
    assert done.exit_code == 2
    assert done.stderr == "Error: AUTOPACK_ESTIMATOR_COEFFICIENTS: none.json: No such file or directory\n"


def test_the_help_has_an_example() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert "TELEMETRY_DB_ENABLED=1 autopack run --run-id nightly --concurrency 8" in done.stdout


def test_the_provider_is_the_real_api_where_there_is_a_key() -> None:
    assert choose_provider(None, {"ANTHROPIC_API_KEY": "k"}) == ("anthropic", "ANTHROPIC_API_KEY is set")
    assert choose_provider(None, {"ANTHROPIC_API_KEY": ""})[0] == "simulated"
    assert choose_provider("simulated", {"ANTHROPIC_API_KEY": "k"}) == ("simulated", "as asked")


def outcome(success: bool = True, attempts: int = 1) -> Outcome:
    return Outcome("p1", PhaseResult(success, 1234, "", None, None if success else "503: away", attempts))


def test_the_exit_code_says_how_the_run_ended() -> None:
    assert exit_code([outcome()], None) == 0
    assert exit_code([outcome(), outcome(success=False)], None) == 1
    assert exit_code([outcome()], signal.SIGINT) == 130
    assert exit_code([outcome(success=False)], signal.SIGTERM) == 143


def test_the_report_says_what_happened() -> None:
    assert outcome_line(outcome(attempts=2)) == "ok      p1: 1,234 tokens in 2 attempts"
    assert outcome_line(outcome(success=False)) == "FAILED  p1: 503: away"
    named_like_the_log = replace(outcome(), phase_id="[TokenEstimationV2] x=1")
    assert "[TokenEstimationV2]" not in outcome_line(named_like_the_log)
    stats = TelemetryStats(accepted=3, written=2, pending=1, dropped={"queue_full": 2, "closed": 0}, last_error="E")
    assert summary_lines("r", [outcome(), outcome(success=False)], 5, stats, signal.SIGTERM) == [
        "run r: 5 phases, 1 ok, 1 failed",
        "stopped by SIGTERM: 3 phases were not finished",
        "tokens used: 2,468",
        "telemetry: accepted=3 written=2 duplicates=0 dead_lettered=0 pending=1"
        " (LOST: there was no journal to keep them) dropped=2 queue_full=2 last_error=E",
    ]
    kept = summary_lines("r", [], 0, TelemetryStats(accepted=1, pending=1, journal_dir="/x/\x1by"), None)[-1]
    assert "pending=1 (kept in /x/\\x1by; the next run on this database writes them) dropped=0" in kept
    recovered = summary_lines("r", [], 0, TelemetryStats(accepted=4, written=4, recovered=3), None)[-1]
    assert "pending=0 (recovered=3 of earlier runs) dropped=0" in recovered
    assert summary_lines("r", [], 0, None, None)[-1] == "telemetry: off, nothing was recorded"
