"""Forks: a child begins empty and works on its own; the parent loses nothing and nothing doubles.

Everything happens in child interpreters: from Python 3.12 on a fork in a process with threads is a warning.
"""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.write_side import event, phases_of, run_python, start_python

OPEN = """
import time
from autopack.telemetry import Telemetry
telemetry = Telemetry(f"sqlite:///{sys.argv[1]}", shutdown_timeout_s=20)

def fork(work):
    '''Runs the work in a forked child and returns its process id.'''
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)

def join(*processes):
    for process in processes:
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) == 0, process
"""
QUIET = ["-W", "ignore::DeprecationWarning"]


def counted(database: Path) -> dict[str, int]:
    phases = phases_of(database)
    return {phase: phases.count(phase) for phase in sorted(set(phases))}


def test_a_child_begins_empty_and_records_on_its_own(database: Path) -> None:
    """A child begins empty, records and flushes on its own, and the parent loses nothing."""
    done = run_python(
        OPEN
        + """
telemetry.record(**event(phase_id="before")); assert telemetry.flush(30)
for _ in range(50): telemetry.record(**event(phase_id="parent"))
telemetry.record(**event(run_id=None)); telemetry.record(**event(deliverables=["x" * 300_000]))
def child():
    stats = telemetry.stats()
    assert stats.accepted == stats.pending == 0 and not stats.dropped and not stats.worker_alive, stats
    for _ in range(20): assert telemetry.record(**event(phase_id="child"))
    assert telemetry.flush(30), telemetry.stats()
    assert telemetry.stats().written == 20, telemetry.stats()
    telemetry.close()
join(*(fork(child) for _ in range(3)))
telemetry.close()
assert telemetry.stats().written == 51 and telemetry.stats().dropped == {"too_large": 1}, telemetry.stats()
""",
        database,
        options=QUIET,
    )
    assert done.stdout == ""
    assert counted(database) == {"before": 1, "child": 60, "parent": 50}


@pytest.mark.slow
@pytest.mark.parametrize("delay_ms", [0, 5, 20, 100, 300])
def test_a_fork_while_the_worker_imports_leaves_a_child_that_works(database: Path, delay_ms: int) -> None:
    """A child that is forked in the middle of an import can never import that module again."""
    done = run_python(
        OPEN
        + """
telemetry.record(**event(phase_id="parent"))
time.sleep(int(sys.argv[2]) / 1000)  # the point in the import at which the fork comes
def child():
    telemetry.record(**event(phase_id="child"))
    assert telemetry.flush(30), telemetry.stats()
    telemetry.close()
join(fork(child))
telemetry.close()
assert telemetry.stats().written == 1, telemetry.stats()
""",
        database,
        str(delay_ms),
        options=QUIET,
    )
    assert "busy" not in done.stderr
    assert counted(database) == {"child": 1, "parent": 1}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_write_what_they_accepted(database: Path, tmp_path: Path, method: str) -> None:
    """Children of multiprocessing, which leave by `os._exit`, write what they accepted."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing, os, sys
from autopack.telemetry import Telemetry, get_telemetry
from tests.write_side import event

def work(number):
    telemetry = get_telemetry()
    for _ in range(10):
        assert telemetry.record(**event(phase_id=f"child{number}"))

if __name__ == "__main__":
    get_telemetry().record(**event(phase_id="parent"))
    context = multiprocessing.get_context(sys.argv[2])
    children = [context.Process(target=work, args=(number,)) for number in range(3)]
    for child in children: child.start()
    for child in children: child.join()
    assert all(child.exitcode == 0 for child in children)
"""
    )
    run_python(
        "import runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')",
        program,
        database,
        method,
        env={
            "TELEMETRY_DB_ENABLED": "1",
            "DATABASE_URL": f"sqlite:///{database}",
            "TELEMETRY_JOURNAL_DIR": "off",
            "TELEMETRY_SHUTDOWN_TIMEOUT_S": "40",
        },
        options=QUIET,
    )
    assert counted(database) == {"child0": 10, "child1": 10, "child2": 10, "parent": 1}


@pytest.mark.slow
def test_a_child_drains_at_sys_exit_and_at_os_exit_keeps_a_journal(
    database: Path,
) -> None:
    """A child that leaves by `sys.exit` drains; one that leaves by `os._exit` leaves its events in the journal."""
    run_python(
        OPEN
        + """
telemetry.record(**event(phase_id="parent"))
process = os.fork()
if not process:
    telemetry.record(**event(phase_id="exits"))
    sys.exit(0)
join(process)
def leave():
    telemetry.record(**event(phase_id="leaves"))
join(fork(leave))
telemetry.close()
with Telemetry(f"sqlite:///{sys.argv[1]}") as successor:
    successor.record(**event(phase_id="successor"))
assert successor.stats().recovered == 1, successor.stats()
""",
        database,
        options=QUIET,
    )
    assert counted(database) == {"exits": 1, "leaves": 1, "parent": 1, "successor": 1}


