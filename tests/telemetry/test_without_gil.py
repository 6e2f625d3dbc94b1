"""A Python without the GIL: nothing there may be silently unsafe. What runs on a real one is `free_threading.py`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.telemetry.free_threading import EVENTS, THREADS
from tests.write_side import PACKAGE, ROOT, phases_of, run_python, url_of

PYTHON = os.environ.get("AUTOPACK_FREE_THREADED_PYTHON") or shutil.which("python3.14t") or shutil.which("python3.13t")


def test_without_the_gil_there_is_no_journal_and_one_warning(database: Path) -> None:
    """The journal's append is one step only under the GIL. Here this interpreter says that it has none."""
    code = """
        sys._is_gil_enabled = lambda: False
        from autopack.telemetry import Telemetry
        logging.basicConfig(format="%(message)s")
        for _ in range(2):
            with Telemetry(sys.argv[1]) as telemetry:
                assert telemetry.record(**event())
                assert telemetry.flush(30)
                assert not list(__import__("pathlib").Path(sys.argv[2]).glob("*.seg"))
    """
    done = run_python(code, url_of(database), database.with_name(database.name + ".telemetry"))
    assert done.stderr == "No journal on a Python without the GIL, which it relies on: events are in memory only\n"
    assert phases_of(database) == ["p1", "p1"]


@pytest.mark.skipif(PYTHON is None, reason="no python3.14t or python3.13t, and no AUTOPACK_FREE_THREADED_PYTHON")
def test_counters_and_memory_queue_hold_without_the_gil() -> None:
    """Eight threads at a time: each number is taken once, accepted events arrive in order, and the bound holds."""
    program = ROOT / "tests" / "telemetry" / "free_threading.py"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PYTHON_GIL": "0"}
    command = [str(PYTHON), "-B", str(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert (done.stderr, done.returncode) == ("", 0)
    said = json.loads(done.stdout)
    assert not said["gil"]
    assert said["count"] == {"numbers": THREADS * EVENTS, "counted": THREADS * EVENTS}
    queue = said["queue"]
    assert queue["accepted"] + queue["refused"] == (THREADS - 1) * EVENTS
    assert queue["in order"]
    assert (queue["written"], queue["pending"], queue["in progress"]) == (queue["accepted"], 0, False)
    assert 0 < queue["most"] <= 1_000
