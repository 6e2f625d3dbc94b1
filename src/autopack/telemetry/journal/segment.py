"""One file of the journal: its bytes, and how they are read back after a crash.

A segment is a file of fixed size, made in full before it is used, so that a full disk is refused then and not with a
SIGBUS later. It begins with a header, written twice with a checksum each, so that no single damaged byte makes the
segment unreadable, and an acknowledged mark with a checksum of its own: what lies before it is settled. Then come
records, one behind the other, each in MessagePack:

    [sequence · 2^32 + Adler-32 of the payload, begun with the sequence (always a uint64), payload (bin)]

A record is written in one copy; one that a crash has torn all the same has a wrong checksum. Where a record is damaged,
the next good one is looked for behind it, and recognised by a sequence that this segment can hold and by its checksum.

That the head is MessagePack and the checksum Adler-32 has one reason: the call site, between two events, has lost its
caches, and each further piece of C costs it a microsecond or two. The encoder has just run, and Adler-32, unlike
CRC-32, needs no tables.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple
from zlib import adler32, crc32

from autopack._util.files import is_at, open_private, try_lock
from autopack.errors import ForeignSegmentError, SegmentError

MAGIC = b"AUTOPACK"
FORMAT_VERSION = 2  # 1 was never released
SUFFIX = ".seg"
UNFINISHED_SUFFIX = ".tmp"
MAX_BYTES = 256 << 20
_PAGE_BYTES = 4096

_HEADER = struct.Struct("<8sHHIQQQ16s32s")
_CHECKSUM = struct.Struct("<I")
_COPY_BYTES = 96
_ACKNOWLEDGED = struct.Struct("<QI")
_ACKNOWLEDGED_AT = 2 * _COPY_BYTES
FIRST_RECORD = 256
_BEGIN = b"\x92\xcf"  # an array of two, of which the first is a uint64
_NUMBERS = struct.Struct(">II")
_NUMBERS_AT = len(_BEGIN)
_KIND_AT = _NUMBERS_AT + _NUMBERS.size
_BIN_8, _BIN_16, _BIN_32 = 0xC4, 0xC5, 0xC6
RECORD_OVERHEAD_BYTES = _KIND_AT + 5  # at most


class Header(NamedTuple):
    """What a segment says of itself.

    `fingerprint` tells which destination its events are for. `first_sequence` is the least sequence of its records, a
    random number of 31 bits and not 0, so that no record of another segment is taken for one of this.
    """

    version: int
    size_bytes: int
    created_ns: int
    first_sequence: int
    writer: bytes
    fingerprint: bytes

    def check_destination(self, fingerprint: bytes | None) -> None:
        """Raise ForeignSegmentError unless the events are for this destination; None takes any."""
        if fingerprint not in (None, self.fingerprint):
            raise ForeignSegmentError("its events are for another database")

    def pack(self) -> bytes:
        """One copy, with its checksum."""
        body = _HEADER.pack(
            MAGIC,
            self.version,
            0,
            FIRST_RECORD,
            self.size_bytes,
            self.created_ns,
            self.first_sequence,
            self.writer,
            self.fingerprint,
        )
        return (body + _CHECKSUM.pack(crc32(body))).ljust(_COPY_BYTES, b"\0")


class Record(NamedTuple):
    """A record that was read back: where it lies, and what it holds."""

    start: int
    end: int
    sequence: int
    payload: bytes


class Segment:
    """An open, mapped and locked segment. Whoever holds it owns it until `release` or `remove`."""

    def __init__(self, path: Path, file: int, header: Header) -> None:
        self.path = path
        self.header = header
        self._file: int | None = file
        self.size_bytes = os.fstat(file).st_size
        self.map = mmap.mmap(file, self.size_bytes)
        self.read_offset = FIRST_RECORD

    @classmethod
    def create(cls, path: Path, header: Header) -> Segment:
        """A new segment, locked. It gets its name when it is complete, so that nobody ever sees half of one.

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
        """A new segment under a name that nobody takes for a segment. Raises OSError."""
        file = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            try_lock(file)
            os.posix_fallocate(file, 0, header.size_bytes)
            os.pwrite(file, header.pack() * 2 + _packed_mark(FIRST_RECORD), 0)
            segment = cls(path, file, header)
            segment.touch_pages()
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(file)
            raise
        return segment

    @classmethod
    def open(cls, path: Path, fingerprint: bytes | None = None) -> Segment | None:
        """A segment that somebody left behind, locked by us now; None if its owner lives.

        Raises:
            ForeignSegmentError: it is for another destination than `fingerprint`; None takes any.
            SegmentError: it is no segment of a form that we know, and is to be left alone.
            OSError: it is not a regular file of this user, or cannot be read.

        """
        file = open_private(path, os.O_RDWR)
        try:
            check_size(os.fstat(file).st_size)
            header = read_header(os.pread(file, FIRST_RECORD, 0))
            # Looked at before it is locked: a lock held for a moment would hide the segment from its next owner.
            header.check_destination(fingerprint)
            # Not ours if it lives, nor if its last owner has just finished with it.
            if not (try_lock(file) and is_at(file, path)):
                os.close(file)
                return None
            segment = cls(path, file, header)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise
        segment.read_offset = segment.acknowledged()
        return segment

    def touch_pages(self) -> None:
        """Have the kernel map every page for writing now: later, the first touch of each would be felt."""
        for offset in range(_PAGE_BYTES, self.size_bytes, _PAGE_BYTES):
            self.map[offset] = 0

    def acknowledge(self, offset: int) -> None:
        """Everything before the offset is settled: it will not be read again."""
        mark = _packed_mark(offset)
        self.map[_ACKNOWLEDGED_AT : _ACKNOWLEDGED_AT + len(mark)] = mark

    def next_records(self, limit: int) -> list[tuple[int, bytes]]:
        """At most so many records from `read_offset` on, of a segment of ours, and step over them: where, and what."""
        records: list[tuple[int, bytes]] = []
        while len(records) < limit and (found := self._payload_at(self.read_offset)) is not None:
            start, end = found
            records.append((self.read_offset, self.map[start:end]))
            self.read_offset = end
        return records

    @property
    def has_unread(self) -> bool:
        """Whether there is a record at `read_offset`, in a segment of ours."""
        return self._payload_at(self.read_offset) is not None

    def step_over(self, offset: int) -> tuple[int, int]:
        """Where the records of a segment of ours that begin at an offset end, and how many there are."""
        number = 0
        while (found := self._payload_at(offset)) is not None:
            offset = found[1]
            number += 1
        return offset, number

    def _payload_at(self, offset: int) -> tuple[int, int] | None:
        """From where to where the payload reaches, of a record that begins here and is trusted; None: there is none.

        No event is so small that a record of less than `RECORD_OVERHEAD_BYTES` could stand at the very end.
        """
        data = self.map
        if offset > self.size_bytes - RECORD_OVERHEAD_BYTES:
            return None
        kind, length_at = data[offset + _KIND_AT], offset + _KIND_AT + 1
        if kind == _BIN_8:
            return length_at + 1, length_at + 1 + data[length_at]
        if kind == _BIN_16:
            return length_at + 2, length_at + 2 + int.from_bytes(data[length_at : length_at + 2])
        if kind == _BIN_32:
            return length_at + 4, length_at + 4 + int.from_bytes(data[length_at : length_at + 4])
        return None

    @property
    def is_damaged(self) -> bool:
        """Whether the file is shorter or longer than it was made."""
        return self.size_bytes != self.header.size_bytes

    def leftover_after(self, offset: int) -> bool:
        """Whether there is anything but zeros from here to the end: the remains of a damaged record."""
        return any(self.map[at : at + (1 << 20)].strip(b"\0") for at in range(offset, self.size_bytes, 1 << 20))

    def good_record_from(self, offset: int) -> Record | None:
        """The first record at or after an offset that is whole; None if there is no more."""
        while (offset := self.map.find(_BEGIN, offset)) >= 0:
            if (record := self._record_at(offset)) is not None:
                return record
            offset += 1
        return None

    def _record_at(self, offset: int) -> Record | None:
        """The record that begins here, if there is one: nothing of it is trusted."""
        if (found := self._payload_at(offset)) is None:
            return None
        start, end = found
        sequence, checksum = _NUMBERS.unpack_from(self.map, offset + _NUMBERS_AT)
        first = self.header.first_sequence
        if end > self.size_bytes or not first <= sequence < first + self.size_bytes // RECORD_OVERHEAD_BYTES:
            return None
        payload = self.map[start:end]
        return Record(offset, end, sequence, payload) if adler32(payload, sequence) == checksum else None

    def acknowledged(self) -> int:
        """The mark, or the first record if the mark is damaged: sending twice is harmless, leaving out is not."""
        offset, checksum = _ACKNOWLEDGED.unpack_from(self.map, _ACKNOWLEDGED_AT)
        good = checksum == crc32(_ACKNOWLEDGED.pack(offset, 0)) and FIRST_RECORD <= offset <= self.size_bytes
        return offset if good else FIRST_RECORD

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file; if not, nobody would find its events after a crash."""
        return self._file is not None and is_at(self._file, self.path)

    def remove(self) -> None:
        """Delete the file: every event in it is settled."""
        try:
            self.path.unlink(missing_ok=True)
        finally:
            self.release()

    def set_aside(self) -> Path:
        """Keep a damaged file for a person, under a name that nobody recovers; returns the name."""
        name = self.path.with_suffix(".corrupt")
        self.path.rename(name)
        self.release()
        return name

    def release(self) -> None:
        """Close the file and give up its lock. In a forked child the lock stays the parent's. Idempotent."""
        file, self._file = self._file, None
        self.map.close()
        if file is not None:
            os.close(file)


def check_size(size_bytes: int) -> None:
    """Raise SegmentError for what is too small or too large to be a segment: it is not even mapped."""
    if not FIRST_RECORD <= size_bytes <= MAX_BYTES:
        raise SegmentError(f"{size_bytes} bytes are not the size of a segment")


def _packed_mark(offset: int) -> bytes:
    return _ACKNOWLEDGED.pack(offset, crc32(_ACKNOWLEDGED.pack(offset, 0)))


def read_header(data: bytes) -> Header:
    """The header in the first bytes of a file. Raises SegmentError."""
    for at in (0, _COPY_BYTES):
        body = data[at : at + _HEADER.size]
        (checksum,) = _CHECKSUM.unpack_from(data, at + _HEADER.size)
        if crc32(body) == checksum:
            magic, version, _, _, size_bytes, created_ns, first_sequence, writer, fingerprint = _HEADER.unpack(body)
            if magic != MAGIC:
                break
            if version != FORMAT_VERSION:
                age = "newer" if version > FORMAT_VERSION else "older"
                raise SegmentError(f"format {version} is {age} than this program's {FORMAT_VERSION}")
            return Header(version, size_bytes, created_ns, first_sequence, writer, fingerprint)
    raise SegmentError("neither copy of its header can be read")
