"""Closing, in every way and from everywhere; and the instance that a process shares."""

import asyncio
import logging
import signal
import threading
import time
from pathlib import Path

import anyio
import pytest
from tests.misbehaving_stores import HangingStore, WrappedStore
from tests.telemetry.places import Place
from tests.waiting import wait_for
from tests.write_side import event, phases_of, run_python, url_of

from autopack.database.destination import parse_database_url
from autopack.telemetry import Telemetry, lifecycle
from autopack.telemetry.stores import MemoryStore
from autopack.telemetry.stores.sqlite import SqliteStore

pytestmark = pytest.mark.usefixtures("_nothing_left_running")


def test_closes_of_several_threads_all_end_and_close_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A close from several threads at once ends for all of them, and closes once."""
    telemetry = place.open()
    for number in range(100):
        telemetry.record(**event(phase_id=str(number)))
    telemetry.record(**event(run_id=None))
    together = threading.Barrier(8)

    def close() -> None:
        together.wait()
        telemetry.close()

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(place.rows()) == 100
    assert len([line for line in caplog.messages if line.startswith("Closed")]) == 1


def test_close_twice_is_close_once(place: Place) -> None:
    telemetry = place.open()
    telemetry.record(**event())
    telemetry.close()
    before = telemetry.stats()
    telemetry.close()
    telemetry.begin_close()
    assert telemetry.flush(1)
    assert telemetry.stats() == before
    assert telemetry.closed


def test_close_without_an_event_starts_nothing(place: Place) -> None:
    telemetry = place.open()
    telemetry.close()
    assert place.rows() == []
    assert not telemetry.stats().worker_alive
    assert not telemetry.record(**event())


def test_close_from_a_signal_handler_that_interrupts_a_wait(place: Place) -> None:
    telemetry = place.open()
    telemetry.record(**event())
    interrupted = threading.Event()

    def close(*_: object) -> None:
        telemetry.close()
        interrupted.set()

    before = signal.signal(signal.SIGUSR1, close)
    try:
        main = threading.get_ident()
        sender = threading.Thread(target=lambda: signal.pthread_kill(main, signal.SIGUSR1))
        sender.start()
        assert interrupted.wait(30)
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(place.rows()) == 1


def test_close_inside_a_running_event_loop_drains(place: Place) -> None:
    async def use() -> None:
        with place.open() as telemetry:
            telemetry.record(**event())

    asyncio.run(use())
    assert len(place.rows()) == 1


def test_an_exception_inside_with_closes_and_goes_on(place: Place) -> None:
    def build() -> None:
        with place.open() as telemetry:
            telemetry.record(**event())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert len(place.rows()) == 1


async def test_async_with_closes(place: Place) -> None:
    async with place.open() as telemetry:
        telemetry.record(**event())
        assert await telemetry.aflush(30)
        assert len(place.rows()) == 1
        telemetry.record(**event())
    assert len(place.rows()) == 2
    await telemetry.aclose()


async def test_aflush_and_aclose_never_block_the_callers_loop() -> None:
    """The loop turns while the store hangs; only the turns decide when it is released."""
    store = HangingStore()
    telemetry = Telemetry(store)
    telemetry.record(**event())
    flushing = asyncio.create_task(telemetry.aflush(60))
    assert await asyncio.to_thread(store.entered.wait, 30)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not flushing.done()
    closing = asyncio.create_task(telemetry.aclose(60))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not closing.done()
    store.released.set()
    assert await flushing
    await closing
    assert len(store.rows) == 1


async def test_a_cancelled_aflush_leaves_at_once_and_keeps_the_event() -> None:
    """A cancelled `aflush` leaves the caller at once, and leaves the event alone."""
    store = HangingStore()
    telemetry = Telemetry(store)
    telemetry.record(**event())
    with anyio.move_on_after(0.05) as scope:
        await telemetry.aflush(60)
    assert scope.cancelled_caught
    store.released.set()
    await telemetry.aclose()
    assert len(store.rows) == 1


def test_many_flushes_at_once_all_return(place: Place) -> None:
    async def use() -> None:
        async with place.open() as telemetry:
            for _ in range(60):
                telemetry.record(**event())
            assert all(await asyncio.gather(*(telemetry.aflush(30) for _ in range(60))))

    anyio.run(use)
    assert len(place.rows()) == 60


def test_under_trio_where_it_is_installed(place: Place) -> None:
    pytest.importorskip("trio")

    async def use() -> None:
        async with place.open() as telemetry:
            telemetry.record(**event())
            assert await telemetry.aflush(30)

    anyio.run(use, backend="trio")
    assert len(place.rows()) == 1


@pytest.mark.parametrize("timeout_s", [float("inf"), 1e12])
def test_a_timeout_beyond_what_the_system_counts_means_for_ever(timeout_s: float) -> None:
    telemetry = Telemetry(MemoryStore())
    telemetry.record(**event())
    assert telemetry.flush(timeout_s)
    telemetry.record(**event())
    telemetry.close(timeout_s)
    assert telemetry.stats().written == 2


def test_flush_gives_up_at_its_timeout() -> None:
    store = HangingStore()
    telemetry = Telemetry(store)
    telemetry.record(**event())
    began = time.monotonic()
    assert not telemetry.flush(0.1)
    assert not telemetry.flush(0)
    assert not telemetry.flush(-1)
    assert time.monotonic() - began < 5
    store.released.set()
    telemetry.close()


def test_a_hanging_store_holds_up_neither_record_nor_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A hanging store does not hold up `record()`, nor a close beyond its deadline."""
    store = HangingStore()
    telemetry = Telemetry(store, batch_size=1)
    telemetry.record(**event())
    assert store.entered.wait(30)
    for _ in range(500):
        assert telemetry.record(**event())
    began = time.monotonic()
    telemetry.close(0.2)
    assert time.monotonic() - began < 0.2 + 1
    assert telemetry.stats().pending == 501
    assert caplog.messages[-1].startswith("Closed; of 501 accepted event(s): 501 not written")
    store.released.set()
    wait_for(telemetry, lambda stats: not stats.worker_alive)


