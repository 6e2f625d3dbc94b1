"""The writing end of a segment: any thread and any signal handler may append to it, without a lock.

A record takes its place in one step in C (`medium`). Neither another thread nor a signal handler gets in between, as
long as the interpreter has its lock; on a build without it the writer has no journal. A record that does not fit is
refused as a whole. So what is in the segment is the truth about what was accepted: it is counted by stepping from
record to record, not by a counter that an exception of a signal handler could leave behind.

The segments of a journal are a chain that several callers may try to prolong at once. A segment is sealed when it is
full or when recording ends; it then takes nothing more. Only a sealed segment gets a next one, and it always has one
from then on: that one, or one behind it when that one is settled and let go of.
"""

from __future__ import annotations

import contextlib
import itertools

from autopack.telemetry.journal.format import FIRST_RECORD
from autopack.telemetry.journal.medium import OpenBytes
from autopack.telemetry.journal.segment import Segment, place_of

_NEVER = 1 << 62


class Appender:
    """Where a segment of this process is written. One without a segment begins a chain, and has no room.

    An event takes one of `sequences` and then goes in by `write`, which raises ValueError where there is no room: the
    segment is full, sealed or closed. An event whose sequence is at least `wake_at` is to wake the worker; the first of
    each segment does.
    """

    def __init__(self, segment: Segment | None = None, previous: Appender | None = None) -> None:
        self.segment = segment
        self.wake_at = 0
        self._first_sequence = 0 if segment is None else segment.header.first_sequence
        self.sequences = itertools.count(self._first_sequence)
        self.write = _has_no_room if segment is None else segment.bytes.write
        self._next: dict[None, Appender] = {}
        # The one before it in the chain, and how many events those held that were let go of in between: swapped in one
        # step, since other threads count.
        self._before: tuple[Appender | None, int] = previous, 0
        self.number: int = 0 if previous is None else previous.number + 1
        self._counted = (FIRST_RECORD, 0)
        self._final_count = 0 if segment is None else None
        if segment is not None:
            segment.number = self.number

    def seal(self) -> None:
        """Take no more records."""
        with contextlib.suppress(ValueError):  # closed, which is as good
            if self.segment is not None:
                self.segment.bytes.seal()

    @property
    def is_half_full(self) -> bool:
        """Whether it is time to make the next segment."""
        return self.segment is not None and self.segment.bytes.tell() >= self.segment.size_bytes // 2

    @property
    def end(self) -> int:
        """Up to where it is written, in the chain; where it takes nothing more, up to the end of the segment."""
        if self.segment is None:
            return 0
        try:
            return place_of(self.number, self.segment.bytes.tell())
        except ValueError:  # closed
            return place_of(self.number, self.segment.size_bytes)

    @property
    def is_sealed(self) -> bool:
        """Whether it takes no more records."""
        return self.segment is None or self.end == place_of(self.number, self.segment.size_bytes)

    @property
    def read_through(self) -> int | None:
        """Up to where it is read, in the chain; None where it is read to its end, and another one follows."""
        has_next, is_sealed = self.next is not None, self.is_sealed  # asked for first: more may come until then
        if self.segment is None:
            return None if has_next else 0
        try:
            if self.segment.has_unread:
                return place_of(self.number, self.segment.read_offset)
        except ValueError:  # another thread has closed the segment since: it is settled
            return None
        if has_next:
            return None
        return place_of(self.number, self.segment.size_bytes if is_sealed else self.segment.read_offset)

    @property
    def next(self) -> Appender | None:
        """The appender that goes on where this one ends."""
        return self._next.get(None)

    def link_next(self, segment: Segment) -> Appender:
        """Go on in `segment`, unless another caller was faster; returns the next appender. For one that is sealed."""
        return self._next.setdefault(None, Appender(segment, self))

    @property
    def last(self) -> Appender:
        """The end of the chain."""
        appender = self
        while (following := appender.next) is not None:
            appender = following
        return appender

    def freeze_count(self) -> None:
        """Seal it, and count for the last time: before its segment is closed."""
        self.seal()
        self._final_count = self.count

    @property
    def count(self) -> int:
        """How many events are in the segment."""
        while self._final_count is None:
            is_sealed = self.next is not None
            offset, number = self._counted
            try:
                offset, more = self._bytes.count(offset)
                is_final = is_sealed and not self._bytes.has_unread(offset)
            except ValueError:  # another thread has closed the segment since, and hence frozen its count
                continue
            self._counted = offset, number + more
            if not is_final:
                return number + more
            self._final_count = number + more
        return self._final_count

    @property
    def _bytes(self) -> OpenBytes:
        assert self.segment is not None  # noqa: S101 (for the type checker: one without a segment is counted)
        return self.segment.bytes

    @property
    def start(self) -> int:
        """How many events are in the chain before this segment."""
        return self._events_since(None)

    def _events_since(self, earlier: Appender | None) -> int:
        """How many events are in the chain between an earlier one and this; None: from its begin on."""
        previous, number = self._before
        while previous is not None and previous is not earlier:
            number += previous.count
            previous, let_go = previous._before  # noqa: SLF001 (one of these, too)
            number += let_go
        return number

    def detach_previous(self) -> None:
        """Keep the number of the events before this segment, and let go of the appenders that hold them."""
        self._before = None, self.start

    def skip_next(self) -> None:
        """Let go of the next one, whose count is final, and go on with the one after it, if there is one.

        A caller that still holds the one that was let go of finds its way from there, and counts right.
        """
        if (skipped := self.next) is not None and (following := skipped.next) is not None:
            self._next[None] = following
            following._before = self, following._events_since(self)  # noqa: SLF001 (one of these, too)

    def set_wake_threshold(self, events: int) -> None:
        """Wake the worker once about `events` more records have been appended. Approximate: appends under way are not
        counted. 0: each append wakes it, also one that is under way.
        """
        self.wake_at = self._first_sequence + self.count + events - 1 if events else 0

    def clear_wake_threshold(self) -> None:
        """The worker is awake."""
        self.wake_at = _NEVER


def _has_no_room(_record: bytes) -> int:
    raise ValueError("there is no segment")
