"""Counters that any thread and any signal handler may add to without a lock.

`next` on `itertools.count` is one step in C under the GIL. On a build without the GIL it is a compare-and-exchange, as
long as the number fits into 63 bits: each number is still taken once (`tests/telemetry/free_threading.py`, on 3.13t).
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter

from autopack._util.forks import in_child


def has_gil() -> bool:
    """Whether one thread at a time runs Python. The GIL can be switched on while a process runs, but never off."""
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    return is_enabled is None or bool(is_enabled())


class AtomicCounter:
    """Counts up: `next` on `itertools.count` is one step in C."""

    def __init__(self, start: int = 0) -> None:
        self.ticks = itertools.count(start)

    def add(self) -> None:
        """Count one. Where every nanosecond counts, `next(counter.ticks)` does the same."""
        next(self.ticks)

    @property
    def value(self) -> int:
        """Where it stands: its start, and how often it was added to."""
        # `count(7)`: its documented form is the one way to read it in one step and without taking a number.
        return int(repr(self.ticks)[len("count(") : -1])


class Drops:
    """Events that were not accepted, counted by reason."""

    REASONS = ("queue_full", "journal_full", "too_large", "unencodable", "closed", "disabled")

    def __init__(self) -> None:
        self._counters = {reason: AtomicCounter() for reason in self.REASONS}

    def add(self, reason: str) -> None:
        """Count one."""
        self._counters[reason].add()

    def counter(self, reason: str) -> AtomicCounter:
        """The counter of a reason."""
        return self._counters[reason]

    def snapshot(self) -> Counter[str]:
        """The counts that are not zero; any other reason reads as 0."""
        return Counter({reason: value for reason, counter in self._counters.items() if (value := counter.value)})


class ReasonCounters:
    """Counts by reasons that come up as they come, at most 100 of them; the rest count as `other`."""

    MOST_REASONS = 100

    def __init__(self) -> None:
        self._counters: dict[str, AtomicCounter] = {}

    def add(self, reason: str) -> None:
        """Count one."""
        counter = self._counters.get(reason)
        if counter is None:
            known = reason if len(self._counters) < self.MOST_REASONS else "other"
            counter = self._counters.setdefault(known, AtomicCounter())
        counter.add()

    def snapshot(self) -> Counter[str]:
        """The counts; any other reason reads as 0."""
        return Counter({reason: counter.value for reason, counter in self._counters.copy().items()})

    def clear(self) -> None:
        """Begin at zero again."""
        self._counters = {}


# Of the whole process: calls that an instrumented client, a span or a callback saw and that became no event, by reason;
# and calls that were made outside a phase, recorded or not.
not_recorded = ReasonCounters()
unattributed_calls = AtomicCounter()


def _begin_at_zero() -> None:
    not_recorded.clear()
    unattributed_calls.ticks = itertools.count()


in_child(_begin_at_zero)
