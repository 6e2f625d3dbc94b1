"""What the tests of the read side share: real databases with real rows, and the real programs."""

import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import chdir, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner
from sqlalchemy.orm import Session

from autopack.cli import main
from autopack.database import engine_for
from autopack.database.destination import Destination, parse_database_url
from autopack.models import Base, TokenEstimationV2Event

ROOT = Path(__file__).parents[1]
_OLD_CLICK: Any = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}  # before 8.2
RUNNER = CliRunner(**_OLD_CLICK)
"""Runs a command in this process, and keeps its standard output and standard error apart."""
START = datetime(2025, 12, 29, 19, 40, 1, tzinfo=UTC)

_NOT_INHERITED = {"DATABASE_URL", "TELEMETRY_DB_ENABLED", "PYTHONUNBUFFERED", "AUTOPACK_ESTIMATOR_COEFFICIENTS"}


def event(number: int, **changes: Any) -> TokenEstimationV2Event:
    """The row of an event; a higher number is a later event."""
    values: dict[str, Any] = {
        "run_id": "nightly",
        "phase_id": f"p{number}",
        "timestamp": START + timedelta(seconds=number),
        "category": "implementation",
        "complexity": "medium",
        "deliverable_count": 2,
        "deliverables_json": '["src/app.py", "tests/test_app.py"]',
        "predicted_output_tokens": 5200,
        "actual_output_tokens": 2600,
        "selected_budget": 8192,
        "success": True,
        "truncated": False,
        "stop_reason": "end_turn",
        "model": "claude-sonnet-4-5",
        "smape_percent": 66,
        "waste_ratio": 200,
        "underestimated": False,
        "event_uid": f"00000000-0000-7000-8000-{number:012}",
    }
    return TokenEstimationV2Event(**values | changes)


def make_database(path: Path, rows: Iterable[TokenEstimationV2Event] = ()) -> Destination:
    """A database in WAL mode, as autopack makes them, with these rows."""
    destination = parse_database_url(f"sqlite:///{path}")
    engine = engine_for(destination)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(rows)
        session.commit()
    return destination


def environment(database: Path | str | None, **changes: str) -> dict[str, str]:
    """This process's environment, with `DATABASE_URL` naming the database and buffered output as users have it."""
    url = f"sqlite:///{database}" if isinstance(database, Path) else database
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return kept | ({} if url is None else {"DATABASE_URL": url}) | changes


def autopack(
    *arguments: str | Path, database: Path | str | None = None, cwd: Path | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command as the console script does, on real files and in this process, which saves its imports."""
    words = [str(argument) for argument in arguments]
    with _text_file() as out, _text_file() as err:
        before = os.environ.copy()
        os.environ.clear()
        os.environ.update(environment(database, **changes))
        try:
            with redirect_stdout(out), redirect_stderr(err), chdir(cwd or Path.cwd()):
                code = _exit_code(words)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return subprocess.CompletedProcess(words, code, _contents(out), _contents(err))


def autopack_process(
    *arguments: str | Path, database: Path | str | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "autopack.cli", *map(str, arguments)],
        env=environment(database, **changes),
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=60,
    )


class Measured(NamedTuple):
    """What a command printed, and the most memory that it ever had."""

    stdout: str
    peak_mib: float


def measured(*arguments: str, database: Path | str | None = None, cwd: Path | None = None) -> Measured:
    """Run a command that succeeds in a process of its own, and look at its memory at the end."""
    # Not by getrusage, where a child begins with the peak of the process that started it.
    program = (
        "import atexit, sys\nfrom pathlib import Path\nfrom autopack.cli import main\n"
        "atexit.register(lambda: print(Path('/proc/self/status').read_text(), file=sys.stderr))\nmain(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(database),
        cwd=cwd,
        capture_output=True,
        check=True,
        encoding="utf-8",
        timeout=120,
    )
    (peak_kib,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)
    return Measured(done.stdout, int(peak_kib) / 1024)


def _text_file() -> io.TextIOWrapper:
    return io.TextIOWrapper(tempfile.TemporaryFile(), encoding="utf-8", errors="strict", write_through=True)


def _exit_code(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    return 0


def _contents(file: io.TextIOWrapper) -> str:
    file.seek(0)
    return file.read()
