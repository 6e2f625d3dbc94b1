"""The event that every candidate records, as the text of a call, and loops that time single calls of it.

The call is written out in the loop: what is measured is what a user's line costs, keywords and mappings included, with
nothing around it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any

DELIVERABLES = ["src/app.py", "tests/test_app.py"]
FIELDS: dict[str, Any] = {
    "run_id": "nightly-42",
    "phase_id": "p3",
    "category": "implementation",
    "complexity": "medium",
    "deliverables": DELIVERABLES,
    "predicted_output_tokens": 5200,
    "actual_output_tokens": 1218,
    "selected_budget": 8192,
    "success": True,
    "truncated": False,
    "stop_reason": "end_turn",
    "model": "claude-sonnet-4-5",
    "actual_max_tokens": 16384,
    "input_tokens": 1164,
    "duration_ms": 15200,
}
_TEXTS = {name: "DELIVERABLES" if value is DELIVERABLES else repr(value) for name, value in FIELDS.items()}
KEYWORDS = ", ".join(f"{name}={text}" for name, text in _TEXTS.items())
HOST_KEYWORDS = ", ".join(f"{name}={text}" for name, text in list(_TEXTS.items())[:12])
MAPPING = "{" + ", ".join(f"{name!r}: {text}" for name, text in _TEXTS.items()) + "}"

_SPIN_BELOW_NS = 100_000  # what a sleep overshoots by
_LOOPS = """
def burst(calls):
    latencies = []
    for _ in range(calls):
        begin = perf_counter_ns()
        {line}
        latencies.append(perf_counter_ns() - begin)
    return latencies

def paced(calls, interval_ns, due):
    latencies = []
    for _ in range(calls):
        wait_until(due)
        due += interval_ns
        begin = perf_counter_ns()
        {line}
        latencies.append(perf_counter_ns() - begin)
    return latencies
"""


class Loops:
    """Timed loops around one line of code; latencies in ns."""

    def __init__(self, line: str, names: Mapping[str, Any]) -> None:
        namespace: dict[str, Any] = {
            **names,
            "DELIVERABLES": DELIVERABLES,
            "perf_counter_ns": perf_counter_ns,
            "wait_until": _wait_until,
        }
        exec(_LOOPS.format(line=line), namespace)  # noqa: S102 (text of this module)
        self.burst: Callable[[int], list[int]] = namespace["burst"]
        self._paced: Callable[[int, int, int], list[int]] = namespace["paced"]

    def measure(self, calls: int, *, rate_per_s: int | None, threads: int) -> list[int]:
        """The latencies of so many calls, by so many threads together; `rate_per_s` None: as fast as they go.

        A call that comes late because the one before took too long is made at once; its latency is its own.
        """
        if rate_per_s is None:
            return self._together(threads, lambda _: self.burst(calls // threads))
        interval_ns = 1_000_000_000 // rate_per_s
        start = perf_counter_ns() + 2_000_000
        return self._together(
            threads,
            lambda number: self._paced(calls // threads, interval_ns * threads, start + number * interval_ns),
        )

    def _together(self, threads: int, work: Callable[[int], list[int]]) -> list[int]:
        if threads == 1:
            return work(0)
        results: list[list[int]] = [[] for _ in range(threads)]
        ready = threading.Barrier(threads)

        def run(number: int) -> None:
            ready.wait()
            results[number] = work(number)

        crew = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        return [latency for latencies in results for latency in latencies]


def _wait_until(due_ns: int) -> None:
    """Sleep, as a program does between its calls; spin for what is too short to sleep."""
    while (left_ns := due_ns - perf_counter_ns()) > _SPIN_BELOW_NS:
        time.sleep((left_ns - _SPIN_BELOW_NS // 2) / 1e9)
    while perf_counter_ns() < due_ns:
        pass
