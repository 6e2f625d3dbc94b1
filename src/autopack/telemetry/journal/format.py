"""The bytes of a segment: how they are packed, and how they are read back after a crash. Pure.

The tables of header, mark and record stand in `autopack.telemetry.journal`. Two kinds of reading are here:

- `read_records`, `count_records` and `has_record` trust what they find. They are for a segment that this process
  writes itself.
- `find_record` trusts nothing: a record counts if the segment can hold its sequence and its checksum is right. It is
  for a segment that a dead writer left.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import adler32, crc32

import msgspec

from autopack.errors import ForeignSegmentError, SegmentError

if TYPE_CHECKING:
    from mmap import mmap

    Data = bytes | mmap

MAGIC = b"AUTOPACK"
FORMAT_VERSION = 2  # 1 was never released
MAX_BYTES = 256 << 20
FIRST_RECORD = 256

_HEADER = struct.Struct("<8sHHIQQQ16s32s")
_CHECKSUM = struct.Struct("<I")
_COPY_BYTES = 96

_MARK = struct.Struct("<QI")
MARK_AT = 2 * _COPY_BYTES

_BEGIN = b"\x92\xcf"  # an array of two, of which the first is a uint64
_NUMBERS = struct.Struct(">II")
_NUMBERS_AT = len(_BEGIN)
_KIND_AT = _NUMBERS_AT + _NUMBERS.size
_BIN_8, _BIN_16, _BIN_32 = 0xC4, 0xC5, 0xC6
RECORD_OVERHEAD_BYTES = _KIND_AT + 5  # at most

encode: Final = msgspec.msgpack.Encoder().encode  # `pack_record` is `encode` of a pair; the hot path writes it out


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


def check_size(size_bytes: int) -> None:
    """Raise SegmentError for what is too small or too large to be a segment, so that it is not even mapped."""
    if not FIRST_RECORD <= size_bytes <= MAX_BYTES:
        raise SegmentError(f"{size_bytes} bytes are not the size of a segment")


def pack_mark(offset: int) -> bytes:
    """The acknowledged mark: everything before the offset is settled."""
    return _MARK.pack(offset, crc32(_MARK.pack(offset, 0)))


def read_mark(data: Data) -> int:
    """The mark, or the first record if the mark is damaged: sending twice is harmless, leaving out is not."""
    offset, checksum = _MARK.unpack_from(data, MARK_AT)
    good = checksum == crc32(_MARK.pack(offset, 0)) and FIRST_RECORD <= offset <= len(data)
    return int(offset) if good else FIRST_RECORD


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


def find_record(data: Data, offset: int, first_sequence: int) -> Record | None:
    """The first record at or after an offset that is whole; None if there is no more."""
    while (offset := data.find(_BEGIN, offset)) >= 0:
        if (record := _whole_record_at(data, offset, first_sequence)) is not None:
            return record
        offset += 1
    return None


def has_leftover(data: Data, offset: int) -> bool:
    """Whether there is anything but zeros from here to the end: the remains of a damaged record."""
    return any(data[at : at + (1 << 20)].strip(b"\0") for at in range(offset, len(data), 1 << 20))


def _payload_at(data: Data, offset: int) -> tuple[int, int] | None:
    """From where to where the payload of a record that begins here reaches; None: no record begins here.

    No event is so small that a record of less than `RECORD_OVERHEAD_BYTES` could stand at the very end.
    """
    if offset > len(data) - RECORD_OVERHEAD_BYTES:
        return None
    kind, length_at = data[offset + _KIND_AT], offset + _KIND_AT + 1
    if kind == _BIN_8:
        return length_at + 1, length_at + 1 + data[length_at]
    if kind == _BIN_16:
        return length_at + 2, length_at + 2 + int.from_bytes(data[length_at : length_at + 2])
    if kind == _BIN_32:
        return length_at + 4, length_at + 4 + int.from_bytes(data[length_at : length_at + 4])
    return None


def _whole_record_at(data: Data, offset: int, first_sequence: int) -> Record | None:
    if (found := _payload_at(data, offset)) is None:
        return None
    start, end = found
    sequence, checksum = _NUMBERS.unpack_from(data, offset + _NUMBERS_AT)
    if end > len(data) or not first_sequence <= sequence < first_sequence + len(data) // RECORD_OVERHEAD_BYTES:
        return None
    payload = data[start:end]
    return Record(offset, end, sequence, payload) if adler32(payload, sequence) == checksum else None
