"""Segments that dead writers left behind: found, taken over, read to their end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from autopack._util.files import is_at, open_private, try_lock
from autopack.errors import ForeignSegmentError, SegmentError
from autopack.telemetry import log
from autopack.telemetry.journal.segment import SUFFIX, UNFINISHED_SUFFIX, Record, Segment

# Its maker needs milliseconds; a younger file may be in the making, and not locked yet.
_UNFINISHED_FOR_S = 60.0


class Found(NamedTuple):
    """A file of the journal folder, and what it is: `segment` is open and ours where it could be taken over.

    `why_not` says why it was left alone: its writer lives, it is for another destination, or, `is_strange`, it is no
    segment that this program can read.
    """

    path: Path
    segment: Segment | None
    why_not: str | None
    is_strange: bool = False


class Orphan:
    """A segment whose writer is dead, now ours. `events` are what is to be delivered of it."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.events, self.damaged = _survey(segment)
        self.events_left = self.events

    @property
    def exhausted(self) -> bool:
        """Whether every good record was read."""
        return not self.events_left

    def next_record(self) -> Record | None:
        """The next good record, None at the end."""
        if not self.events_left:
            return None
        record = self.segment.good_record_from(self.segment.read_offset)
        if record is None:
            raise SegmentError(f"{self.segment.path} changed while it was read")
        self.events_left -= 1
        self.segment.read_offset = record.end
        return record

    def next_records(self, limit: int) -> list[tuple[int, bytes]]:
        """At most so many good records: where, and what. Raises SegmentError when not even one can be read."""
        records: list[tuple[int, bytes]] = []
        while len(records) < limit:
            try:
                record = self.next_record()
            except SegmentError:
                if records:
                    break  # these are not lost for it; the next call says what is wrong
                raise
            if record is None:
                break
            records.append((record.start, record.payload))
        return records

    def dispose(self) -> None:
        """All of it is settled: delete it, or, where it is damaged, set it aside for a person."""
        if self.damaged:
            log.warning("A damaged journal segment was set aside as %s", self.segment.set_aside())
        else:
            self.segment.remove()


def search(folder: Path, fingerprint: bytes | None) -> list[Found]:
    """What lies in a journal folder, oldest first; None as the fingerprint: for any destination."""
    found = [_open(path, fingerprint) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    return sorted(found, key=lambda item: item.segment.header.created_ns if item.segment else 0)


def orphans_in(folder: Path, fingerprint: bytes | None) -> Iterator[Orphan]:
    """The segments that could be taken over. The others are left alone; the log names those that are no segments."""
    for path, segment, why_not, is_strange in search(folder, fingerprint):
        if segment is not None:
            yield Orphan(segment)
        elif is_strange:
            log.warning("%s is left alone: %s", path, why_not)


def remove_unfinished(folder: Path) -> None:
    """Delete files whose writer died while it made them: no event ever got into one."""
    for path in folder.glob(f"*{UNFINISHED_SUFFIX}"):
        with contextlib.suppress(OSError):
            file = open_private(path, os.O_RDWR)
            try:
                old = time.time() - os.fstat(file).st_mtime > _UNFINISHED_FOR_S
                if old and try_lock(file) and is_at(file, path):
                    path.unlink()
            finally:
                os.close(file)


def _open(path: Path, fingerprint: bytes | None) -> Found:
    try:
        segment = Segment.open(path, fingerprint)
    except ForeignSegmentError as exc:
        return Found(path, None, str(exc))
    except (SegmentError, OSError) as exc:
        return Found(path, None, str(exc), is_strange=True)
    return Found(path, segment, None if segment else "its writer lives")


def _survey(segment: Segment) -> tuple[int, int]:
    """How many good records there are from the acknowledged mark on, and how many are known to be damaged."""
    offset = segment.read_offset
    events = damaged = 0
    expected: int | None = None
    while (record := segment.good_record_from(offset)) is not None:
        if record.start != offset:
            # Where they follow each other nothing is damaged, whatever their sequences: threads may swap theirs.
            damaged += 1 if expected is None else max(1, record.sequence - expected)
        events += 1
        expected = record.sequence + 1
        offset = record.end
    if segment.is_damaged or segment.leftover_after(offset):
        damaged += 1
    return events, damaged
