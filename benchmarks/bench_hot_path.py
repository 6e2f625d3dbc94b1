"""Latency of recording one event, beside what people would use instead, in one run.

Blocks of every candidate are interleaved, in a new order each time, so that a machine that changes its speed changes it
for all of them. For each block the quantiles of its calls are taken, and over the blocks the smallest: the ratio of two
such figures is what to read. Every writer really writes, and is waited for between the blocks.

    python benchmarks/bench_hot_path.py [--quick] [--output DIR]     (peers that are not installed are left out)
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

if not __package__:  # run as a file, from anywhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peers
from benchmarks.candidates import EMPTY, HOST, JOURNAL, MEMORY, OFF, OWN, QUEUE_HANDLER, Candidate
from benchmarks.peers import OTEL_LOG
from benchmarks.report import Line, Options, Section, Table, Target
from benchmarks.samples import at_least, at_most, quantile, ratio_of_minima


@dataclass(frozen=True, slots=True)
class Situation:
    """How the calls come, in `rounds` blocks of `calls` each, by all threads together. `rate_per_s` None: a burst."""

    rate_per_s: int | None
    threads: int
    calls: int
    rounds: int
    only: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For the table."""
        pace = "in a burst" if self.rate_per_s is None else f"paced at {self.rate_per_s:,}/s"
        return f"{pace}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def calls_of(self, candidate: Candidate) -> int:
        """How many calls one block has."""
        calls = (
            min(self.calls, candidate.burst_calls)
            if self.rate_per_s is None
            else min(self.calls, 50 * candidate.burst_calls)
        )
        return max(self.threads, calls)


@dataclass(slots=True)
class Latencies:
    """The blocks of one candidate in one situation, each sorted; ns. `lost`: events that never arrived."""

    blocks: list[list[int]] = field(default_factory=list)
    lost: int | None = None

    def of_blocks(self, q: float) -> list[int]:
        """This quantile of each block."""
        return [int(quantile(block, q)) for block in self.blocks]

    def of_all(self, q: float) -> int:
        """This quantile of all calls."""
        return int(quantile([latency for block in self.blocks for latency in block], q))


Results = Mapping[str, Latencies]

_BURST = Situation(None, 1, 1_000, 40)
_CORE = (OFF, MEMORY, JOURNAL, QUEUE_HANDLER, OTEL_LOG)
_PACED = Situation(1_000, 1, 1_000, 6, (MEMORY, JOURNAL, OTEL_LOG))


def situations(options: Options) -> list[Situation]:
    """What is measured; the first is the burst of the targets, the second the pace of the targets."""
    if options.quick:
        return [
            Situation(None, 1, 500, 12),
            Situation(1_000, 1, 1_000, 3, (MEMORY, JOURNAL, OTEL_LOG)),
            Situation(1_000, 1, 250, 1),
            Situation(100, 1, 50, 1, _CORE),
            Situation(10_000, 1, 5_000, 1, _CORE),
            Situation(None, 4, 1_000, 4, _CORE),
            Situation(None, 16, 1_000, 4, _CORE),
        ]
    return [
        _BURST,
        _PACED,
        Situation(1_000, 1, 1_000, 2),
        Situation(100, 1, 200, 1, _CORE),
        Situation(10_000, 1, 5_000, 3),
        Situation(None, 4, 1_000, 10),
        Situation(None, 16, 1_000, 10),
        *(Situation(rate, threads, max(160, rate), 1, _CORE) for rate in (100, 1_000, 10_000) for threads in (4, 16)),
    ]


def run(options: Options) -> Section:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as folder, _opened(Path(folder)) as candidates:
        measured = [(situation, measure(candidates, situation)) for situation in situations(options)]
    burst, paced = measured[0][1], measured[1][1]
    absent = peers.missing()
    return Section(
        title="Hot path: latency of recording one event",
        tables=[_table(situation, results) for situation, results in measured],
        targets=[*_burst_targets(burst), *_paced_targets(paced)],
        remarks=[f"Not installed, hence not measured: {', '.join(absent)}."] if absent else [],
        chart=(0, 0),
    )


