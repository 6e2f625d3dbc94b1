import json
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path

import click
import pytest
from tests.read_side import autopack, autopack_process, environment, event, make_database

from autopack import __version__
from autopack.cli import COMMANDS, cli
from autopack.database.destination import parse_database_url
from autopack.maintenance.health import database_status

LOG_LINE = (
    "[2025-12-23 22:07:12] INFO: [TokenEstimationV2] predicted_output=822 actual_output=3137 smape=116.9% "
    "selected_budget=12288 category=implementation complexity=medium deliverables=2 success=True stop_reason=end_turn "
    "truncated=False model=claude-sonnet-4-5\n"
)
READ_SIDE = ["export", "replay", "status"]
TOO_FEW = {"validate": {0, 1, 2}, "calibrate": {1}}  # exit codes where one event is not enough
HEAVY = ["sqlalchemy", "anthropic", "alembic", "aiosqlite", "rich", "starlette", "uvicorn"]


def loaded_by(*arguments: str) -> set[str]:
    """Which of the heavy libraries a command line imports."""
    program = (
        "import sys\nfrom autopack.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as exc:\n    assert not exc.code\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=True, text=True)
    return set(re.findall(r"'(\w+)'", done.stdout.rpartition("loaded:")[2]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"]])
def test_help_and_version_load_no_heavy_library(arguments: list[str]) -> None:
    assert loaded_by(*arguments) == set()


@pytest.mark.slow
def test_the_measure_of_the_test_above_sees_what_a_command_loads() -> None:
    assert "sqlalchemy" in loaded_by("status", "--help")


def test_help_lists_every_command_with_its_own_words() -> None:
    """The help lists every command with the words of the command itself."""
    done = autopack("--help")
    assert done.returncode == 0
    for name, lazy in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(lazy.short_help)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_list_says(name: str) -> None:
    lazy = COMMANDS[name]
    command = getattr(import_module(lazy.module), lazy.attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    if name in READ_SIDE:
        assert command.short_help == lazy.short_help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = autopack(name, "--help")
    assert done.returncode == 0
    assert f"Usage: autopack {name}" in done.stdout
    assert "Example:" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, "dead-letters list", "dead-letters retry", ""])
def test_the_example_in_the_help_of_each_command_runs(tmp_path: Path, name: str) -> None:
    make_database(tmp_path / "autopack.db", [event(1)])
    autopack("export", "--output", "telemetry_export.ndjson", cwd=tmp_path)
    (tmp_path / "build.log").write_text(LOG_LINE)
    printed = autopack(*name.split(), "--help").stdout
    (settings, example) = re.findall(r"Example:\s+((?:[A-Z_]+=\S+ )*)autopack (.+)", printed)[0]
    done = autopack(
        *shlex.split(example), cwd=tmp_path, **dict(setting.split("=") for setting in shlex.split(settings))
    )
    assert done.returncode in TOO_FEW.get(name, {0}), done.stderr
    if name != "budget":  # it reads the estimator's figures only
        assert f"sqlite:///{tmp_path}/autopack.db" in done.stderr


def test_the_version_is_the_packages() -> None:
    done = autopack_process("--version")
    assert (done.returncode, done.stdout) == (0, f"autopack, version {__version__}\n")


@pytest.mark.parametrize("arguments", [["exprot"], ["export", "--formt", "csv"], ["export", "surplus"], ["--\x1b[2J"]])
def test_a_wrong_command_line_is_exit_2(arguments: list[str]) -> None:
    done = autopack(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("name", READ_SIDE)
@pytest.mark.parametrize("url", ["mysql://root:hunter2@db/x?password=hunter2", "nonsense\x1b[2J"])
def test_a_bad_database_url_is_one_clear_line_without_a_password(name: str, url: str) -> None:
    done = autopack(name, database=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr
    assert "\x1b" not in done.stderr


def test_status_of_a_healthy_database(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1), event(2)])
    done = autopack("status", database=tmp_path / "x.db")
    assert done.returncode == 0
    assert done.stdout == (
        f"database:     sqlite:///{tmp_path}/x.db\nreachable:    yes\nrows:         2\n"
        f"last event:   2025-12-29T19:40:03+00:00\njournal:      {tmp_path}/x.db.telemetry\n"
        "waiting:      0 event(s) in 0 segment(s)\ndead letters: 0\n"
    )


def test_status_for_programs_is_json(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1)])
    done = autopack("status", "--json", database=tmp_path / "x.db")
    assert json.loads(done.stdout) == {
        "database": f"sqlite:///{tmp_path}/x.db",
        "reachable": True,
        "problem": None,
        "rows": 1,
        "rows_exact": True,
        "last_event": "2025-12-29T19:40:02+00:00",
        "healthy": True,
        "journal": {"folder": f"{tmp_path}/x.db.telemetry", "files": [], "corrupt": []},
        "waiting": 0,
        "waiting_of_dead_writers": 0,
        "dead_letters": {"waiting": 0, "unreadable": 0, "full": False},
        "problems": [],
    }