@pytest.mark.slow
@pytest.mark.parametrize("journal", ["auto", "off"])
def test_forks_while_every_lock_is_held_leave_working_children(database: Path, journal: str) -> None:
    """Threads that record, look, flush and log all the time, so that each lock is held at some fork."""
    done = run_python(
        OPEN
        + """
telemetry.record(**event(phase_id="before")); assert telemetry.flush(30)
sys.setswitchinterval(1e-4)
over = threading.Event()
accepted = [0] * 3
def hammer(number):
    while not over.is_set():
        accepted[number] += telemetry.record(**event(phase_id="parent"))
        telemetry.record(**event(phase_id="parent", deliverables=["x" * 300_000]))
        telemetry.stats()
        if number == 0: telemetry.flush(0.001)
threads = [threading.Thread(target=hammer, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
def child():
    telemetry.stats()
    assert telemetry.record(**event(phase_id="child"))
    assert telemetry.flush(30), telemetry.stats()
    telemetry.close()
for _ in range(8):
    join(fork(child))
over.set()
for thread in threads: thread.join()
telemetry.close(30)
assert telemetry.stats().pending == 0, telemetry.stats()
assert telemetry.stats().written == 1 + sum(accepted), (telemetry.stats(), accepted)
print(sum(accepted))
""",
        database,
        env={"TELEMETRY_JOURNAL_DIR": journal},
        options=QUIET,
    )
    assert "busy" not in done.stderr, "a fork gave up waiting for the writer"
    assert counted(database) == {"before": 1, "child": 8, "parent": int(done.stdout)}


@pytest.mark.slow
def test_several_threads_that_fork_do_not_wait_for_each_other(database: Path) -> None:
    """Several threads that fork at once do not wait for each other's forks."""
    done = run_python(
        OPEN
        + """
logging.basicConfig()
telemetry.record(**event(phase_id="parent")); assert telemetry.flush(30)
sys.setswitchinterval(1e-5)
def child():
    telemetry.record(**event(phase_id="child"))
    assert telemetry.flush(30), telemetry.stats()
    telemetry.close()
def forks():
    for _ in range(5): join(fork(child))
threads = [threading.Thread(target=forks) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
telemetry.record(**event(phase_id="parent"))
telemetry.close()
""",
        database,
        options=QUIET,
    )
    assert "busy" not in done.stderr, "a fork gave up waiting for the writer"
    assert counted(database) == {"child": 20, "parent": 2}


