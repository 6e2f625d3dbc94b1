"""The reading path that `autopack.telemetry` names is the one that an event takes."""

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.waiting import wait_for
from tests.write_side import event, url_of

import autopack.telemetry
from autopack.telemetry import Telemetry

PACKAGE = Path(autopack.telemetry.__file__).parents[1]

# Beside the path: one function of each of these, called for a batch or a row. They are a few lines that several rooms
# use: a lock, word of a change to threads that wait, whether a path still leads to its file, an id, a metric.
SMALL_AND_SHARED = {
    "_util.os_threads.announce",
    "telemetry.lifecycle.best_effort",
    "_util.files.is_at",
    "_util.ids.event_uid",
    "estimation.metrics.accuracy",
}

# They are on the path for what they say or hold. The encoder is C code, and calls `wire` for uncommon values only. A
# mapped segment has bound the functions of `mmap` and of `format` once.
NOT_ENTERED = {"telemetry.event.wire", "telemetry.journal", "telemetry.journal.medium"}
OF_THE_JOURNAL = {
    f"telemetry.{name}"
    for name in (
        "engine.journal_queue",
        "journal.journal",
        "journal.appender",
        "journal.segment",
        "journal.medium",
        "journal.format",
    )
}


@pytest.fixture(autouse=True)
def _mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that does not copy on write."""
    monkeypatch.setenv("TELEMETRY_JOURNAL_APPEND", "mapped")


def named() -> list[str]:
    """The modules of the numbered list, in order."""
    steps = re.findall(r"^\d+\. ((?:`[\w.]+`[, (]*)+)", autopack.telemetry.__doc__ or "", re.MULTILINE)
    return [f"telemetry.{name}" for step in steps for name in re.findall(r"`([\w.]+)`", step)]


def entered_by(telemetry: Telemetry, walk: Callable[[], object], *, written: int = 2) -> set[str]:
    """What a walk enters after a first event, in its own thread and the worker's, until so many events are written: the
    functions that another module of this project calls, or none, as `module.function`.
    """
    entered: set[str] = set()
    watching = threading.Event()

    def note(frame: FrameType, what: str, _argument: Any) -> None:
        if what != "call" or not watching.is_set() or not (module := module_of(frame)):
            return
        caller = frame.f_back
        while caller is not None and not module_of(caller):  # of the standard library, or a driver
            caller = caller.f_back
        if caller is None or module_of(caller) != module:
            entered.add(f"{module}.{frame.f_code.co_name}")

    threading.setprofile(note)  # for the worker, which the first event starts
    try:
        assert telemetry.record(**event())
        assert telemetry.flush(30)
    finally:
        threading.setprofile(None)
    watching.set()
    sys.setprofile(note)
    walk()
    sys.setprofile(None)
    wait_for(telemetry, written=written)
    watching.clear()
    return entered


def entered_by_one_event(telemetry: Telemetry) -> set[str]:
    """What a steady `record()` enters, to its row."""
    return entered_by(telemetry, lambda: telemetry.record(**event()))


def fork() -> None:
    """Make a child that ends at once."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def module_of(frame: FrameType) -> str | None:
    """The module of this project that a frame is in."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return None
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def modules_of(entered: set[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in entered}


def test_every_module_of_the_reading_path_exists() -> None:
    assert len(named()) > 10
    assert [name for name in named() if importlib.util.find_spec(f"autopack.{name}") is None] == []


def test_a_steady_event_enters_the_reading_path_and_little_else(database: Path) -> None:
    """At most eleven files, and beside them five functions of others."""
    with Telemetry(url_of(database)) as telemetry:
        entered = entered_by_one_event(telemetry)
    path = set(named()) - NOT_ENTERED - {"telemetry.engine.queue"}
    assert modules_of(entered - SMALL_AND_SHARED) == path
    assert len(path) <= 11


def test_where_segments_are_written_the_path_has_one_file_more(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`journal.medium` writes there itself."""
    monkeypatch.setenv("TELEMETRY_JOURNAL_APPEND", "written")
    with Telemetry(url_of(database)) as telemetry:
        entered = entered_by_one_event(telemetry)
    path = set(named()) - NOT_ENTERED - {"telemetry.engine.queue"} | {"telemetry.journal.medium"}
    assert modules_of(entered - SMALL_AND_SHARED) == path


def test_without_a_journal_the_path_is_shorter(database: Path) -> None:
    """At most eleven files, those with a shared function included."""
    with Telemetry(url_of(database), journal_dir=None) as telemetry:
        entered = entered_by_one_event(telemetry)
    assert modules_of(entered - SMALL_AND_SHARED) == set(named()) - NOT_ENTERED - OF_THE_JOURNAL
    assert len(modules_of(entered)) <= 11


@pytest.mark.parametrize(
    ("walk", "bound"),
    [
        pytest.param(Telemetry.flush, 19, id="flush"),
        pytest.param(Telemetry.close, 23, id="close"),
        pytest.param(lambda _: fork(), 19, id="fork, in the parent"),
    ],
)
def test_a_walk_enters_few_files(walk: Callable[[Telemetry], object], bound: int, database: Path) -> None:
    """With one event, from `record()` to its row, in the caller's thread and the worker's. Measured: 18, 22, 18."""
    with Telemetry(url_of(database), flush_interval_s=60) as telemetry:

        def with_one_event() -> None:
            telemetry.record(**event())
            walk(telemetry)

        entered = entered_by(telemetry, with_one_event)
    assert len(modules_of(entered)) <= bound, sorted(modules_of(entered))