def test_an_empty_database_is_healthy(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db")
    done = autopack("status", database=tmp_path / "x.db")
    assert done.returncode == 0
    assert "rows:         0\nlast event:   none\n" in done.stdout


def test_status_of_a_missing_database_is_1_and_creates_nothing(tmp_path: Path) -> None:
    plain = autopack("status", database=tmp_path / "x.db")
    programs = autopack("status", "--json", database=tmp_path / "x.db")
    assert (plain.returncode, programs.returncode) == (1, 1)
    assert "reachable:    no: there is no database at" in plain.stdout
    status = json.loads(programs.stdout)
    assert (status["reachable"], status["rows"], status["last_event"]) == (False, None, None)
    assert "there is no database at" in status["problem"]
    assert list(tmp_path.iterdir()) == []


def test_status_reports_a_time_that_cannot_be_read(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1), event(2)])
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute("UPDATE token_estimation_v2_events SET timestamp = 'garbage' WHERE phase_id = 'p1'")
    status = json.loads(autopack("status", "--json", database=tmp_path / "x.db").stdout)
    assert (status["reachable"], status["rows"], status["last_event"]) == (True, 2, None)
    assert "last event:   unreadable\n" in autopack("status", database=tmp_path / "x.db").stdout


def test_the_status_of_an_unreachable_database_is_a_problem(tmp_path: Path) -> None:
    """The status of a database that cannot even be looked for is a problem, and no error."""
    too_long = "x" * 300  # as in a folder without permission, which root does not know: asking raises an OSError
    status = database_status(parse_database_url(f"sqlite:///{tmp_path}/{too_long}"))
    assert status.reachable is False
    assert "File name too long" in (status.problem or "")


@pytest.mark.parametrize("name", ["export", "replay"])
def test_a_limit_that_no_database_takes_is_a_wrong_command_line(tmp_path: Path, name: str) -> None:
    make_database(tmp_path / "x.db", [event(1)])
    assert autopack(name, "--limit", str(2**63 - 1), database=tmp_path / "x.db").returncode == 0
    done = autopack(name, "--limit", str(2**63), database=tmp_path / "x.db")
    assert done.returncode == 2
    assert "--limit" in done.stderr


def test_a_path_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2J\u202eb"
    folder.mkdir()
    make_database(folder / "x.db", [event(1)])
    for arguments in (["status"], ["status", "--json"], ["export", "--output", str(folder / "out")], ["replay"]):
        done = autopack(*arguments, database=folder / "x.db")
        assert done.returncode == 0, done.stderr
        assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)


def test_a_path_that_is_not_unicode_can_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    (tmp_path / "x.db").touch()
    make_database(tmp_path / "plain.db", [event(1)])
    (tmp_path / "plain.db").rename(folder / "x.db")
    done = autopack("status", database=folder / "x.db")
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9" in done.stdout


@pytest.mark.slow
def test_output_that_the_locale_cannot_encode_is_escaped_and_no_error(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1, category="π", deliverables_json="[]")])
    done = autopack_process("replay", database=tmp_path / "x.db", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "\\u03c0 " in done.stdout


def test_text_that_is_not_unicode_is_refused_as_a_filter(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1)])
    done = autopack("export", "--run-id", "caf\udce9", database=tmp_path / "x.db")
    assert done.returncode == 2
    assert "caf\\udce9 is not valid text" in done.stderr


@pytest.mark.slow
def test_a_closed_standard_output_is_one_clear_line(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", [event(1)])
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m autopack.cli export >&-"],
        env=environment(tmp_path / "x.db"),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: standard output is closed; use --output FILE"


def test_the_commands_of_the_group_are_those_of_the_list() -> None:
    assert cli.list_commands(click.Context(cli)) == list(COMMANDS)
    assert cli.get_command(click.Context(cli), "nothing") is None
