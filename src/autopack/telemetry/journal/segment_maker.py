"""Makes the segments of one writer, as long as folder and disk have room for them."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from autopack._util.files import ensure_private_folder
from autopack.errors import QueueRejected
from autopack.telemetry import log
from autopack.telemetry.journal.file_systems import medium_in
from autopack.telemetry.journal.format import (
    FIRST_RECORD,
    FORMAT_VERSION,
    MAX_BYTES,
    PAGE_BYTES,
    RECORD_OVERHEAD_BYTES,
    Append,
    Header,
    Medium,
)
from autopack.telemetry.journal.segment import SUFFIX, UNFINISHED_SUFFIX, Segment

_FULL_FOR_S = 0.25  # how long a full journal is believed to be full: looking again costs system calls


_GROWTH = 4  # from one segment to the next
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a smaller file may find some


class JournalSizes(NamedTuple):
    """Bytes: of the largest event, of the first segment of a writer, of its largest ones, of all in one folder."""

    max_event: int
    first_segment: int
    segment: int
    folder: int

    @property
    def max_payload(self) -> int:
        """The largest event that is accepted: a segment of the largest size has room for it."""
        return min(self.max_event, max(self.first_segment, self.segment) - FIRST_RECORD - RECORD_OVERHEAD_BYTES)


class SegmentMaker:
    """For any thread and any signal handler at once."""

    def __init__(self, folder: Path, fingerprint: bytes, sizes: JournalSizes, append: Append = "auto") -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._sizes = sizes
        self._writer_id = os.urandom(16)
        self._numbers = itertools.count(1)
        self._size_bytes = sizes.first_segment  # of the next one
        self.crowded = False  # more than half of what the folder may hold is in use, or it is full
        self._full_until_s = 0.0
        self._logged_full = False
        self._medium = None if append == "auto" else Medium[append.upper()]

    def make(self, payload_bytes: int = 0) -> Segment:
        """One more, with room for an event of that size at least.

        The first of a writer is small, and each further one four times as large as the one before, up to the largest:
        many short processes leave little behind, and a busy one makes few files. Where there is no room for one so
        large, it is smaller: what is left of the folder, or a quarter as often as the disk refuses, but never smaller
        than the first.

        Raises QueueRejected where there is no room, in the folder or on the disk.
        """
        if time.monotonic() < self._full_until_s:
            raise QueueRejected("journal_full")
        sizes = self._sizes
        needed = -(-(FIRST_RECORD + RECORD_OVERHEAD_BYTES + payload_bytes) // PAGE_BYTES) * PAGE_BYTES
        least_bytes = max(sizes.first_segment, min(needed, sizes.segment))
        wanted_bytes = max(self._size_bytes, least_bytes)
        try:
            ensure_private_folder(self._folder)  # it may have been deleted
            used_bytes = _bytes_of_segments(self._folder)
            left_bytes = (sizes.folder - used_bytes) // PAGE_BYTES * PAGE_BYTES
            self.crowded = used_bytes + wanted_bytes > sizes.folder // 2
            if used_bytes + least_bytes <= sizes.folder:
                made = self._create_at_most(max(least_bytes, min(wanted_bytes, left_bytes)), least_bytes)
                self._size_bytes = max(self._size_bytes, min(made.size_bytes * _GROWTH, sizes.segment))
                self._logged_full = False
                return made
            problem = f"{used_bytes} of {sizes.folder} bytes are in use"
        except OSError as exc:
            problem = exc.strerror or type(exc).__name__
        self.pause(problem)
        raise QueueRejected("journal_full")

    def pause(self, problem: str) -> None:
        """Try no further segment for 0.25 s: there is no room, or the last one could not be written."""
        if not self._logged_full:
            self._logged_full = True
            log.warning("No further journal segment in %s (%s): events are dropped, and counted", self._folder, problem)
        self._full_until_s = time.monotonic() + _FULL_FOR_S

    def _create_at_most(self, size_bytes: int, least_bytes: int) -> Segment:
        """One of that size, or the largest quarter of it for which the disk has room. Raises OSError."""
        while True:
            try:
                return self._create(size_bytes)
            except OSError as exc:
                if exc.errno not in _NO_ROOM or size_bytes <= least_bytes:
                    raise
            size_bytes = max(least_bytes, size_bytes // _GROWTH // PAGE_BYTES * PAGE_BYTES)

    def _create(self, size_bytes: int) -> Segment:
        self._medium = medium_in(self._folder) if self._medium is None else self._medium
        header = Header(
            version=FORMAT_VERSION,
            size_bytes=size_bytes,
            created_ns=time.time_ns(),
            first_sequence=int.from_bytes(os.urandom(4)) >> 1 or 1,
            writer=self._writer_id,
            fingerprint=self._fingerprint,
            medium=self._medium,
        )
        # In one step: worker, call site and a signal handler may each be here, and an attempt that an exception ends
        # leaves a file under its name.
        name = f"journal-{self._writer_id.hex()}-{next(self._numbers):06d}{SUFFIX}"
        return Segment.create(self._folder / name, header)


@cache
def check_folder(folder: Path) -> None:
    """Raise OSError where no segment can be made: no room, no right to write, a link, no locks, no shared mappings."""
    ensure_private_folder(folder)
    header = Header(FORMAT_VERSION, FIRST_RECORD, 0, 0, bytes(16), bytes(32), medium=medium_in(folder))
    Segment.create_unnamed(folder / f"check-{os.urandom(8).hex()}{UNFINISHED_SUFFIX}", header).remove()


def _bytes_of_segments(folder: Path) -> int:
    """Of this user's segments: not of what another user has put there under such a name."""
    with os.scandir(folder) as entries:
        return sum(_bytes_of_segment(entry) for entry in entries if entry.name.endswith(SUFFIX))


def _bytes_of_segment(entry: os.DirEntry[str]) -> int:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0  # settled and deleted since the folder was listed
    counts = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_size <= MAX_BYTES
    return found.st_size if counts else 0
