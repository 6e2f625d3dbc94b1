"""The bytes of a segment: how they are packed, and how they are read back after a crash. Pure.

The tables of header, mark and record stand in `autopack.telemetry.journal`. Two kinds of reading are here:

- `read_records`, `count_records` and `has_record` trust what they find. They are for a segment that this process
  writes itself.
- `RecordFinder` trusts nothing: a record counts if the segment can hold its sequence and its checksum is right. It is
  for a segment that a dead writer left.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from zlib import adler32, crc32

import msgspec

from autopack.errors import ForeignSegmentError, SegmentError

if TYPE_CHECKING:
    from mmap import mmap

    Data = bytes | mmap

MAGIC = b"AUTOPACK"
FORMAT_VERSION = 3
MAX_BYTES = 256 << 20
FIRST_RECORD = 512
HEAD_BYTES = FIRST_RECORD  # read from the begin of a file; enough for a head of any version
# The versions that can be read, and where their records begin. 1 was never released.
_FIRST_RECORDS = {2: 256, FORMAT_VERSION: FIRST_RECORD}

_HEADER = struct.Struct("<8sHBBIQQQ16s32s")
_CHECKSUM = struct.Struct("<I")
_COPY_BYTES = 96

_MARK = struct.Struct("<QI")
MARK_AT = 2 * _COPY_BYTES
PAGE_BYTES = 4096

_PROCESS_AT = 256
_SINCE_PROCESS = 3  # the version that begins to say it
_PROCESS = struct.Struct("<IIQ16s")

_BEGIN = b"\x92\xcf"  # an array of two, of which the first is a uint64
_NUMBERS = struct.Struct(">II")
_NUMBERS_AT = len(_BEGIN)
_KIND_AT = _NUMBERS_AT + _NUMBERS.size
_BIN_8, _BIN_16, _BIN_32 = 0xC4, 0xC5, 0xC6
RECORD_OVERHEAD_BYTES = _KIND_AT + 5  # at most
LEAST_OVERHEAD_BYTES = _KIND_AT + 2

encode: Final = msgspec.msgpack.Encoder().encode  # `pack_record` is `encode` of a pair; the hot path writes it out


class Process(NamedTuple):
    """Which process made a segment; zeros where that is not known.

    pid       its number, which another process may have later or in another container
    start     when it began, in clock ticks since the machine did
    boot      which run of the machine that was, at random
    """

    pid: int = 0
    start: int = 0
    boot: bytes = bytes(16)


class Acknowledger(IntEnum):
    """Who moves the mark of a segment while its writer lives."""

    WORKER = 0
    COLLECTOR = 1


Append = Literal["auto", "mapped", "written"]
"""Which medium to take; `auto`: the one that is safe on the file system."""


class Medium(IntEnum):
    """How a segment is appended to: through a shared map, or by `pwrite`."""

    MAPPED = 0
    WRITTEN = 1


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
    acknowledger: int = Acknowledger.WORKER
    medium: int = Medium.MAPPED

    @property
    def first_record(self) -> int:
        """Where its records begin."""
        return _FIRST_RECORDS[self.version]

    def check_destination(self, fingerprint: bytes | None) -> None:
        """Raise ForeignSegmentError unless the events are for this destination; None takes any."""
        if fingerprint not in (None, self.fingerprint):
            raise ForeignSegmentError("its events are for another database")

    def pack(self) -> bytes:
        """One copy, with its checksum."""
        body = _HEADER.pack(
            MAGIC,
            self.version,
            self.acknowledger,
            self.medium,
            _FIRST_RECORDS.get(self.version, FIRST_RECORD),
            self.size_bytes,
            self.created_ns,
            self.first_sequence,
            self.writer,
            self.fingerprint,
        )
        return (body + _CHECKSUM.pack(crc32(body))).ljust(_COPY_BYTES, b"\0")


def pack_head(header: Header, process: Process) -> bytes:
    """All that stands before the records of a new segment."""
    packed = _PROCESS.pack(process.pid, 0, process.start, process.boot)
    head = (header.pack() * 2 + pack_mark(FIRST_RECORD)).ljust(_PROCESS_AT, b"\0")
    return (head + packed + _CHECKSUM.pack(crc32(packed))).ljust(FIRST_RECORD, b"\0")


def read_header(data: bytes) -> Header:
    """The header in the first bytes of a file. Raises SegmentError."""
    for at in (0, _COPY_BYTES):
        body = data[at : at + _HEADER.size]
        (checksum,) = _CHECKSUM.unpack_from(data, at + _HEADER.size)
        if crc32(body) == checksum:
            magic, version, acknowledger, medium, first_record, *sizes, writer, fingerprint = _HEADER.unpack(body)
            if magic != MAGIC:
                break
            if version not in _FIRST_RECORDS:
                age = "newer" if version > FORMAT_VERSION else "older"
                raise SegmentError(f"format {version} is {age} than this program's {FORMAT_VERSION}")
            if first_record != _FIRST_RECORDS[version]:
                raise SegmentError(f"its records begin at {first_record}, where no segment's do")
            size_bytes, created_ns, first_sequence = sizes
            return Header(version, size_bytes, created_ns, first_sequence, writer, fingerprint, acknowledger, medium)
    raise SegmentError("neither copy of its header can be read")


def read_process(data: bytes, header: Header) -> Process:
    """Which process made the segment that begins with these bytes; unknown in version 2, and where it is damaged."""
    packed = data[_PROCESS_AT : _PROCESS_AT + _PROCESS.size]
    (checksum,) = _CHECKSUM.unpack_from(data, _PROCESS_AT + _PROCESS.size)
    known = header.version >= _SINCE_PROCESS and crc32(packed) == checksum
    if not known:
        return Process()
    pid, _, start, boot = _PROCESS.unpack(packed)
    return Process(pid, start, boot)


def check_size(size_bytes: int, first_record: int = min(_FIRST_RECORDS.values())) -> None:
    """Raise SegmentError for what is too small or too large to be a segment, so that it is not even mapped."""
    if not first_record <= size_bytes <= MAX_BYTES:
        raise SegmentError(f"{size_bytes} bytes are not the size of a segment")


def pack_mark(offset: int) -> bytes:
    """The acknowledged mark: everything before the offset is settled."""
    return _MARK.pack(offset, crc32(_MARK.pack(offset, 0)))


def read_mark(data: Data, first_record: int = FIRST_RECORD) -> int:
    """The mark, or the first record if the mark is damaged: sending twice is harmless, leaving out is not."""
    offset, checksum = _MARK.unpack_from(data, MARK_AT)
    good = checksum == crc32(_MARK.pack(offset, 0)) and first_record <= offset <= len(data)
    return int(offset) if good else first_record


class Record(NamedTuple):
    """A record that was read back: where it lies, and what it holds."""

    start: int
    end: int
    sequence: int
    payload: bytes


def pack_record(payload: bytes, sequence: int) -> bytes:
    """A record, in one piece: a crash between two copies would leave what looks like a damaged record."""
    return encode((sequence << 32 | adler32(payload, sequence), payload))


def read_records(data: Data, offset: int, limit: int) -> tuple[list[tuple[int, bytes]], int]:
    """At most `limit` records from an offset on: the start and the payload of each, and where the last one ends."""
    records: list[tuple[int, bytes]] = []
    while len(records) < limit and (found := _payload_at(data, offset)) is not None:
        start, end = found
        records.append((offset, data[start:end]))
        offset = end
    return records, offset


def count_records(data: Data, offset: int) -> tuple[int, int]:
    """Where the records that begin at an offset end, and how many there are."""
    number = 0
    while (found := _payload_at(data, offset)) is not None:
        offset = found[1]
        number += 1
    return offset, number


def has_record(data: Data, offset: int) -> bool:
    """Whether a record begins at an offset."""
    return _payload_at(data, offset) is not None


def whole_record_at(data: bytes, offset: int, first_sequence: int) -> Record | None:
    """The record that begins here, if it is whole: in bytes of a segment of this process, in which another thread may
    be about to write it.
    """
    if (found := _payload_at(data, offset, LEAST_OVERHEAD_BYTES)) is None or found[1] > len(data):
        return None
    start, end = found
    sequence, checksum = _NUMBERS.unpack_from(data, offset + _NUMBERS_AT)
    payload = data[start:end]
    is_whole = sequence >= first_sequence and adler32(payload, sequence) == checksum
    return Record(offset, end, sequence, payload) if is_whole else None


class RecordFinder:
    """Finds the whole records of a segment that a dead writer left, and trusts nothing.

    A record that is damaged, or forged, may claim any length, and its checksum is taken over all of that: bytes in
    which such heads stand close together would cost the square of their number. So the checksums that are wrong may
    cover eight times the segment's size and no more, and a look at a head that is none counts as 256 bytes of that: a
    segment costs at most one such look for each 32 of its bytes. What is left then counts as damaged. Damage that is no
    forgery costs each damaged record once, which is within the bound from 37 bytes a record on; an event has more.
    """

    _MOST_WRONG = 8
    _LOOK_BYTES = 256

    def __init__(self, data: Data, first_sequence: int) -> None:
        self._data = data
        self._first_sequence = first_sequence
        self._wrong_bytes_left = self._MOST_WRONG * len(data)

    def next_from(self, offset: int) -> Record | None:
        """The first record at or after an offset that is whole; None if there is no more."""
        data = self._data
        while self._wrong_bytes_left > 0 and (offset := data.find(_BEGIN, offset)) >= 0:
            found = _claimed_at(data, offset, self._first_sequence)
            if found is not None:
                start, end, sequence, checksum = found
                payload = data[start:end]
                if adler32(payload, sequence) == checksum:
                    return Record(offset, end, sequence, payload)
                self._wrong_bytes_left -= len(payload)
            self._wrong_bytes_left -= self._LOOK_BYTES
            offset += 1
        return None


def has_leftover(data: Data, offset: int) -> bool:
    """Whether there is anything but zeros from here to the end: the remains of a damaged record."""
    return any(data[at : at + (1 << 20)].strip(b"\0") for at in range(offset, len(data), 1 << 20))


def _payload_at(data: Data, offset: int, least_bytes: int = RECORD_OVERHEAD_BYTES) -> tuple[int, int] | None:
    """From where to where the payload of a record that begins here reaches; None: no record begins here.

    No event is so small that a record of less than `RECORD_OVERHEAD_BYTES` could stand at the very end.
    """
    if offset > len(data) - least_bytes:
        return None
    kind, length_at = data[offset + _KIND_AT], offset + _KIND_AT + 1
    if kind == _BIN_8:
        return length_at + 1, length_at + 1 + data[length_at]
    if kind == _BIN_16:
        return length_at + 2, length_at + 2 + int.from_bytes(data[length_at : length_at + 2])
    if kind == _BIN_32:
        return length_at + 4, length_at + 4 + int.from_bytes(data[length_at : length_at + 4])
    return None


def _claimed_at(data: Data, offset: int, first_sequence: int) -> tuple[int, int, int, int] | None:
    """What the head of a record claims here, if this segment can hold it: its payload's begin and end, its sequence and
    its checksum.
    """
    if (found := _payload_at(data, offset)) is None:
        return None
    start, end = found
    sequence, checksum = _NUMBERS.unpack_from(data, offset + _NUMBERS_AT)
    if end > len(data) or not first_sequence <= sequence < first_sequence + len(data) // RECORD_OVERHEAD_BYTES:
        return None
    return start, end, sequence, checksum
