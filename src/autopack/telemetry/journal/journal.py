"""The journal: accepted events in memory-mapped files, which outlive the process.

*Theory of operation.* `append` copies an encoded event into the current segment, without a lock and without a system
call, and then it is accepted. The kernel holds the pages: SIGKILL, OOM or a crash of the process do not touch them (a
power loss of the machine may). The worker reads the same segments in order, so the journal is the queue: while the
database is away events stay in it, as many as fit, and memory stays flat. After a commit the worker moves the
acknowledged mark forward, and deletes a segment that is settled to its end. Nothing is read from a file that this
process does not own.

*Ownership.* A segment belongs to whoever holds its `flock`. The kernel gives the lock up when the process is gone, and
the next writer with the same destination takes the segment over: `recover` reads what was not acknowledged and puts it
before everything else. Two may try; one gets the lock. Sending an event twice is harmless, since its id is in it.

*Re-entrancy.* The copy is one step (see `appender`), so a signal handler or `__del__` may record anywhere in `append`.
Who finds no room goes on in the next segment, and makes it if the worker has not in time; that is I/O, and counted
(`inline_segments`). Another thread that needs it waits for that, a moment; if it does not come it makes one too, and
the first that is in place is used by all. A signal handler that finds no room while its own thread is at that puts its
event aside, in memory, and the call it interrupted journals it.

*Fork.* The child closes file and map of every segment and touches nothing in them: the lock is the parent's, and a
child that kept the file open would keep the lock alive when the parent is dead.

*Bounds.* Segments of all writers in the folder together hold at most `journal_bytes`; beyond that the newest event is
refused as `journal_full`.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from zlib import adler32

import msgspec

from autopack.errors import QueueRejected
from autopack.telemetry import log
from autopack.telemetry.counters import AtomicCounter
from autopack.telemetry.engine.control import politely
from autopack.telemetry.engine.ledger import Account, Ledger
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal.appender import Appender
from autopack.telemetry.journal.recovery import Orphan, orphans_in, remove_unfinished
from autopack.telemetry.journal.segment import FIRST_RECORD, RECORD_OVERHEAD_BYTES, Segment
from autopack.telemetry.journal.segment_maker import SegmentMaker

_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """A `Buffer` on disk. Raises OSError when the folder cannot be used at all: then there is no journal."""

    def __init__(self, folder: Path, fingerprint: bytes, settings: Settings, wake: Callable[[], None]) -> None:
        self.folder = folder
        smallest = min(settings.journal_first_segment_bytes, settings.journal_segment_bytes)
        self.slot_bytes = min(settings.max_event_bytes, smallest - FIRST_RECORD - RECORD_OVERHEAD_BYTES)
        self.inline_segments = AtomicCounter()
        self.damaged = 0
        self._wake = wake
        self._fingerprint = fingerprint
        self._maker = SegmentMaker(folder, fingerprint, settings)
        self._making = threading.RLock()
        self._inside: set[int] = set()  # the threads that look for the next segment
        self._aside: deque[bytes] = deque()
        self._account_lock = threading.RLock()  # for consistent snapshots: only the worker reads and settles
        self._taken_here = 0
        self._closed = False
        self._ledger = Ledger()
        self._places: dict[int, tuple[Segment, int]] = {}
        self._recovered = 0
        self._recovery_begun = False
        self._orphans: deque[Orphan] = deque()
        self._left_behind = 0  # events of orphans that were not read before `close` gave them back
        # No segment is made before the first event: most forked children never record one.
        self._appender = Appender()  # or one before it, for a moment: who finds no room there follows the chain
        self._oldest = self._appender  # the first that is not settled to its end
        self._ready: list[Segment] = []  # the next, made by the worker

    # The call site.

    def take_slot(self) -> bool:
        """Room is looked for in `append`, which also wakes the worker."""
        return False

    def append(self, payload: bytes) -> None:
        """Accept an event: when this returns it outlives the process. Raises QueueRejected."""
        appender = self._appender
        sequence = next(appender.sequences)
        try:
            # In one copy: a crash between two would leave what looks like a damaged record.
            # This is `_record`, written out.
            appender.write(_encode((sequence << 32 | adler32(payload, sequence), payload)))
        except (ValueError, OverflowError):  # no room, or no sequence left, after very many that were refused
            self._append_after(appender, payload)
            return
        if sequence >= appender.wake_at:
            self._wake()

    def offer(self, payload: bytes) -> bool:
        """See `Buffer.offer`."""
        if len(payload) > self.slot_bytes:
            raise QueueRejected("too_large")
        self.append(payload)
        return False

    def _append_after(self, full: Appender, payload: bytes) -> None:
        """Append behind one that takes nothing any more. Raises QueueRejected."""
        me = threading.get_ident()
        if me in self._inside:
            self._put_aside(payload)
            return
        try:
            self._inside.add(me)
            with politely(self._making):
                self._appender = self._after(full)
        finally:
            self._inside.discard(me)
        self.append(payload)
        self._append_what_is_aside()

    def _put_aside(self, payload: bytes) -> None:
        """At most so much that a new segment has room for all of it."""
        if self._closed:
            raise QueueRejected("closed")
        waiting = sum(len(other) + RECORD_OVERHEAD_BYTES for other in self._aside)
        if waiting + len(payload) > self.slot_bytes:
            raise QueueRejected("journal_full")
        self._aside.append(payload)

    def _append_what_is_aside(self) -> None:
        """For those whom no call of their own thread is doing it for: one that interrupted that would do it twice."""
        me = threading.get_ident()
        if not self._aside or me in self._inside:
            return
        try:
            self._inside.add(me)
            with politely(self._making) as held, contextlib.suppress(QueueRejected):
                last = self._appender.last
                while held and not self._take_in(last):
                    last = self._after(last)
        finally:
            self._inside.discard(me)

    def _take_in(self, appender: Appender) -> bool:
        """Append what is aside; False if not all of it found room.

        An event leaves the side deque only when it is in a segment: there twice is better than nowhere.
        """
        with contextlib.suppress(ValueError), politely(self._account_lock) as held:
            while held and self._aside:
                appender.write(_record(self._aside[0], next(appender.sequences)))
                self._aside.popleft()
            return True
        return False

    def _after(self, full: Appender) -> Appender:
        """Who goes on behind one that takes nothing any more. Raises QueueRejected."""
        if full.successor is None:
            if self._closed:
                raise QueueRejected("closed")
            # At once: no event goes in behind refused ones, whose sequences would lead out of the segment's range.
            full.seal()
            segment = self._next(full)
            successor = full.succeed(segment)
            if successor.segment is segment:
                self._take_in(successor)  # also if a handler that interrupted this has recorded, and then closed
            else:
                self._ready.append(segment)  # another thread was faster
        if self._closed:  # meanwhile
            self._seal()
            raise QueueRejected("closed")
        return full.last

    def _next(self, full: Appender) -> Segment:
        """The segment that the worker has made, or else one that is made here and now. Raises QueueRejected."""
        with contextlib.suppress(IndexError):
            return self._ready.pop()
        made = self._maker.make(first=full.segment is None)
        self.inline_segments.add()
        return made

    # The worker.

    @property
    def kept_in(self) -> Path | None:
        """See `Buffer.kept_in`."""
        return self.folder

    def recover(self) -> None:
        """Take over what dead writers left for this destination, and put it before everything else."""
        if self._recovery_begun:
            return
        self._recovery_begun = True
        remove_unfinished(self.folder)
        orphans = list(orphans_in(self.folder, self._fingerprint))
        with politely(self._account_lock):
            self._orphans.extend(orphans)
            self._recovered = sum(orphan.events for orphan in orphans)
            self.damaged = sum(orphan.damaged for orphan in orphans)
            # Their keys are negative, so that `settled_through` counts our own only when theirs are settled.
            self._ledger.next_key = -self._recovered
        if self._recovered or self.damaged:
            log.warning(
                "Recovered %d event(s) of earlier processes from %d journal segment(s), %d damaged",
                self._recovered,
                len(orphans),
                self.damaged,
            )
        self._finish_segments()

    def take(self, limit: int) -> Mapping[int, bytes]:
        """See `Buffer.take`."""
        self._append_what_is_aside()
        with politely(self._account_lock):
            if again := self._ledger.again(limit):
                return again
            batch: dict[int, bytes] = {}
            for segment, records in self._unread(limit):
                entered = self._ledger.enter([payload for _, payload in records])
                self._places.update(zip(entered, [(segment, start) for start, _ in records], strict=True))
                batch |= entered
            return batch

    def rewind(self) -> None:
        """See `Buffer.rewind`."""
        self._ledger.rewind()

    def _unread(self, limit: int) -> Iterator[tuple[Segment, list[tuple[int, bytes]]]]:
        for orphan in self._orphans:
            records = orphan.next_records(limit)
            limit -= len(records)
            yield orphan.segment, records
        # Those that are there now: all but the last are sealed, so none of their events comes after one of the next.
        for _, segment in self._own():
            records = segment.next_records(limit)
            limit -= len(records)
            self._taken_here += len(records)
            yield segment, records

    def _own(self) -> list[tuple[Appender, Segment]]:
        """Our segments that are not settled to their end, oldest first."""
        own: list[tuple[Appender, Segment]] = []
        appender: Appender | None = self._oldest
        while appender is not None:
            if appender.segment is not None:
                own.append((appender, appender.segment))
            appender = appender.successor
        return own

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        """See `Buffer.settle`."""
        with politely(self._account_lock):
            keys = list(keys)
            self._ledger.settle(keys, written=written, duplicates=duplicates, dead_lettered=dead_lettered)
            for key in keys:
                del self._places[key]
        self._finish_segments()

    def _finish_segments(self) -> None:
        """Move the acknowledged marks up to the first event that is not settled; delete what lies before it."""
        while self._orphans:
            if not (self._acknowledge(self._orphans[0].segment) and self._orphans[0].exhausted):
                return
            _try_to(self._orphans.popleft().dispose)
        # Asked for a successor first: from then on nothing comes into a segment any more.
        while (successor := self._oldest.successor) is not None:
            segment = self._oldest.segment
            if segment is not None and (not self._acknowledge(segment) or segment.has_unread):
                return
            self._oldest.finish()
            successor.let_go()
            self._oldest = successor
            if segment is not None:
                _try_to(segment.remove)
        if self._oldest.segment is not None:
            self._acknowledge(self._oldest.segment)

    def _acknowledge(self, segment: Segment) -> bool:
        """Move the mark of a segment; returns whether all that was read of it is settled."""
        unsettled, start = next(iter(self._places.values()), (None, 0))
        segment.acknowledge(start if segment is unsettled else segment.read_offset)
        return segment is not unsettled

    def tend(self) -> None:
        """Make the next segment before the call site needs it, and leave one that somebody has deleted."""
        appender = self._appender.last
        if appender.segment is None or self._closed:
            return
        if not appender.segment.is_in_place():
            appender.seal()
            self._leave_ready()
        if not self._ready and appender.is_half_full:
            with contextlib.suppress(QueueRejected):
                self._ready.append(self._maker.make(first=False))

    def _leave_ready(self) -> None:
        """The same for those that nobody has written to yet."""
        while self._ready:
            with contextlib.suppress(IndexError):  # the call site was faster
                self._ready.pop().release()

    @property
    def backlog(self) -> int:
        """See `Buffer.backlog`. What is aside cannot be taken yet."""
        left = sum(orphan.events_left for orphan in self._orphans) + self._left_behind
        taken = self._taken_here  # first: more may be taken meanwhile
        return left + self._appended - taken

    @property
    def _appended(self) -> int:
        last = self._appender.last
        return last.start + last.count

    def account(self) -> Account:
        """See `Buffer.account`."""
        with politely(self._account_lock):
            account = self._ledger.account(self.backlog + len(self._aside))
        return msgspec.structs.replace(
            account, recovered=self._recovered, damaged=self.damaged, inline_segments=self.inline_segments.value
        )

    @property
    def accepted_here(self) -> int:
        """See `Buffer.accepted_here`."""
        with politely(self._account_lock):
            return self._appended + len(self._aside)

    @property
    def settled_through(self) -> int:
        """See `Buffer.settled_through`."""
        with politely(self._account_lock):
            return self._ledger.settled_through

    def arm(self, length: int) -> None:
        """See `Buffer.arm`."""
        self._appender.last.arm(max(1, length - self.backlog))

    def disarm(self) -> None:
        """See `Buffer.disarm`."""
        self._appender.last.disarm()

    # The end.

    def refuse(self) -> None:
        """See `Buffer.refuse`."""
        self._closed = True
        self._seal()

    def _seal(self) -> None:
        self._appender.last.seal()

    @property
    def has_stragglers(self) -> bool:
        """None: an event is in, or its caller will find every segment sealed."""
        return False

    def close(self) -> None:
        """Delete what is settled, and leave the rest to the next writer with this destination."""
        self.refuse()
        with politely(self._making):
            self._close_segments(settled=not self.account().pending)

    def _close_segments(self, *, settled: bool) -> None:
        for appender, segment in self._own():
            appender.finish()
            if settled and not segment.has_unread:
                _try_to(segment.remove)
            else:
                segment.release()
        while self._ready:
            _try_to(self._ready.pop().remove)
        for orphan in self._orphans:
            orphan.segment.release()
            self._left_behind += orphan.events_left
        self._oldest = Appender()
        self._orphans.clear()

    def hold(self, timeout_s: float) -> bool:
        """See `Buffer.hold`: a child that inherits a segment in the making would hold its lock, and not know it."""
        return self._making.acquire(timeout=timeout_s)

    def go_on(self) -> None:
        """See `Buffer.go_on`."""
        with contextlib.suppress(RuntimeError):  # it could not be had in time
            self._making.release()

    def forget(self) -> None:
        """See `Buffer.forget`: close file and map of every segment; the locks stay the parent's."""
        for appender, segment in self._own():
            appender.finish()
            segment.release()
        for segment in [*self._ready, *(orphan.segment for orphan in self._orphans)]:
            segment.release()


def _record(payload: bytes, sequence: int) -> bytes:
    return _encode((sequence << 32 | adler32(payload, sequence), payload))


def _try_to(dispose: Callable[[], object]) -> None:
    """Delete or rename a file that is settled. If that fails, it is found again later and nothing in it is sent."""
    try:
        dispose()
    except OSError as exc:
        log.warning("A settled journal segment cannot be removed: %s", exc.strerror)


def fingerprint_of(identity: str) -> bytes:
    """What a segment says of its destination: enough to tell it from others, nothing to read in it."""
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()
