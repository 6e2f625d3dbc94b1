"""The journal: accepted events in memory-mapped files, which outlive the process.

*Theory of operation.* `append` copies an encoded event into the current segment, under a short lock and without a
system call, and only then is it accepted. The kernel holds the pages: SIGKILL, OOM or a crash of the process do not
touch them (a power loss of the machine may). The worker reads the same segments in order, so the journal is the queue:
while the database is away events stay in it, as many as fit, and memory stays flat. After a commit the worker moves the
acknowledged mark forward, and deletes a segment that is settled to its end. Nothing is read from a file that this
process does not own.

*Ownership.* A segment belongs to whoever holds its `flock`. The kernel gives the lock up when the process is gone, and
the next writer with the same destination takes the segment over: `recover` reads what was not acknowledged and puts it
before everything else. Two may try; one gets the lock. Sending an event twice is harmless, since its id is in it.

*Re-entrancy.* A signal handler or `__del__` may record while the same thread is inside `append`. It sees the flag and
puts its event aside; the outer call journals it before it gives up the lock. Any other thread waits for the lock, which
is never held across I/O, but for the making of the next segment when the worker has not made it in time; that is
counted (`inline_segments`).

*Fork.* The child closes file and map of every segment and touches nothing in them: the lock is the parent's, and a
child that kept the file open would keep the lock alive when the parent is dead.

*Bounds.* Segments of all writers in the folder together hold at most `journal_bytes`; beyond that the newest event is
refused as `journal_full`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from zlib import crc32

import msgspec

from autopack.telemetry import log
from autopack.telemetry.buffer import Refused
from autopack.telemetry.control import politely
from autopack.telemetry.counters import AtomicCounter
from autopack.telemetry.ledger import Account, Ledger
from autopack.telemetry.private_files import ensure_private_folder
from autopack.telemetry.recovery import Orphan, orphans_in, remove_unfinished
from autopack.telemetry.segment import (
    FIRST_RECORD,
    FORMAT_VERSION,
    MAX_BYTES,
    RECORD,
    RECORD_BYTES,
    SUFFIX,
    UNFINISHED_SUFFIX,
    Header,
    Segment,
)
from autopack.telemetry.settings import Settings

_NEVER = 1 << 62
_LOCK_PATIENCE_S = 0.1
_FULL_FOR_S = 0.25  # how long a full journal is believed to be full: looking again costs system calls
_pack = RECORD.pack


class Journal:
    """A `Buffer` on disk. Raises OSError when the folder cannot be used at all: then there is no journal."""

    def __init__(self, folder: Path, fingerprint: bytes, settings: Settings, wake: Callable[[], None]) -> None:
        self.folder = folder
        smallest = min(settings.journal_first_segment_bytes, settings.journal_segment_bytes)
        self.slot_bytes = min(settings.max_event_bytes, smallest - FIRST_RECORD - RECORD_BYTES - 8)
        self.inline_segments = AtomicCounter()
        self.damaged = 0
        self._settings = settings
        self._wake = wake
        self._writer_id = os.urandom(16)
        self._fingerprint = fingerprint
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()  # the call site's: the segment that is written
        self._acquire, self._release = self._lock.acquire, self._lock.release
        self._account_lock = threading.RLock()  # for consistent snapshots: only the worker reads and settles
        self._inside = False
        self._draining = False
        self._aside: deque[bytes] = deque()
        self._appended = 0
        self._taken_here = 0
        self._wake_at = 1  # the first event starts the worker
        self._closed = False
        self._full_until_s = 0.0
        self._said_full = False
        self._ledger = Ledger()
        self._places: dict[int, tuple[Segment, int]] = {}
        self._recovered = 0
        self._recovery_begun = False
        self._orphans: deque[Orphan] = deque()
        self._left_behind = 0  # events of orphans that were not read before `close` gave them back
        self._own: deque[Segment] = deque()  # ours that are not settled to their end, oldest first; the last is written
        self._next: Segment | None = None
        self._making_bytes = 0  # of the segment that the call site is making, 0 while it makes none
        # Where `_put` goes on. No segment is made before the first event: most forked children never record one.
        self._segment: Segment | None = None
        self._offset = self._capacity = self._sequence = 0
        _check_folder(folder)

    # The call site.

    def take_slot(self) -> bool:
        """Room is looked for in `append`, which also wakes the worker."""
        return False

    def append(self, payload: bytes) -> None:
        """Accept an event: when this returns it outlives the process. Raises Refused."""
        # Like `with self._lock`, at half its price.
        try:
            self._acquire()
            if self._inside:
                self._put_aside(payload)
                return
            self._inside = True
            try:
                end = self._offset + RECORD_BYTES + len(payload)
                if end > self._capacity:
                    self._roll()
                    end = self._offset + RECORD_BYTES + len(payload)
                sequence = self._sequence
                # In one copy: a crash between two would leave what looks like a damaged record.
                record = _pack(len(payload), crc32(payload, sequence), sequence) + payload
                self._map[self._offset : end] = record
                # From here on it is accepted. An exception of a signal handler before this leaves no trace: the next
                # event overwrites it.
                self._sequence = sequence + 1
                self._offset = (end + 7) & ~7
                self._appended = appended = self._appended + 1
            finally:
                self._inside = False
            if self._aside and not self._draining:
                self._append_what_is_aside()
        finally:
            try:  # noqa: SIM105 (contextlib.suppress costs more than the whole lock)
                self._release()
            except RuntimeError:
                pass  # a signal handler raised while this thread was waiting for the lock
        if appended >= self._wake_at:
            self._wake()

    def offer(self, payload: bytes) -> bool:
        """See `Buffer.offer`."""
        if len(payload) > self.slot_bytes:
            raise Refused("too_large")
        self.append(payload)
        return False

    def _put_aside(self, payload: bytes) -> None:
        """What interrupts `append` in its own thread may only add what surely finds room behind it."""
        waiting = sum(map(len, self._aside)) + len(self._aside) * (RECORD_BYTES + 8)
        needed = waiting + len(payload) + self.slot_bytes + 2 * (RECORD_BYTES + 8)
        if self._offset + needed > self._capacity:
            if self._closed:
                raise Refused("closed")
            # A segment in the making was asked for by the call that this one interrupts: another would be one too many.
            if FIRST_RECORD + needed > (self._making_bytes or self._prepared().size_bytes):
                raise Refused("journal_full")
        self._aside.append(payload)

    def _append_what_is_aside(self) -> None:
        """The lock is held. An event leaves the side deque only when it is in the segment."""
        self._draining = True
        try:
            while self._aside:
                self.append(self._aside[0])
                self._aside.popleft()
        finally:
            self._draining = False

    def _roll(self) -> None:
        """Go on in the next segment. Raises Refused."""
        if self._closed:
            raise Refused("closed")
        segment, self._next = self._prepared(), None
        if self._segment is not None:
            self._segment.write_offset = self._offset
        self._segment = segment
        self._map = segment.map
        self._offset = segment.write_offset
        self._capacity = segment.size_bytes
        self._sequence = segment.header.first_sequence
        self._own.append(segment)
        if self._closed:  # while the segment was made
            self._capacity = 0
            raise Refused("closed")

    def _prepared(self) -> Segment:
        """The next segment, made here and now if it is not there yet. Raises Refused."""
        if self._next is None:
            self._making_bytes = self._next_bytes
            try:
                made = self._make_next()
            finally:
                self._making_bytes = 0
            self.inline_segments.add()
            if self._next is None:
                self._next = made
            else:
                made.remove()  # a signal handler came between and made one too
        return self._next

    @property
    def _next_bytes(self) -> int:
        settings = self._settings
        return settings.journal_first_segment_bytes if self._segment is None else settings.journal_segment_bytes

    def _make_next(self) -> Segment:
        """Raises Refused where there is no room, in the folder or on the disk."""
        if time.monotonic() < self._full_until_s:
            raise Refused("journal_full")
        settings, size_bytes = self._settings, self._next_bytes
        try:
            ensure_private_folder(self.folder)  # somebody may have deleted it
            if size_bytes + _bytes_of_segments(self.folder) <= settings.journal_bytes:
                made = self._make_segment(size_bytes)
                self._said_full = False
                return made
            problem = f"{settings.journal_bytes} bytes are in use"
        except OSError as exc:
            problem = exc.strerror or type(exc).__name__
        if not self._said_full:
            self._said_full = True
            log.warning("No further journal segment in %s (%s): events are dropped, and counted", self.folder, problem)
        self._full_until_s = time.monotonic() + _FULL_FOR_S
        raise Refused("journal_full")

    def _make_segment(self, size_bytes: int) -> Segment:
        header = Header(
            version=FORMAT_VERSION,
            size_bytes=size_bytes,
            created_ns=time.time_ns(),
            first_sequence=int.from_bytes(os.urandom(4)) >> 1,
            writer=self._writer_id,
            fingerprint=self._fingerprint,
        )
        # In one step: worker, call site and a signal handler may each be here, and an attempt that an exception ends
        # leaves a file under its name.
        name = f"journal-{self._writer_id.hex()}-{next(self._numbers):06d}{SUFFIX}"
        return Segment.create(self.folder / name, header)

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
        # Never waiting: who holds the lock empties the side deque itself.
        if self._aside and self._lock.acquire(blocking=False):
            try:
                self._append_what_is_aside()
            finally:
                self._lock.release()
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
        for segment in tuple(self._own):  # a copy: the call site may append to it meanwhile
            records = segment.next_records(limit, self._written_to(segment))
            limit -= len(records)
            self._taken_here += len(records)
            yield segment, records

    def _written_to(self, segment: Segment) -> int:
        return self._offset if segment is self._segment else segment.write_offset

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
        unsettled, start = next(iter(self._places.values()), (None, 0))
        for segment in [*(orphan.segment for orphan in self._orphans), *self._own]:
            if segment is unsettled:
                segment.acknowledge(start)
                return
            segment.acknowledge(segment.read_offset)
            if not self._is_finished(segment):
                return

    def _is_finished(self, segment: Segment) -> bool:
        """Whether a segment is read to its end, and then gone."""
        if self._orphans and segment is self._orphans[0].segment:
            if self._orphans[0].exhausted:
                _try_to(self._orphans.popleft().dispose)
                return True
            return False
        if segment is self._segment or segment.read_offset < segment.write_offset:
            return False
        self._own.popleft()
        _try_to(segment.remove)
        return True

    def tend(self) -> None:
        """Make the next segment before the call site needs it, and leave one that somebody has deleted."""
        if self._segment is None or self._closed or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._segment.is_in_place():
                self._segment.write_offset, self._capacity = self._offset, 0
            wanted = self._next is None and self._offset >= self._capacity // 2
        finally:
            self._lock.release()
        if wanted:
            self._prepare_next()

    def _prepare_next(self) -> None:
        with contextlib.suppress(Refused):
            made = self._make_next()
            if self._lock.acquire(blocking=False):
                try:
                    if self._next is None:
                        self._next = made
                        return
                finally:
                    self._lock.release()
            made.remove()

    @property
    def backlog(self) -> int:
        """See `Buffer.backlog`."""
        left = sum(orphan.events_left for orphan in self._orphans) + self._left_behind
        return left + self.accepted_here - self._taken_here

    def account(self) -> Account:
        """See `Buffer.account`."""
        with politely(self._account_lock):
            account = self._ledger.account(self.backlog)
        return msgspec.structs.replace(
            account, recovered=self._recovered, damaged=self.damaged, inline_segments=self.inline_segments.value
        )

    @property
    def accepted_here(self) -> int:
        """See `Buffer.accepted_here`."""
        return self._appended + len(self._aside)

    @property
    def settled_through(self) -> int:
        """See `Buffer.settled_through`."""
        with politely(self._account_lock):
            return self._ledger.settled_through

    def arm(self, length: int) -> None:
        """See `Buffer.arm`."""
        self._wake_at = self._appended + max(1, length - self.backlog)

    def disarm(self) -> None:
        """See `Buffer.disarm`."""
        self._wake_at = _NEVER

    # The end.

    def refuse(self) -> None:
        """See `Buffer.refuse`."""
        self._closed = True
        self._capacity = 0  # which sends every `append` to `_roll`, and there it is refused

    @property
    def has_stragglers(self) -> bool:
        """None: an event is in before `append` gives up its lock."""
        return False

    def close(self) -> None:
        """Delete what is settled, and leave the rest to the next writer with this destination."""
        self.refuse()
        # A signal handler that closes may have interrupted an `append`, which then does not end before this does: the
        # segments stay open, and with them their locks, until somebody closes again, or the process is gone.
        if not self._lock.acquire(timeout=_LOCK_PATIENCE_S):
            return
        try:
            if not self._inside:
                self._close_segments(settled=not self.account().pending)
        finally:
            self._lock.release()

    def _close_segments(self, *, settled: bool) -> None:
        for segment in filter(None, [*self._own, self._next]):
            if settled or segment is self._next:
                _try_to(segment.remove)
            else:
                segment.release()
        for orphan in self._orphans:
            orphan.segment.release()
            self._left_behind += orphan.events_left
        self._own.clear()
        self._orphans.clear()
        self._next = None

    def forget(self) -> None:
        """See `Buffer.forget`: close file and map of every segment; the locks stay the parent's."""
        for segment in filter(None, [*self._own, self._next, *(orphan.segment for orphan in self._orphans)]):
            segment.release()


