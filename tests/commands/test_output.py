"""How commands show what they say: by rich on a terminal where it is installed, plainly elsewhere."""

import ast
import os
import pty
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tests.read_side import START, environment, event, make_database
from tests.write_side import PACKAGE

from autopack.analysis.tables import Part, Section, aligned, padded, plain_sections, plain_tables

MAY_IMPORT_CLICK_OR_RICH = {"cli.py", "autonomous_executor.py"}
AS_OF = ("--as-of", "2026-02-01")
TABLES = [
    ("replay",),
    ("validate", *AS_OF),
    ("summary", *AS_OF),
    ("calibrate", "--min-replies", "5", "--min-runs", "2"),
]
WITHOUT_RICH = "import sys; sys.modules['rich'] = None"
SAY_WHETHER_RICH_IS_LOADED = (
    "import atexit, sys; atexit.register(lambda: print('rich' in sys.modules, file=sys.stderr))"
)


@pytest.fixture
def filled(database: Path) -> Path:
    """A database with enough in it for every table."""
    rows = [
        event(number, run_id=f"r{number % 5}", timestamp=START + timedelta(hours=number), actual_output_tokens=3000)
        for number in range(40)
    ]
    make_database(database, rows)
    return database


def program(prelude: str, *arguments: str | Path) -> list[str]:
    """The command line of `autopack` after some other code."""
    code = f"{prelude}\nimport sys\nfrom autopack.cli import main\nmain(sys.argv[1:])"
    return [sys.executable, "-c", code, *map(str, arguments)]


def shown_on_terminal(command: list[str], database: Path, **changes: str) -> tuple[int, str]:
    """Exit code of a program whose output and error are a terminal of 100 columns, and all that it shows."""
    near, far = pty.openpty()
    variables = environment(database, COLUMNS="100", TERM="xterm-256color", **changes)
    with subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=far, stderr=far) as process:
        os.close(far)
        shown = b""
        try:
            while part := os.read(near, 1 << 16):
                shown += part
        except OSError:  # how Linux says that no process has the terminal open any more
            pass
        os.close(near)
    return process.returncode, shown.decode().replace("\r\n", "\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", TABLES, ids=lambda command: command[0])
def test_without_rich_a_terminal_gets_what_a_pipe_gets(filled: Path, command: tuple[str, ...]) -> None:
    piped = subprocess.run(
        program("", *command),
        env=environment(filled),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        encoding="utf-8",
    )
    assert shown_on_terminal(program(WITHOUT_RICH, *command), filled) == (piped.returncode, piped.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("command", TABLES, ids=lambda command: command[0])
def test_with_rich_a_terminal_gets_bold_headings(filled: Path, command: tuple[str, ...]) -> None:
    _, shown = shown_on_terminal(program("", *command), filled)
    assert "\x1b[1m" in shown


@pytest.mark.slow
@pytest.mark.parametrize("command", [("export",), ("import", "log.txt"), ("prune", "--older-than", "1d", "--yes")])
def test_without_rich_there_is_no_progress_bar(filled: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    log = tmp_path / "log.txt"
    log.write_text("INFO: x\n")
    words = [str(log) if word == "log.txt" else word for word in command]
    _, shown = shown_on_terminal(program(WITHOUT_RICH, *words), filled)
    assert f"# Database: sqlite:///{filled}" in shown
    assert "\x1b" not in shown
    assert "Traceback" not in shown


@pytest.mark.slow
def test_without_rich_a_run_says_its_phases_line_by_line(filled: Path) -> None:
    command = program(WITHOUT_RICH, "run", "--run-id", "r", "--provider", "simulated")
    code, shown = shown_on_terminal(command, filled, TELEMETRY_DB_ENABLED="1")
    assert code == 0, shown
    assert "\n[45/45] ok " in shown
    assert "\x1b" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("command", [("export",), *TABLES], ids=lambda command: command[0])
def test_rich_is_not_loaded_for_a_pipe(filled: Path, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        program(SAY_WHETHER_RICH_IS_LOADED, *command),
        env=environment(filled),
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.stderr.splitlines()[-1] == "False"


def test_only_commands_the_executor_and_cli_import_click_or_rich() -> None:
    """Everything else can be used by a program that has neither."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] in {"click", "rich"}
    }
    assert {user for user in users if not user.startswith("commands/")} == MAY_IMPORT_CLICK_OR_RICH


def test_figures_stand_to_the_right_and_no_line_ends_in_blanks() -> None:
    assert list(aligned([("", "n", "x"), ("long", "1000", ""), ("a", "2", "33")])) == [
        "         n   x",
        "long  1000",
        "a        2  33",
    ]


def test_tables_stand_one_below_the_other_each_with_its_own_widths() -> None:
    parts: list[Part] = [("one", ("", "n"), [("a", "1000")]), ("two", ("", "n"), [("b", "1")])]
    assert plain_tables(parts) == "one\n      n\na  1000\n\ntwo\n   n\nb  1"


def test_sections_of_one_table_share_their_widths() -> None:
    sections: list[Section] = [("one", [("a", "1000")]), ("two", [("b", "1"), ("c", "22")])]
    assert plain_sections(("", "n"), sections) == "      n\n\none\na  1000\n\ntwo\nb     1\nc    22"


def test_a_cell_wider_than_its_column_is_not_cut() -> None:
    assert padded(("ab", "1", "rest"), (1, 3, 0), figures=(1,)) == "ab    1  rest"
