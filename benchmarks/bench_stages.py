"""Where the time goes: CPU time per event of each step on its way, from the call to the committed row.

Steps are measured in the order in which they happen, each alone, on the same events, in interleaved repetitions; the
smallest counts. CPU time, so that what else runs on the machine matters less.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import anyio
import msgspec
from benchmarks.call_site import FIELDS, KEYWORDS, Loops
from benchmarks.candidates import empty_named
from benchmarks.report import Line, Options, Section, Table
from benchmarks.rows import MAX_BATCH_ROWS, connect, insert_ready, make_database, make_rows

from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.queue import MemoryQueue
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import FIELD_NAMES, Event
from autopack.telemetry.event.wire import encode
from autopack.telemetry.stores.sqlite import SqliteStore

_BATCH = MAX_BATCH_ROWS
_VALUES = (time.time_ns(), 1 << 40, *FIELDS.values(), *[None] * (len(FIELD_NAMES) - len(FIELDS)))

Step = Callable[[], Awaitable[float]]


def run(options: Options) -> Section:
    """Measure every step."""
    with tempfile.TemporaryDirectory() as folder:
        samples = anyio.run(_measure, Path(folder), 15 if options.quick else 80)
    lines = [Line(title, [round(min(found)), round(statistics.median(found))]) for title, found in samples.items()]
    return Section(
        title="Where the time goes: CPU per event",
        tables=[Table(f"In batches of {_BATCH:,}", ["smallest ns", "median ns"], lines)],
        chart=(0, 0),
    )


async def _measure(folder: Path, repetitions: int) -> dict[str, list[float]]:
    store = SqliteStore(parse_database_url(f"sqlite:///{folder / 'store.db'}"))
    await store.write(make_rows(1))
    limit = folder / "limit.db"
    make_database(limit)
    with (
        closing(connect(limit)) as connection,
        Telemetry(f"sqlite:///{folder / 'memory.db'}", journal_dir=None) as memory,
        Telemetry(f"sqlite:///{folder / 'journal.db'}") as journal,
    ):
        for telemetry in (memory, journal):
            telemetry.record(**FIELDS)
            telemetry.flush(30)

        async def write() -> float:
            rows = make_rows(_BATCH)
            begin = time.process_time_ns()
            await store.write(rows)
            return (time.process_time_ns() - begin) / _BATCH

        async def write_ready() -> float:
            tuples = make_rows(_BATCH)
            return _cpu_of(lambda: insert_ready(connection, tuples))

        payloads = [encode(_VALUES) for _ in range(_BATCH)]
        typed, decoder = msgspec.msgpack.Decoder(Event), Decoder()
        steps: dict[str, Step] = {
            "call site: an empty call with the same keywords": _timed_calls(empty_named),
            "call site: encode (msgspec, in C)": _simple(lambda: [encode(_VALUES) for _ in range(_BATCH)]),
            "call site: record(), in memory, as a whole": _timed_calls(memory.record, memory),
            "call site: record(), with journal, as a whole": _timed_calls(journal.record, journal),
            "worker: through the queue in memory": _simple(lambda: _through(payloads)),
            "worker: decode and check types (msgspec, in C)": _simple(lambda: [typed.decode(one) for one in payloads]),
            "worker: the same, sanitise, metrics, row": _simple(lambda: [decoder(one) for one in payloads]),
            "store: bind and write, one statement": write,
            "the limit: executemany of ready tuples": write_ready,
        }
        samples: dict[str, list[float]] = {title: [] for title in steps}
        for _ in range(repetitions):
            for title, step in steps.items():
                samples[title].append(await step())
    await store.close()
    return samples


def _simple(work: Callable[[], object]) -> Step:
    async def step() -> float:
        return _cpu_of(work)

    return step


def _cpu_of(work: Callable[[], object]) -> float:
    begin = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begin) / _BATCH


def _timed_calls(call: Callable[..., object], telemetry: Telemetry | None = None) -> Step:
    """The median of single calls, by the clock: what they cost without the loop around them."""
    loops = Loops(f"call({KEYWORDS})", {"call": call})

    async def step() -> float:
        median = statistics.median(loops.burst(400))
        if telemetry is not None:
            telemetry.flush(30)
        return median

    return step


def _through(payloads: list[bytes]) -> None:
    queue = MemoryQueue(len(payloads) + 1, 64 << 20)
    for payload in payloads:
        queue.append(payload)
    taken = list(queue.take(len(payloads)))
    queue.settle(taken, written=len(taken))
