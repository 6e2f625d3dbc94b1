"""The reading path that `autopack.telemetry` names is the one that an event takes."""

import importlib.util
import re
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from tests.waiting import wait_for
from tests.write_side import event, url_of

import autopack.telemetry
from autopack.telemetry import Telemetry

PACKAGE = Path(autopack.telemetry.__file__).parents[1]

# Each is a few lines that several rooms use: a counter, a lock, a path that still leads to its file, an id, a metric.
SMALL_AND_SHARED = {
    "telemetry.counters",
    "telemetry.lifecycle",
    "_util.files",
    "_util.ids",
    "_util.os_threads",
    "estimation.metrics",
}

# They are on the path for what they say or hold. The encoder is C code, and calls `wire` for uncommon values only.
NOT_ENTERED = {"telemetry.event.wire", "telemetry.journal"}
OF_THE_JOURNAL = {
    f"telemetry.{name}"
    for name in ("engine.journal_queue", "journal.journal", "journal.appender", "journal.segment", "journal.format")
}


def named() -> list[str]:
    """The modules of the numbered list, in order."""
    steps = re.findall(r"^\d+\. ((?:`[\w.]+`[, (]*)+)", autopack.telemetry.__doc__ or "", re.MULTILINE)
    return [f"telemetry.{name}" for step in steps for name in re.findall(r"`([\w.]+)`", step)]


def entered_by_one_event(telemetry: Telemetry) -> set[str]:
    """The modules of this project that a steady `record()` enters, in its own thread and the worker's, to its row."""
    modules: set[str] = set()
    watching = threading.Event()

    def note(frame: FrameType, what: str, _argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if what == "call" and watching.is_set() and path.is_relative_to(PACKAGE):
            modules.add(".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"))

    threading.setprofile(note)  # for the worker, which the first event starts
    try:
        assert telemetry.record(**event())
        assert telemetry.flush(30)
    finally:
        threading.setprofile(None)
    watching.set()
    sys.setprofile(note)
    assert telemetry.record(**event())
    sys.setprofile(None)
    wait_for(telemetry, written=2)
    watching.clear()
    return modules


def test_every_module_of_the_reading_path_exists() -> None:
    assert len(named()) > 10
    assert [name for name in named() if importlib.util.find_spec(f"autopack.{name}") is None] == []


def test_a_steady_event_enters_the_reading_path_and_little_else(database: Path) -> None:
    """Beside the named modules only the small shared ones that are listed here."""
    with Telemetry(url_of(database)) as telemetry:
        entered = entered_by_one_event(telemetry)
    path = set(named()) - NOT_ENTERED - {"telemetry.engine.queue"}
    assert entered - SMALL_AND_SHARED == path
    assert len(path) <= 11


def test_without_a_journal_the_path_is_shorter(database: Path) -> None:
    with Telemetry(url_of(database), journal_dir=None) as telemetry:
        entered = entered_by_one_event(telemetry)
    assert entered - SMALL_AND_SHARED == set(named()) - NOT_ENTERED - OF_THE_JOURNAL
    assert len(entered) <= 11
