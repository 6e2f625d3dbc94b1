"""The journal of one writer: a chain of segments, appended to by any thread, read and acknowledged by the worker.

Its theory of operation, its invariants and its bytes stand in `autopack.telemetry.journal`. It knows events as bytes
and where they lie as `Position`. Which of them are in flight, and what became of them, the queue knows
(`autopack.telemetry.engine.journal_queue`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from zlib import adler32

from autopack._util import os_threads
from autopack.errors import QueueRejected, SegmentWriteError
from autopack.telemetry.counters import AtomicCounter
from autopack.telemetry.journal.appender import Appender
from autopack.telemetry.journal.format import (
    FIRST_RECORD,
    LEAST_OVERHEAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    Append,
    encode,
    pack_record,
)
from autopack.telemetry.journal.recovery import try_to
from autopack.telemetry.journal.segment import Position, Segment, place_of
from autopack.telemetry.journal.segment_maker import JournalSizes, SegmentMaker
from autopack.telemetry.lifecycle import best_effort


class Journal:
    """A write-ahead log. A segment that cannot be made now is tried again at the events that come.

    No segment is made before the first event: most forked children never record one.
    """

    def __init__(self, folder: Path, fingerprint: bytes, sizes: JournalSizes, append: Append = "auto") -> None:
        self.folder = folder
        self.max_payload_bytes = sizes.max_payload
        self.inline_segments = AtomicCounter()
        self._maker = SegmentMaker(folder, fingerprint, sizes, append)
        self._making = os_threads.RLock()
        self._inside: set[int] = set()  # the threads that look for the next segment
        self._reentrant_overflow: deque[bytes] = deque()
        self._counting = os_threads.RLock()  # for consistent counts while what overflowed is appended
        self._closed = False
        # Or, for a short time, one before it: a caller that finds no room there follows the chain.
        self._appender = Appender()
        self._oldest = self._appender  # the first that is not settled to its end
        self._ready: list[Segment] = []  # the next one, made by the worker
        self._read_at_end: int | None = None  # once it is closed

    # The call site.

    def append(self, payload: bytes) -> bool:
        """Accept an event of at most `max_payload_bytes`: when this returns it outlives the process.

        Returns whether to wake the worker. Raises QueueRejected.
        """
        appender = self._appender
        sequence = next(appender.sequences)
        try:
            # This is `pack_record`, written out.
            appender.write(encode((sequence << 32 | adler32(payload, sequence), payload)))
        except (ValueError, OverflowError):  # no room, or no sequence left, after very many that were refused
            return self._append_after(appender, payload)
        except SegmentWriteError as exc:
            self._maker.pause(str(exc))
            raise QueueRejected("journal_full") from exc
        return sequence >= appender.wake_at

    def _append_after(self, full: Appender, payload: bytes) -> bool:
        """Append behind one that takes nothing any more. Raises QueueRejected."""
        thread = os_threads.get_ident()
        if thread in self._inside:
            self._defer(payload)
            return False
        try:
            self._inside.add(thread)
            with best_effort(self._making):
                self._appender = self._after(full, len(payload))
        finally:
            self._inside.discard(thread)
        wake = self.append(payload)
        self.append_deferred()
        return wake

    def _defer(self, payload: bytes) -> None:
        """Keep an event in memory until the call that this one interrupts appends it. Raises QueueRejected.

        At most as many bytes as a new segment has room for.
        """
        if self._closed:
            raise QueueRejected("closed")
        waiting = sum(len(other) + RECORD_OVERHEAD_BYTES for other in self._reentrant_overflow)
        if waiting + len(payload) > self.max_payload_bytes:
            raise QueueRejected("journal_full")
        self._reentrant_overflow.append(payload)

    def append_deferred(self) -> None:
        """Append what overflowed, unless a call of this very thread is doing that: it would be appended twice."""
        thread = os_threads.get_ident()
        if not self._reentrant_overflow or thread in self._inside:
            return
        try:
            self._inside.add(thread)
            with best_effort(self._making) as held, contextlib.suppress(QueueRejected):
                last = self._appender.last
                while held and not self._append_deferred_to(last):
                    last = self._after(last)
        finally:
            self._inside.discard(thread)

    def _append_deferred_to(self, appender: Appender) -> bool:
        """Append what overflowed to one segment; False if not all of it found room.

        An event leaves the overflow only when it is in a segment: there twice is better than nowhere.
        """
        with contextlib.suppress(ValueError, SegmentWriteError), best_effort(self._counting) as held:
            while held and self._reentrant_overflow:
                appender.write(pack_record(self._reentrant_overflow[0], next(appender.sequences)))
                self._reentrant_overflow.popleft()
            return True
        return False

    def _after(self, full: Appender, payload_bytes: int = 0) -> Appender:
        """The appender that goes on behind one that takes nothing any more. Raises QueueRejected.

        If it has to be made it has room for an event of that size.
        """
        if full.next is None:
            if self._closed:
                raise QueueRejected("closed")
            # At once: no event goes in behind refused ones, whose sequences would lead out of the segment's range.
            full.seal()
            segment = self._next_segment(payload_bytes)
            following = full.link_next(segment)
            if following.segment is segment:
                self._append_deferred_to(following)  # also if a handler that interrupted this recorded, and then closed
            else:
                self._ready.append(segment)  # another thread was faster
        if self._closed:  # meanwhile
            self._seal()
            raise QueueRejected("closed")
        return full.last

    def _next_segment(self, payload_bytes: int) -> Segment:
        """The segment that the worker has made, or else one that is made here and now. Raises QueueRejected."""
        with contextlib.suppress(IndexError):
            segment = self._ready.pop()
            if segment.has_room_for(payload_bytes):
                return segment
            self._ready.append(segment)  # for later: events as large as this one are rare
        made = self._maker.make(payload_bytes)
        self.inline_segments.add()
        return made

    # The worker.

    def read(self, limit: int) -> Iterator[list[tuple[Position, bytes]]]:
        """At most `limit` records that were not read yet, in order: one list for each segment."""
        # The segments that are there now: all but the last are sealed, so no event of one comes after one of the next.
        for _, segment in self._unsettled():
            records = segment.next_records(limit)
            limit -= len(records)
            has_unread = segment.has_unread
            yield records
            if has_unread:  # a write in progress, or the limit: what is behind comes later
                return

    def _unsettled(self) -> list[tuple[Appender, Segment]]:
        """The segments that are not settled to their end, oldest first."""
        found: list[tuple[Appender, Segment]] = []
        appender: Appender | None = self._oldest
        while appender is not None:
            if appender.segment is not None:
                found.append((appender, appender.segment))
            appender = appender.next
        return found

    def acknowledge(self, first_unsettled: Position | None) -> None:
        """Some of what was read is settled, all of it before a position: move the marks, remove the files in which
        nothing is left, wherever they stand. None: everything that was read is settled.
        """
        # Asked for a next one first: from then on nothing comes into a segment any more.
        while (following := self._oldest.next) is not None:
            segment = self._oldest.segment
            if segment is not None and (not segment.acknowledge_before(first_unsettled) or segment.has_unread):
                self._remove_settled_behind(self._oldest, first_unsettled)
                return
            self._oldest.freeze_count()
            following.detach_previous()
            self._oldest = following
            if segment is not None:
                try_to(segment.remove)
        if self._oldest.segment is not None:
            self._oldest.segment.acknowledge_before(first_unsettled)

    def _remove_settled_behind(self, kept: Appender, first_unsettled: Position | None) -> None:
        """The same for those behind one that stays: one event that cannot be settled pins its own file, not theirs."""
        while (appender := kept.next) is not None and (segment := appender.segment) is not None:
            has_next = appender.next is not None  # asked for first, as above
            is_settled = segment.acknowledge_before(first_unsettled)
            if not has_next or segment.has_unread:  # then nothing behind it was read
                return
            if is_settled:
                appender.freeze_count()
                kept.skip_next()
                try_to(segment.remove)
            else:
                kept = appender

    def maintain(self) -> None:
        """Make the next segment before the call site needs it, and leave one whose file was deleted. May do I/O."""
        appender = self._appender.last
        if appender.segment is None or self._closed:
            return
        if appender.segment.mend() or not appender.segment.is_in_place():
            appender.seal()
            self._leave_ready()
        if not self._ready and appender.is_half_full:
            with contextlib.suppress(QueueRejected):
                self._ready.append(self._maker.make())

    def _leave_ready(self) -> None:
        """The same for those that were not written to yet."""
        while self._ready:
            with contextlib.suppress(IndexError):  # the call site was faster
                self._ready.pop().release()

    @property
    def appended(self) -> int:
        """How many events are, or were, in the segments, and can be read."""
        last = self._appender.last
        return last.start + last.count

    @property
    def accepted(self) -> int:
        """The same, and those that overflowed and cannot be read yet."""
        with best_effort(self._counting):
            return self.appended + len(self._reentrant_overflow)

    @property
    def accepted_through(self) -> int:
        """A place in the chain before which all lies that was accepted; what overflowed will come right behind."""
        with best_effort(self._counting):
            last = self._appender.last
            end, overflow = last.end, list(self._reentrant_overflow)
        if not overflow:
            return end
        waiting = sum(len(payload) + LEAST_OVERHEAD_BYTES for payload in overflow)
        return place_of(last.number + 1, FIRST_RECORD + waiting) if last.is_sealed else end + waiting

    @property
    def read_through(self) -> int:
        """The place in the chain up to which it is read."""
        appender: Appender | None = self._oldest
        while self._read_at_end is None and appender is not None:
            if (place := appender.read_through) is not None:
                return place
            appender = appender.next
        return self._read_at_end or 0

    @property
    def closed(self) -> bool:
        """Whether it accepts nothing more."""
        return self._closed

    @property
    def is_crowded(self) -> bool:
        """Whether, when a segment was last made or asked for, little room was left: what others left should go."""
        return self._maker.crowded

    def clear_crowded(self) -> None:
        """What others left is looked for."""
        self._maker.crowded = False

    def set_wake_threshold(self, events: int) -> None:
        """Have `append` return True once about `events` more records have been appended; 0: each time."""
        self._appender.last.set_wake_threshold(events)

    def clear_wake_threshold(self) -> None:
        """The worker is awake."""
        self._appender.last.clear_wake_threshold()

    # The end.

    def close_to_new(self) -> None:
        """Accept nothing more."""
        self._closed = True
        self._seal()

    def _seal(self) -> None:
        self._appender.last.seal()

    def close(self, *, settled: bool) -> None:
        """Close every segment. settled: whether every event is settled; then delete the files, else leave them."""
        self.close_to_new()
        self._read_at_end = self.read_through
        with best_effort(self._making):
            for appender, segment in self._unsettled():
                appender.freeze_count()
                if settled and not segment.has_unread:
                    try_to(segment.remove)
                else:
                    segment.release()
            while self._ready:
                try_to(self._ready.pop().remove)
            self._oldest = Appender()

    def prepare_fork(self, timeout_s: float) -> bool:
        """Make no segment until the fork is over: a child that inherited one would hold its lock and not know it."""
        return self._making.acquire(timeout=timeout_s)

    def resume_after_fork(self) -> None:
        """The end of `prepare_fork`, in the thread that called it."""
        with contextlib.suppress(RuntimeError):  # it could not be acquired in time
            self._making.release()

    def reset_in_child(self) -> None:
        """Close file and map of every segment; the locks stay the parent's."""
        for appender, segment in self._unsettled():
            appender.freeze_count()
            segment.release(in_child=True)
        for segment in self._ready:
            segment.release(in_child=True)


def fingerprint_of(identity: str) -> bytes:
    """What a segment says of its destination: enough to tell it from others, nothing to read in it."""
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()
