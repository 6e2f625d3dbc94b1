"""What cannot be had at the start is tried again: nothing that was accepted meanwhile is lost when it heals."""

import builtins
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_for
from tests.write_side import event, phases_of, run_python, url_of

from autopack.telemetry import Telemetry
from autopack.telemetry.journal import segment_maker
from autopack.telemetry.stores import MemoryStore

pytestmark = pytest.mark.usefixtures("_nothing_left_running")


def _of_system(name: str) -> Callable[[], OSError]:
    number: int = getattr(errno, name)
    return lambda: OSError(number, os.strerror(number))


_NUMBERS = ("ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "EACCES", "EROFS", "EIO", "ENOMEM")
ERRORS: dict[str, Callable[[], Exception]] = {
    **{name: _of_system(name) for name in _NUMBERS},
    "MemoryError": MemoryError,
    "RuntimeError": lambda: RuntimeError("can't start new thread"),
}

# Every call by which something is had from the system between `Telemetry()` and the first row.
CALLS = {
    "the folder": "os.mkdir",
    "a segment's file": "os.open",
    "a segment's room": "os.posix_fallocate",
    "a segment's map": "mmap.mmap",
    "a segment's lock": "fcntl.flock",
    "a look at the folder": "os.scandir",
    "the bare thread": "autopack._util.os_threads.start_new_thread",
    "the thread": "threading.Thread.start",
    "an event loop": "socket.socketpair",
    "a connection": "sqlite3.connect",
    "an import": "builtins.__import__",
}
_IMPORTED = {"aiosqlite", "anyio", "autopack.telemetry.engine.worker"}


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"BACKOFF_CAP_S": "0.02", "PROBE_INTERVAL_S": "0.02"}.items():
        monkeypatch.setenv(f"TELEMETRY_{name}", value)
    segment_maker.check_folder.cache_clear()
    yield
    segment_maker.check_folder.cache_clear()


