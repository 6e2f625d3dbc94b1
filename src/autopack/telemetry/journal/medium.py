"""How a process appends to its own segment and reads it back: through a shared map, or by system calls.

# Mapped

The file is made in full before it is used, so that a full disk is refused then. `mmap.write` copies a record to where
the last one ended and moves that mark, in one step of C.

# Written

Where the file system copies on write, what was made in full is no promise: to change a page of it takes new room, and
where there is none the kernel ends the process by SIGBUS. There each record is appended by one `pwrite`, some 0.5 µs.

- *Reserved first.* A record takes its place in one step of C that neither a thread nor a signal handler divides. Two
  calls never write to the same bytes, and what they write comes in no order.
- *Void.* What was reserved and not written whole, because of an error, a short write or an exception of a signal
  handler, is a hole. The call says so, and the reader passes it. After an error the segment is sealed.
- *In order all the same.* The reader stops at a place that is reserved and neither whole nor void: its call is in
  progress. Whole is what has the right checksum.
- *Never the wrong file.* The file is closed only when no call is in progress; else it is left open for good.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Protocol

from autopack._util import os_threads
from autopack.errors import SegmentWriteError
from autopack.telemetry.journal import format as bytes_of
from autopack.telemetry.journal.format import MARK_AT, PAGE_BYTES, Header, Medium, Record

_CHUNK_BYTES = 1 << 20
_CLOSE_WAIT_S = 1.0


class OpenBytes(Protocol):
    """The bytes of a segment of this process."""

    def write(self, record: bytes, /) -> int:
        """Append a record; returns its size. Raises ValueError where it has no room, is sealed or closed."""

    def tell(self) -> int:
        """Up to where it is written, or its size once it is sealed. Raises ValueError when it is closed."""

    def seal(self) -> None:
        """Take no more records."""

    def count(self, offset: int, /) -> tuple[int, int]:
        """Where the records that begin at an offset end, and how many there are."""

    def read(self, offset: int, limit: int, /) -> tuple[list[tuple[int, bytes]], int]:
        """At most `limit` records: the start and the payload of each, and where to read on."""

    def has_unread(self, offset: int, /) -> bool:
        """Whether there is, or may come, a record at or behind an offset that was read to."""

    def write_mark(self, mark: bytes, /) -> None:
        """Move the acknowledged mark."""

    def close(self, offset: int, *, wait: bool) -> bool:
        """Give it up, once calls behind an offset that was read to are over; returns whether its file may be closed.

        wait: for calls in progress, at most a second; in a forked child there are none.
        """


class Mapped:
    """A segment of this process, mapped. What it does per event is done by `mmap` and by `format`, bound here once."""

    def __init__(self, file: int, header: Header) -> None:
        self._map = mapped = mmap.mmap(file, header.size_bytes)
        mapped.seek(header.first_record)
        self.write, self.tell = mapped.write, mapped.tell
        self.count = partial(bytes_of.count_records, mapped)
        self.read = partial(bytes_of.read_records, mapped)
        self.has_unread = partial(bytes_of.has_record, mapped)
        self.write_mark = partial(mapped.__setitem__, slice(MARK_AT, MARK_AT + len(bytes_of.pack_mark(0))))
        for offset in range(PAGE_BYTES, header.size_bytes, PAGE_BYTES):
            mapped[offset] = 0  # now: the kernel's first mapping of each page for writing would be felt later

    def seal(self) -> None:
        self._map.seek(0, os.SEEK_END)

    def close(self, offset: int, *, wait: bool) -> bool:  # noqa: ARG002 (no call is in progress)
        self._map.close()
        return True


class Written:
    """The same by system calls. What cannot be written raises SegmentWriteError."""

    def __init__(self, file: int, header: Header) -> None:
        self._file = file
        self._size_bytes = header.size_bytes
        self._first_sequence = header.first_sequence
        cursor = io.BytesIO()  # holds nothing: its `seek` adds to a number and returns the sum in one step
        cursor.seek(header.first_record)
        self._advance, self._reserved = cursor.seek, cursor.tell
        self._refused: list[int] = []  # where reservations without room began; the least is the end of the others
        self._voids: dict[int, int] = {}

    def write(self, record: bytes) -> int:
        if self._refused:  # to reserve more would only lengthen that list, at each event of a full journal
            raise ValueError("there is no room")
        size, written = len(record), 0
        reserved: list[int] = []  # where it ends
        try:
            # In one step: a signal handler's exception finds it reserved and noted, or not reserved.
            reserved.extend(map(self._advance, (size,), (os.SEEK_CUR,)))
            if reserved[0] > self._size_bytes:
                raise ValueError("there is no room")
            written = os.pwrite(self._file, record, reserved[0] - size)
        except OSError as exc:
            raise SegmentWriteError(exc.strerror) from exc
        finally:
            if reserved and written != size:
                self._leave_hole(reserved[0] - size, reserved[0], written)
        if written != size:
            raise SegmentWriteError("a short write")
        return size

    def _leave_hole(self, start: int, end: int, written: int) -> None:
        if end > self._size_bytes:
            self._refused.append(start)
            return
        self._voids[start] = end
        if written > 0:
            with contextlib.suppress(OSError):  # then recovery finds the begin of a record, and calls it damaged
                os.pwrite(self._file, bytes(written), start)
        self.seal()

    def seal(self) -> None:
        if self._refused:
            return
        reserved: list[int] = []
        beyond = self._size_bytes + 1
        try:
            reserved.extend(map(self._advance, (beyond,), (os.SEEK_CUR,)))
        finally:
            self._refused.extend(end - beyond for end in reserved)

    def tell(self) -> int:
        self._check_open()
        return min(self._reserved(), self._size_bytes)

    def _end(self) -> int | None:
        """Where the last record ends that found room; None while that is not known."""
        reserved = self._reserved()
        return reserved if reserved <= self._size_bytes else min(self._refused, default=None)

    def _check_open(self) -> None:
        if self._file < 0:
            raise ValueError("it is closed")

    def _past_holes(self, offset: int) -> int:
        while (end := self._voids.get(offset)) is not None:
            offset = end
        return offset

    def _records(self, offset: int) -> Iterator[Record]:
        """The whole records from an offset on, up to the first that is in progress."""
        self._check_open()
        end = min(self._reserved(), self._size_bytes)
        chunk_bytes = _CHUNK_BYTES
        while (offset := self._past_holes(offset)) < end:
            data = os.pread(self._file, min(chunk_bytes, end - offset), offset)
            at = 0
            while (record := bytes_of.whole_record_at(data, at, self._first_sequence)) is not None:
                at = record.end
                yield Record(offset + record.start, offset + record.end, record.sequence, record.payload)
                if offset + at in self._voids:
                    break
            if not at and chunk_bytes >= end - offset:
                return
            chunk_bytes = chunk_bytes if at else end - offset
            offset += at

    def count(self, offset: int) -> tuple[int, int]:
        number = 0
        for record in self._records(offset):
            offset = record.end
            number += 1
        return self._past_holes(offset), number

    def read(self, offset: int, limit: int) -> tuple[list[tuple[int, bytes]], int]:
        found: list[tuple[int, bytes]] = []
        if limit > 0:
            for record in self._records(offset):
                found.append((record.start, record.payload))
                offset = record.end
                if len(found) == limit:
                    break
        return found, self._past_holes(offset)

    def has_unread(self, offset: int) -> bool:
        self._check_open()
        end = self._end()
        return end is None or self._past_holes(offset) < end

    def write_mark(self, mark: bytes) -> None:
        self._check_open()
        write_mark(self._file, mark)

    def close(self, offset: int, *, wait: bool) -> bool:
        if self._file < 0:
            return True
        self.seal()
        end_s = time.monotonic() + _CLOSE_WAIT_S
        while wait and self.has_unread(offset := self.count(offset)[0]):
            if time.monotonic() > end_s:
                return False
            os_threads.sleep(0.001)
        self._file = -1
        return True


def write_mark(file: int, mark: bytes) -> None:
    """Move the acknowledged mark of a segment that is not mapped."""
    with contextlib.suppress(OSError):  # it stays where it was: what was settled since is sent again
        os.pwrite(file, mark, MARK_AT)


def make(file: int, header: Header) -> OpenBytes:
    """The one that a header asks for."""
    return Written(file, header) if header.medium == Medium.WRITTEN else Mapped(file, header)
