"""What `Telemetry` promises to a call site, alike on every store."""

import asyncio
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.misbehaving_stores import FlakyStore, HangingStore, RefusingStore, WrappedStore
from tests.postgres import Database
from tests.telemetry.event.test_event import POISON, nested
from tests.telemetry.places import MemoryPlace, Place, PostgresPlace, SqlitePlace
from tests.waiting import wait_for
from tests.write_side import event, run_python

from autopack.telemetry import Telemetry, TelemetryStats
from autopack.telemetry.event.schema import FIELD_NAMES, FIELDS, OPTIONAL
from autopack.telemetry.recorder import DisabledTelemetry
from autopack.telemetry.stores import MemoryStore

pytestmark = pytest.mark.usefixtures("_nothing_left_running")

TOO_LARGE = {"deliverables": ["x" * 1000] * 300}


def settled(stats: TelemetryStats) -> tuple[int, int, int]:
    return stats.written, stats.dead_lettered, stats.pending


def is_balanced(stats: TelemetryStats) -> bool:
    return stats.accepted == stats.written + stats.duplicates + stats.dead_lettered + stats.pending


# One behaviour on every store.


CAPTURED = {
    "provider": "anthropic",
    "call_id": "msg_01",
    "attempt": 1,
    "turn": 2,
    "reasoning_tokens": 900,
    "reasoning_level": "high",
    "cache_read_tokens": 500,
    "cache_write_tokens": 0,
    "estimator": "0a1b2c3d",
}


def test_an_accepted_event_is_stored_as_given_with_its_time(place: Place) -> None:
    """An accepted event is in the database with what was given and when it happened."""
    before = datetime.now(UTC)
    with place.open() as telemetry:
        assert telemetry.record(
            **event(
                actual_max_tokens=16384,
                input_tokens=1164,
                duration_ms=15200,
                existing=["src/app.py"],
                attributes={"git": "3f2a91c", "try": 2, "cached": False, "share": 0.5, "note": None},
                **CAPTURED,
            )
        )
        assert telemetry.flush()
        after = datetime.now(UTC)
    (row,) = place.rows()
    assert before.replace(microsecond=0) <= row.pop("timestamp") <= after
    assert row.pop("event_uid")
    assert json.loads(row.pop("attributes_json")) == {
        "git": "3f2a91c",
        "try": 2,
        "cached": False,
        "share": 0.5,
        "note": None,
    }
    assert row == {
        "run_id": "nightly",
        "phase_id": "p1",
        "category": "implementation",
        "complexity": "medium",
        "deliverable_count": 2,
        "deliverables_json": '["src/app.py","tests/test_app.py"]',
        "predicted_output_tokens": 5200,
        "actual_output_tokens": 2600,
        "selected_budget": 8192,
        "actual_max_tokens": 16384,
        "success": True,
        "truncated": False,
        "stop_reason": "end_turn",
        "model": "claude-sonnet-4-5",
        "smape_percent": 66,
        "waste_ratio": 200,
        "underestimated": False,
        "input_tokens": 1164,
        "duration_ms": 15200,
        "existing_json": '["src/app.py"]',
    } | CAPTURED | {field.column: None for field in FIELDS[FIELD_NAMES.index("estimator") + 1 :]}


def test_what_is_not_known_is_none(place: Place) -> None:
    with place.open() as telemetry:
        telemetry.record(**event(stop_reason=None, predicted_output_tokens=0))
    (row,) = place.rows()
    unknown = [
        "stop_reason",
        "smape_percent",
        "waste_ratio",
        "underestimated",
        "actual_max_tokens",
        "input_tokens",
        "duration_ms",
        "existing_json",
        "attributes_json",
    ]
    assert [name for name in unknown if row[name] is not None] == []


def test_events_keep_their_order_and_their_ids_sort_by_time(place: Place) -> None:
    with place.open(batch_size=7) as telemetry:
        for number in range(100):
            telemetry.record(**event(phase_id=str(number)))
    rows = place.rows()
    assert [row["phase_id"] for row in rows] == [str(number) for number in range(100)]
    ids = [row["event_uid"] for row in rows]
    assert len(set(ids)) == 100
    assert ids == sorted(ids)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["first", "middle", "last", "everywhere but once"])
