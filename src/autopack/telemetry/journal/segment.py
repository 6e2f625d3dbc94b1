"""One file of the journal: made, opened, owned, acknowledged, removed.

A segment is a file of fixed size. What its bytes mean is in `format`; how this process appends to its own and reads
them is in `medium`. One that another process made is read through a map, and its mark is moved by `pwrite`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import NamedTuple

from autopack._util.files import is_at, open_private, try_lock
from autopack.telemetry import log
from autopack.telemetry.journal import format as bytes_of
from autopack.telemetry.journal import medium
from autopack.telemetry.journal.format import Header, Medium, Process, RecordFinder

SUFFIX = ".seg"
UNFINISHED_SUFFIX = ".tmp"
CORRUPT_SUFFIX = ".corrupt"


@cache
def process_of(pid: int) -> Process:
    """What a segment says of the process that makes it, which is this one; where the system is silent, its number."""
    try:
        boot = bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip().replace("-", ""))
        return Process(pid, _start_of("self"), boot)
    except (OSError, ValueError, IndexError):
        return Process(pid)


def is_gone(process: Process) -> bool:
    """Whether the process that made a segment is not seen here: dead, or in another container. False where the system
    does not tell.
    """
    here = process_of(os.getpid())
    if not (any(process.boot) and any(here.boot)):
        return False
    try:
        return (process.boot, process.start) != (here.boot, _start_of(process.pid))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, IndexError):
        return False


def _start_of(pid: int | str) -> int:
    # The name of the program, in parentheses, may hold spaces and parentheses itself.
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])


class Position(NamedTuple):
    """Where a record begins."""

    segment: AnySegment
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


def _write_head(file: int, head: bytes) -> None:
    if os.pwrite(file, head, 0) != len(head):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class AnySegment(ABC):
    """A segment that is open. The process that holds its lock owns it, until `release` or `remove`."""

    def __init__(self, path: Path, file: int, header: Header, process: Process) -> None:
        self.path = path
        self.header = header
        self.process = process
        self._file: int | None = file
        self.read_offset = header.first_record
        self.number = 0  # in the chain of its journal
        self.unsettled = 0  # of the events that were read: never less than there are

    @abstractmethod
    def write_mark(self, mark: bytes) -> None:
        """Move the acknowledged mark."""

    @abstractmethod
    def _close_bytes(self, *, wait: bool) -> bool:
        """Give up what is open beside the file; returns whether that may be closed."""

    def acknowledge(self, offset: int) -> None:
        """Everything before the offset is settled: it will not be read again."""
        self.write_mark(bytes_of.pack_mark(offset))

    def acknowledge_before(self, first_unsettled: Position | None) -> bool:
        """Acknowledge what was read, up to the first event of its chain that is not settled; returns whether that is
        all that was read of it.
        """
        if not self.unsettled:
            self.acknowledge(self.read_offset)
            return True
        if first_unsettled is not None and first_unsettled.segment is self:
            self.acknowledge(first_unsettled.offset)
        return False

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file; if not, no process would find its events after a crash."""
        return self._file is not None and is_at(self._file, self.path)

    def remove(self) -> None:
        """Delete the file: every event in it is settled."""
        try:
            self.path.unlink(missing_ok=True)
        finally:
            self.release()

    def release(self, *, in_child: bool = False) -> None:
        """Close the file and give up its lock. In a forked child the lock stays the parent's. Idempotent."""
        if self._close_bytes(wait=not in_child):
            file, self._file = self._file, None
            if file is not None:
                os.close(file)


class Segment(AnySegment):
    """A segment that this process made: it appends to it, and reads it back."""

    def __init__(self, path: Path, file: int, header: Header, process: Process) -> None:
        super().__init__(path, file, header, process)
        self.size_bytes = header.size_bytes
        self.bytes = medium.make(file, header)

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
            if header.medium == Medium.MAPPED:
                os.posix_fallocate(file, 0, header.size_bytes)
            else:
                os.ftruncate(file, header.size_bytes)  # its size alone: room is no promise where it is written
            process = process_of(os.getpid())
            head = bytes_of.pack_head(header, process)
            _write_head(file, head)
            segment = cls(path, file, header, process)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(file)
            raise
        return segment

    def has_room_for(self, payload_bytes: int) -> bool:
        """Whether an event of that size fits into it while it is empty."""
        return payload_bytes + bytes_of.RECORD_OVERHEAD_BYTES <= self.size_bytes - self.header.first_record

    def mend(self) -> bool:
        """Whether the file was cut. Then it is made as long as it was, so that to touch its pages is no SIGBUS."""
        if self._file is None or os.fstat(self._file).st_size >= self.size_bytes:
            return False
        with contextlib.suppress(OSError):  # no room for its size: then a touch of what is gone ends the process
            os.ftruncate(self._file, self.size_bytes)
        log.warning("%s was cut while it was in use: what was cut off is lost", self.path)
        return True

    def next_records(self, limit: int) -> list[tuple[Position, bytes]]:
        """At most `limit` records from `read_offset` on, of a segment of this process, and step over them."""
        records, self.read_offset = self.bytes.read(self.read_offset, limit)
        return [(Position(self, offset), payload) for offset, payload in records]

    @property
    def has_unread(self) -> bool:
        """Whether a record begins at `read_offset`, in a segment of this process."""
        return self.bytes.has_unread(self.read_offset)

    def write_mark(self, mark: bytes) -> None:
        """Move the acknowledged mark."""
        self.bytes.write_mark(mark)

    def _close_bytes(self, *, wait: bool) -> bool:
        return self.bytes.close(self.read_offset, wait=wait)


class LeftSegment(AnySegment):
    """A segment that another process made, and left behind if it is dead."""

    def __init__(self, path: Path, file: int, header: Header, process: Process) -> None:
        super().__init__(path, file, header, process)
        self.map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)

    @classmethod
    def open(cls, path: Path, fingerprint: bytes | None = None) -> LeftSegment:
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

    def record_finder(self) -> RecordFinder:
        """Finds the records that are whole, in a segment of a dead writer."""
        return RecordFinder(self.map, self.header.first_sequence)

    def is_hole(self, start: int, end: int) -> bool:
        """Whether that is what an append left that was refused."""
        return self.header.medium == Medium.WRITTEN and not self.map[start:end].strip(b"\0")

    def is_damaged_after(self, offset: int) -> bool:
        """Whether there is more than zeros behind an offset, or the file is shorter or longer than it was made."""
        return len(self.map) != self.header.size_bytes or bytes_of.has_leftover(self.map, offset)

    def quarantine(self) -> Path:
        """Keep a damaged file for a person, under a name that is never recovered; returns the name."""
        name = self.path.with_suffix(CORRUPT_SUFFIX)
        self.path.rename(name)
        self.release()
        return name

    def write_mark(self, mark: bytes) -> None:
        """Move the acknowledged mark."""
        if self._file is not None:
            medium.write_mark(self._file, mark)

    def _close_bytes(self, *, wait: bool) -> bool:  # noqa: ARG002 (nothing is written)
        self.map.close()
        return True