class Fault:
    """Makes one call of the system's fail until it is healed; counts how often it did."""

    def __init__(self, patch: pytest.MonkeyPatch, call: str, error: Callable[[], Exception]) -> None:
        module, _, name = call.rpartition(".")
        owner: Any = threading.Thread if module == "threading.Thread" else import_module(module)
        self._original = getattr(owner, name)
        self._error = error
        self._is_import = owner is builtins
        self._healed = threading.Event()
        self.failures = 0

        def call_or_fail(*arguments: Any, **options: Any) -> Any:
            return self._call(*arguments, **options)

        patch.setattr(owner, name, call_or_fail)

    def heal(self) -> None:
        self._healed.set()

    def _call(self, *arguments: Any, **options: Any) -> Any:
        if not self._healed.is_set() and self._concerns_telemetry(arguments):
            self.failures += 1
            raise self._error()
        return self._original(*arguments, **options)

    def _concerns_telemetry(self, arguments: tuple[Any, ...]) -> bool:
        if self._is_import:
            return arguments[0] in _IMPORTED and threading.current_thread() is not threading.main_thread()
        frame = sys._getframe(3)
        while frame is not None:
            if "/autopack/" in frame.f_code.co_filename:
                return True
            frame = frame.f_back  # type: ignore[assignment]
        return threading.current_thread().name == "autopack-telemetry"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of half a loop, by asyncio itself
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_what_fails_at_the_start_is_tried_again_and_nothing_is_lost(
    database: Path, call: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[str] = []
    with monkeypatch.context() as patch:
        fault = Fault(patch, CALLS[call], ERRORS[error])
        telemetry = Telemetry(url_of(database))
        accepted += [phase for phase in ("p0", "p1", "p2") if telemetry.record(**event(phase_id=phase))]
        telemetry.flush(0.05)
        assert fault.failures > 0
        assert telemetry.stats().accepted == len(accepted)
        fault.heal()
        wait_for(telemetry, lambda _: telemetry.record(**event(phase_id="healed")))
        accepted.append("healed")
        assert telemetry.flush(30)
        assert telemetry.stats().worker_alive
        telemetry.close(30)
    stats = telemetry.stats()
    assert stats.journal_dir is not None, "memory only would outlive the fault"
    assert (stats.written, stats.pending, stats.worker_alive) == (len(accepted), 0, False)
    assert phases_of(database) == accepted


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.parametrize("error", ["EMFILE", "MemoryError"])
@pytest.mark.parametrize("call", ["the bare thread", "the thread", "an event loop", "a connection", "an import"])
def test_a_close_makes_a_last_attempt(database: Path, call: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Healed before the close, and no event comes, nobody flushes."""
    with monkeypatch.context() as patch:
        fault = Fault(patch, CALLS[call], ERRORS[error])
        telemetry = Telemetry(url_of(database))
        assert telemetry.record(**event())
        wait_for(telemetry, lambda _: fault.failures > 0)
        fault.heal()
        telemetry.close(30)
    assert phases_of(database) == ["p1"]


@pytest.mark.slow
def test_a_thread_that_dies_before_it_says_so_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Thread.start` waits for ever for one whose first lines find no memory."""
    may_end = threading.Event()
    store = MemoryStore()
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", lambda _thread: may_end.wait(60))
        telemetry = Telemetry(store)
        assert telemetry.record(**event())
        wait_for(telemetry, lambda stats: not stats.worker_alive)
        assert not telemetry.flush(0.01)
    assert telemetry.flush(30)
    assert telemetry.stats().worker_alive
    telemetry.close()
    may_end.set()
    assert len(store.rows) == 1


@pytest.mark.slow
def test_no_descriptor_free_during_the_first_import_heals(tmp_path: Path) -> None:
    """A real limit: every descriptor is taken when the writer begins to import, and given back half a second later."""
    done = run_python(
        """
        import resource, time
        from autopack.telemetry import Telemetry
        with Telemetry(sys.argv[1]) as telemetry:
            journalled = telemetry.record(**event(phase_id="before")) if sys.argv[2] == "journalled" else False
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            accepted = journalled + sum(telemetry.record(**event(phase_id=f"p{n}")) for n in range(100))
            telemetry.flush(0.5)
            for file in taken:
                os.close(file)
            while not telemetry.record(**event(phase_id="healed")):
                time.sleep(0.05)
            assert telemetry.flush(30), telemetry.stats()
            stats = telemetry.stats()
        assert stats.written == stats.accepted == accepted + 1, stats
        """,
        url_of(tmp_path / "x.db"),
        "journalled",
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("options", ["size=256k", "nr_inodes=8"])
def test_a_disk_that_is_full_at_the_start_loses_nothing(tmp_path: Path, options: str) -> None:
    """A real one, of a few pages or inodes: what is accepted is a row when it has room, and the rest was told False."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o {options} none {disk} 2>/dev/null"):  # noqa: S605 (fixed words and a path of ours)
        pytest.skip("cannot mount")
    try:
        run_python(
            """
            import time
            from autopack.telemetry import Telemetry
            disk, number = sys.argv[1], 0
            try:
                while True:
                    number += 1
                    with open(f"{disk}/fill{number}", "wb") as file:
                        file.write(bytes(32768))
            except OSError:
                pass
            telemetry = Telemetry(f"sqlite:///{disk}/x.db")
            accepted = sum(telemetry.record(**event(phase_id=f"p{n}")) for n in range(1000))
            assert accepted == 0, accepted
            assert sum(telemetry.stats().dropped.values()) == 1000
            for name in os.listdir(disk):
                if name.startswith("fill"):
                    os.unlink(f"{disk}/{name}")
            while not telemetry.record(**event(phase_id="healed")):
                time.sleep(0.05)
            assert telemetry.flush(30), telemetry.stats()
            telemetry.close()
            assert telemetry.stats().written == 1
            """,
            disk,
        )
    finally:
        os.system(f"umount -l {disk}")  # noqa: S605 (as above)
