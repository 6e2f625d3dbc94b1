"""The worker: every step may fail, before it is done or after; nothing is lost and nothing doubles."""

import logging
import math
import threading
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from tests.journals import payload
from tests.misbehaving_stores import FaultStore, FlakyStore, RefusingStore, SlowStore, WrappedStore
from tests.write_side import event

from autopack.errors import DataRejectedError, StoreError, StoreUnusableError, TransientStoreError
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.control import WorkerCommands, WorkerState
from autopack.telemetry.engine.dead_letters import MemoryDeadLetters
from autopack.telemetry.engine.queue import MemoryQueue
from autopack.telemetry.engine.settings import resolve
from autopack.telemetry.engine.worker import Worker
from autopack.telemetry.stores import MemoryStore

pytestmark = pytest.mark.usefixtures("_nothing_left_running")


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BACKOFF_BASE_S": "0.001", "BACKOFF_CAP_S": "0.002", "PROBE_INTERVAL_S": "0.002"}.items():
        monkeypatch.setenv(f"TELEMETRY_{name}", value)


def record_phases(telemetry: Telemetry, count: int) -> list[str]:
    phases = [f"p{number}" for number in range(count)]
    for phase in phases:
        assert telemetry.record(**event(phase_id=phase))
    return phases


@pytest.mark.parametrize("after_write", [False, True], ids=["failed", "done, then failed"])
@pytest.mark.parametrize(
    "error", [TransientStoreError("BUSY"), StoreUnusableError("READONLY")], ids=["transient", "unusable"]
)
def test_exactly_one_row_each_whichever_write_fails(error: StoreError, *, after_write: bool) -> None:
    """The Nth write fails, for N = 1, 2, … until a run has no fault: every step has failed once."""
    rounds = faults = 0
    while True:
        rounds += 1
        store = FaultStore(nth=rounds, after_write=after_write, error=error)
        with Telemetry(store, batch_size=4) as telemetry:
            phases = record_phases(telemetry, 10)
            assert telemetry.flush(30)
            stats = telemetry.stats()
        assert [row.phase_id for row in store.rows] == phases
        assert (stats.written + stats.duplicates, stats.dead_lettered, stats.pending) == (10, 0, 0)
        assert (stats.duplicates > 0) == (after_write and store.faults > 0)
        assert stats.retries == store.faults
        faults += store.faults
        if not store.faults:
            break
    assert rounds == faults + 1
    assert faults >= 1


@pytest.mark.parametrize("after_write", [False, True])
def test_a_database_that_is_away_for_a_while_costs_nothing(*, after_write: bool) -> None:
    """More failures than a normal retry allows: it becomes an outage, and drains by itself when it is over."""
    store = FlakyStore(failures=40, after_write=after_write)
    with Telemetry(store) as telemetry:
        phases = record_phases(telemetry, 20)
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert [row.phase_id for row in store.rows] == phases
    assert stats.retries == 40
    assert stats.written + stats.duplicates == 20
    assert stats.worker_restarts == 0


def test_an_outage_is_said_once_and_its_end_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with Telemetry(FlakyStore(failures=40)) as telemetry:
        record_phases(telemetry, 3)
        assert telemetry.flush(30)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.split(" (")[0].split(";")[0] for line in said] == [
        "The database cannot be written",
        "The database can be written again",
    ]


@pytest.mark.parametrize(
    ("rows", "bad"),
    [
        (1, {0}),
        (2, {1}),
        (8, {0}),
        (8, {7}),
        (64, {5}),
        (64, {0, 63}),
        (64, {31, 32}),
        (100, {99}),
        (3, {2}),
        (64, set(range(64))),
        (256, {1, 100, 200, 255}),
        (250, set(range(0, 250, 25))),
    ],
)
def test_bisection_finds_bad_rows_within_its_statements(rows: int, bad: set[int]) -> None:
    """Bad rows are found by bisection within the budget of statements."""
    store = RefusingStore(bad=lambda row: int(row.phase_id[1:]) in bad)
    with Telemetry(store, batch_size=rows, flush_interval_s=3600) as telemetry:
        phases = record_phases(telemetry, rows)
        assert telemetry.flush(30)
        stats = telemetry.stats()
        letters = list(letters_of(telemetry))
    assert [row.phase_id for row in store.rows] == [phase for n, phase in enumerate(phases) if n not in bad]
    assert letters == [phases[number] for number in sorted(bad)]
    assert (stats.written, stats.dead_lettered, stats.retries) == (rows - len(bad), len(bad), 0)
    # One batch may have come as two: the first event wakes the worker.
    assert store.writes <= 2 * len(bad) * math.ceil(math.log2(rows or 1)) + 2


