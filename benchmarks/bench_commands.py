"""Commands that look: `tail` and `status` in tables of any size, and what `export` and `report` need for many rows.

Each is a process of its own, and its CPU and largest memory are the kernel's. With `FORMER_SRC`, the `src` of another
checkout, that version does the same on the same tables, in turns.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from benchmarks.children import Ended, run_module, versions
from benchmarks.report import Line, Options, Section, Table, Target
from benchmarks.rows import COLUMNS, TABLE, fill
from benchmarks.samples import at_most

_LOOKS = {"tail": ["tail", "--no-follow"], "status": ["status"]}
_HEAVY = {"export": ["export"], "report": ["report", "--output", "report.html"]}
_FIRST_ROWS = 10_000


def run(options: Options) -> Section:
    """Measure all of them, in tables that grow."""
    sizes = [_FIRST_ROWS, 100_000] if options.quick else [_FIRST_ROWS, 100_000, 1_000_000, 10_000_000]
    repetitions, heavy_rows = (2, 100_000) if options.quick else (3, 1_000_000)
    looks: dict[tuple[str, int], list[Ended]] = {}
    heavy: dict[str, Ended] = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.db"
        fill(path, _FIRST_ROWS - 1)
        for rows in sizes:
            _grow(path, rows)
            for _ in range(repetitions):
                for title, arguments in _LOOKS.items():
                    for version, source in versions().items():
                        looks.setdefault((title + version, rows), []).append(_run(arguments, path, source))
            if rows == heavy_rows:
                heavy = {
                    title + version: _run(arguments, path, source)
                    for title, arguments in _HEAVY.items()
                    if title != "report" or find_spec("plotly")
                    for version, source in versions().items()
                }
    cpu = {key: min(ended.cpu_s for ended in found) for key, found in looks.items()}
    return Section(
        title="Commands that look",
        tables=[_looks_table(cpu, sizes, repetitions), _heavy_table(heavy, heavy_rows)],
        targets=_targets(cpu, sizes, heavy, heavy_rows),
    )


def _run(arguments: list[str], path: Path, source: Path) -> Ended:
    environment = {"DATABASE_URL": f"sqlite:///{path}", "PYTHONPATH": str(source)}
    arguments = [str(path.with_name(word)) if word.endswith(".html") else word for word in arguments]
    return run_module("autopack.cli", arguments, environment, path.with_name("output"))


def _grow(path: Path, rows: int) -> None:
    """Copy what is there, under new ids and at later times, until the table has so many rows; SQLite does it alone."""
    others = ", ".join(name for name in COLUMNS if name not in {"event_uid", "timestamp"})
    with closing(sqlite3.connect(path)) as connection:
        there: int = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]
        while there < rows:
            with connection:
                connection.execute(
                    f"INSERT INTO {TABLE} (event_uid, timestamp, {others}) "
                    f"SELECT printf('%036d', ? + rowid), "
                    f"strftime('%Y-%m-%d %H:%M:%f000', timestamp, ? || ' seconds'), {others} FROM {TABLE} LIMIT ?",
                    (there, there, rows - there),
                )
            there = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]


def _looks_table(cpu: dict[tuple[str, int], float], sizes: list[int], repetitions: int) -> Table:
    titles = dict.fromkeys(title for title, _ in cpu)
    lines = [Line(title, [round(cpu[title, rows], 2) for rows in sizes]) for title in titles]
    return Table(
        f"CPU of `autopack tail --no-follow` and `autopack status`, whole commands, smallest of {repetitions}",
        [f"s at {rows:,} rows" for rows in sizes],
        lines,
    )


def _heavy_table(heavy: dict[str, Ended], rows: int) -> Table:
    lines = [Line(title, [round(ended.cpu_s, 1), round(ended.peak_mib)]) for title, ended in heavy.items()]
    return Table(f"Reading all of {rows:,} rows", ["CPU s", "peak MiB"], lines)


def _targets(cpu: dict[tuple[str, int], float], sizes: list[int], heavy: dict[str, Ended], rows: int) -> list[Target]:
    found = [
        at_most(
            f"CPU of {title} at {sizes[-1]:,} rows over that at {sizes[0]:,}",
            cpu[title, sizes[-1]] / cpu[title, sizes[0]],
            [cpu[title, sizes[-1]] / cpu[title, sizes[0]]],
            must=1.5,
            aim=1.2,
        )
        for title in _LOOKS
    ]
    if "report" in heavy and rows >= 1_000_000:
        peak = heavy["report"].peak_mib
        found.append(at_most(f"report of {rows:,} rows: peak memory", peak, [peak], must=300, aim=200, unit="MiB"))
    return found
