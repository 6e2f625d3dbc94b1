"""Latency of one `record()` call in a burst, against empty calls with the same keywords, in one run.

Blocks of every candidate are interleaved, so that a machine that changes its speed changes it for all of them. For each
block the median of its calls is taken, and over the blocks the smallest: the ratio of two such figures is what to read.

    python benchmarks/bench_hot_path.py [--blocks 60] [--calls 1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from autopack.telemetry import Telemetry
from autopack.telemetry.disabled import DisabledTelemetry

DELIVERABLES = ["src/app.py", "tests/test_app.py"]
CALL = """call(run_id="nightly-42", phase_id="p3", category="implementation", complexity="medium",
    deliverables=DELIVERABLES, predicted_output_tokens=5200, actual_output_tokens=1218, selected_budget=8192,
    success=True, truncated=False, stop_reason="end_turn", model="claude-sonnet-4-5", actual_max_tokens=16384,
    input_tokens=1164, duration_ms=15200)"""
LOOP = f"""
def block(calls):
    latencies = []
    for _ in range(calls):
        begin = perf_counter_ns()
        {CALL}
        latencies.append(perf_counter_ns() - begin)
    return latencies
"""


def empty_mapping(**_fields: Any) -> bool:
    """An empty call that takes any keywords."""
    return True


def empty_named(
    *,
    run_id: Any,
    phase_id: Any,
    category: Any,
    complexity: Any,
    deliverables: Any,
    predicted_output_tokens: Any,
    actual_output_tokens: Any,
    selected_budget: Any,
    success: Any,
    truncated: Any,
    stop_reason: Any,
    model: Any,
    actual_max_tokens: Any = None,
    input_tokens: Any = None,
    duration_ms: Any = None,
    existing: Any = None,
    attributes: Any = None,
) -> bool:
    """An empty call that names each keyword: the least that a typed function can cost."""
    return True


def block_of(call: Callable[..., bool]) -> Callable[[int], list[int]]:
    """A loop that times single calls, with the call written out: what a user's line costs, nothing around it."""
    namespace: dict[str, Any] = {"call": call, "DELIVERABLES": DELIVERABLES, "perf_counter_ns": perf_counter_ns}
    exec(LOOP, namespace)  # noqa: S102 (our own text)
    return namespace["block"]  # type: ignore[no-any-return]


def measure(blocks: int, calls: int) -> dict[str, dict[str, float]]:
    """Interleaved blocks of every candidate; ns."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'bench.db'}"
        queue_size = max(10_000, 2 * calls)
        with (
            Telemetry(url, queue_size=queue_size, journal_dir=None) as telemetry,
            Telemetry(f"sqlite:///{Path(folder) / 'journalled.db'}") as journalled,
        ):
            loops = {
                "empty call, keywords by name": block_of(empty_named),
                "empty call, keywords as a mapping": block_of(empty_mapping),
                "record(), telemetry off": block_of(DisabledTelemetry().record),
                "record(), in memory, writing to SQLite": block_of(telemetry.record),
                "record(), with journal, the same": block_of(journalled.record),
            }
            samples: dict[str, list[list[int]]] = {name: [] for name in loops}
            telemetry.flush(60)
            for _ in range(blocks):
                for name, loop in loops.items():
                    samples[name].append(sorted(loop(calls)))
                telemetry.flush(60)
                journalled.flush(60)
            for stats in (telemetry.stats(), journalled.stats()):
                assert stats.dropped == {}, stats
    return {name: summary(blocks_) for name, blocks_ in samples.items()}


def summary(blocks: list[list[int]]) -> dict[str, float]:
    """The smallest of the blocks' medians, the spread of the medians, and tails over all calls; ns."""
    medians = [statistics.median(block) for block in blocks]
    every = sorted(latency for block in blocks for latency in block)
    return {
        "p50_min_ns": min(medians),
        "p50_median_ns": statistics.median(medians),
        "p99_ns": every[int(len(every) * 0.99)],
        "p999_ns": every[int(len(every) * 0.999)],
        "max_ns": every[-1],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.blocks, arguments.calls)
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    print(f"CPython {platform.python_version()}, {platform.machine()}, {arguments.blocks} x {arguments.calls} calls")
    named = results["empty call, keywords by name"]["p50_min_ns"]
    mapping = results["empty call, keywords as a mapping"]["p50_min_ns"]
    print(f"{'':40s} {'p50 min':>9s} {'x named':>8s} {'x mapping':>9s} {'p99':>8s} {'p99.9':>8s} {'max':>9s}  (ns)")
    for name, row in results.items():
        p50 = row["p50_min_ns"]
        print(
            f"{name:40s} {p50:9.0f} {p50 / named:8.2f} {p50 / mapping:9.2f}"
            f" {row['p99_ns']:8.0f} {row['p999_ns']:8.0f} {row['max_ns']:9.0f}"
        )


if __name__ == "__main__":
    main()
