"""Calls that interrupt calls: signal handlers, `__del__` under the collector, handlers of our own log lines."""

from pathlib import Path

import pytest
from tests.write_side import dead_letters_of, phases_of, rows_of, run_python

pytestmark = pytest.mark.slow

OPEN = """
import signal, time
from autopack.telemetry import Telemetry
from autopack.telemetry.stores import MemoryStore

def destination():
    return MemoryStore() if sys.argv[2] == "memory" else f"sqlite:///{sys.argv[1]}"

def options():
    return {"journal_dir": None} if sys.argv[2] == "sqlite-without-journal" else {}
"""
KINDS = ["memory", "sqlite", "sqlite-without-journal"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_handler_may_record_look_and_flush(database: Path, kind: str) -> None:
    """A timer of 1 ms interrupts calls at every point; nothing deadlocks and the account is exact."""
    run_python(
        OPEN
        + """
telemetry = Telemetry(destination(), batch_size=50, queue_size=100_000, **options())
calls = handled = 0
answers = {True: 0, False: 0}
def handler(*_):
    global handled
    handled += 1
    answers[telemetry.record(**event(phase_id="handler"))] += 1
    telemetry.record(**event(phase_id="handler", run_id=None))
    stats = telemetry.stats()
    assert stats.accepted == stats.written + stats.duplicates + stats.dead_lettered + stats.pending, stats
    assert all(count > 0 for count in stats.dropped.values()), stats
    if handled % 50 == 0:
        telemetry.flush(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0.001)  # once at a time: on a busy machine handlers would nest without end
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
main = 0
while handled < 400:
    main += telemetry.record(**event(phase_id="main")) if main < 20_000 else 0
    stats = telemetry.stats()
    assert stats.accepted == stats.written + stats.duplicates + stats.dead_lettered + stats.pending, stats
    assert all(count > 0 for count in stats.dropped.values()), stats
    if handled % 10 == 0:
        telemetry.flush(0.01)
signal.setitimer(signal.ITIMER_REAL, 0)
telemetry.close(30)
stats = telemetry.stats()
assert stats.pending == 0, stats
assert stats.written == main + answers[True], (stats, main, answers)
assert stats.dead_lettered + stats.written + sum(stats.dropped.values()) == main + 2 * handled, (stats, main, handled)
""",
        database,
        kind,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_raises_out_of_record_leaves_it_working(database: Path, kind: str) -> None:
    """Ctrl-C at any point of a call: that event may be lost with its call, no other, and nothing is blocked."""
    run_python(
        OPEN
        + """
telemetry = Telemetry(destination(), queue_size=100_000, shutdown_timeout_s=20, **options())
class Stop(BaseException): pass
stopped = 0
def handler(*_):
    raise Stop
signal.signal(signal.SIGALRM, handler)
accepted = 0
while stopped < 200:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + stopped % 7 * 0.00003)
        for _ in range(200):
            answer = telemetry.record(**event())
            accepted += answer
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        stopped += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert telemetry.record(**event())
assert telemetry.flush(30), telemetry.stats()
telemetry.close()
stats = telemetry.stats()
assert stats.pending == 0 and stats.accepted >= accepted + 1, (stats, accepted)
assert stats.accepted <= accepted + 1 + stopped, (stats, accepted)
assert stats.written == stats.accepted, stats
""",
        database,
        kind,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_in_the_first_record_leaves_it_working(database: Path, kind: str) -> None:
    """As a signal handler raises it: for N = 1, 2, … at the Nth call that the first `record()` makes or ends."""
    run_python(
        OPEN
        + """
class Stop(BaseException): pass
interrupted = 0
database = sys.argv[1]
while True:
    events = 0
    def interrupt(frame, what, argument):
        global events
        events += 1
        if events == interrupted + 1:
            raise Stop
    # What an interrupted call leaves half done must not change the next one's calls.
    sys.argv[1] = f"{database}{interrupted:06}"
    telemetry = Telemetry(destination(), shutdown_timeout_s=20, **options())
    sys.setprofile(interrupt)
    try:
        telemetry.record(**event(phase_id="first"))
        sys.setprofile(None)
        through = True
    except Stop:  # which has taken the profile off, too
        through = False
    assert telemetry.record(**event(phase_id="second")), interrupted
    assert telemetry.flush(20), (interrupted, telemetry.stats())
    telemetry.close()
    stats = telemetry.stats()
    assert stats.pending == 0 and 1 <= stats.written == stats.accepted <= 2, (interrupted, stats)
    if through:
        break
    interrupted += 1
assert interrupted > 20, interrupted
""",
        database,
        kind,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_del_under_the_collector_may_record(database: Path, kind: str) -> None:
    run_python(
        OPEN
        + """
import gc
gc.set_threshold(5, 2, 2)
telemetry = Telemetry(destination(), batch_size=20, queue_size=100_000, **options())
class Node:
    def __init__(self): self.me = self
    def __del__(self):
        telemetry.record(**event(phase_id="del"))
        telemetry.stats()
        collected.append(1)
collected = []  # no lock: one of ours may be held around a collection
def churn():
    for _ in range(1500):
        Node()
        assert telemetry.record(**event(deliverables=[str(n) for n in range(5)]))
threads = [threading.Thread(target=churn) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
while len(collected) < 4 * 1500: gc.collect()  # does nothing while a collection runs in the writer's thread
telemetry.close(30)
assert telemetry.stats().written == 2 * 4 * 1500, telemetry.stats()
""",
        database,
        kind,
    )


def test_a_log_handler_that_records_what_we_log_comes_to_an_end(database: Path) -> None:
    """Its own events are bad as well, and the log line about them would be recorded again, for ever."""
    run_python(
        OPEN
        + """
telemetry = Telemetry(destination(), flush_interval_s=0.01)
class Recorder(logging.Handler):
    lines = 0
    def emit(self, record):
        Recorder.lines += 1
        telemetry.record(**event(phase_id="logged", run_id=None))
        telemetry.stats(); telemetry.flush(0.01)
logging.getLogger("autopack.telemetry").addHandler(Recorder())
telemetry.record(**event(run_id=None))
telemetry.record(**event(phase_id="good"))
assert telemetry.flush(30)
time.sleep(1)  # nothing to wait for: this is how long the feedback may run
lines = Recorder.lines
telemetry.close(5)
assert telemetry.stats().pending == 0, telemetry.stats()
print(lines)
assert lines < 20, lines
""",
        database,
        "sqlite",
    )
    assert phases_of(database) == ["good"]
    assert dead_letters_of(database)


def test_a_misbehaving_log_handler_costs_nothing(database: Path) -> None:
    """A log handler that raises, closes, or prints to nowhere costs nothing."""
    run_python(
        OPEN
        + """
telemetry = Telemetry(destination())
class Broken(logging.Handler):
    def emit(self, record): raise ValueError("I/O operation on closed file")
class Closing(logging.Handler):
    def emit(self, record): telemetry.close()
logging.basicConfig()
sys.stderr.close()
logger = logging.getLogger("autopack.telemetry")
logger.addHandler(Broken())
for phase in ("first", "second"):
    telemetry.record(**event(run_id=None)); telemetry.record(**event(phase_id=phase)); assert telemetry.flush(30)
logger.addHandler(Closing())
telemetry.record(**event(run_id=None)); telemetry.record(**event(phase_id="third"))
telemetry.close(30)
assert telemetry.stats().worker_restarts == 0 and telemetry.stats().pending == 0, telemetry.stats()
""",
        database,
        "sqlite",
    )
    assert phases_of(database) == ["first", "second", "third"]
    assert len(dead_letters_of(database)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_record_may_interrupt_the_start_of_a_thread(database: Path, kind: str) -> None:
    """`Thread.start` holds a lock that is not re-entrant; here the main thread starts threads all the time."""
    run_python(
        OPEN
        + """
waiting = [Telemetry(destination(), **options()) for _ in range(40)]
begun = []
def handler(*_):
    if waiting:
        telemetry = waiting.pop()
        assert telemetry.record(**event())
        begun.append(telemetry)
        signal.setitimer(signal.ITIMER_REAL, 0.003)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while waiting:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
signal.setitimer(signal.ITIMER_REAL, 0)
for telemetry in begun:
    telemetry.close(30)
    assert telemetry.stats().written == 1, telemetry.stats()
assert len(begun) == 40
""",
        database,
        kind,
    )
    assert kind == "memory" or len(rows_of(database)) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_close_in_a_handler_that_interrupts_record_flush_and_close(database: Path, kind: str) -> None:
    """A call that was let in before the close may still come in after it: then it is pending, and in the journal."""
    done = run_python(
        OPEN
        + """
total = 0
for turn in range(15):
    telemetry = Telemetry(destination(), shutdown_timeout_s=20, **options())
    def handler(*_):
        telemetry.close()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002 * (turn + 1))
    accepted = 0
    while not telemetry.closed:
        accepted += telemetry.record(**event())
        if turn % 3 == 1: telemetry.flush(5)
        if turn % 3 == 2 and accepted > 20: telemetry.close()
    telemetry.close()
    signal.setitimer(signal.ITIMER_REAL, 0)
    stats = telemetry.stats()
    assert stats.pending <= 1 and stats.dead_lettered == stats.duplicates == 0, (turn, stats, accepted)
    assert stats.accepted - stats.recovered == accepted, (turn, stats, accepted)
    total += accepted
if sys.argv[2] == "sqlite":
    with Telemetry(destination()) as successor:
        successor.record(**event())
    print(total + 1)
""",
        database,
        kind,
    )
    if kind == "sqlite":
        assert len(rows_of(database)) == int(done.stdout)


def test_a_redaction_that_records_comes_to_an_end(database: Path) -> None:
    run_python(
        OPEN
        + """
depth = 0
def redact(paths):
    global depth
    depth += 1
    if depth < 5: telemetry.record(**event(phase_id="inner"))
    return paths
telemetry = Telemetry(destination(), redact=redact)
assert telemetry.record(**event(phase_id="outer"))
telemetry.close()
""",
        database,
        "sqlite",
    )
    assert phases_of(database) == ["inner"] * 4 + ["outer"]