def test_one_bad_event_costs_one_event_wherever_it_stands(place: Place, at: str) -> None:
    """The whole poison matrix in one batch, at each position."""
    good = [event(phase_id=f"good{number}") for number in range(10)]
    bad = [event(phase_id="bad") | changes() for _, changes in POISON.values()]
    position = {"first": 0, "middle": 5, "last": 10, "everywhere but once": 5}[at]
    mixed = [*good[:position], *bad, *good[position:]]
    if at == "everywhere but once":
        mixed, good = [*bad, good[0], *bad], good[:1]
    with place.open() as telemetry:
        answers = [telemetry.record(**fields) for fields in mixed]
        assert answers == [True] * len(mixed)
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert [row["phase_id"] for row in place.rows()] == [fields["phase_id"] for fields in good]
    assert settled(stats) == (len(good), len(mixed) - len(good), 0)
    assert stats.dead_letters_lost == stats.worker_restarts == 0
    letters = place.dead_letters()
    assert len(letters) == len(mixed) - len(good)
    fields_named = [POISON[name][0] for name in POISON] * (2 if at == "everywhere but once" else 1)
    for letter, field in zip(letters, fields_named, strict=True):
        assert field in letter["reason"]
        assert letter["kind"] == "invalid"
        json.dumps(letter)


@pytest.mark.parametrize("fault", [{}, {"run_id": None}])
def test_nesting_that_the_worker_cannot_read_is_a_dead_letter(fault: dict[str, Any]) -> None:
    """A thread of its own has a shallower stack than the worker: some depth fits only there."""
    depths = [*range(60, 1000, 50), *range(900, 1000)]

    def record() -> None:
        for depth in depths:
            telemetry.record(**event(deliverables=nested(depth)) | fault)

    with Telemetry(MemoryStore()) as telemetry:
        caller = threading.Thread(target=record)
        caller.start()
        caller.join()
        telemetry.record(**event())
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert settled(stats) == (1, len(depths), 0)
    assert stats.worker_restarts == 0


@pytest.mark.slow
def test_every_store_gives_the_same_rows_and_dead_letters(tmp_path: Path, postgres: Database) -> None:
    """Every store gives the same rows and the same dead letters for the same input."""
    kinds: list[Callable[[Path, Database], Place]] = [MemoryPlace, SqlitePlace, PostgresPlace]
    found = []
    for number, kind in enumerate(kinds):
        folder = tmp_path / str(number)
        folder.mkdir()
        place = kind(folder, postgres)
        with place.open() as telemetry:
            for name, (_, changes) in POISON.items():
                if name != "bytes that are no MessagePack":  # kept in hexadecimal, the instant included
                    telemetry.record(**event() | changes())
                telemetry.record(**event(deliverables=["größe.py", "\u202e"], attributes={"a": "\u0000"[1:]}))
        ours = ("event_uid", "timestamp", "at", "timestamp_ns", "sequence")
        found.append(
            [
                [{name: value for name, value in item.items() if name not in ours} for item in items]
                for items in (place.rows(), place.dead_letters())
            ]
        )
    assert found[0] == found[1] == found[2]
    assert all(found[0])


@pytest.mark.slow
def test_record_never_raises_and_answers_with_a_truth(place: Place) -> None:
    strange: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((1, 2), event()),
        ((), event(self=1, args=2, unknown=3)),
        ((object(),), {}),
        ((), {"\ud800": 1}),
        ((), event(timestamp_ns=1, sequence=2)),
        ((), event(**TOO_LARGE)),
        *[((), event() | changes()) for _, changes in POISON.values()],
    ]
    with place.open() as telemetry:
        answers = [telemetry.record(*args, **fields) for args, fields in strange]
        assert set(map(type, answers)) == {bool}
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert stats.accepted + sum(stats.dropped.values()) == len(strange)
    assert stats.dropped == {"too_large": 1}
    assert stats.written == 0


def test_unknown_arguments_are_dead_lettered_with_their_values(place: Place) -> None:
    """Positional arguments and unknown keywords are dead-lettered with their values."""
    with place.open() as telemetry:
        telemetry.record(1, **event())  # type: ignore[call-arg, arg-type, unused-ignore]
        telemetry.record(**event(deliverable="x.py"))
    reasons = [(letter["reason"], letter["event"]) for letter in place.dead_letters()]
    assert [reason for reason, _ in reasons] == ["unknown field 'args'", "unknown field 'deliverable'"]
    assert reasons[0][1]["args"] == [1]
    assert reasons[1][1]["deliverable"] == "x.py"


