"""The journal where calls come between the steps of a call: signal handlers, `__del__`, other threads."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
from tests.journals import SMALL, abandon, drained, fill, make_journal, payload, recover_into, segments_in
from tests.telemetry.journal.interrupts import at_c_call, at_call, at_return, in_another_thread
from tests.write_side import event, phases_of, run_python, url_of

from autopack.errors import QueueRejected
from autopack.telemetry import Telemetry

REENTRANT = """
    import signal
    from autopack.telemetry import Telemetry

    telemetry = Telemetry(sys.argv[1])
    accepted, inside, dropped = [], 0, 0

    def interrupt(number, frame):
        global inside
        inside += frame.f_code.co_filename.endswith("journal.py")
        name = f"signal-{len(accepted)}"
        if telemetry.record(**event(phase_id=name)):
            accepted.append(name)

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for n in range(10000):
        if telemetry.record(**event(phase_id=f"main-{n}")):
            accepted.append(f"main-{n}")
    signal.setitimer(signal.ITIMER_REAL, 0)
    dropped = dict(telemetry.stats().dropped)
    telemetry.close(120)
    stats = telemetry.stats()
    print(len(accepted), sum(name.startswith("signal") for name in accepted), inside, dropped, stats.pending,
          stats.worker_restarts, sep="|")
    print(*accepted)