def _try_to(dispose: Callable[[], object]) -> None:
    """Delete or rename a file that is settled. If that fails, it is found again later and nothing in it is sent."""
    try:
        dispose()
    except OSError as exc:
        log.warning("A settled journal segment cannot be removed: %s", exc.strerror)


@cache
def _check_folder(folder: Path) -> None:
    """Raise OSError where a segment could never be made: no right to write, a link, no locks, no shared mappings."""
    ensure_private_folder(folder)
    header = Header(FORMAT_VERSION, FIRST_RECORD, 0, 0, bytes(16), bytes(32))
    Segment.create_unnamed(folder / f"check-{os.urandom(8).hex()}{UNFINISHED_SUFFIX}", header).remove()


def fingerprint_of(identity: str) -> bytes:
    """What a segment says of its destination: enough to tell it from others, nothing to read in it."""
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()


def _bytes_of_segments(folder: Path) -> int:
    """Of segments that are ours to count: not what somebody else has put there under such a name."""
    with os.scandir(folder) as entries:
        return sum(_bytes_of_segment(entry) for entry in entries if entry.name.endswith(SUFFIX))


def _bytes_of_segment(entry: os.DirEntry[str]) -> int:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0  # settled and deleted since the folder was listed
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_size <= MAX_BYTES
    return found.st_size if ours else 0
