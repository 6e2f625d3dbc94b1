"""Calls that come in by themselves: what autopack and three peers add to a call of Anthropic's SDK over loopback HTTP.

Bare, autopack, Logfire, OpenLLMetry and OpenInference each in a process of its own, since they patch the SDK; the
server in another. They take turns in an order that is drawn anew each round, so what the machine does meanwhile falls
on all of them alike: read the ratios. All write to SQLite in the background.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from benchmarks.bench_llm_call import anthropic_server
from benchmarks.instrumented_child import BARE, NAMES, OURS
from benchmarks.machine import ROOT
from benchmarks.report import Line, Options, Section, Table, Target
from benchmarks.samples import mann_whitney_p, median_difference, quantile

_WAVE = 50
_WARM_UP_CALLS = 30

Samples = dict[str, list[tuple[float, float]]]


class Child:
    """A program that calls when it is told to."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.calls = 0
        self._process = process

    def wave(self, concurrent: int) -> tuple[float, float]:
        """Of calls at once, the median latency and the processor time of each, in ms."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{concurrent}\n")
        self._process.stdin.flush()
        self.calls += concurrent
        latencies_ms, cpu_ms = json.loads(self._line())
        return statistics.median(latencies_ms), cpu_ms

    def written(self) -> int:
        """How many records it wrote, at the end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def run(options: Options) -> Section:
    """Measure one call at a time, then 50."""
    singles, waves = (40, 8) if options.quick else (700, 80)
    with tempfile.TemporaryDirectory() as folder, anthropic_server() as url, ExitStack() as stack:
        children = [stack.enter_context(_child(name, url, Path(folder))) for name in NAMES]
        for child in children:
            child.wave(_WARM_UP_CALLS)
        alone, together = _rounds(children, singles, 1), _rounds(children, waves, _WAVE)
        lines = [Line(child.name, [child.calls, child.written()]) for child in children]
    return Section(
        title="Instrumented clients: whole calls",
        tables=[
            _table(f"One call at a time, {singles} rounds", alone),
            _table(f"{_WAVE} calls at a time, medians of {waves} waves", together),
            Table(
                "What was written", ["calls", "records"], lines, "Of Logfire also the spans that the SDK makes itself."
            ),
        ],
        targets=[
            Target(
                f"instrumented client, {title}: median of autopack over bare",
                statistics.median(_latencies(samples[OURS])) / statistics.median(_latencies(samples[BARE])),
                None,
                None,
                "at most",
                1.25,
                1.10,
            )
            for title, samples in (("1 at a time", alone), (f"{_WAVE} at a time", together))
        ],
    )


@contextmanager
def _child(name: str, url: str, folder: Path) -> Iterator[Child]:
    own = folder / name
    own.mkdir()
    command = [sys.executable, "-m", "benchmarks.instrumented_child", name, url, str(own)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Child(name, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _rounds(children: list[Child], rounds: int, concurrent: int) -> Samples:
    random = Random(rounds)  # noqa: S311 (an order)
    order = list(children)
    samples: Samples = {child.name: [] for child in children}
    for _ in range(rounds):
        random.shuffle(order)
        for child in order:
            samples[child.name].append(child.wave(concurrent))
    return samples


def _table(title: str, samples: Samples) -> Table:
    columns = [
        "p10 ms",
        "p50 ms",
        "p90 ms",
        "p50 / bare",
        "over bare µs",
        "95 % interval µs",
        "p",
        "CPU ms",
        "CPU / bare",
    ]
    note = "p: Mann-Whitney, two-sided, latency against bare. CPU: the median processor time of the process for a call."
    bare, bare_cpu = _latencies(samples[BARE]), _cpu_ms(samples[BARE])

    def line(name: str) -> Line:
        found, cpu_ms = _latencies(samples[name]), _cpu_ms(samples[name])
        figures: list[float | int | str | None] = [round(quantile(found, q), 3) for q in (0.1, 0.5, 0.9)]
        cpu: list[float | int | str | None] = [round(cpu_ms, 3), round(cpu_ms / bare_cpu, 3)]
        if name == BARE:
            return Line(name, [*figures, 1.0, None, None, None, *cpu])
        difference, low, high = (round(1000 * value) for value in median_difference(found, bare))
        ratio = round(statistics.median(found) / statistics.median(bare), 3)
        p = round(mann_whitney_p(found, bare), 3)
        return Line(name, [*figures, ratio, difference, f"{low:g} – {high:g}", p, *cpu])

    return Table(title, columns, [line(name) for name in samples], note)


def _latencies(waves: list[tuple[float, float]]) -> list[float]:
    return [latency_ms for latency_ms, _ in waves]


def _cpu_ms(waves: list[tuple[float, float]]) -> float:
    return statistics.median(cpu_ms for _, cpu_ms in waves)