"""


@pytest.mark.slow
def test_a_handler_that_records_inside_a_record_loses_nothing(database: Path) -> None:
    """A signal handler that records while the same thread records loses nothing."""
    done = run_python(REENTRANT, url_of(database))
    counts, accepted = done.stdout.splitlines()
    _, by_signal, inside, dropped, pending, restarts = counts.split("|")
    assert (dropped, pending, restarts) == ("{}", "0", "0")
    assert int(by_signal) > 20, "the test proved nothing"
    assert int(inside) > 0, "no call interrupted the journal itself: the test proved nothing"
    assert Counter(phases_of(database)) == Counter(accepted.split())


@pytest.mark.parametrize("where", ["adler32", "encode", "write"])
def test_a_call_inside_another_is_journalled_like_any_other(tmp_path: Path, where: str) -> None:
    journal = make_journal(tmp_path, bytes(32))
    for n in range(1000):
        at_c_call(where, lambda: journal.append(b"from inside"))
        journal.append(b"outer %d" % n + b"." * 80)
        assert journal.account().pending == 2
        assert drained(journal) == [b"from inside", b"outer %d" % n + b"." * 80], "wherever in a segment it happens"
    journal.close()


def test_the_outer_call_journals_what_a_call_inside_it_defers(
    tmp_path: Path,
) -> None:
    """A call inside the making of a segment makes no other segment, and the outer call journals its event."""
    journal = make_journal(tmp_path, bytes(32))
    during: list[int] = []

    def record_inside() -> None:
        journal.append(b"from inside")
        during.append(journal.journal.accepted)

    at_c_call("rename", record_inside)
    journal.append(b"outer")
    assert during == [1], "it counts from the moment when it is accepted"
    assert journal.journal.accepted == 2
    assert len(segments_in(tmp_path)) == 1
    abandon(journal)
    later = make_journal(tmp_path, bytes(32))
    later.recover()
    assert drained(later) == [b"from inside", b"outer"], "both outlive the process"
    later.close()


def test_what_is_deferred_fits_into_a_new_segment(tmp_path: Path) -> None:
    """What is deferred is bounded by what a new segment has room for."""
    journal = make_journal(tmp_path, bytes(32))
    largest = bytes(journal.slot_bytes - 100)
    refused: list[str] = []

    def record_inside() -> None:
        journal.append(largest)
        try:
            journal.append(largest)
        except QueueRejected as exc:
            refused.append(exc.reason)

    at_c_call("rename", record_inside)
    journal.append(b"outer")
    assert refused == ["journal_full"]
    assert drained(journal) == [largest, b"outer"]
    journal.close()


def test_what_a_full_journal_defers_is_journalled_later(tmp_path: Path) -> None:
    """What is deferred while the journal is full is journalled when there is room."""
    settings = SMALL.__class__(
        journal_first_segment_bytes=64 << 10, journal_segment_bytes=64 << 10, journal_bytes=128 << 10
    )
    journal = make_journal(tmp_path, bytes(32), settings)
    kept = fill(journal)
    aside = b"aside" * 100
    while journal.account().pending == len(kept):  # for a quarter of a second a full journal is believed to be full
        at_c_call("scandir", lambda: journal.append(aside))
        with pytest.raises(QueueRejected, match="journal_full"):
            journal.append(b"x" * 500)
    assert journal.account().pending == len(kept) + 1
    assert drained(journal) == kept
    assert journal.account().pending == 1
    taken: list[bytes] = []
    while not taken:  # the same
        taken = drained(journal)
    assert taken == [aside]
    assert journal.account().pending == 0
    journal.close()
    assert segments_in(tmp_path) == []


def test_an_append_held_up_while_the_segment_changed_goes_on(tmp_path: Path) -> None:
    """A thread may sleep between looking up the segment and writing; meanwhile the segment is filled, and deleted."""
    journal = make_journal(tmp_path, bytes(32))
    journal.append(b"first")
    taken: list[bytes] = []

    def fill_and_drain() -> None:
        for n in range(400):
            journal.append(b"%d" % n * 100)
        taken.extend(drained(journal))

    at_c_call("adler32", fill_and_drain)
    journal.append(b"late")
    assert len(taken) == 401
    assert drained(journal) == [b"late"]
    assert journal.journal.accepted == 402
    journal.close()


@pytest.mark.parametrize("when", ["first", "later"])
def test_a_close_in_the_making_of_a_segment_ends(database: Path, when: str) -> None:
    """As a handler of SIGTERM may do, of the first segment and of a later one."""
    code = """
        from tests.telemetry.journal.interrupts import at_c_call
        from autopack.telemetry import Telemetry

        telemetry = Telemetry(sys.argv[1])
        accepted, inside = 0, []

        def handler():
            inside.append(telemetry.record(**event(phase_id="handler")))
            telemetry.close(5)

        if sys.argv[2] == "later":
            accepted += telemetry.record(**event(phase_id="outer"))
            assert telemetry.flush(30)
        while not inside:
            at_c_call("rename", handler)
            accepted += telemetry.record(**event(phase_id="outer"))
        sys.setprofile(None)
        telemetry.close(5)
        stats = telemetry.stats()
        assert (stats.accepted, stats.pending) == (accepted + 1, 1), stats
        print(accepted)
    """
    environment = {f"TELEMETRY_JOURNAL_{name}SEGMENT_BYTES": str(64 << 10) for name in ("", "FIRST_")}
    accepted = int(run_python(code, url_of(database), when, env=environment).stdout)
    assert (accepted > 0) == (when == "later")
    recover_into(database)
    assert Counter(phases_of(database)) == Counter({"handler": 1, "outer": accepted, "later": 1})


def test_taking_in_a_call_inside_the_making_of_a_segment_ends(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, bytes(32))
    taken: list[bytes] = []

    def record_and_take() -> None:
        journal.append(b"from inside")
        taken.extend(drained(journal))

    at_c_call("rename", record_and_take)
    journal.append(b"outer")
    assert taken == []
    assert drained(journal) == [b"from inside", b"outer"]
    journal.close()


def test_a_count_that_is_overtaken_by_the_end_of_its_segment_is_right(tmp_path: Path) -> None:
    """Whoever counts may sleep; meanwhile the worker settles the segment that is counted, and deletes it."""
    journal = make_journal(tmp_path, bytes(32))
    while len(segments_in(tmp_path)) < 2:
        journal.append(b"x" * 400)
    accepted = journal.journal.accepted
    for n in range(200):
        journal.append(b"%d" % n * 100)
    at_call("count_records", in_another_thread(lambda: drained(journal)))
    assert journal.journal.accepted == accepted + 200
    assert journal.account().pending == 0
    journal.append(b"one more")
    assert journal.settled_through < journal.accepted_through
    journal.close()


def test_an_event_of_a_segment_is_taken_before_those_of_the_next(tmp_path: Path) -> None:
    """Otherwise a flush that counts how many are settled would end before an earlier one is."""
    journal = make_journal(tmp_path, bytes(32))
    journal.append(b"first")

    def fill_the_segment() -> None:
        journal.append(b"before the next segment")
        while len(segments_in(tmp_path)) < 2:
            journal.append(b"x" * 700)

    at_return("Segment.next_records", in_another_thread(fill_the_segment))
    assert list(journal.take(100).values()) == [b"first"]
    assert next(iter(journal.take(100).values())) == b"before the next segment"
    journal.close()


@pytest.mark.parametrize("error", [TimeoutError, ValueError])
def test_a_handlers_exception_right_after_the_copy_doubles_nothing(database: Path, error: type[Exception]) -> None:
    """`record()` takes it for a failure of its own and tries again: the same event, hence a duplicate."""

    def interrupt(_frame: FrameType, what: str, function: object) -> None:
        if what == "c_return" and getattr(function, "__name__", "") == "write":
            sys.setprofile(None)
            raise error

    with Telemetry(url_of(database)) as telemetry:
        telemetry.record(**event(phase_id="before"))
        sys.setprofile(interrupt)
        assert telemetry.record(**event(phase_id="once"))
    assert telemetry.stats().duplicates == 1
    assert phases_of(database) == ["before", "once"]


def test_two_threads_that_prolong_the_journal_at_once_lose_nothing(tmp_path: Path) -> None:
    """The second finds no room in the very moment when the first is about to put its segment in place."""
    journal = make_journal(tmp_path, bytes(32))

    at_c_call("rename", in_another_thread(lambda: journal.append(b"of another thread")))
    journal.append(b"mine")
    assert sorted(drained(journal)) == [b"mine", b"of another thread"]
    assert journal.journal.accepted == 2
    journal.close()
    assert segments_in(tmp_path) == []


@pytest.mark.slow
def test_a_close_in_a_handler_does_not_wait_for_itself(database: Path) -> None:
    """A close from a signal handler inside the journal does not wait for itself."""
    code = """
        import time
        from autopack.telemetry import Telemetry

        telemetry = Telemetry(sys.argv[1])
        for n in range(100):
            telemetry.record(**event(phase_id=f"p{n}"))
        journal = telemetry.writer.queue.journal
        begun = time.monotonic()
        with journal._making:  # where a handler that interrupts the making of a segment finds it
            telemetry.close(20)
        print(time.monotonic() - begun, telemetry.stats().pending)
    """
    seconds, pending = run_python(code, url_of(database)).stdout.split()
    assert float(seconds) < 10
    assert pending == "0"
    assert len(phases_of(database)) == 100


def test_a_close_while_the_first_segment_is_made_lets_nothing_in(tmp_path: Path) -> None:
    """The close comes at the moment when the new segment is renamed, as one in another thread may."""
    journal = make_journal(tmp_path, bytes(32))

    at_c_call("rename", journal.close_to_new)
    with pytest.raises(QueueRejected, match="closed"):
        journal.append(payload())
    with pytest.raises(QueueRejected, match="closed"):
        journal.append(payload())
    assert (journal.journal.accepted, journal.backlog) == (0, 0)
    journal.close()
    assert list(tmp_path.iterdir()) == []