@pytest.mark.slow
def test_a_fork_with_a_locked_database_leaves_two_that_drain(database: Path) -> None:
    """A fork while the database is locked leaves two processes that drain when it is released."""
    child = start_python(
        OPEN
        + """
telemetry.record(**event(phase_id="before")); assert telemetry.flush(30)
print("open", flush=True); sys.stdin.readline()
telemetry.record(**event(phase_id="parent"))
while not telemetry.stats().retries: telemetry.flush(0.05)
def child():
    telemetry.record(**event(phase_id="child"))
    while not telemetry.stats().retries: telemetry.flush(0.05)
    print("child is locked", flush=True)
    assert telemetry.flush(30), telemetry.stats()
    telemetry.close()
process = fork(child)
join(process)
assert telemetry.flush(30)
telemetry.close()
""",
        database,
        options=QUIET,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "open\n"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "child is locked\n"
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert counted(database) == {"before": 1, "child": 1, "parent": 1}


@pytest.mark.slow
def test_a_fork_of_a_closed_instance_is_closed(database: Path) -> None:
    """A fork of a closed instance is closed, and a fork of a child works as well."""
    run_python(
        OPEN
        + """
def grandchild():
    assert telemetry.record(**event(phase_id="grandchild")) and telemetry.flush(30)
    telemetry.close()
def child():
    telemetry.record(**event(phase_id="child"))
    join(fork(grandchild))
    telemetry.close()
telemetry.record(**event(phase_id="parent"))
join(fork(child))
telemetry.close()
def closed():
    assert telemetry.closed and not telemetry.record(**event())
    assert telemetry.stats().dropped == {"closed": 1}
    telemetry.close()
join(fork(closed))
""",
        database,
        options=QUIET,
    )
    assert counted(database) == {"child": 1, "grandchild": 1, "parent": 1}


MAKE_ONE = """
os.environ["DATABASE_URL"] = f"sqlite:///{sys.argv[1]}.0"
get_telemetry().record(**event())
assert get_telemetry().flush(30)
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", [pytest.param("", id="importing"), pytest.param(MAKE_ONE, id="making")])
def test_the_shared_instance_works_in_children_of_a_busy_parent(database: Path, before: str) -> None:
    """What is imported late is imported by the first instance that writes."""
    run_python(
        """
import time
from autopack.telemetry import get_telemetry
"""
        + before
        + """
over = threading.Event()
def switch():
    while not over.is_set():
        os.environ["DATABASE_URL"] = f"sqlite:///{sys.argv[1]}.{time.monotonic_ns() % 2}"
        get_telemetry()
        over.wait(0.001)
thread = threading.Thread(target=switch)
thread.start()
for _ in range(5):
    process = os.fork()
    if not process:
        os.environ["DATABASE_URL"] = f"sqlite:///{sys.argv[1]}"
        ok = get_telemetry().record(**event(phase_id="child")) and get_telemetry().flush(30)
        get_telemetry().close()
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
over.set()
thread.join()
""",
        database,
        env={"TELEMETRY_DB_ENABLED": "1"},
        options=QUIET,
    )
    assert counted(database) == {"child": 5}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///:memory:",
        pytest.param("postgresql://nobody@127.0.0.1:1/none", marks=pytest.mark.needs("asyncpg", "psycopg")),
    ],
)
def test_a_child_forked_in_the_first_call_can_make_its_own(url: str) -> None:
    """What reads a URL is imported with it, and differs by database. The fork comes when that import has begun."""
    run_python(
        """
import signal
from autopack.telemetry import get_telemetry
on_server = os.environ["DATABASE_URL"].startswith("postgresql")
wanted = "autopack.database." + ("postgres_urls" if on_server else "destination")
thread = threading.Thread(target=get_telemetry)
thread.start()
while wanted not in sys.modules: pass
process = os.fork()
if not process:
    signal.alarm(20)
    os._exit(0 if get_telemetry().enabled else 1)
assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
thread.join()
""",
        env={"TELEMETRY_DB_ENABLED": "1", "TELEMETRY_JOURNAL_DIR": "off", "DATABASE_URL": url},
        options=QUIET,
    )


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2])
def test_a_fork_waits_for_the_workers_imports(database: Path, delay_s: float) -> None:
    """A fork while the worker imports waits for it, also where no module has imported logging."""
    program = f"""
import os, sys, time
from autopack.telemetry import Telemetry
assert "logging" not in sys.modules
fields = {event()!r}
telemetry = Telemetry("sqlite:///{database}")
telemetry.record(**fields)
time.sleep({delay_s})
child = os.fork()
if not child:
    telemetry.record(**fields)
    os._exit(0 if telemetry.flush(30) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
telemetry.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert counted(database) == {"p1": 2}


@pytest.mark.slow
def test_a_subprocess_does_not_disturb_the_writer(database: Path) -> None:
    run_python(
        OPEN
        + """
import subprocess
for _ in range(5):
    telemetry.record(**event())
    subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=lambda: None)
""",
        database,
        options=QUIET,
    )
    assert counted(database) == {"p1": 5}


THREADS_LEFT = """
def threads():
    return len(os.listdir("/proc/self/task"))

def rows():
    import contextlib, sqlite3
    with contextlib.closing(sqlite3.connect(sys.argv[1])) as connection:
        try:
            return connection.execute("SELECT count(*) FROM token_estimation_v2_events").fetchone()[0]
        except sqlite3.OperationalError:  # the table is made with the first batch
            return 0

def wait_for_rows(number):
    end = time.monotonic() + 30
    while rows() != number:
        assert time.monotonic() < end, rows()
        time.sleep(0.01)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted by way of /proc")
def test_no_thread_of_the_writer_is_there_at_a_fork(database: Path) -> None:
    """A waiting batch is written first. Then the thread is gone, and Python has nothing to warn of."""
    done = run_python(
        OPEN
        + THREADS_LEFT
        + """
for number in range(1, 4):
    telemetry.record(**event()); assert telemetry.record(**event())
    if number == 2: assert telemetry.flush(30)
    process = fork(lambda: None)
    assert threads() == 1, threads()
    join(process)
    assert rows() == 2 * number and telemetry.stats().pending == 0
telemetry.record(**event())
wait_for_rows(7)
telemetry.close()
""",
        database,
        options=["-W", "error::DeprecationWarning"],
    )
    assert done.stderr == ""


def test_what_a_fork_did_not_wait_for_is_written_after_it(database: Path) -> None:
    """More than a batch waits, and no event follows: the fork starts the thread again."""
    run_python(
        OPEN
        + THREADS_LEFT
        + """
for _ in range(5_000): assert telemetry.record(**event())
join(fork(lambda: None))
wait_for_rows(5_000)
assert telemetry.stats().worker_alive or not telemetry.stats().pending
""",
        database,
        options=QUIET,
    )


def test_a_flush_and_a_close_outlast_the_forks_of_other_threads(database: Path) -> None:
    """The thread ends at each fork and starts again; who waits for the worker does not take that for its end."""
    run_python(
        OPEN
        + """
stop = threading.Event()
def forks():
    while not stop.is_set(): join(fork(lambda: None))
thread = threading.Thread(target=forks); thread.start()
for number in range(1, 31):
    for _ in range(20): assert telemetry.record(**event())
    assert telemetry.flush(30), telemetry.stats()
    assert telemetry.stats().written == 20 * number
for _ in range(2_000): assert telemetry.record(**event())
telemetry.close()
stop.set(); thread.join()
stats = telemetry.stats()
assert (stats.written, stats.pending) == (2_600, 0), stats
""",
        database,
        options=QUIET,
    )


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted by way of /proc")
def test_no_thread_of_the_writer_is_there_after_a_close(database: Path) -> None:
    run_python(
        OPEN
        + THREADS_LEFT
        + """
for _ in range(20):
    telemetry.record(**event())
    telemetry.close()
    assert threads() == 1, threads()
    telemetry = Telemetry(f"sqlite:///{sys.argv[1]}")
""",
        database,
        options=["-W", "error::DeprecationWarning"],
    )


def test_a_database_in_memory_is_closed_after_a_fork_too() -> None:
    """Its connection stays open through the fork, and there is no thread then that would close it."""
    done = run_python(
        """
from autopack.telemetry import Telemetry
telemetry = Telemetry("sqlite://")
telemetry.record(**event()); assert telemetry.flush(30)
process = os.fork()
if not process: os._exit(0)
os.waitpid(process, 0)
telemetry.close()
assert len(os.listdir("/proc/self/task")) == 1
assert telemetry.stats().written == 1
""",
        options=["-W", "ignore::DeprecationWarning", "-W", "always::ResourceWarning"],
    )
    assert done.stderr == ""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python warns of it from 3.12 on")
def test_the_users_own_threads_are_still_warned_of(database: Path) -> None:
    """Only the writer's thread is out of the way."""
    done = run_python(
        OPEN
        + """
telemetry.record(**event())
go_on = threading.Event()
thread = threading.Thread(target=go_on.wait); thread.start()
join(fork(lambda: None))
go_on.set(); thread.join()
telemetry.close()
""",
        database,
        options=["-W", "always::DeprecationWarning"],
    )
    assert "multi-threaded, use of fork() may lead to deadlocks" in done.stderr


@pytest.mark.parametrize("when", ["before the import", "before the first instance"])
def test_a_hook_of_the_users_may_record_before_autopacks(database: Path, when: str) -> None:
    """What runs first in a child, and records, writes nothing into the segment of its parent."""
    code = """
        telemetry = None
        def hook():
            if telemetry is not None:
                assert telemetry.record(**event(phase_id="hook"))
        if sys.argv[2] == "before the import":
            os.register_at_fork(after_in_child=hook)
        from autopack.telemetry import Telemetry
        if sys.argv[2] == "before the first instance":
            os.register_at_fork(after_in_child=hook)
        telemetry = Telemetry(f"sqlite:///{sys.argv[1]}", shutdown_timeout_s=20)
        assert telemetry.record(**event(phase_id="before"))
        for _ in range(3):
            child = os.fork()
            if not child:
                assert telemetry.record(**event(phase_id="child"))
                telemetry.close(30)
                assert telemetry.stats().written == 2, telemetry.stats()
                os._exit(0)
            for _ in range(3):
                assert telemetry.record(**event(phase_id="parent"))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        telemetry.close(30)
        assert telemetry.stats().written == 10, telemetry.stats()
    """
    run_python(code, database, when, options=QUIET)
    assert counted(database) == {"before": 1, "child": 3, "hook": 3, "parent": 9}