@pytest.mark.parametrize("in_outage", [False, True])
def test_a_fork_waits_for_a_last_batch_but_not_in_an_outage(*, in_outage: bool) -> None:
    """So that the thread is not needed after the fork. A database that is away would only hold the fork up."""
    queue = MemoryQueue(10, 1000)
    queue.append(b"no event, hence a dead letter")
    commands = WorkerCommands()
    commands.expect_fork()
    worker = Worker(
        queue=queue,
        store=MemoryStore(),
        dead_letters=MemoryDeadLetters(),
        settings=resolve({}),
        commands=commands,
        state=WorkerState(),
    )
    worker._in_outage = in_outage
    assert not anyio.run(worker.run), "it is to run again"
    assert queue.backlog == in_outage


def letters_of(telemetry: Telemetry) -> list[str]:
    dead_letters = telemetry.dead_letters
    assert isinstance(dead_letters, MemoryDeadLetters)
    return [letter.event["phase_id"] for letter in dead_letters.letters]


def test_a_refusal_in_the_middle_of_an_outage_is_still_found() -> None:
    inner = RefusingStore(bad=lambda row: row.phase_id == "p3")
    store = FlakyStore(inner, failures=25)
    with Telemetry(store) as telemetry:
        record_phases(telemetry, 6)
        assert telemetry.flush(30)
        assert letters_of(telemetry) == ["p3"]
    assert [row.phase_id for row in inner.rows] == ["p0", "p1", "p2", "p4", "p5"]


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, RecursionError, MemoryError, TimeoutError])
@pytest.mark.parametrize("after_write", [False, True])
def test_a_worker_that_dies_is_started_again_and_loses_nothing(
    error: Callable[[], Exception], *, after_write: bool
) -> None:
    """A worker that dies of a bug is started again, and loses nothing."""
    store = FlakyStore(failures=2, after_write=after_write, error=error)
    with Telemetry(store) as telemetry:
        phases = record_phases(telemetry, 5)
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert [row.phase_id for row in store.rows] == phases
    assert stats.written + stats.duplicates == 5
    assert stats.worker_restarts == 2
    assert stats.last_error == getattr(error, "__name__", "")


@pytest.mark.slow
def test_a_worker_that_restarts_tries_until_the_close_deadline() -> None:
    """A worker that waits to start again tries until the deadline of a close."""
    store = FlakyStore(failures=5, error=ValueError)
    telemetry = Telemetry(store)
    phases = record_phases(telemetry, 3)
    assert store.failed.wait(30)
    began = time.monotonic()
    telemetry.close(20)
    assert time.monotonic() - began < 20
    assert [row.phase_id for row in store.rows] == phases


def test_a_close_interrupts_the_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays of minutes; the close is over at once, since it makes one more try."""
    for name in ("BACKOFF_BASE_S", "BACKOFF_CAP_S", "PROBE_INTERVAL_S", "RETRY_TOTAL_S"):
        monkeypatch.setenv(f"TELEMETRY_{name}", "3000")
    store = FlakyStore(failures=1)
    telemetry = Telemetry(store, flush_interval_s=0.01)
    phases = record_phases(telemetry, 3)
    assert store.failed.wait(30)
    began = time.monotonic()
    telemetry.close(30)
    assert time.monotonic() - began < 15
    assert [row.phase_id for row in store.rows] == phases


def test_a_close_in_an_outage_keeps_its_deadline_and_says_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A close keeps its deadline while the database is away, and says what is left."""
    store = FlakyStore(failures=math.inf)
    telemetry = Telemetry(store)
    record_phases(telemetry, 7)
    began = time.monotonic()
    telemetry.close(0.3)
    assert time.monotonic() - began < 0.3 + 1
    stats = telemetry.stats()
    assert (stats.pending, stats.accepted, stats.worker_alive) == (7, 7, False)
    lost = "7 not written, LOST with this process"
    assert caplog.messages[-1] == f"Closed; of 7 accepted event(s): {lost} (last error: flaky)"


def test_a_close_that_may_take_no_time_at_all_still_ends() -> None:
    telemetry = Telemetry(FlakyStore(failures=math.inf))
    record_phases(telemetry, 2)
    telemetry.close(0)
    assert telemetry.stats().pending == 2


