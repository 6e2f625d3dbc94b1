"""One file of the journal: made, opened, owned, acknowledged, removed.

A segment is a file of fixed size. It is made in full before it is used, so that a full disk is refused then and not
with a SIGBUS later. What its bytes mean is in `format`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from autopack._util.files import is_at, open_private, try_lock
from autopack.telemetry.journal import format as bytes_of
from autopack.telemetry.journal.format import MARK_AT, Header, Process, RecordFinder

SUFFIX = ".seg"
UNFINISHED_SUFFIX = ".tmp"
CORRUPT_SUFFIX = ".corrupt"
_PAGE_BYTES = 4096


@cache
def process_of(pid: int) -> Process:
    """What a segment says of the process that makes it, which is this one; where the system is silent, its number."""
    try:
        # The name of the program, in parentheses, may hold spaces and parentheses itself.
        after_name = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        boot = bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip().replace("-", ""))
        return Process(pid, int(after_name[19]), boot)
    except (OSError, ValueError, IndexError):
        return Process(pid)


class Position(NamedTuple):
    """Where a record begins."""

    segment: Segment
    offset: int

    @property
    def place(self) -> int:
        """A number that grows along the chain of a journal."""
        return place_of(self.segment.number, self.offset)


def place_of(segment_number: int, offset: int) -> int:
    """Where that is in a chain of segments, as one number."""
    return segment_number << 32 | offset


def read_header_of(path: Path, fingerprint: bytes | None = None) -> Header:
    """The header of a segment, of which nothing is left open. Raises what `Segment.open` raises."""
    file = open_private(path, os.O_RDONLY)
    try:
        return _checked_head(file, fingerprint)[0]
    finally:
        os.close(file)


def _checked_head(file: int, fingerprint: bytes | None) -> tuple[Header, Process]:
    size_bytes = os.fstat(file).st_size
    bytes_of.check_size(size_bytes)
    head = os.pread(file, bytes_of.HEAD_BYTES, 0)
    header = bytes_of.read_header(head)
    bytes_of.check_size(size_bytes, header.first_record)
    header.check_destination(fingerprint)
    return header, bytes_of.read_process(head, header)


class Segment:
    """An open, mapped segment. The process that holds its lock owns it, until `release`, `remove` or `quarantine`."""

    def __init__(self, path: Path, file: int, header: Header, process: Process) -> None:
        self.path = path
        self.header = header
        self.process = process
        self._file: int | None = file
        self.size_bytes = os.fstat(file).st_size
        self.map = mmap.mmap(file, self.size_bytes)
        self.read_offset = header.first_record
        self.number = 0  # in the chain of its journal

    @classmethod
    def create(cls, path: Path, header: Header) -> Segment:
        """A new segment, locked. It gets its name when it is complete, so that no reader ever sees half of one.

        Raises OSError: the disk is full, the folder cannot be written, locks do not work there.
        """
        segment = cls.create_unnamed(path.with_suffix(UNFINISHED_SUFFIX), header)
        try:
            segment.path.rename(path)
        except BaseException:
            segment.remove()
            raise
        segment.path = path
        return segment

    @classmethod
    def create_unnamed(cls, path: Path, header: Header) -> Segment:
        """A new segment under a name that is not taken for a segment. Raises OSError."""
        file = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            try_lock(file)
            os.posix_fallocate(file, 0, header.size_bytes)
            process = process_of(os.getpid())
            os.pwrite(file, bytes_of.pack_head(header, process), 0)
            segment = cls(path, file, header, process)
            segment.touch_pages()
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(file)
            raise
        return segment

    @classmethod
    def open(cls, path: Path, fingerprint: bytes | None = None) -> Segment:
        """A segment that exists, without owning it: `take_over` comes next.

        The destination is looked at before the lock is tried: a lock held for the time of a look would hide the segment
        from its next owner.

        Raises:
            ForeignSegmentError: it is for another destination than `fingerprint`; None takes any.
            SegmentError: it is no segment of a form that this program knows, and is to be left alone.
            OSError: it is not a regular file of this user, or cannot be read.

        """
        file = open_private(path, os.O_RDWR)
        try:
            return cls(path, file, *_checked_head(file, fingerprint))
        except BaseException:
            os.close(file)
            raise

    def take_over(self) -> bool:
        """Lock it, and read on from its mark; False if its owner lives, or has just removed it."""
        if not (self._try_lock() and self.is_in_place()):
            return False
        self.read_offset = bytes_of.read_mark(self.map, self.header.first_record)
        return True

    def has_living_owner(self) -> bool:
        """Whether another process owns it. Leaves it unlocked, and reads on from its mark."""
        lives = not self._try_lock()
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self.read_offset = bytes_of.read_mark(self.map, self.header.first_record)
        return lives

    def _try_lock(self) -> bool:
        return self._file is not None and try_lock(self._file)

    def has_room_for(self, payload_bytes: int) -> bool:
        """Whether an event of that size fits into it while it is empty."""
        return payload_bytes + bytes_of.RECORD_OVERHEAD_BYTES <= self.size_bytes - self.header.first_record

    def touch_pages(self) -> None:
        """Have the kernel map every page for writing now: later, the first touch of each would be felt."""
        for offset in range(_PAGE_BYTES, self.size_bytes, _PAGE_BYTES):
            self.map[offset] = 0

    def acknowledge(self, offset: int) -> None:
        """Everything before the offset is settled: it will not be read again."""
        mark = bytes_of.pack_mark(offset)
        self.map[MARK_AT : MARK_AT + len(mark)] = mark

    def acknowledge_before(self, first_unsettled: Position | None) -> bool:
        """Acknowledge what was read and lies before a position; returns whether that is all that was read."""
        if first_unsettled is not None and first_unsettled.segment is self:
            self.acknowledge(first_unsettled.offset)
            return False
        self.acknowledge(self.read_offset)
        return True

    def next_records(self, limit: int) -> list[tuple[Position, bytes]]:
        """At most `limit` records from `read_offset` on, of a segment of this process, and step over them."""
        records, self.read_offset = bytes_of.read_records(self.map, self.read_offset, limit)
        return [(Position(self, offset), payload) for offset, payload in records]

    @property
    def has_unread(self) -> bool:
        """Whether a record begins at `read_offset`, in a segment of this process."""
        return bytes_of.has_record(self.map, self.read_offset)

    def record_finder(self) -> RecordFinder:
        """Finds the records that are whole, in a segment of a dead writer."""
        return RecordFinder(self.map, self.header.first_sequence)

    def is_damaged_after(self, offset: int) -> bool:
        """Whether there is more than zeros behind an offset, or the file is shorter or longer than it was made."""
        return self.size_bytes != self.header.size_bytes or bytes_of.has_leftover(self.map, offset)

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file; if not, no process would find its events after a crash."""
        return self._file is not None and is_at(self._file, self.path)

    def remove(self) -> None:
        """Delete the file: every event in it is settled."""
        try:
            self.path.unlink(missing_ok=True)
        finally:
            self.release()

    def quarantine(self) -> Path:
        """Keep a damaged file for a person, under a name that is never recovered; returns the name."""
        name = self.path.with_suffix(CORRUPT_SUFFIX)
        self.path.rename(name)
        self.release()
        return name

    def release(self) -> None:
        """Close the file and give up its lock. In a forked child the lock stays the parent's. Idempotent."""
        file, self._file = self._file, None
        self.map.close()
        if file is not None:
            os.close(file)
