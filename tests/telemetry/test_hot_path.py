"""What one `record()` does, function by function: a lock, a wake-up or a system call there is seen at once."""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from types import FrameType
from typing import Any

from tests.write_side import event, url_of

from autopack.telemetry import Telemetry
from autopack.telemetry.recorder import DisabledTelemetry
from autopack.telemetry.stores import MemoryStore


def calls_of(telemetry: Telemetry) -> list[str]:
    """The functions, of Python and of C, that one `record()` calls in its thread."""
    called: list[str] = []
    fields = event()

    def note(frame: FrameType, what: str, function: Any) -> None:
        if what == "call":
            called.append(frame.f_code.co_qualname)
        elif what == "c_call":
            called.append(function.__name__)

    sys.setprofile(note)
    telemetry.record(**fields)
    sys.setprofile(None)
    return called[:-1]  # the last is `setprofile`


def calls_of_the_second_record(telemetry: Telemetry) -> list[str]:
    """The first one starts the thread."""
    assert telemetry.record(**event())
    assert telemetry.flush(30)
    return calls_of(telemetry)


def test_in_memory_an_event_is_encoded_and_appended_and_no_more() -> None:
    """In memory an event is encoded and appended, and nothing else happens."""
    with Telemetry(MemoryStore()) as telemetry:
        called = calls_of_the_second_record(telemetry)
    assert called == [
        "Telemetry.record",
        "time_ns",
        "next",
        "encode",
        "len",
        "_append_to.<locals>.append",
        "pop",
        "append",
    ]


def test_the_journal_takes_one_checksum_one_copy_and_no_lock(tmp_path: Path) -> None:
    """With the journal there is one checksum and one copy, and no lock."""
    with Telemetry(url_of(tmp_path / "x.db")) as telemetry:
        called = calls_of_the_second_record(telemetry)
    assert called == [
        "Telemetry.record",
        "time_ns",
        "next",
        "encode",
        "len",
        "Journal.append",
        "next",
        "adler32",
        "encode",
        "write",
    ]


def test_off_only_a_counter_ticks() -> None:
    assert calls_of(DisabledTelemetry()) == ["DisabledTelemetry.record", "next"]


# Twice the ratios that were measured (1.8 and 3.5, 2 cores, CPython 3.11).

LIMIT_MAPPING = 3.6
LIMIT_NAMED = 7.0

CALL = """
def block(call, calls, clock=perf_counter_ns):
    latencies = []
    for _ in range(calls):
        begin = clock()
        call(run_id="nightly-42", phase_id="p3", category="implementation", complexity="medium", deliverables=PATHS,
             predicted_output_tokens=5200, actual_output_tokens=1218, selected_budget=8192, success=True,
             truncated=False, stop_reason="end_turn", model="claude-sonnet-4-5", actual_max_tokens=16384,
             input_tokens=1164, duration_ms=15200)
        latencies.append(clock() - begin)
    return latencies
"""


def empty_mapping(**_fields: Any) -> bool:
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
    return True


def test_record_costs_a_few_empty_calls_in_a_burst() -> None:
    """Interleaved blocks, and the smallest of their medians: only a ratio within one run means anything."""
    namespace: dict[str, Any] = {"perf_counter_ns": perf_counter_ns, "PATHS": ["src/app.py", "tests/test_app.py"]}
    exec(CALL, namespace)  # noqa: S102 (our own text)
    block: Callable[[Callable[..., bool], int], list[int]] = namespace["block"]
    with Telemetry(MemoryStore(), queue_size=10_000) as telemetry:
        calls = {"record": telemetry.record, "mapping": empty_mapping, "named": empty_named}
        medians: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(30):
            for name, call in calls.items():
                medians[name].append(statistics.median(block(call, 300)))
            assert telemetry.flush(30)
        assert telemetry.stats().dropped == {}
    cost = {name: min(values) for name, values in medians.items()}
    assert cost["record"] <= LIMIT_MAPPING * cost["mapping"], cost
    assert cost["record"] <= LIMIT_NAMED * cost["named"], cost
