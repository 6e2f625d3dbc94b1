"""Runs benchmarks, each in a process of its own, prints the targets and tables, and writes the files.

    scripts/bench [--quick] [--output DIR] [NAME ...]

Names: hot_path, busy, drain, postgres, llm_call, instrument, start_stop, processes, read, commands, stages; without
any, all of them. `FORMER_SRC`: the `src` of another checkout, beside which `processes` and `commands` are measured.
`--output DIR` writes DIR/results.json, DIR/tables.md and the charts; results of benchmarks that were not run stay as
they were there.
Where there is a page DIR.md with the two marks in it, the tables are put between them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import msgspec
from benchmarks.machine import ROOT, describe
from benchmarks.render import Result, markdown
from benchmarks.report import Options, Section
from benchmarks.svg import log_bars

NAMES = (
    "hot_path",
    "busy",
    "drain",
    "postgres",
    "llm_call",
    "instrument",
    "start_stop",
    "processes",
    "read",
    "commands",
    "stages",
)
MARKS = ("<!-- results: written by scripts/bench, do not edit -->", "<!-- end of results -->")

Results = dict[str, Result]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []])
    parser.add_argument("--quick", action="store_true", help="all of them in some two minutes")
    parser.add_argument("--output", type=Path, metavar="DIR")
    parser.add_argument("--single", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    options = Options(quick=given.quick)
    if given.single:
        given.single.write_bytes(msgspec.json.encode(measure(given.names[0], options)))
        return
    found: Results = {}
    for name in given.names or NAMES:
        found[name] = run_alone(name, options)
        if given.output:
            write(given.output, found)  # at once: a run that is stopped keeps what it has found
    print(markdown(found))


def measure(name: str, options: Options) -> Result:
    """Run one benchmark in this process."""
    machine = describe()
    started = time.monotonic()
    section: Section = import_module(f"benchmarks.bench_{name}").run(options)
    machine["load_1_min_after"] = round(os.getloadavg()[0], 2)
    return Result("quick" if options.quick else "full", round(time.monotonic() - started, 1), machine, section)


def run_alone(name: str, options: Options) -> Result:
    """Run one benchmark in a process of its own, so that none disturbs another. Raises CalledProcessError."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.run", name, "--single", str(path)]
        subprocess.run([*command, *(["--quick"] if options.quick else [])], cwd=ROOT, check=True)
        return msgspec.json.decode(path.read_bytes(), type=Result)


def write(folder: Path, found: Mapping[str, Result]) -> None:
    """The files, with earlier results of the other benchmarks."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    earlier = msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else {}
    results = {name: result for name in NAMES if (result := found.get(name) or earlier.get(name))}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    charts = {f"{name}.svg": chart for name, result in results.items() if (chart := chart_of(result.section))}
    for name, chart in charts.items():
        (folder / name).write_text(chart, encoding="utf-8")
    page = folder.with_name(f"{folder.name}.md")
    (folder / "tables.md").write_text(markdown(results, charts), encoding="utf-8")
    if page.exists():
        refresh(page, markdown(results, [f"{folder.name}/{chart}" for chart in charts]))


def refresh(page: Path, tables: str) -> None:
    """Put the tables between the marks of a page; a page without them stays as it is."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if mark and end:
        page.write_text(f"{before}{mark}\n\n{tables}\n{end}{after}", encoding="utf-8")


def chart_of(section: Section) -> str | None:
    """The chart of the table that the section names, if it names one."""
    if section.chart is None:
        return None
    table, column = section.tables[section.chart[0]], section.chart[1]
    bars = [(line.label, float(line.figures[column] or 0)) for line in table.lines]
    return log_bars(f"{section.title}: {table.columns[column]}, {table.title}", "", bars)


if __name__ == "__main__":
    main()
