"""A run waits longer for its events than a library, and says so."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.write_side import child_environment, event, rows_of, url_of

from autopack.build.drain import Patience, announcement, drain, only_slow, patience_of
from autopack.errors import TransientStoreError
from autopack.telemetry import Telemetry, TelemetryStats
from autopack.telemetry.stores import MemoryStore

PATIENCE = Patience(usual_s=0.05, longest_s=30)


class SlowToLoad(MemoryStore):
    """A store whose libraries are not imported before `loaded` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = threading.Event()

    def load(self) -> None:
        assert self.loaded.wait(60)


class Unwritable(MemoryStore):
    """A database that refuses every batch."""

    async def write(self, _rows: Sequence[Any]) -> int:
        raise TransientStoreError("locked")


def nothing_stops() -> bool:
    return False


@pytest.mark.usefixtures("_nothing_left_running")
def test_a_slow_import_is_waited_for_and_announced_once() -> None:
    store, said = SlowToLoad(), list[str]()
    with closing(Telemetry(store)) as telemetry:
        telemetry.record(**event())

        def say(line: str) -> None:
            said.append(line)
            store.loaded.set()

        drain(telemetry, PATIENCE, say=say, is_stopped=nothing_stops)
        assert telemetry.closed
    assert telemetry.stats().written == 1
    assert said == ["waiting up to 30 s for 1 event(s) to be written; Ctrl-C LOSES them"]


@pytest.mark.usefixtures("_nothing_left_running")
def test_a_fast_writer_is_waited_for_in_silence() -> None:
    said = list[str]()
    telemetry = Telemetry(MemoryStore())
    telemetry.record(**event())
    drain(telemetry, Patience(), say=said.append, is_stopped=nothing_stops)
    assert (telemetry.closed, telemetry.stats().written, said) == (True, 1, [])


@pytest.mark.slow
def test_a_signal_ends_the_wait() -> None:
    """The event stays where it is: here in memory, elsewhere in the journal."""
    store, said, stopped = SlowToLoad(), list[str](), threading.Event()
    telemetry = Telemetry(store)
    telemetry.record(**event())

    def say(line: str) -> None:
        said.append(line)
        stopped.set()

    began_s = time.monotonic()
    drain(telemetry, PATIENCE, say=say, is_stopped=stopped.is_set)
    took_s = time.monotonic() - began_s
    assert (telemetry.closed, telemetry.stats().pending, len(said)) == (True, 1, 1)
    assert took_s < PATIENCE.longest_s
    store.loaded.set()


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_left_running")
def test_a_database_that_refuses_is_waited_for_as_usual() -> None:
    said = list[str]()
    telemetry = Telemetry(Unwritable())
    telemetry.record(**event())
    began_s = time.monotonic()
    drain(telemetry, Patience(usual_s=1, longest_s=30), say=said.append, is_stopped=nothing_stops)
    assert time.monotonic() - began_s < 30
    assert (telemetry.closed, telemetry.stats().pending, said) == (True, 1, [])


@pytest.mark.slow
def test_the_wait_has_an_end_without_a_signal() -> None:
    store, said = SlowToLoad(), list[str]()
    telemetry = Telemetry(store)
    telemetry.record(**event())
    drain(telemetry, Patience(usual_s=0.05, longest_s=0.1), say=said.append, is_stopped=nothing_stops)
    assert (telemetry.closed, telemetry.stats().pending, len(said)) == (True, 1, 1)
    store.loaded.set()


def test_a_shutdown_timeout_of_the_users_own_is_the_whole_wait() -> None:
    assert patience_of({"TELEMETRY_SHUTDOWN_TIMEOUT_S": "1"}) is None
    assert patience_of({"TELEMETRY_SHUTDOWN_TIMEOUT_S": " "}) == patience_of({}) == Patience(5, 60)
    store, said = SlowToLoad(), list[str]()
    telemetry = Telemetry(store, shutdown_timeout_s=0)
    telemetry.record(**event())
    drain(telemetry, None, say=said.append, is_stopped=nothing_stops)
    assert (telemetry.closed, telemetry.stats().pending, said) == (True, 1, [])
    store.loaded.set()


def test_progress_counts_more_than_an_error_of_the_database() -> None:
    waiting = TelemetryStats(accepted=9, written=2, pending=7)
    failed = TelemetryStats(accepted=9, written=2, pending=7, last_error="OperationalError SQLITE_BUSY")
    moving = TelemetryStats(accepted=9, written=4, pending=5, last_error="OperationalError SQLITE_BUSY")
    assert only_slow(waiting, waiting)
    assert not only_slow(waiting, failed)
    assert only_slow(failed, moving)


def test_the_announcement_says_what_a_signal_would_do() -> None:
    kept = TelemetryStats(accepted=46, pending=46, journal_dir="/x")
    assert announcement(kept, 55) == (
        "waiting up to 55 s for 46 event(s) to be written; Ctrl-C leaves them in the journal, for the next run to write"
    )


# The import of aiosqlite, which only the writer needs, takes until standard input is closed.
SLOW_IMPORT = """
import importlib.abc, os, sys

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "aiosqlite":
            sys.meta_path.remove(self)
            os.read(0, 1)

sys.meta_path.insert(0, Slow())
from autopack.cli import main
main(["run", "--run-id", "r"])
"""


@pytest.mark.slow
def test_a_run_whose_writer_imports_slowly_records_all_events(tmp_path: Path) -> None:
    """What a machine did that gave the program a hundredth of a processor: all was written after the usual 5 s."""
    database = tmp_path / "events.db"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_IMPORT],
        env=child_environment({"TELEMETRY_DB_ENABLED": "1", "DATABASE_URL": url_of(database)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stdout is not None
        said = next((line for line in process.stderr if line.startswith("waiting up to ")), "no announcement")
        process.stdin.close()
        summary = process.stdout.read()
        assert (process.wait(60), said.partition("; ")[0]) == (
            0,
            "waiting up to 55 s for 46 event(s) to be written",
        ), summary
    assert "accepted=46 written=46 duplicates=0 dead_lettered=0 pending=0 dropped=0" in summary
    assert len(rows_of(database)) == 46
