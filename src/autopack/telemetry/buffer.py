"""The bounded queue between the call site and the worker, and the account of every event in it.

An event is accepted by two atomic steps without any lock, which a signal handler or `__del__` may interrupt anywhere:
it takes a slot (`list.pop`), then it is appended (`deque.append`). A slot stands for one event and for its share of
the bytes; an event larger than the share takes several. So both bounds hold exactly, whatever the threads do. The
worker takes events in order of arrival, and an event leaves the buffer only when it is settled: only then do its slots
return. To be woken at a full batch the worker marks the free slot that the last event of the batch will take; whoever
takes a marked slot wakes it, so that the call site need not look at the length of the queue.

`accepted` is not counted but derived (taken + still queued), which makes the identity
`accepted = written + duplicates + dead_lettered + pending` true at every moment by construction.

The lock here guards only the worker's side of the account. It is re-entrant and never held across I/O.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass


class AtomicCounter:
    """Counts up from any thread or signal handler without a lock: `next` on `itertools.count` is one step in C."""

    def __init__(self) -> None:
        self.ticks = itertools.count()
        self._reads = 0
        self._lock = threading.RLock()

    def add(self) -> None:
        """Count one. Where every nanosecond counts, `next(counter.ticks)` does the same."""
        next(self.ticks)

    @property
    def value(self) -> int:
        """How often `add` was called. Reading takes a tick of its own, which is subtracted."""
        with self._lock:
            self._reads += 1
            return next(self.ticks) - self._reads + 1


@dataclass(frozen=True, slots=True)
class Account:
    """Where the accepted events are, at one moment."""

    written: int
    duplicates: int
    dead_lettered: int
    pending: int

    @property
    def accepted(self) -> int:
        """All of them."""
        return self.written + self.duplicates + self.dead_lettered + self.pending


class Buffer:
    """Encoded events, bounded by count and by bytes.

    The call site uses `take_slot`, which returns whether to wake the worker, and `append` directly: a method of ours
    around them would cost a tenth of the whole hot path.
    """

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self.capacity = capacity
        self.slot_bytes = max(1, capacity_bytes // capacity)
        # Marked from the start: the slot of the first event, which starts the worker.
        self._slots = [False] * (capacity - 1) + [True]
        self._marked = 0
        self.queued: deque[bytes] = deque()
        self.take_slot = self._slots.pop
        self.append = self.queued.append
        self._in_flight: dict[int, bytes] = {}
        self._keys = itertools.count()
        self._taken = 0
        self._written = 0
        self._duplicates = 0
        self._dead_lettered = 0
        self._withdrawn: int | None = None  # slots that `refuse` has taken out of use; None while it is open
        self._lock = threading.RLock()

    def refuse(self) -> None:
        """Let nothing in any more: every slot that is free now, or becomes free, is taken out of use."""
        with self._lock:
            self._withdrawn = self._withdrawn or 0
            while self._slots:
                try:
                    self._slots.pop()
                except IndexError:
                    break
                self._withdrawn += 1

    @property
    def stragglers(self) -> int:
        """After `refuse`: slots of callers that were let in and have not put their event down yet."""
        with self._lock:
            held = sum(map(self._slots_of, self.queued)) + sum(map(self._slots_of, self._in_flight.values()))
            return self.capacity - (self._withdrawn or 0) - held

    def take_slots_for(self, payload: bytes) -> bool | None:
        """Take all the slots that a payload of any size needs; returns whether to wake the worker, None if refused."""
        taken: list[bool] = []
        try:
            for _ in range(self._slots_of(payload)):
                taken.append(self._slots.pop())  # noqa: PERF401 (what was taken until then has to be given back)
        except IndexError:
            with self._lock:
                self._give_back(len(taken))
            return None
        return any(taken)

    def take(self, limit: int) -> dict[int, bytes]:
        """The next events in order, at most `limit`, under keys for `settle`; first those that were taken and never
        settled because the worker died.
        """
        with self._lock:
            if not self._in_flight:
                for _ in range(min(limit, len(self.queued))):
                    self._in_flight[next(self._keys)] = self.queued.popleft()
                self._taken += len(self._in_flight)
            return dict(self._in_flight)

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        """Release events whose fate is decided; the three counts say what it was and add up to their number."""
        with self._lock:
            payloads = [self._in_flight.pop(key) for key in keys]
            if written + duplicates + dead_lettered != len(payloads):
                raise ValueError(f"{len(payloads)} events settled as {written} + {duplicates} + {dead_lettered}")
            self._written += written
            self._duplicates += duplicates
            self._dead_lettered += dead_lettered
            self._give_back(sum(map(self._slots_of, payloads)))

    def account(self) -> Account:
        """A consistent snapshot."""
        with self._lock:
            settled = self._written + self._duplicates + self._dead_lettered
            pending = self._taken + len(self.queued) - settled
            return Account(self._written, self._duplicates, self._dead_lettered, pending)

    @property
    def settled_through(self) -> int:
        """How many events, counted from the first accepted, are all settled: order of arrival, whole batches."""
        with self._lock:
            settled = self._written + self._duplicates + self._dead_lettered
            return settled if not self._in_flight else self._batch_start

    @property
    def _batch_start(self) -> int:
        return next(iter(self._in_flight))

    def arm(self, length: int) -> None:
        """Have the call site wake the worker when about so many are queued; other threads may get in between."""
        self._marked = max(0, len(self._slots) - max(1, length - len(self.queued)))
        self._mark(wake=True)

    def disarm(self) -> None:
        """The worker is awake."""
        self._mark(wake=False)

    def _mark(self, *, wake: bool) -> None:
        with contextlib.suppress(IndexError):  # the slot is taken already
            self._slots[self._marked] = wake

    def _give_back(self, slots: int) -> None:
        if self._withdrawn is None:
            self._slots.extend([False] * slots)
        else:
            self._withdrawn += slots

    def _slots_of(self, payload: bytes) -> int:
        return -(-len(payload) // self.slot_bytes)


class Drops:
    """Events that were not accepted, counted by reason."""

    REASONS = ("queue_full", "too_large", "unencodable", "closed", "disabled")

    def __init__(self) -> None:
        self._counters = {reason: AtomicCounter() for reason in self.REASONS}

    def add(self, reason: str) -> None:
        """Count one. Safe from any thread and signal handler."""
        self._counters[reason].add()

    def counter(self, reason: str) -> AtomicCounter:
        """The counter of a reason."""
        return self._counters[reason]

    def snapshot(self) -> Counter[str]:
        """The counts that are not zero; any other reason reads as 0."""
        return Counter({reason: value for reason, counter in self._counters.items() if (value := counter.value)})