def test_an_event_over_256_kib_is_dropped_and_one_below_lands(place: Place) -> None:
    """An event over 256 KiB is dropped as too large, and one below lands."""
    with place.open() as telemetry:
        assert not telemetry.record(**event(**TOO_LARGE))
        assert telemetry.record(**event(deliverables=["x" * 1000] * 255))
    assert telemetry.stats().dropped == {"too_large": 1}
    assert place.rows()[0]["deliverable_count"] == 255


def test_the_caller_may_change_its_lists_afterwards(place: Place) -> None:
    deliverables, attributes = ["src/a.py"], {"git": "1"}
    with place.open() as telemetry:
        telemetry.record(**event(deliverables=deliverables, attributes=attributes))
        deliverables.append("src/b.py")
        attributes["git"] = "2"
    (row,) = place.rows()
    assert (row["deliverables_json"], row["attributes_json"]) == ('["src/a.py"]', '{"git":"1"}')


def test_after_close_events_are_dropped_as_closed(place: Place) -> None:
    telemetry = place.open()
    telemetry.record(**event())
    telemetry.close()
    assert not telemetry.record(**event())
    assert not telemetry.record(**event(unknown=1))
    assert not telemetry.record(**event(**TOO_LARGE))
    stats = telemetry.stats()
    assert stats.dropped == {"closed": 3}
    assert settled(stats) == (1, 0, 0)
    assert len(place.rows()) == 1


def test_flush_is_true_when_all_accepted_before_is_settled(place: Place) -> None:
    """`flush` is true when all that was accepted before it is settled."""
    with place.open(flush_interval_s=3600) as telemetry:
        assert telemetry.flush(0), "nothing to wait for"
        for number in range(3):
            telemetry.record(**event(phase_id=str(number)))
            telemetry.record(**event(run_id=None))
            assert telemetry.flush(30)
            assert len(place.rows()) == len(place.dead_letters()) == number + 1


def test_a_full_batch_is_written_without_flush_or_interval(place: Place) -> None:
    """A full batch is written without a flush, and without waiting for the interval."""
    with place.open(batch_size=10, flush_interval_s=3600) as telemetry:
        for _ in range(21):
            telemetry.record(**event())
        wait_for(telemetry, written=20)


def test_a_smaller_batch_is_written_when_the_interval_is_over(place: Place) -> None:
    with place.open(flush_interval_s=0.05) as telemetry:
        telemetry.record(**event())
        wait_for(telemetry, written=1)


@pytest.mark.slow
def test_a_backlog_drains_in_one_close(place: Place) -> None:
    with place.open() as telemetry:
        for _ in range(5000):
            assert telemetry.record(**event())
    assert settled(telemetry.stats()) == (5000, 0, 0)
    assert len(place.rows()) == 5000


def test_redaction_sees_the_deliverables_before_they_leave_the_caller(place: Place) -> None:
    callers: set[int] = set()

    def redact(paths: Any) -> Any:
        callers.add(threading.get_ident())
        return [f"{len(path)} characters" for path in paths]

    with place.open(redact=redact) as telemetry:
        telemetry.record(**event(deliverables=["secret.py"], existing=["secret.py"]))
        telemetry.record(**event(deliverables=["secret.py"], run_id=None))
        telemetry.record(**event(deliverable=["secret.py"]))
        telemetry.record(["secret.py"], **event())  # type: ignore[call-arg,arg-type]
    assert callers == {threading.get_ident()}
    stored = json.dumps([place.rows(), place.dead_letters()], default=str)
    assert "secret" not in stored
    assert stored.count("9 characters") == 3


def test_a_failing_redaction_costs_the_paths_and_is_counted(place: Place) -> None:
    """A failing redaction costs the event's paths, and is counted once for each event."""

    def redact(_paths: Any) -> Any:
        raise RuntimeError("broken")

    with place.open(redact=redact) as telemetry:
        assert telemetry.record(**event(existing=["secret.py"]))
        assert telemetry.record(**event(unknown=1))
    assert not telemetry.record(**event())
    assert telemetry.stats().redaction_failures == 2
    (row,) = place.rows()
    assert (row["deliverables_json"], row["deliverable_count"], row["existing_json"]) == ("[]", 0, None)