@contextmanager
def _opened(folder: Path) -> Iterator[Mapping[str, Candidate]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(opener(folder)) for name, opener in {**OWN, **peers.installed()}.items()}


def measure(candidates: Mapping[str, Candidate], situation: Situation) -> Results:
    """Interleaved blocks of the candidates in one situation."""
    chosen = {name: one for name, one in candidates.items() if not situation.only or name in situation.only}
    results = {name: Latencies() for name in chosen}
    before = {name: _delivered(candidate) for name, candidate in chosen.items()}
    order = list(chosen)
    random = Random(situation.calls)  # noqa: S311 (an order)
    for _ in range(situation.rounds):
        random.shuffle(order)
        for name in order:
            results[name].blocks.append(_block(chosen[name], situation))
    for name, candidate in chosen.items():
        arrived, earlier = _delivered(candidate), before[name]
        if arrived is not None and earlier is not None:
            results[name].lost = sum(map(len, results[name].blocks)) - (arrived - earlier)
    return results


def _block(candidate: Candidate, situation: Situation) -> list[int]:
    calls = situation.calls_of(candidate)
    latencies = candidate.loops.measure(calls, rate_per_s=situation.rate_per_s, threads=situation.threads)
    candidate.settle()
    return sorted(latencies)


def _delivered(candidate: Candidate) -> int | None:
    candidate.settle()
    return None if candidate.delivered is None else candidate.delivered()


def _table(situation: Situation, results: Results) -> Table:
    columns = ["p50 µs", "p50 of the blocks µs", "p99 µs", "p99.9 µs", "max µs", "× autopack in memory", "lost"]
    baseline_ns = min(results[MEMORY].of_blocks(0.5))
    lines = [Line(name, _figures(latencies, baseline_ns)) for name, latencies in results.items()]
    return Table(
        f"{situation.title} ({situation.rounds} × {situation.calls} calls)",
        columns,
        sorted(lines, key=lambda line: float(line.figures[0] or 0)),
    )


def _figures(latencies: Latencies, baseline_ns: int) -> list[float | int | str | None]:
    medians = latencies.of_blocks(0.5)
    return [
        _us(min(medians)),
        f"{_us(quantile(medians, 0.1))} – {_us(quantile(medians, 0.9))}",
        _us(latencies.of_all(0.99)),
        _us(latencies.of_all(0.999)),
        _us(latencies.of_all(1)),
        round(min(medians) / baseline_ns, 2),
        latencies.lost,
    ]


def _us(duration_ns: float) -> float:
    return round(duration_ns / 1000, 2)


def _burst_targets(results: Results) -> list[Target]:
    wanted = [
        (MEMORY, OTEL_LOG, 12, 20),
        (MEMORY, QUEUE_HANDLER, 7, 12),
        (MEMORY, HOST, 600, 1_000),
        (JOURNAL, OTEL_LOG, 6, 10),
        (JOURNAL, QUEUE_HANDLER, 4, 6),
        (JOURNAL, HOST, 300, 500),
    ]
    targets = [
        at_least(f"burst, p50: {peer} over {own}", *_ratios(results, peer, own), must=must, aim=aim)
        for own, peer, must, aim in wanted
        if peer in results
    ]
    off = _ratios(results, OFF, EMPTY)
    return [*targets, at_most(f"burst, p50: {OFF} over {EMPTY}", *off, must=2, aim=1.3)]


def _paced_targets(results: Results) -> list[Target]:
    return [
        at_most(f"1,000/s, {title}: {own} over {OTEL_LOG}", *_ratios(results, own, OTEL_LOG, q), must=must, aim=aim)
        for own in (MEMORY, JOURNAL)
        for title, q, must, aim in (("p50", 0.5, 1 / 5, 1 / 8), ("p99.9", 0.999, 1 / 2, 1 / 4))
        if OTEL_LOG in results
    ]


def _ratios(results: Results, above: str, below: str, q: float = 0.5) -> tuple[float, list[float]]:
    return ratio_of_minima(results[above].of_blocks(q), results[below].of_blocks(q))


if __name__ == "__main__":
    from benchmarks.run import main

    main(["hot_path", *sys.argv[1:]])