def test_a_thread_that_cannot_start_is_started_at_the_next_chance() -> None:
    """A stack that no machine has: the interpreter refuses to start the thread, as at a limit of processes."""
    store = MemoryStore()
    with Telemetry(store, batch_size=2, flush_interval_s=0.01) as telemetry:
        before = threading.stack_size(1 << 46)
        try:
            assert telemetry.record(**event())
            assert not telemetry.flush(0.1)
        finally:
            threading.stack_size(before)
        assert telemetry.stats().last_error == "RuntimeError"
        assert telemetry.flush(30)
        assert len(store.rows) == 1


@pytest.mark.slow
def test_an_event_a_second_later_starts_the_thread_that_failed(place: Place) -> None:
    """When threads can be started again, the next event after the pause starts the worker's thread."""
    with place.open() as telemetry:
        before = threading.stack_size(1 << 46)
        try:
            assert telemetry.record(**event())
        finally:
            threading.stack_size(before)
        record_until_written(telemetry)


@pytest.mark.parametrize("journal", ["auto", "off"])
def test_a_full_queue_is_written_once_threads_can_start_again(
    database: Path, monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    """When threads can be started again, a full queue is written, too."""
    monkeypatch.setenv("TELEMETRY_JOURNAL_DIR", journal)
    monkeypatch.setenv("TELEMETRY_JOURNAL_BYTES", str(1 << 20))  # one segment
    with Telemetry(url_of(database), queue_size=2000) as telemetry:
        before = threading.stack_size(1 << 46)
        try:
            while telemetry.record(**event(deliverables=["x" * 190] * 20)):
                pass
        finally:
            threading.stack_size(before)
        full = telemetry.stats().pending
        record_until_written(telemetry)
        assert telemetry.flush(30)
        assert telemetry.stats().written >= full


def record_until_written(telemetry: Telemetry) -> None:
    """Record far fewer events than make a batch, far too slowly for each to matter, until one is written."""
    for _ in range(400):
        if telemetry.stats().written:
            return
        telemetry.record(**event())
        threading.Event().wait(0.02)
    raise AssertionError(telemetry.stats())


@pytest.mark.slow
@pytest.mark.parametrize("journal", ["auto", "off"])
def test_while_no_thread_can_be_started_not_every_event_tries(database: Path, journal: str) -> None:
    run_python(
        """
        import time
        from itertools import pairwise
        from autopack.telemetry import Telemetry
        tries_s = []
        def note(frame, what, function):
            if what == "c_call" and function.__name__ == "start_new_thread":
                tries_s.append(time.monotonic())
        telemetry = Telemetry(f"sqlite:///{sys.argv[1]}", queue_size=10**6)
        threading.stack_size(1 << 46)
        sys.setprofile(note)
        recorded = 0
        while len(tries_s) < 4:
            assert telemetry.record(**event())
            recorded += 1
        sys.setprofile(None)
        assert recorded > 100, recorded
        assert all(later - earlier > 0.2 for earlier, later in pairwise(tries_s)), tries_s
        threading.stack_size(0)
        assert telemetry.flush(30)
        telemetry.close()
        """,
        database,
        env={"TELEMETRY_JOURNAL_DIR": journal},
    )


def test_without_any_thread_close_writes_the_events() -> None:
    """A thread that can never be started still leaves the events to `close()`."""
    store = MemoryStore()
    telemetry = Telemetry(store)
    before = threading.stack_size(1 << 46)
    try:
        for _ in range(3):
            assert telemetry.record(**event())
        telemetry.close()
    finally:
        threading.stack_size(before)
    assert len(store.rows) == 3


class BrokenStore(WrappedStore):
    """What it needs cannot be imported."""

    def load(self) -> None:
        raise ImportError


@pytest.mark.slow
@pytest.mark.parametrize("journal_dir", ["auto", None])
def test_a_writer_that_cannot_load_says_so_once_and_where_events_stay(
    database: Path, journal_dir: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle._warned.clear()
    store = BrokenStore(SqliteStore(parse_database_url(url_of(database))))
    with Telemetry(store, journal_dir=journal_dir, shutdown_timeout_s=0.5) as telemetry:
        telemetry.record(**event())
    place = "LOST with this process" if journal_dir is None else f"kept in {database}.telemetry"
    assert [line.partition(" (")[0] for line in caplog.messages] == [
        "The telemetry writer cannot start now",
        f"Closed; of 1 accepted event(s): 1 not written, {place}",
    ]
    assert bool(list(Path(f"{database}.telemetry").glob("journal-*"))) is (journal_dir is not None)


def test_a_close_logs_what_was_lost_and_a_clean_one_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A log line at close says what was lost, and a clean close says nothing."""
    with caplog.at_level(logging.WARNING):
        with Telemetry(MemoryStore()) as telemetry:
            telemetry.record(**event())
        assert caplog.messages == []
        with Telemetry(MemoryStore()) as telemetry:
            telemetry.record(**event(run_id=None))
    assert caplog.messages[-1].startswith("Closed; of 1 accepted event(s): 1 in the dead letters")


def test_every_loss_is_counted_by_reason_in_one_log_line_at_close(caplog: pytest.LogCaptureFixture) -> None:
    store = HangingStore()
    telemetry = Telemetry(store, queue_size=2, batch_size=1)
    for _ in range(5):
        telemetry.record(**event())
    telemetry.record(**event(deliverables=["x" * 300_000]))
    store.released.set()
    telemetry.close()
    (line,) = [line for line in caplog.messages if line.startswith("Closed")]
    assert "queue_full" in line
    assert "3" in line
    assert "too_large" in line


# The instance that a process shares.


def test_get_telemetry_is_one_per_database_and_drains_the_former(tmp_path: Path) -> None:
    """`get_telemetry` is one instance for each database, and drains the former one when the database changes."""
    run_python(
        """
        from autopack.telemetry import get_telemetry
        os.environ["TELEMETRY_DB_ENABLED"] = "yes"
        os.chdir(sys.argv[1])
        os.environ["DATABASE_URL"] = "sqlite:///first.db"
        first = get_telemetry()
        assert first is get_telemetry() and first.enabled
        assert first.record(**event(phase_id="to the first"))
        os.environ["DATABASE_URL"] = f"sqlite+aiosqlite:///{os.getcwd()}/first.db"
        assert get_telemetry() is first, "the same file by another name"
        os.environ["DATABASE_URL"] = "sqlite:///second.db"
        second = get_telemetry()
        assert second is not first and second is get_telemetry()
        assert first.closed and not first.record(**event())
        assert second.record(**event(phase_id="to the second"))
        os.environ["TELEMETRY_DB_ENABLED"] = "0"
        assert not get_telemetry().record(**event())
        os.environ["TELEMETRY_DB_ENABLED"] = "TRUE"
        assert get_telemetry() is second, "a disabled one is never kept"
        second.close()
        third = get_telemetry()
        assert third is not second and third.record(**event(phase_id="after a close"))
        os.environ["DATABASE_URL"] = "mysql://u:geheim@h/d"
        assert not get_telemetry().enabled
        os.environ["DATABASE_URL"] = "sqlite:///second.db"
        assert get_telemetry() is third
        """,
        tmp_path,
    )
    assert phases_of(tmp_path / "first.db") == ["to the first"]
    assert phases_of(tmp_path / "second.db") == ["to the second", "after a close"]


@pytest.mark.slow
def test_get_telemetry_means_a_sessions_file_also_after_chdir(tmp_path: Path) -> None:
    """`get_telemetry` means the file that a session means, also after a change of the working directory."""
    run_python(
        """
        from autopack.telemetry import get_telemetry
        from autopack.database import SessionLocal
        from autopack.models import TokenEstimationV2Event
        for folder in ("a", "b"):
            os.mkdir(os.path.join(sys.argv[1], folder))
            os.chdir(os.path.join(sys.argv[1], folder))
            assert get_telemetry().record(**event(phase_id=folder)) and get_telemetry().flush(30)
            with SessionLocal() as session:
                assert session.query(TokenEstimationV2Event).one().phase_id == folder
        """,
        tmp_path,
        env={"TELEMETRY_DB_ENABLED": "1"},
    )
    assert phases_of(tmp_path / "a" / "autopack.db") == ["a"]


@pytest.mark.slow
def test_a_relative_url_that_means_another_file_is_warned_of_once(tmp_path: Path) -> None:
    done = run_python(
        """
        from autopack.telemetry import get_telemetry
        for folder in ("a", "b", "c", "a"):
            os.makedirs(os.path.join(sys.argv[1], folder), exist_ok=True)
            os.chdir(os.path.join(sys.argv[1], folder))
            assert get_telemetry().record(**event(phase_id=folder))
        os.environ["DATABASE_URL"] = f"sqlite:///{sys.argv[1]}/absolute.db"
        assert get_telemetry().record(**event(phase_id=folder))
        """,
        tmp_path,
        env={"TELEMETRY_DB_ENABLED": "1", "DATABASE_URL": "sqlite:///x.db"},
    )
    warned = [line for line in done.stderr.splitlines() if "working directory has changed" in line]
    assert len(warned) == 1
    assert f"now go to sqlite:///{tmp_path}/b/x.db, earlier ones went to sqlite:///{tmp_path}/a/x.db" in warned[0]


@pytest.mark.slow
def test_get_telemetry_from_many_threads_at_once_is_one_instance(tmp_path: Path) -> None:
    run_python(
        """
        from autopack.telemetry import get_telemetry
        sys.setswitchinterval(1e-6)
        together, found = threading.Barrier(16), set()
        def get():
            together.wait()
            telemetry = get_telemetry()
            found.add(id(telemetry))
            telemetry.record(**event())
        threads = [threading.Thread(target=get) for _ in range(16)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert len(found) == 1
        assert get_telemetry().flush(30) and get_telemetry().stats().written == 16
        """,
        env={"TELEMETRY_DB_ENABLED": "1", "DATABASE_URL": f"sqlite:///{tmp_path}/x.db"},
    )


def test_get_telemetry_that_cannot_work_says_why_once(tmp_path: Path) -> None:
    """A broken installation: what the writer needs fails to be imported, with a password in what it says."""
    (tmp_path / "msgspec.py").write_text("raise ImportError('postgresql://build:geheim@server/telemetry')\n")
    done = run_python(
        """
        sys.path.insert(0, sys.argv[1])
        logging.basicConfig(format="%(levelname)s %(message)s")
        from autopack.telemetry import get_telemetry
        for _ in range(3):
            broken = get_telemetry()
            assert broken.record(**event()) is False
        sys.path.pop(0)  # mended
        assert broken.stats().dropped == {"disabled": 3}
        assert get_telemetry().record(**event()) and get_telemetry().flush(30)
        """,
        tmp_path,
        env={"TELEMETRY_DB_ENABLED": "1", "DATABASE_URL": f"sqlite:///{tmp_path}/x.db"},
    )
    assert phases_of(tmp_path / "x.db") == ["p1"]
    assert done.stderr == "WARNING Telemetry is off as long as this is so: ImportError\n"