@pytest.mark.parametrize("returned", [None, "x", 5, object(), ["\ud800"]])
def test_a_redaction_that_returns_nonsense_makes_a_dead_letter(place: Place, returned: Any) -> None:
    with place.open(redact=lambda _paths: returned) as telemetry:
        assert telemetry.record(**event())
    assert settled(telemetry.stats()) == (0, 1, 0)


# The account.


def test_the_newest_is_dropped_and_counted_when_the_queue_is_full() -> None:
    store = HangingStore()
    with Telemetry(store, queue_size=10, batch_size=1) as telemetry:
        answers = [telemetry.record(**event(phase_id=str(number))) for number in range(15)]
        assert answers == [True] * 10 + [False] * 5
        assert telemetry.stats().dropped == {"queue_full": 5}
        assert telemetry.stats().pending == 10
        store.released.set()
        assert telemetry.flush(30)
        assert telemetry.record(**event(phase_id="room again"))
    assert [row.phase_id for row in store.rows] == [*map(str, range(10)), "room again"]


def test_the_queue_is_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_QUEUE_BYTES", "100000")
    store = HangingStore()
    with Telemetry(store, queue_size=1000, batch_size=1) as telemetry:
        accepted = sum(telemetry.record(**event(deliverables=["x" * 9_700])) for _ in range(20))
        assert accepted == 10
        assert telemetry.stats().dropped == {"queue_full": 10}
        store.released.set()


def test_an_event_beyond_an_empty_queue_is_too_large_not_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that no empty queue could hold is `too_large`, not `queue_full`."""
    monkeypatch.setenv("TELEMETRY_QUEUE_BYTES", "1024")
    with Telemetry(MemoryStore(), queue_size=3) as telemetry:
        sizes = range(500, 1100)
        answers = [telemetry.record(**event(deliverables=["x" * size])) and telemetry.flush(30) for size in sizes]
    assert answers == sorted(answers, reverse=True)
    assert set(telemetry.stats().dropped) <= {"too_large"}


def test_a_storm_of_threads_keeps_the_identity_of_the_counts() -> None:
    """Each call is accepted or in exactly one reason, and the queue's bound is exact while all of them push."""
    calls, threads, queue_size = 200, 32, 64
    accepted = [0] * threads
    store = WrappedStore()
    telemetry = Telemetry(store, queue_size=queue_size, batch_size=16, flush_interval_s=0.01)

    def call(number: int) -> None:
        fields = [event(), event(run_id=None), event(unknown=1), event(**TOO_LARGE), event(deliverables=["x" * 9000])]
        for turn in range(calls):
            if turn == calls // 2:
                looked.wait(30)  # so that one look at least falls into the storm, however few cores there are
            accepted[number] += telemetry.record(**fields[turn % len(fields)])

    callers = [threading.Thread(target=call, args=(number,)) for number in range(threads)]
    looked = threading.Event()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in callers:
            thread.start()
        while any(thread.is_alive() for thread in callers):
            stats = telemetry.stats()
            looked.set()
            assert is_balanced(stats)
            assert 0 <= stats.pending <= queue_size
    finally:
        sys.setswitchinterval(before)
        for thread in callers:
            thread.join()
        telemetry.close(60)
    stats = telemetry.stats()
    assert looked.is_set()
    assert stats.pending == 0
    assert stats.accepted == sum(accepted)
    assert stats.accepted + sum(stats.dropped.values()) == calls * threads
    assert stats.dropped["too_large"] == calls * threads // 5
    assert stats.dropped["queue_full"] > 0
    assert stats.written == len(store.rows)


def test_stats_are_a_frozen_snapshot() -> None:
    with Telemetry(MemoryStore()) as telemetry:
        before = telemetry.stats()
        telemetry.record(**event())
        assert before == TelemetryStats(dropped={}, not_recorded=before.not_recorded, unattributed=before.unattributed)
        assert before.dropped["anything"] == 0
        with pytest.raises(AttributeError):
            before.accepted = 5  # type: ignore[misc]


