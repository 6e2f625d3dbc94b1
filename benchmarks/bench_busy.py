"""Under a build: the main thread computes in Python, and records 1,000 events a second meanwhile.

What it costs is the CPU time of `record()` in the main thread and of every thread of autopack, as a share of the time;
as a check, how much less the main thread gets done. Then: how fast rows are committed while the main thread computes
without a pause, beside SQLAlchemy's `insert()` with a list and `sqlite3`'s `executemany`, each in a thread of its own.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns, thread_time_ns

from benchmarks.busy_work import cpu_of_other_threads_ns, unit
from benchmarks.call_site import FIELDS
from benchmarks.candidates import JOURNAL, MEMORY, OFF
from benchmarks.report import Line, Options, Section, Table
from benchmarks.rows import connect, insert_ready, make_database, make_rows, ready_mappings
from benchmarks.samples import at_least, at_most, quantile, ratio_of_medians, spread
from sqlalchemy import create_engine, event, insert

from autopack.models import TokenEstimationV2Event
from autopack.telemetry import Telemetry
from autopack.telemetry.recorder import DisabledTelemetry

RATE_PER_S = 1_000
BACKLOG = 20_000
BATCH = 500  # also the default
SQLALCHEMY = "SQLAlchemy, insert() with a list"
EXECUTEMANY = "sqlite3, executemany of ready tuples"
_POLL_NS = 10_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """One window of work with recording. `record_cpu` and `threads_cpu` are shares of its time."""

    units_per_s: float
    rows_per_s: float
    latencies_ns: list[int]
    record_cpu: float
    threads_cpu: float


def run(options: Options) -> Section:
    """Measure both."""
    window_s, windows = (0.7, 3) if options.quick else (2.0, 6)
    with tempfile.TemporaryDirectory() as folder:
        loads = _loads(Path(folder), window_s, windows)
    with tempfile.TemporaryDirectory() as folder:
        rates = _rates(Path(folder), window_s, windows)
    costs = {
        title: [
            100 * (load.record_cpu - off.record_cpu + load.threads_cpu)
            for load, off in zip(loads[title], loads[OFF], strict=True)
        ]
        for title in (MEMORY, JOURNAL)
    }
    drain = ratio_of_medians(rates[MEMORY], rates[SQLALCHEMY])
    return Section(
        title="Under a build: the main thread computes",
        tables=[_load_table(loads, window_s), _rate_table(rates)],
        targets=[
            at_least(f"drain, main thread computing: {MEMORY} over {SQLALCHEMY}", *drain, must=8, aim=25),
            *(
                at_most(
                    f"1,000 events/s, CPU of record() and autopack's threads: {title}",
                    statistics.median(cost),
                    cost,
                    must=5,
                    aim=2,
                    unit="%",
                )
                for title, cost in costs.items()
            ),
        ],
        remarks=["A window begins with an empty queue; rows that are still waiting at its end count for none."],
        chart=(1, 0),
    )


def _loads(folder: Path, window_s: float, windows: int) -> dict[str, list[Load]]:
    with ExitStack() as stack:
        memory = Telemetry(f"sqlite:///{folder / 'memory.db'}", journal_dir=None)
        telemetries = {
            OFF: DisabledTelemetry(),
            MEMORY: stack.enter_context(memory),
            JOURNAL: stack.enter_context(Telemetry(f"sqlite:///{folder / 'journal.db'}")),
        }
        loads: dict[str, list[Load]] = {title: [] for title in telemetries}
        for telemetry in telemetries.values():
            telemetry.record(**FIELDS)
            telemetry.flush(30)
        for _ in range(windows):
            for title, telemetry in telemetries.items():
                loads[title].append(_work_and_record(telemetry, window_s))
                telemetry.flush(30)
        return loads


def _work_and_record(telemetry: Telemetry, window_s: float) -> Load:
    latencies: list[int] = []
    state, units, record_cpu_ns = 1, 0, 0
    written = telemetry.stats().written
    threads_before = cpu_of_other_threads_ns()
    begin = now = due = perf_counter_ns()
    while now < begin + window_s * 1e9:
        state = unit(state)
        units += 1
        now = perf_counter_ns()
        if now >= due:
            cpu_ns = thread_time_ns()
            called_ns = perf_counter_ns()
            telemetry.record(**FIELDS)
            latencies.append(perf_counter_ns() - called_ns)
            record_cpu_ns += thread_time_ns() - cpu_ns
            due += 1_000_000_000 // RATE_PER_S
    elapsed_ns = now - begin
    threads_ns = sum(cpu - threads_before.get(ident, 0) for ident, cpu in cpu_of_other_threads_ns().items())
    rows = telemetry.stats().written - written
    per_s = 1e9 / elapsed_ns
    return Load(units * per_s, rows * per_s, latencies, record_cpu_ns / elapsed_ns, threads_ns / elapsed_ns)


def _rates(folder: Path, window_s: float, windows: int) -> dict[str, list[float]]:
    """Rows/s committed while the main thread does nothing but compute."""
    memory, journal = (f"sqlite:///{folder / name}" for name in ("memory.db", "journal.db"))
    textbook, limit = folder / "textbook.db", folder / "limit.db"
    for path in (textbook, limit):
        make_database(path)
    methods: dict[str, Callable[[], float]] = {
        MEMORY: lambda: _drain(memory, journalled=False),
        JOURNAL: lambda: _drain(journal, journalled=True),
        SQLALCHEMY: lambda: _insert_textbook(textbook, window_s),
        EXECUTEMANY: lambda: _insert_raw(limit, window_s),
    }
    rates: dict[str, list[float]] = {title: [] for title in methods}
    for _ in range(windows):
        for title, method in methods.items():
            rates[title].append(method())
    return rates


def _drain(url: str, *, journalled: bool) -> float:
    options = {} if journalled else {"journal_dir": None}
    with Telemetry(url, queue_size=2 * BACKLOG, **options) as telemetry:
        telemetry.record(**FIELDS)
        telemetry.flush(30)
        for _ in range(BACKLOG):
            telemetry.record(**FIELDS)
        written = telemetry.stats().written
        begin = perf_counter_ns()
        # Less than a batch is not being written: it waits for the end of its flush interval.
        compute_until(lambda: telemetry.stats().pending < BATCH)
        return (telemetry.stats().written - written) / ((perf_counter_ns() - begin) / 1e9)


def compute_until(is_over: Callable[[], bool]) -> None:
    """Keep this thread busy; asks every 10 ms."""
    state, ask_at = 1, 0
    while True:
        state = unit(state)
        if (now := perf_counter_ns()) >= ask_at:
            if is_over():
                return
            ask_at = now + _POLL_NS


def _insert_textbook(path: Path, window_s: float) -> float:
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous = NORMAL"))
    statement = insert(TokenEstimationV2Event)
    batches = [ready_mappings(make_rows(BATCH)) for _ in range(40)]

    def write(number: int) -> None:
        with engine.begin() as connection:
            connection.execute(statement, batches[number])

    try:
        return _rate_of_thread(write, len(batches), window_s)
    finally:
        engine.dispose()


def _insert_raw(path: Path, window_s: float) -> float:
    batches = [make_rows(BATCH) for _ in range(40)]
    with closing(connect(path)) as connection:
        return _rate_of_thread(lambda number: insert_ready(connection, batches[number]), len(batches), window_s)


def _rate_of_thread(write: Callable[[int], None], batches: int, window_s: float) -> float:
    """Rows/s of a thread that writes one batch after the other, at least one, and begins none after the window."""
    begin = perf_counter_ns()
    done: list[int] = []

    def work() -> None:
        for number in range(batches):
            write(number)
            done.append(perf_counter_ns())
            if done[-1] - begin > window_s * 1e9:
                return

    thread = threading.Thread(target=work)
    thread.start()
    compute_until(lambda: not thread.is_alive())
    thread.join()
    return len(done) * BATCH / ((done[-1] - begin) / 1e9)


def _load_table(loads: dict[str, list[Load]], window_s: float) -> Table:
    base = statistics.median(load.units_per_s for load in loads[OFF])

    def line(title: str, windows: list[Load]) -> Line:
        latencies = [latency for load in windows for latency in load.latencies_ns]
        low, high = spread([100 * (load.units_per_s / base - 1) for load in windows])
        return Line(
            title,
            [
                round(100 * statistics.median(load.record_cpu for load in windows), 2),
                round(100 * statistics.median(load.threads_cpu for load in windows), 2),
                round(100 * (statistics.median(load.units_per_s for load in windows) / base - 1), 2),
                f"{low:.1f} – {high:.1f}",
                round(statistics.median(load.rows_per_s for load in windows)),
                *(round(quantile(latencies, q) / 1000, 1) for q in (0.5, 0.99, 0.999, 1)),
            ],
        )

    return Table(
        f"1,000 events/s beside pure Python, {len(loads[OFF])} windows of {window_s:g} s",
        [
            "CPU of record() %",
            "CPU of autopack's threads %",
            "work of the main thread, change %",
            "spread",
            "rows/s written",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "max µs",
        ],
        [line(title, windows) for title, windows in loads.items()],
        "The CPU of record() includes the two readings of the clock around it, which the line of the telemetry that is "
        "off shows alone; for the target that line is subtracted.",
    )


def _rate_table(rates: dict[str, list[float]]) -> Table:
    lines = [
        Line(title, [round(statistics.median(found)), f"{min(found):,.0f} – {max(found):,.0f}"])
        for title, found in rates.items()
    ]
    return Table(
        "Rows committed while the main thread computes without a pause",
        ["rows/s, median", "smallest – largest"],
        lines,
        f"autopack drains {BACKLOG:,} recorded events until fewer than {BATCH} are left: those would wait for the "
        f"flush interval. The others write batches of {BATCH} rows that are ready.",
    )
