"""Short processes: what one costs that records one event, and many of them at once on a database that is new.

A build step is often a process of its own. Its CPU is that of the kernel's accounts, beside the import of the library
in turns. Many start at the same moment on a database that none has made yet: all rows have to be there when the last
one has ended. With `FORMER_SRC`, the `src` of another checkout, everything is done by that version too, in turns.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.call_site import KEYWORDS
from benchmarks.children import cpu_of, cpu_of_children_s, versions
from benchmarks.machine import ROOT
from benchmarks.report import Line, Options, Section, Table, Target
from benchmarks.rows import TABLE
from benchmarks.samples import at_most, ratio_of_minima

_IMPORT = "import autopack.telemetry"
_ONE_EVENT = "one event, close, exit"
_RECORD = f"""
import sys
from autopack.telemetry import get_telemetry
DELIVERABLES = ["src/app.py", "tests/test_app.py"]
telemetry = get_telemetry()
for _ in range(int(sys.argv[1])):
    telemetry.record({KEYWORDS})
"""
_REMARK = (
    "CPU and rows are what to read; the wall time is that of a machine of so many cores and its load. The default "
    "shutdown timeout is in force: what is not in the database at the end is in the journal."
)


def run(options: Options) -> Section:
    """Measure one process, then many at once."""
    alone, targets = _alone(8 if options.quick else 20)
    counts = (1, 8, 32) if options.quick else (1, 8, 32, 64)
    return Section(
        title="Short processes",
        tables=[alone, _together(counts, 1), _together(counts, 1_000)],
        targets=targets,
        remarks=[_REMARK],
    )


def _alone(repetitions: int) -> tuple[Table, list[Target]]:
    """The CPU of whole processes, in turns."""
    programs: dict[str, tuple[str, Path]] = {"bare Python": ("pass", ROOT)}
    for version, source in versions().items():
        programs[f"{_IMPORT}{version}"] = (_IMPORT, source)
        programs[f"{_ONE_EVENT}{version}"] = (_RECORD, source)
    samples: dict[str, list[float]] = {title: [] for title in programs}
    for _ in range(repetitions):
        for title, (code, source) in programs.items():
            with tempfile.TemporaryDirectory() as folder:
                samples[title].append(cpu_of(code, _environment(f"sqlite:///{folder}/x.db", source), "1"))
    imported = samples[_IMPORT]
    lines = [
        Line(title, [round(min(found) * 1000), round(min(found) / min(imported), 2)])
        for title, found in samples.items()
    ]
    ratio, sides = ratio_of_minima(samples[_ONE_EVENT], imported)
    target = at_most(f"CPU of a process of one event over {_IMPORT}", ratio, sides, must=6, aim=4.5)
    columns = ["smallest CPU ms", f"over {_IMPORT}"]
    return Table(f"One process on a new database, {repetitions} times", columns, lines), [target]


@dataclass(frozen=True, slots=True)
class _Together:
    rows: int
    wall_s: float
    cpu_s: float


def _together(counts: tuple[int, ...], events: int) -> Table:
    lines = []
    for count in counts:
        for version, source in versions().items():
            found = _start_at_once(count, events, source)
            label = f"{count} process{'es' if count > 1 else ''}{version}"
            share = f"{found.rows:,} of {count * events:,}"
            lines.append(
                Line(label, [share, round(found.wall_s, 2), round(found.cpu_s, 2), round(found.cpu_s / count, 3)])
            )
    title = f"At once on a new database, {events:,} event{'s' if events > 1 else ''} each"
    return Table(title, ["rows when the last has ended", "wall s", "CPU s", "CPU s a process"], lines)


def _start_at_once(count: int, events: int, source: Path) -> _Together:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        begin_s, before_s = time.perf_counter(), cpu_of_children_s()
        running = [
            subprocess.Popen(
                [sys.executable, "-c", _RECORD, str(events)],
                env=_environment(f"sqlite:///{path}", source),
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            )
            for _ in range(count)
        ]
        for process in running:
            process.wait()
        return _Together(_rows_in(path), time.perf_counter() - begin_s, cpu_of_children_s() - before_s)


def _rows_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone()
        if there is None:
            return 0
        rows: int = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]
        return rows


def _environment(url: str, source: Path) -> dict[str, str]:
    return os.environ | {"TELEMETRY_DB_ENABLED": "1", "DATABASE_URL": url, "PYTHONPATH": str(source)}
