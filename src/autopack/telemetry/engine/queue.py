"""What stands between the call site and the worker, and the one that lives in memory.

An event is accepted by two atomic steps without any lock, which a signal handler or `__del__` may interrupt anywhere:
it takes a slot (`list.pop`), then it is appended (`deque.append`). A slot stands for one event and for its share of
the bytes; an event larger than the share takes several. So both bounds hold exactly, whatever the threads do. The
worker takes events in order of arrival, and an event leaves the buffer only when it is settled: only then do its slots
return. To be woken at a full batch the worker marks the free slot that the last event of the batch will take; whoever
takes a marked slot wakes it, so that the call site need not look at the length of the queue.

`accepted` is not counted but derived (in the worker's hands + still queued + settled), which makes the identity
`accepted = written + duplicates + dead_lettered + pending` true at every moment by construction.

Only the worker takes and settles, so nothing here depends on a lock. The one there is makes snapshots consistent, and
whoever cannot have it within a moment goes on without it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from autopack.errors import QueueRejected
from autopack.telemetry.engine.control import politely
from autopack.telemetry.engine.ledger import Account, Ledger


class Buffer(Protocol):
    """Accepted events on their way to the worker.

    The call site uses `take_slot`, which returns whether to wake the worker, and then `append` directly, for payloads
    of at most `slot_bytes`; either may raise. For others, and after a failure, it calls `offer`.
    """

    slot_bytes: int

    @property
    def take_slot(self) -> Callable[[], bool]:
        """Take one slot."""

    @property
    def append(self) -> Callable[[bytes], None]:
        """Accept a payload for the slot that was taken."""

    def offer(self, payload: bytes) -> bool:
        """Accept a payload of any size; returns whether to wake the worker. Raises QueueRejected."""

    def refuse(self) -> None:
        """Let nothing in any more."""

    @property
    def has_stragglers(self) -> bool:
        """After `refuse`: whether callers that were let in have not put their event down yet."""

    @property
    def backlog(self) -> int:
        """Accepted events that the worker has not taken yet."""

    @property
    def kept_in(self) -> Path | None:
        """The folder in which what is pending outlives the process; None: it is lost with it."""

    def recover(self) -> None:
        """Put events that dead processes have left behind before everything else. Called once, by the worker."""

    def take(self, limit: int) -> Mapping[int, bytes]:
        """The next events in order, at most `limit`, under keys for `settle`."""

    def rewind(self) -> None:
        """Have `take` hand out again, before all else, what was taken and not settled. For a worker that begins, since
        the one before may have died.
        """

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        """Release events whose fate is decided; the counts say what it was and add up to their number."""

    def account(self) -> Account:
        """A consistent snapshot."""

    @property
    def accepted_here(self) -> int:
        """How many events this process has accepted by `record()`."""

    @property
    def settled_through(self) -> int:
        """How many of those, counted from the first, are all settled; less than 0 while recovered ones are not."""

    def arm(self, length: int) -> None:
        """Have the call site wake the worker when about so many are waiting."""

    def disarm(self) -> None:
        """The worker is awake."""

    def tend(self) -> None:
        """Do what should not be left to the call site. Called by the worker between batches; may do I/O."""

    def close(self) -> None:
        """The worker has ended, nothing will be taken any more. Idempotent."""

    def hold(self, timeout_s: float) -> bool:
        """Before a fork: have nobody open a file until `go_on`, which a child would inherit; whether nobody does."""

    def go_on(self) -> None:
        """The end of `hold`, in the thread that called it."""

    def forget(self) -> None:
        """In a forked child: let go of everything that the parent shares with it, without changing it."""


class MemoryBuffer:
    """Encoded events in memory, bounded by count and by bytes."""

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self.capacity = capacity
        self.slot_bytes = max(1, capacity_bytes // capacity)
        # Marked from the start: the slot of the first event, which starts the worker.
        self._slots = [False] * (capacity - 1) + [True]
        self._marked = 0
        self._queued: deque[bytes] = deque()
        self.take_slot: Callable[[], bool] = self._slots.pop
        self.append: Callable[[bytes], None] = self._queued.append
        self._ledger = Ledger()
        self._withdrawn: int | None = None  # slots that `refuse` has taken out of use; None while it is open
        self._lock = threading.RLock()

    def offer(self, payload: bytes) -> bool:
        """See `Buffer.offer`."""
        wanted = self._slots_of(payload)
        if wanted > self.capacity:
            raise QueueRejected("too_large")
        taken: list[bool] = []
        try:
            for _ in range(wanted):
                taken.append(self._slots.pop())  # noqa: PERF401 (what was taken until then has to be given back)
        except IndexError:
            with politely(self._lock):
                self._give_back(len(taken))
            raise QueueRejected("queue_full") from None
        self._queued.append(payload)
        return any(taken)

    def refuse(self) -> None:
        """Let nothing in any more: every slot that is free now, or becomes free, is taken out of use."""
        with politely(self._lock):
            self._withdrawn = self._withdrawn or 0
            with contextlib.suppress(IndexError):
                while True:
                    self._slots.pop()
                    self._withdrawn += 1

    @property
    def has_stragglers(self) -> bool:
        """See `Buffer.has_stragglers`: some slots are neither free nor held by an event."""
        with politely(self._lock):
            events = [*self._queued, *self._ledger.in_flight.values()]
            return self.capacity - (self._withdrawn or 0) > sum(map(self._slots_of, events))

    @property
    def backlog(self) -> int:
        """See `Buffer.backlog`."""
        return len(self._queued)

    def take(self, limit: int) -> Mapping[int, bytes]:
        """See `Buffer.take`."""
        with politely(self._lock):
            if again := self._ledger.again(limit):
                return again
            return self._ledger.enter([self._queued.popleft() for _ in range(min(limit, len(self._queued)))])

    def rewind(self) -> None:
        """See `Buffer.rewind`."""
        self._ledger.rewind()

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        """See `Buffer.settle`."""
        with politely(self._lock):
            payloads = self._ledger.settle(keys, written=written, duplicates=duplicates, dead_lettered=dead_lettered)
            self._give_back(sum(map(self._slots_of, payloads)))

    def account(self) -> Account:
        """See `Buffer.account`."""
        with politely(self._lock):
            return self._ledger.account(len(self._queued))

    @property
    def accepted_here(self) -> int:
        """See `Buffer.accepted_here`."""
        with politely(self._lock):
            return self._ledger.next_key + len(self._queued)

    @property
    def settled_through(self) -> int:
        """See `Buffer.settled_through`."""
        with politely(self._lock):
            return self._ledger.settled_through

    def arm(self, length: int) -> None:
        """See `Buffer.arm`. Other threads may take slots meanwhile; then it is woken that much earlier or later."""
        while self._slots:
            self._marked = max(0, len(self._slots) - max(1, length - len(self._queued)))
            if self._mark(wake=True):
                return

    def disarm(self) -> None:
        """See `Buffer.disarm`."""
        self._mark(wake=False)

    @property
    def kept_in(self) -> Path | None:
        """Nowhere."""
        return None

    def recover(self) -> None:
        """Memory leaves nothing behind."""

    def tend(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """What is left stays until the process ends."""

    def hold(self, timeout_s: float) -> bool:  # noqa: ARG002 (there are no files)
        """See `Buffer.hold`."""
        return True

    def go_on(self) -> None:
        """See `Buffer.go_on`."""

    def forget(self) -> None:
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
