"""Read side: export and replay of many rows, beside the host system's own export script, which loads them all.

Each runs as a command in a process of its own; peak memory is what the kernel says of it. The host system's script runs
on autopack's table, through its `SessionLocal` and its model, and writes 17 fields a row where autopack writes all.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.candidates import count_lines
from benchmarks.children import Ended, run_module
from benchmarks.report import Line, Options, Section, Table, Target
from benchmarks.rows import fill
from benchmarks.samples import at_most, ratio_of_minima

FULL_ROWS = 1_000_000
HOST = "the host system's export script"
EXPORT = "autopack export, NDJSON"
_REMARK = (
    "The targets are for 1,000,000 rows and are not judged on fewer: of 50,000 the start of the program is half of the "
    "time, and what autopack's export needs in memory hardly depends on the number of rows, while the host system's "
    "script holds all."
)
_COMMANDS: dict[str, list[str]] = {
    EXPORT: ["autopack.cli", "export"],
    "autopack export, CSV": ["autopack.cli", "export", "--format", "csv"],
    "autopack replay": ["autopack.cli", "replay", "--json"],
    HOST: ["benchmarks.host_export"],
}


def run(options: Options) -> Section:
    """Measure every command, in turns."""
    rows, repetitions = (50_000, 2) if options.quick else (FULL_ROWS, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "read.db", rows - 1)
        ended: dict[str, list[Ended]] = {title: [] for title in _COMMANDS}
        for number in range(repetitions):
            for title, command in _COMMANDS.items():
                if number and title not in (EXPORT, HOST):
                    continue  # once is enough for what is in no ratio
                ended[title].append(_run(command, folder))
                if title in (EXPORT, HOST):
                    assert count_lines(folder / "output") >= rows
    times = {title: [one.wall_s for one in found] for title, found in ended.items()}
    peaks = {title: [one.peak_mib for one in found] for title, found in ended.items()}
    return Section(
        title="Read side: export and replay",
        tables=[_table(rows, times, peaks)],
        targets=_targets(rows, *(ratio_of_minima(figures[EXPORT], figures[HOST]) for figures in (times, peaks))),
        remarks=[] if rows >= FULL_ROWS else [_REMARK],
    )


def _targets(rows: int, time: tuple[float, list[float]], peak: tuple[float, list[float]]) -> list[Target]:
    if rows < FULL_ROWS:
        return []
    title = f"export of {rows:,} rows, {{}}: {EXPORT} over {HOST}"
    return [
        at_most(title.format("time"), *time, must=1 / 3, aim=1 / 6),
        at_most(title.format("peak memory"), *peak, must=1 / 20, aim=1 / 30),
    ]


def _run(command: list[str], folder: Path) -> Ended:
    environment = {"DATABASE_URL": f"sqlite:///{folder / 'read.db'}"}
    return run_module(command[0], command[1:], environment, folder / "output")


def _table(rows: int, times: dict[str, list[float]], peaks: dict[str, list[float]]) -> Table:
    lines = [
        Line(
            title,
            [
                round(statistics.median(found), 2),
                f"{min(found):.2f} – {max(found):.2f}",
                round(rows / statistics.median(found)),
                round(statistics.median(peaks[title])),
            ],
        )
        for title, found in times.items()
    ]
    columns = ["s, median", "smallest – largest", "rows/s", "peak MiB"]
    return Table(f"{rows:,} rows, {len(times[HOST])} times, whole commands", columns, lines)
