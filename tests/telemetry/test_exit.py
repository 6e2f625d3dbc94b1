"""The end of a process without `close()`: what was accepted is written, and nothing hangs."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.write_side import TABLE, dead_letters_of, event, phases_of, rows_of, run_python, start_python

from autopack.telemetry import Telemetry

OPEN = """
from autopack.telemetry import Telemetry
telemetry = Telemetry(f"sqlite:///{sys.argv[1]}")
"""

# How a program ends: its last lines → its exit code.
ENDINGS: dict[str, tuple[str, int | None]] = {
    "falls off its end": ("", 0),
    "calls sys.exit": ("sys.exit(3)", 3),
    "raises": ("raise ValueError('x')", 1),
    "is interrupted": ("raise KeyboardInterrupt", None),  # which code it is depends on Python's version
    "ends in a coroutine": ("import asyncio\nasync def main(): sys.exit(4)\nasyncio.run(main())", 4),
    "has closed its stdout and stderr": ("sys.stdout.close(); sys.stderr.close(); os.close(1); os.close(2)", 0),
    "has no stdout and stderr": ("sys.stdout = sys.stderr = None", 0),
    "has a thread that still works": ("threading.Thread(target=lambda: sum(range(10**6))).start()", 0),
    "holds a reference to nothing": ("del telemetry", 0),
    "is collected in a cycle": ("telemetry.me = telemetry; del telemetry; import gc; gc.collect()", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_accepted_is_written_however_the_program_ends(database: Path, ending: str) -> None:
    """Warnings are errors there: an open thread, file or connection would be said on stderr."""
    last_lines, exit_code = ENDINGS[ending]
    record = """
logging.basicConfig()
for number in range(700):
    assert telemetry.record(**event(phase_id=str(number)))
telemetry.record(**event(run_id=None))
"""
    done = run_python(OPEN + record + last_lines, database, exit_code=exit_code, options=["-W", "error", "-X", "dev"])
    assert phases_of(database) == [str(number) for number in range(700)]
    assert len(dead_letters_of(database)) == 1
    said = done.stderr.replace("ValueError: x", "").replace("KeyboardInterrupt", "")
    assert not [word for word in ("Warning", "ignored", "not written") if word in said], done.stderr


# Where the very last event comes from, when there is no time left to start a thread.
LAST = {
    "the last statement": "telemetry.record(**event())",
    "the last statement, to an instance that nobody holds": (
        "Telemetry(f'sqlite:///{sys.argv[1]}').record(**event()); del telemetry"
    ),
    "a coroutine": "import asyncio\nasync def main(): telemetry.record(**event())\nasyncio.run(main())",
    "a thread that outlives the main thread": (
        "def work():\n    threading.main_thread().join()\n    telemetry.record(**event())\n"
        "threading.Thread(target=work).start()"
    ),
    "an atexit function": "import atexit\natexit.register(lambda: telemetry.record(**event()))",
    "a finally of an unhandled error": "try:\n    sys.exit()\nfinally:\n    telemetry.record(**event())",
}


@pytest.mark.slow
@pytest.mark.parametrize("where", LAST)
def test_an_event_at_the_very_end_is_written_before_the_exit(database: Path, where: str) -> None:
    """From Python 3.12 on no thread can be started any more while the interpreter exits."""
    for turn, journal in enumerate(["auto", "off"]):
        done = run_python(OPEN + LAST[where], database, env={"TELEMETRY_JOURNAL_DIR": journal}, options=["-W", "error"])
        assert done.stderr == ""
        assert len(rows_of(database)) == turn + 1


def test_a_record_in_a_later_exit_function_is_no_error(database: Path) -> None:
    """A record in an exit function that runs after autopack's is refused or kept, and never an error."""
    early = "import atexit\natexit.register(lambda: print(telemetry.record(**event(phase_id='late')), flush=True))"
    done = run_python(f"{early}\n{OPEN}\ntelemetry.record(**event(phase_id='in time'))", database)
    assert (done.stdout, done.stderr.count("Traceback")) == ("False\n", 0)
    assert phases_of(database) == ["in time"]


