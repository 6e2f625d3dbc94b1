"""Start and stop: the import, the first event, the close, and the recovery after a kill. Each in new processes."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from benchmarks.call_site import KEYWORDS
from benchmarks.children import answer_of, python
from benchmarks.report import Line, Options, Section, Table
from benchmarks.rows import make_database
from benchmarks.samples import at_most

_IMPORTS: Mapping[str, tuple[str, str]] = {
    "bare Python": ("pass", "0"),
    "import autopack.telemetry": ("import autopack.telemetry", "0"),
    "the same and get_telemetry(), flag off": ("from autopack.telemetry import get_telemetry; get_telemetry()", "0"),
    "the same and get_telemetry(), flag on": ("from autopack.telemetry import get_telemetry; get_telemetry()", "1"),
}
_HEAD = f"""
import json, os, sys, time
from autopack.telemetry import Telemetry
DELIVERABLES = ["src/app.py", "tests/test_app.py"]
clock = time.perf_counter
telemetry = Telemetry(sys.argv[1], shutdown_timeout_s=60, queue_size=1_000_000)
def record():
    return telemetry.record({KEYWORDS})
def timed(work):
    begin = clock()
    work()
    return (clock() - begin) * 1000
"""
_LIFE = (
    _HEAD
    + """
first = timed(record)
written = timed(lambda: telemetry.flush(60))
for _ in range(int(sys.argv[2])):
    record()
close = timed(telemetry.close)
stats = telemetry.stats()
assert stats.written == stats.accepted, stats
print(json.dumps({"first": first, "written": written, "close": close}))
"""
)
_UNUSED = _HEAD + 'print(json.dumps({"close": timed(telemetry.close)}))'
_DIE = (
    _HEAD
    + """
for _ in range(int(sys.argv[2])):
    assert record()
os.kill(os.getpid(), 9)
"""
)
_RECOVER = (
    _HEAD
    + """
from benchmarks.measured import peak_kib
begin = clock()
record()
assert telemetry.flush(300)
took = clock() - begin
stats = telemetry.stats()
telemetry.close()
print(json.dumps({"recovered": stats.recovered, "written": stats.written, "s": took,
                  "peak_mib": peak_kib() / 1024}))
"""
)


def run(options: Options) -> Section:
    """Measure all four."""
    imports = _imports(10 if options.quick else 30)
    bare = imports["bare Python"]
    over = [after - before for before, after in zip(bare, imports["import autopack.telemetry"], strict=True)]
    return Section(
        title="Start and stop",
        tables=[
            _import_table(imports),
            _life_table(2 if options.quick else 10),
            _recovery_table(20_000 if options.quick else 100_000, 1 if options.quick else 3),
        ],
        targets=[
            at_most(
                "import autopack.telemetry over bare Python",
                min(imports["import autopack.telemetry"]) - min(bare),
                over,
                must=60,
                aim=30,
                unit="ms",
            )
        ],
    )


def _imports(repetitions: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {title: [] for title in _IMPORTS}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/import.db"
        for _ in range(repetitions):
            for title, (code, flag) in _IMPORTS.items():
                begin = time.perf_counter()
                ended = python(code, DATABASE_URL=url, TELEMETRY_DB_ENABLED=flag)
                samples[title].append((time.perf_counter() - begin) * 1000)
                assert ended.returncode == 0, ended.stderr
    return samples


def _import_table(samples: Mapping[str, list[float]]) -> Table:
    bare = samples["bare Python"]
    lines = [
        Line(
            title,
            [
                round(min(found), 1),
                round(statistics.median(found), 1),
                round(min(found) - min(bare), 1),
                _modules_of(*_IMPORTS[title]),
            ],
        )
        for title, found in samples.items()
    ]
    columns = ["smallest ms", "median ms", "over bare Python ms", "modules"]
    return Table(f"Import, whole processes, {len(bare)} times", columns, lines)


def _modules_of(code: str, flag: str) -> int:
    counting = f"{code}\nimport sys; print(len(sys.modules))"
    return int(python(counting, DATABASE_URL="sqlite://", TELEMETRY_DB_ENABLED=flag).stdout)


def _life_table(repetitions: int) -> Table:
    """First `record()`, first row, and close, on a database that is there already."""
    samples: dict[str, list[float]] = {}

    def add(title: str, value: float) -> None:
        samples.setdefault(title, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        url = make_database(Path(folder) / "life.db")
        for _ in range(repetitions):
            add("close, nothing recorded", answer_of(_UNUSED, url)["close"])
            short, full = answer_of(_LIFE, url, "0"), answer_of(_LIFE, url, "10000")
            add("first record(): starts the thread", short["first"])
            add("from there to its row: imports SQLAlchemy in the background", short["written"])
            add("close, queue empty", short["close"])
            add("close, 10,000 events waiting", full["close"])
    lines = [
        Line(title, [round(min(found), 2), round(statistics.median(found), 2), round(max(found), 2)])
        for title, found in samples.items()
    ]
    columns = ["smallest ms", "median ms", "largest ms"]
    return Table(f"First event and close, with journal, {repetitions} times", columns, lines)


def _recovery_table(events: int, repetitions: int) -> Table:
    """A process records while the database is locked, and is killed; the next one writes what it left."""
    lines = []
    for number in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            url = _leave_behind(Path(folder) / "killed.db", events)
            found = answer_of(_RECOVER, url)
        assert found["recovered"] == events, found
        lines.append(
            Line(
                f"run {number + 1}",
                [
                    found["recovered"],
                    found["written"],
                    round(found["s"], 2),
                    round(found["recovered"] / found["s"]),
                    round(found["peak_mib"]),
                ],
            )
        )
    columns = ["recovered", "written", "s until all are committed", "events/s", "peak MiB"]
    return Table(f"Recovery of {events:,} journalled events after SIGKILL", columns, lines)


def _leave_behind(path: Path, events: int) -> str:
    url = make_database(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        ended = python(_DIE, url, str(events))
        assert ended.returncode == -9, ended.stderr
    return url