def test_the_store_is_closed_once_it_is_over() -> None:
    store = WrappedStore()
    with Telemetry(store) as telemetry:
        record_phases(telemetry, 1)
    assert store.closes >= 1
    assert not telemetry.stats().worker_alive
    assert "autopack-telemetry" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.slow
def test_the_budget_of_tries_is_bounded_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of each batch per probe: an outage is no storm."""
    monkeypatch.setenv("TELEMETRY_PROBE_INTERVAL_S", "0.2")
    monkeypatch.setenv("TELEMETRY_RETRY_ATTEMPTS", "2")
    store = FlakyStore(failures=math.inf)
    telemetry = Telemetry(store, batch_size=1)
    began = time.monotonic()
    record_phases(telemetry, 50)
    telemetry.flush(1)
    elapsed_s = time.monotonic() - began
    tries = store.writes
    telemetry.close(0)
    assert 2 <= tries <= 3 + elapsed_s / 0.1


def test_a_data_error_of_one_event_takes_one_statement_and_no_wait() -> None:
    """A data error of a single event takes one statement and no wait."""
    store = FlakyStore(failures=1, error=lambda: DataRejectedError("CHECK"))
    with Telemetry(store) as telemetry:
        record_phases(telemetry, 1)
        assert telemetry.flush(30)
        assert telemetry.stats().dead_lettered == 1
        assert (store.writes, telemetry.stats().retries) == (1, 0)


def wait_until_taken(telemetry: Telemetry, backlog: int) -> None:
    end_s = time.monotonic() + 30
    while telemetry.writer.queue.backlog != backlog:
        assert time.monotonic() < end_s
        threading.Event().wait(0.001)


def test_the_next_full_batch_is_read_ahead_and_stays_pending() -> None:
    """While a batch is written, the next full one is read, and stays pending."""
    store = SlowStore()
    with Telemetry(store, batch_size=10, flush_interval_s=60) as telemetry:
        phases = record_phases(telemetry, 25)
        store.let_in.set()
        wait_until_taken(telemetry, 5)  # ten in the store's hands, ten behind them
        assert telemetry.stats().pending == 25
        store.released.set()
    assert [row.phase_id for row in store.rows] == phases


def test_a_worker_that_dies_with_two_batches_writes_both_once() -> None:
    """A worker that dies with a batch read ahead writes both batches once when it starts again."""
    store = SlowStore(error=ValueError("a bug"))
    with Telemetry(store, batch_size=10, flush_interval_s=60) as telemetry:
        phases = record_phases(telemetry, 25)
        store.let_in.set()
        wait_until_taken(telemetry, 5)
        store.released.set()
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert [row.phase_id for row in store.rows] == phases
    assert (stats.written, stats.worker_restarts, stats.last_error) == (25, 1, "ValueError")


def test_a_bad_event_in_a_batch_that_was_read_ahead_costs_only_itself() -> None:
    store = SlowStore()
    with Telemetry(store, batch_size=10, flush_interval_s=60) as telemetry:
        phases = record_phases(telemetry, 12)
        telemetry.record(**event(run_id=None))
        phases += record_phases(telemetry, 12)
        store.let_in.set()
        wait_until_taken(telemetry, 5)
        assert telemetry.stats().dead_lettered == 0, "in order"
        store.released.set()
        assert telemetry.flush(30)
        stats = telemetry.stats()
    assert [row.phase_id for row in store.rows] == phases
    assert (stats.written, stats.dead_lettered) == (24, 1)


class RemoteStore(MemoryStore):
    """One for which a batch is decoded in slices, between which others have their turn."""

    is_remote = True


def test_a_batch_read_ahead_while_more_is_asked_for_is_not_lost() -> None:
    """Both are decoded at once, and take turns: the one that was begun first is ready while the other is decoded."""
    settings = resolve({"batch_size": 300})
    queue = MemoryQueue(settings.queue_size, settings.queue_bytes)
    for number in range(599):
        queue.append(payload(f"p{number}"))
    worker = Worker(
        queue=queue,
        store=RemoteStore(),
        dead_letters=MemoryDeadLetters(),
        settings=settings,
        commands=WorkerCommands(),
        state=WorkerState(),
    )
    keys: list[int] = []

    async def read_both() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker._read_ahead)
            await anyio.lowlevel.checkpoint()
            keys.extend(await worker.read_more())
        keys.extend(await worker.read_more())

    anyio.run(read_both)
    assert sorted(keys) == list(range(599))