def test_the_last_error_holds_code_and_class_only() -> None:
    store = FlakyStore(failures=1)
    with Telemetry(store, flush_interval_s=0.01) as telemetry:
        telemetry.record(**event(phase_id="secret"))
        assert telemetry.flush(30)
        assert (telemetry.stats().last_error, telemetry.stats().retries) == ("flaky", 1)


def test_what_the_database_refuses_is_a_dead_letter_of_another_kind() -> None:
    store = RefusingStore(bad=lambda row: row.phase_id == "bad")
    with Telemetry(store) as telemetry:
        telemetry.record(**event(phase_id="bad"))
        telemetry.record(**event(phase_id="good"))
        assert telemetry.flush(30)
        (letter,) = telemetry.dead_letters.letters  # type: ignore[attr-defined]
    assert (letter.kind, letter.code, letter.attempts, letter.event["phase_id"]) == ("data", "CHECK", 1, "bad")
    assert [row.phase_id for row in store.rows] == ["good"]


# Off.


def test_off_means_off_no_thread_no_file_no_import(tmp_path: Path) -> None:
    run_python(
        """
        os.chdir(sys.argv[1])
        from autopack.telemetry import Telemetry, get_telemetry
        assert get_telemetry().record(**event()) is False
        assert Telemetry.from_env().record(**event()) is False
        assert get_telemetry().stats().dropped == {"disabled": 1}
        assert get_telemetry().flush() and get_telemetry().close() is None
        assert threading.active_count() == 1
        assert not os.listdir(".")
        forbidden = {"sqlalchemy", "anyio", "aiosqlite", "alembic", "asyncio", "anthropic"}
        assert not forbidden & set(sys.modules), forbidden & set(sys.modules)
        """,
        tmp_path,
    )


def test_telemetry_that_is_off_loads_nothing_heavy() -> None:
    """Telemetry that is off loads neither the encoder, nor logging, nor the database."""
    program = """
import sys
from autopack.telemetry import get_telemetry
assert get_telemetry().record() is False
heavy = {"msgspec", "pathlib", "logging", "autopack.database.destination", "autopack.telemetry.engine.writer"}
print(*heavy & set(sys.modules))
"""
    env = {name: value for name, value in os.environ.items() if name != "TELEMETRY_DB_ENABLED"}
    child = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("\n", "")


def test_a_disabled_telemetry_has_every_method_and_does_nothing() -> None:
    telemetry = DisabledTelemetry()

    async def use() -> None:
        async with telemetry as entered:
            assert not entered.record(**event())
            assert await entered.aflush()

    asyncio.run(use())
    with telemetry:
        assert not telemetry.record(1, **event(self=2))  # type: ignore[call-arg, arg-type, unused-ignore]
    telemetry.begin_close()
    assert not telemetry.closed
    assert not telemetry.enabled
    stats = telemetry.stats()
    assert stats == TelemetryStats(
        dropped={"disabled": 2}, not_recorded=stats.not_recorded, unattributed=stats.unattributed
    )


def test_an_impossible_variable_warns_once_and_is_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An impossible setting in the environment warns once, and telemetry is off."""
    done = run_python(
        """
        logging.basicConfig(format="%(levelname)s %(message)s")
        from autopack.telemetry import Telemetry, get_telemetry
        for _ in range(3):
            assert not Telemetry.from_env().enabled
            assert not get_telemetry().record(**event())
        """,
        env={"TELEMETRY_DB_ENABLED": "1", "TELEMETRY_BATCH_SIZE": "none", "DATABASE_URL": f"sqlite:///{tmp_path}/x.db"},
    )
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("WARNING Telemetry is off: TELEMETRY_BATCH_SIZE='none'")


def test_the_parameters_of_record_are_the_first_fields_in_order() -> None:
    """Later ones come by name as well, and take the slow path: see `EventFields`."""
    parameters = inspect.signature(Telemetry.record).parameters.values()
    names = tuple(found.name for found in parameters if found.kind is inspect.Parameter.KEYWORD_ONLY)
    assert names == FIELD_NAMES[: len(names)]
    assert set(FIELD_NAMES[: len(names)]) >= set(FIELD_NAMES) - OPTIONAL
