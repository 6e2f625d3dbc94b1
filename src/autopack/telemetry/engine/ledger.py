"""The account of accepted events on the worker's side: which are in flight, and what became of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec


class Account(msgspec.Struct, frozen=True):
    """Where the accepted events are at one moment; the last three are the journal's."""

    written: int
    duplicates: int
    dead_lettered: int
    pending: int
    recovered: int = 0
    damaged: int = 0
    inline_segments: int = 0

    @property
    def accepted(self) -> int:
        """All of them, including those of dead processes that this one has recovered."""
        return self.written + self.duplicates + self.dead_lettered + self.pending


class Ledger:
    """Events that were taken from a queue, in order, under keys that count up."""

    def __init__(self) -> None:
        self.in_flight: dict[int, bytes] = {}
        self.next_key = 0
        self._requeued: deque[int] = deque()
        self._written = 0
        self._duplicates = 0
        self._dead_lettered = 0

    def enter(self, payloads: Sequence[bytes]) -> dict[int, bytes]:
        """More events are in flight, in this order; returns them under their keys."""
        entered = dict(enumerate(payloads, self.next_key))
        self.in_flight.update(entered)
        self.next_key += len(entered)
        return entered

    def requeue_in_flight(self) -> None:
        """A new worker begins: what is in flight is to be taken again."""
        self._requeued = deque(self.in_flight)

    def take_requeued(self, limit: int) -> dict[int, bytes]:
        """At most `limit` of those, oldest first."""
        keys = [self._requeued.popleft() for _ in range(min(limit, len(self._requeued)))]
        return {key: self.in_flight[key] for key in keys}

    def settle(self, keys: Iterable[int], *, written: int, duplicates: int, dead_lettered: int) -> list[bytes]:
        """The fate of these events is decided; the three counts add up to their number. Returns their payloads."""
        payloads = [self.in_flight.pop(key) for key in keys]
        if written + duplicates + dead_lettered != len(payloads):
            raise ValueError(f"{len(payloads)} events settled as {written} + {duplicates} + {dead_lettered}")
        self._written += written
        self._duplicates += duplicates
        self._dead_lettered += dead_lettered
        return payloads

    def account(self, waiting: int) -> Account:
        """The snapshot, given how many accepted events were not taken yet."""
        return Account(self._written, self._duplicates, self._dead_lettered, len(self.in_flight) + waiting)

    @property
    def settled_through(self) -> int:
        """The key of the first event that is not settled: all before it are."""
        return next(iter(self.in_flight), self.next_key)
