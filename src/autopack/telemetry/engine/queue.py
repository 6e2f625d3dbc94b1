"""What stands between the call site and the worker, and the one that lives in memory.

# Slots

An event is accepted by two atomic steps without any lock, which a signal handler or `__del__` may interrupt anywhere:
it takes a slot (`list.pop`), then it is queued (`deque.append`). A slot stands for one event and for its share of the
bytes; an event larger than the share takes several. So both bounds hold exactly, whatever the threads do. The worker
takes events in order of arrival, and an event leaves the queue only when it is settled: only then do its slots return.
On a build without the GIL both steps take the lock of their list or deque, in C.

To be woken at a full batch the worker marks the free slot that the last event of the batch will take. The caller that
takes a marked slot wakes it, so that the call site need not look at the length of the queue.

# Invariants

- `accepted` is not counted but derived (in flight + waiting + settled). Hence `accepted == written + duplicates +
  dead_lettered + pending` is true at every moment by construction.
- Only the worker takes and settles, so nothing here depends on a lock. The one there is makes snapshots consistent; a
  caller that cannot acquire it in time goes on without it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from autopack._util import os_threads
from autopack.errors import QueueRejected
from autopack.telemetry.engine.ledger import Account, Ledger
from autopack.telemetry.lifecycle import best_effort


class Queue(Protocol):
    """Accepted events on their way to the worker.

    The call site uses `append`, for payloads of at most `slot_bytes`. For others, and after a failure, it uses
    `append_any`.
    """

    slot_bytes: int

    def append(self, payload: bytes, /) -> bool:
        """Accept a payload of at most `slot_bytes`. What it returns is true where the worker is to be woken.

        Raises where it is full.
        """

    def append_any(self, payload: bytes) -> bool:
        """Accept a payload of any size; returns whether to wake the worker. Raises QueueRejected."""

    def close_to_new(self) -> None:
        """Accept nothing more."""

    @property
    def has_in_progress_appends(self) -> bool:
        """Whether calls were admitted that have not appended their event yet, and will not wake the worker for it."""

    @property
    def backlog(self) -> int:
        """Accepted events that the worker has not taken yet."""

    @property
    def durable_path(self) -> Path | None:
        """The folder in which what is pending outlives the process; None: it is lost with it."""

    def recover(self) -> None:
        """Put events that dead processes have left behind before everything else. Called by the worker that begins."""

    @property
    def has_more_to_recover(self) -> bool:
        """Whether dead processes may have left more than `backlog` says."""

    def take(self, limit: int) -> Mapping[int, bytes]:
        """The next events in order, at most `limit`, under keys for `settle`."""

    def requeue_in_flight(self) -> None:
        """Have `take` return what was taken and not settled again, before all else. Called by the worker that begins,
        since the one before may have died.
        """

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        """Release events whose fate is decided; the counts say what it was and add up to their number."""

    def account(self) -> Account:
        """A consistent snapshot."""

    @property
    def accepted_through(self) -> int:
        """A number that grows with what this process accepts; `settled_through` reaches it when that is settled."""

    @property
    def settled_through(self) -> int:
        """Up to where, by the same measure, everything is settled; less than 0 while recovered events are not that the
        worker found when it began.
        """

    def set_wake_threshold(self, waiting: int) -> None:
        """Have `append` return True once about `waiting` events wait; 0: for the next that comes, whichever it is.

        Approximate: appends under way are not counted.
        """

    def clear_wake_threshold(self) -> None:
        """The worker is awake."""

    def maintain(self) -> None:
        """Do what should not be left to the call site. Called by the worker between batches; may do I/O."""

    def close(self) -> None:
        """The worker has ended, nothing will be taken any more. Idempotent."""

    def prepare_fork(self, timeout_s: float) -> bool:
        """Before a fork: open no file, which a child would inherit, until `resume_after_fork`. False: not in time."""

    def resume_after_fork(self) -> None:
        """The end of `prepare_fork`, in the thread that called it."""

    def reset_in_child(self) -> None:
        """In a forked child: let go of everything that the parent shares with it, without changing it."""


class MemoryQueue:
    """Encoded events in memory, bounded by count and by bytes."""

    durable_path: Path | None = None

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self.capacity = capacity
        self.slot_bytes = max(1, capacity_bytes // capacity)
        # Marked from the start: the slot of the first event, which starts the worker.
        self._slots = [False] * (capacity - 1) + [True]
        self._marked = 0
        self._queued: deque[bytes] = deque()
        self.append = _append_to(self._slots.pop, self._queued.append)
        self._ledger = Ledger()
        self._withdrawn: int | None = None  # slots that `close_to_new` has taken out of use; None while it is open
        self._lock = os_threads.RLock()

    def append_any(self, payload: bytes) -> bool:
        wanted = self._slots_of(payload)
        if wanted > self.capacity:
            raise QueueRejected("too_large")
        taken: list[bool] = []
        try:
            for _ in range(wanted):
                taken.append(self._slots.pop())  # noqa: PERF401 (what was taken until then has to be given back)
        except IndexError:
            with best_effort(self._lock):
                self._give_back(len(taken))
            raise QueueRejected("queue_full") from None
        self._queued.append(payload)
        return any(taken)

    def close_to_new(self) -> None:
        """Take every slot that is free now, or becomes free, out of use."""
        with best_effort(self._lock):
            self._withdrawn = self._withdrawn or 0
            with contextlib.suppress(IndexError):
                while True:
                    self._slots.pop()
                    self._withdrawn += 1

    @property
    def has_in_progress_appends(self) -> bool:
        """Whether some slots are neither free nor held by an event."""
        with best_effort(self._lock):
            held = self.capacity - (self._withdrawn or 0) - len(self._slots)
            # A copy is one step; to iterate is not, and a call in progress may append meanwhile.
            events = [*self._queued.copy(), *self._ledger.in_flight.values()]
            return held > sum(map(self._slots_of, events))

    @property
    def backlog(self) -> int:
        return len(self._queued)

    def recover(self) -> None:
        """Memory leaves nothing behind."""

    @property
    def has_more_to_recover(self) -> bool:
        return False

    def take(self, limit: int) -> Mapping[int, bytes]:
        with best_effort(self._lock):
            if requeued := self._ledger.take_requeued(limit):
                return requeued
            return self._ledger.enter([self._queued.popleft() for _ in range(min(limit, len(self._queued)))])

    def requeue_in_flight(self) -> None:
        self._ledger.requeue_in_flight()

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        with best_effort(self._lock):
            payloads = self._ledger.settle(keys, written=written, duplicates=duplicates, dead_lettered=dead_lettered)
            self._give_back(sum(map(self._slots_of, payloads)))

    def account(self) -> Account:
        with best_effort(self._lock):
            return self._ledger.account(len(self._queued))

    @property
    def accepted_through(self) -> int:
        with best_effort(self._lock):
            return self._ledger.next_key + len(self._queued)

    @property
    def settled_through(self) -> int:
        with best_effort(self._lock):
            return self._ledger.settled_through

    def set_wake_threshold(self, waiting: int) -> None:
        """Other threads may take slots meanwhile; then the worker is woken that much earlier or later."""
        while self._slots:
            self._marked = max(0, len(self._slots) - max(1, waiting - len(self._queued)))
            if self._mark(wake=True):
                return

    def clear_wake_threshold(self) -> None:
        self._mark(wake=False)

    def maintain(self) -> None:
        """There is nothing to do."""

    def close(self) -> None:
        """What is left stays until the process ends."""

    def prepare_fork(self, timeout_s: float) -> bool:  # noqa: ARG002 (there are no files)
        return True

    def resume_after_fork(self) -> None:
        """There are no files."""

    def reset_in_child(self) -> None:
        """The child's copy is collected with its owner."""

    def _mark(self, *, wake: bool) -> bool:
        """Mark a free slot, or unmark it; False if it is taken already."""
        try:
            self._slots[self._marked] = wake
        except IndexError:
            return False
        return True

    def _give_back(self, slots: int) -> None:
        if self._withdrawn is None:
            self._slots.extend([False] * slots)
        else:
            self._withdrawn += slots

    def _slots_of(self, payload: bytes) -> int:
        return -(-len(payload) // self.slot_bytes)


def _append_to(take_slot: Callable[[], bool], put: Callable[[bytes], bool | None]) -> Callable[[bytes], bool]:
    """The hot path of a `MemoryQueue`. It looks up no attribute: both functions are defaults of its parameters.

    `deque.append` returns None, which counts as False and saves a step.
    """

    def append(payload: bytes, take_slot: Callable[[], bool] = take_slot, put: Callable[[bytes], Any] = put) -> bool:
        if take_slot():
            put(payload)
            return True
        return put(payload)  # type: ignore[no-any-return]

    return append