@pytest.mark.slow
def test_daemon_threads_that_record_do_not_hold_up_the_exit(database: Path) -> None:
    """Daemon threads that record during exit do not hold it up, and every event is counted."""
    done = run_python(
        OPEN
        + """
import atexit, time
telemetry.record(**event()); assert telemetry.flush(30)
pace = threading.Event()
answers = [0, 0]
def storm():
    while True:
        answers[telemetry.record(**event(phase_id="storm"))] += 1
        pace.wait(0.0005)
for _ in range(4):
    threading.Thread(target=storm, daemon=True).start()
while answers[True] < 500:
    pace.wait(0.001)
""",
        database,
    )
    # Said as the one loss that there is: what came after the close.
    assert done.stderr == "" or (done.stderr.count("\n") == 1 and "dropped as closed (" in done.stderr)
    stormed = phases_of(database).count("storm")
    assert stormed >= 500
    with Telemetry(f"sqlite:///{database}") as successor:
        successor.record(**event())
    assert successor.stats().recovered <= 4


@pytest.mark.slow
@pytest.mark.parametrize("journal", ["auto", "off"])
def test_an_exit_with_a_locked_database_keeps_deadline_and_events(database: Path, journal: str) -> None:
    """An exit with a locked database keeps the deadline and the events."""
    with Telemetry(f"sqlite:///{database}") as telemetry:
        telemetry.record(**event(phase_id="before"))
    code = (
        OPEN
        + """
logging.basicConfig()
telemetry.writer._store.load()
for number in range(10):
    telemetry.record(**event(phase_id=str(number)))
print("recorded", flush=True)
"""
    )
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        environment = {"TELEMETRY_JOURNAL_DIR": journal, "TELEMETRY_SHUTDOWN_TIMEOUT_S": "1"}
        child = start_python(code, database, env=environment)
        assert child.stdout is not None
        assert child.stdout.readline() == "recorded\n"
        began = time.monotonic()
        _, errors = child.communicate(timeout=60)
        assert time.monotonic() - began < 1 + 1
    assert child.returncode == 0
    assert "10 not written" in errors
    assert phases_of(database) == ["before"]
    with Telemetry(f"sqlite:///{database}") as successor:
        successor.record(**event(phase_id="after"))
    kept = [str(number) for number in range(10)] if journal == "auto" else []
    assert phases_of(database) == ["before", *kept, "after"]


@pytest.mark.slow
def test_exit_with_several_hanging_stores_waits_for_the_longest_only(database: Path) -> None:
    def seconds_with(stores: int) -> float:
        began = time.monotonic()
        run_python(
            """
            from autopack.telemetry import Telemetry
            from tests.misbehaving_stores import HangingStore
            stores = [HangingStore() for _ in range(int(sys.argv[1]))]
            instances = [Telemetry(store, shutdown_timeout_s=2) for store in stores]
            for telemetry in instances:
                telemetry.record(**event())
            for store in stores:
                assert store.entered.wait(30)
            """,
            str(stores),
        )
        return time.monotonic() - began

    # One after the other, four of them would take 7.5 s longer than one.
    assert seconds_with(4) < seconds_with(1) + 5


def test_a_killed_process_leaves_what_it_accepted_to_the_next(database: Path) -> None:
    child = start_python(
        OPEN
        + """
import signal
for number in range(300):
    assert telemetry.record(**event(phase_id=str(number)))
os.kill(os.getpid(), signal.SIGKILL)
""",
        database,
    )
    child.communicate(timeout=60)
    assert child.returncode == -9
    with Telemetry(f"sqlite:///{database}") as successor:
        successor.record(**event(phase_id="successor"))
    assert successor.stats().accepted == successor.stats().recovered + 1
    assert sorted(phases_of(database)) == sorted([*map(str, range(300)), "successor"])


def test_the_default_action_of_sigterm_loses_nothing(database: Path) -> None:
    child = start_python(
        OPEN
        + """
for number in range(50):
    assert telemetry.record(**event(phase_id=str(number)))
print("recorded", flush=True)
sys.stdin.readline()
""",
        database,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "recorded\n"
    child.terminate()
    child.communicate(timeout=60)
    with Telemetry(f"sqlite:///{database}") as successor:
        successor.record(**event(phase_id="successor"))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute(f"SELECT count(*), count(DISTINCT phase_id) FROM {TABLE}").fetchone() == (51, 51)
