"""The reading path that `autopack.telemetry` names is the way of an event, and names every module on that way."""

import re
from pathlib import Path

from tests.sources import SOURCES
from tests.write_side import run_python, url_of

import autopack.telemetry

# A steady event: the thread, the database and the journal are there, and the worker writes when a batch is full.
TRACED = """
from autopack.telemetry import Telemetry
from tests.waiting import wait_for

entered = set()
def note(frame, what, _):
    if what == "call" and (name := frame.f_globals.get("__name__", "")).startswith("autopack."):
        entered.add(name)
telemetry = Telemetry(sys.argv[1], batch_size=40, flush_interval_s=3600)
threading.setprofile(note)
telemetry.record(**event())
assert telemetry.flush(30)
entered.clear()
sys.setprofile(note)
for _ in range(40):
    telemetry.record(**event())
sys.setprofile(None)
wait_for(telemetry, written=41)
of_the_event = sorted(entered)
telemetry.close()
print(*of_the_event)
"""


def named() -> set[str]:
    """The modules that the docstring names under its first heading."""
    text = (autopack.telemetry.__doc__ or "").partition("# Reading path")[2].partition("\n# ")[0]
    found = set(re.findall(r"`([a-z_.0-9]+)`", text))
    return {name for name in found | {f"autopack.telemetry.{name}" for name in found} if name in SOURCES}


def numbered() -> list[str]:
    """What each line of the path begins with: one module or several."""
    return re.findall(r"^\d+\. ((?:`[a-z_.]+`(?:, )?)+)", autopack.telemetry.__doc__ or "", re.MULTILINE)


def test_every_module_of_the_reading_path_exists() -> None:
    steps = [name for step in numbered() for name in re.findall(r"`(.+?)`", step)]
    assert len(steps) >= 8
    assert [name for name in steps if f"autopack.telemetry.{name}" not in SOURCES] == []


def test_an_event_enters_only_modules_that_the_path_names(database: Path) -> None:
    entered = set(run_python(TRACED, url_of(database)).stdout.split())
    assert {"autopack.telemetry.recorder", "autopack.telemetry.stores.sqlite"} <= entered
    assert entered - named() == set()
