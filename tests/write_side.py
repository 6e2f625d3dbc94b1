"""What the tests of the write side share: a valid event, plain looks at what was stored, and child interpreters."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import autopack

ROOT = Path(__file__).parents[1]
PACKAGE = Path(autopack.__file__).parent  # of the source tree, or where the wheel is installed
DATA = ROOT.parent / "shared" / "data"
TABLE = "token_estimation_v2_events"

# What every child program begins with. It imports nothing that "off means off" forbids.
PRELUDE = """
import logging, os, sys, threading
from tests.write_side import event
"""


def event(**changes: Any) -> dict[str, Any]:
    """The keywords of a valid event."""
    fields: dict[str, Any] = {
        "run_id": "nightly",
        "phase_id": "p1",
        "category": "implementation",
        "complexity": "medium",
        "deliverables": ["src/app.py", "tests/test_app.py"],
        "predicted_output_tokens": 5200,
        "actual_output_tokens": 2600,
        "selected_budget": 8192,
        "success": True,
        "truncated": False,
        "stop_reason": "end_turn",
        "model": "claude-sonnet-4-5",
    }
    return fields | changes


def url_of(path: Path) -> str:
    """The database URL of a file."""
    return f"sqlite:///{path}"


def rows_of(path: Path, table: str = TABLE) -> list[dict[str, Any]]:
    """The rows as SQLite has them, in order of their row numbers, read without autopack's code."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")]


def phases_of(path: Path) -> list[str]:
    """The phase of every row."""
    return [row["phase_id"] for row in rows_of(path)]


def dead_letter_file(path: Path) -> Path:
    """Where the dead letters of a database file are."""
    return path.with_name(path.name + ".telemetry") / "dead-letters.ndjson"


def dead_letters_of(path: Path) -> list[dict[str, Any]]:
    """The dead letters of a database file, read without autopack's code."""
    return read_dead_letters(dead_letter_file(path))


def read_dead_letters(file: Path) -> list[dict[str, Any]]:
    """What a file of dead letters holds; nothing where there is none."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment that holds nothing of this one's but what a process needs, and where the tests are."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "XDG_STATE_HOME") if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(ROOT)])} | dict(changes or {})


def start_python(
    code: str, *arguments: str | Path, env: Mapping[str, str] | None = None, options: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    """A child interpreter that has begun to run the code; `sys.argv[1:]` are the arguments."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", PRELUDE + textwrap.dedent(code), *map(str, arguments)],
        env=child_environment(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,  # so that a hanging one can be ended with its own children
    )


def run_python(
    code: str,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    exit_code: int | None = 0,
    timeout_s: float = 60,
) -> "subprocess.CompletedProcess[str]":
    """Run the code in a child interpreter and hold it to its exit code, unless that is None."""
    process = start_python(code, *arguments, env=env, options=options)
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        raise AssertionError(f"the child hangs:\n{output}\n{errors}") from None
    assert exit_code in (None, process.returncode), f"exit code {process.returncode}\n{output}\n{errors}"
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
