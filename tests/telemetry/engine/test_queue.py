"""The account of accepted events: exact bounds, and an identity that holds at every moment."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from autopack.errors import QueueRejected
from autopack.telemetry.counters import AtomicCounter
from autopack.telemetry.engine.queue import MemoryQueue, _append_to

CAPACITY = 7
SLOT_BYTES = 100


class Account(RuleBasedStateMachine):
    """The queue against a model: what waits, what is in the worker's hands, what is settled, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = MemoryQueue(CAPACITY, CAPACITY * SLOT_BYTES)
        self.waiting: deque[bytes] = deque()
        self.taken: dict[int, bytes] = {}
        self.again: list[int] = []
        self.ever_taken = 0
        self.accepted = self.written = self.duplicates = self.dead_lettered = 0
        self.closed = False

    def slots_held(self) -> int:
        return sum(-(-len(payload) // SLOT_BYTES) for payload in [*self.waiting, *self.taken.values()])

    def accept(self, payload: bytes) -> None:
        self.waiting.append(payload)
        self.accepted += 1

    @rule()
    def record_a_common_event(self) -> None:
        payload = b"x" * SLOT_BYTES
        try:
            self.queue.append(payload)
        except IndexError:
            assert self.closed or self.slots_held() == CAPACITY
        else:
            assert not self.closed
            self.accept(payload)

    @rule(slots=st.integers(1, CAPACITY + 1))
    def record_an_event_of_any_size(self, slots: int) -> None:
        payload = b"x" * (SLOT_BYTES * slots - 1)
        if self.closed or self.slots_held() + slots > CAPACITY:
            with pytest.raises(QueueRejected, match="too_large" if slots > CAPACITY else "queue_full"):
                self.queue.append_any(payload)
        else:
            self.queue.append_any(payload)
            self.accept(payload)

    @rule(limit=st.integers(1, CAPACITY))
    def take_a_batch(self, limit: int) -> None:
        batch = self.queue.take(limit)
        if self.again:
            keys, self.again = self.again[:limit], self.again[limit:]
        else:
            keys = list(range(self.ever_taken, self.ever_taken + min(limit, len(self.waiting))))
            self.ever_taken += len(keys)
            self.taken |= {key: self.waiting.popleft() for key in keys}
        assert dict(batch) == {key: self.taken[key] for key in keys}

    @rule()
    def the_worker_dies_and_another_begins(self) -> None:
        self.queue.requeue_in_flight()
        self.again = sorted(self.taken)

    @precondition(lambda self: self.taken.keys() - set(self.again))
    @rule(data=st.data())
    def settle_some(self, data: st.DataObject) -> None:
        handed_out = sorted(self.taken.keys() - set(self.again))
        keys = data.draw(st.lists(st.sampled_from(handed_out), min_size=1, unique=True))
        fates = [data.draw(st.sampled_from(["written", "duplicates", "dead_lettered"])) for _ in keys]
        counts = {fate: fates.count(fate) for fate in set(fates)}
        self.queue.settle(keys, **counts)
        for key, fate in zip(keys, fates, strict=True):
            del self.taken[key]
            setattr(self, fate, getattr(self, fate) + 1)

    @rule(length=st.integers(1, CAPACITY))
    def set_wake_threshold(self, length: int) -> None:
        self.queue.set_wake_threshold(length)

    @rule()
    def clear_wake_threshold(self) -> None:
        self.queue.clear_wake_threshold()

    @precondition(lambda self: self.accepted > 10)
    @rule()
    def close_to_new(self) -> None:
        self.queue.close_to_new()
        self.closed = True

    @invariant()
    def the_identity_holds(self) -> None:
        account = self.queue.account()
        assert account.accepted == account.written + account.duplicates + account.dead_lettered + account.pending
        assert account.accepted == self.accepted == self.queue.accepted_through
        assert account.pending == len(self.waiting) + len(self.taken)
        assert (account.written, account.duplicates, account.dead_lettered) == (
            self.written,
            self.duplicates,
            self.dead_lettered,
        )
        assert self.queue.backlog == len(self.waiting)

    @invariant()
    def what_a_flush_waits_for_is_the_first_that_is_not_settled(self) -> None:
        first = min(self.taken, default=self.accepted - len(self.waiting))
        assert self.queue.settled_through == first

    @invariant()
    def no_append_is_in_progress(self) -> None:
        assert not self.queue.has_in_progress_appends


TestAccount = Account.TestCase


@contextmanager
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_settling_with_counts_that_do_not_add_up_is_refused() -> None:
    queue = MemoryQueue(4, 400)
    queue.append_any(b"x")
    queue.take(1)
    with pytest.raises(ValueError, match="1 events settled as 1 \\+ 1 \\+ 0"):
        queue.settle([0], written=1, duplicates=1)


def test_an_unsettled_event_comes_again_with_a_new_worker() -> None:
    """An event that was taken and not settled comes again when the worker begins again."""
    queue = MemoryQueue(4, 400)
    for payload in (b"a", b"b", b"c"):
        queue.append_any(payload)
    assert queue.take(2) == {0: b"a", 1: b"b"}
    assert queue.take(2) == {2: b"c"}
    queue.settle([0], written=1)
    queue.requeue_in_flight()
    assert queue.take(1) == {1: b"b"}
    assert queue.take(2) == {2: b"c"}
    assert queue.take(2) == {}


def test_the_queue_is_bounded_by_bytes_exactly() -> None:
    queue = MemoryQueue(10, 1000)
    queue.append_any(b"x" * 501)
    with pytest.raises(QueueRejected, match="queue_full"):
        queue.append_any(b"x" * 401)
    queue.append_any(b"x" * 400)
    queue.settle(queue.take(2), written=2)
    queue.append_any(b"x" * 1000)
    with pytest.raises(QueueRejected, match="queue_full"):
        queue.append_any(b"x")


def test_only_the_caller_at_the_marked_slot_wakes_the_worker() -> None:
    """The caller that takes the marked slot is told to wake the worker, and no other caller is."""
    queue = MemoryQueue(10, 1000)
    assert queue.append(b"x"), "the first event starts the worker"
    queue.set_wake_threshold(4)
    told = [bool(queue.append(b"x")) for _ in range(5)]
    assert told == [False, False, True, False, False]
    queue.clear_wake_threshold()
    assert not any(queue.append(b"x") for _ in range(4))


@pytest.mark.parametrize("closed", [False, True])
def test_a_call_is_in_progress_from_its_slot_to_its_event(closed: bool) -> None:
    """A thread may be switched, or a signal handler may fork, between the two steps of an append."""
    seen = []
    queue = MemoryQueue(10, 1000)
    queue.append(b"x")

    def put(payload: bytes) -> None:
        if closed:
            queue.close_to_new()
        seen.append(queue.has_in_progress_appends)
        queue._queued.append(payload)

    _append_to(queue._slots.pop, put)(b"x")
    assert [*seen, queue.has_in_progress_appends] == [True, False]


class Storm:
    """Callers on many threads, and a worker that takes and settles."""

    def __init__(self, queue: MemoryQueue, calls: int) -> None:
        self.queue = queue
        self.calls = calls
        self.accepted, self.refused = AtomicCounter(), AtomicCounter()
        self.settled = 0
        self.over = threading.Event()

    def call(self, number: int) -> None:
        for turn in range(self.calls):
            try:
                self.offer_one(number + turn)
            except (IndexError, QueueRejected):
                self.refused.add()
            else:
                self.accepted.add()

    def offer_one(self, turn: int) -> None:
        if turn % 5:
            self.queue.append(b"x" * SLOT_BYTES)
        else:
            self.queue.append_any(b"x" * (SLOT_BYTES * 3))

    def work(self) -> None:
        while not self.over.is_set() or self.queue.backlog:
            batch = self.queue.take(5)
            self.queue.settle(batch, written=len(batch))
            self.settled += len(batch)


def test_a_storm_of_threads_keeps_the_bound_and_loses_nothing() -> None:
    """A storm of 32 threads never exceeds the bound, and loses nothing."""
    queue = MemoryQueue(capacity := 16, 16 * SLOT_BYTES)
    storm = Storm(queue, calls := 300)
    callers = [threading.Thread(target=storm.call, args=(number,)) for number in range(32)]
    worker = threading.Thread(target=storm.work)
    looks = 0
    with frequent_switches():
        for thread in (worker, *callers):
            thread.start()
        while looks == 0 or any(thread.is_alive() for thread in callers):
            account = queue.account()
            looks += 1
            assert 0 <= account.pending <= capacity
            assert account.accepted == account.written + account.pending
        storm.over.set()
        worker.join()
    assert storm.accepted.value + storm.refused.value == calls * len(callers)
    assert queue.account().written == storm.settled == storm.accepted.value
    assert queue.account().pending == 0
    assert storm.refused.value > 0, "the storm never filled the queue"
    for _ in range(capacity):
        queue.append(b"x")
    with pytest.raises(IndexError):
        queue.append(b"x")


def test_a_counter_counts_exactly_from_many_threads() -> None:
    counter = AtomicCounter()

    def add_all() -> None:
        for _ in range(5000):
            counter.add()

    with frequent_switches():
        threads = [threading.Thread(target=add_all) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counter.value == counter.value == 40_000
