"""Segments that dead writers left behind: found, taken over, read to their end, removed."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from autopack._util.files import is_at, open_private, try_lock
from autopack.errors import ForeignSegmentError, SegmentError
from autopack.telemetry import log
from autopack.telemetry.journal.format import Record
from autopack.telemetry.journal.segment import SUFFIX, UNFINISHED_SUFFIX, Position, Segment
from autopack.telemetry.lifecycle import warn_once

# A segment is made in milliseconds; a younger file may be in the making, and not locked yet.
_UNFINISHED_FOR_S = 60.0


class Orphan:
    """A segment whose writer is dead. `events` are those to be delivered, `damaged` what cannot be read."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.events, self.damaged = _survey(segment)
        self.events_left = self.events

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

    def next_records(self, limit: int) -> list[tuple[Position, bytes]]:
        """At most `limit` good records. Raises SegmentError when not even one can be read."""
        records: list[tuple[Position, bytes]] = []
        while len(records) < limit:
            try:
                record = self.next_record()
            except SegmentError:
                if records:
                    break  # these are not lost for it; the next call says what is wrong
                raise
            if record is None:
                break
            records.append((Position(self.segment, record.start), record.payload))
        return records

    def dispose(self) -> None:
        """All of it is settled: delete it, or, where it is damaged, quarantine it for a person."""
        if self.damaged:
            log.warning("A damaged journal segment was quarantined as %s", self.segment.quarantine())
        else:
            self.segment.remove()


class Orphans(deque[Orphan]):
    """The segments of dead writers that this process has taken over, oldest first."""

    @property
    def events_left(self) -> int:
        """How many events were not read yet."""
        return sum(orphan.events_left for orphan in self)

    def read(self, limit: int) -> Iterator[list[tuple[Position, bytes]]]:
        """At most `limit` records that were not read yet, in order: one list for each segment."""
        for orphan in self:
            records = orphan.next_records(limit)
            limit -= len(records)
            yield records

    def acknowledge(self, first_unsettled: Position | None) -> bool:
        """Everything that was read before a position is settled: move the marks, remove the files that end before it.

        Returns whether none is left.
        """
        while self:
            first = self[0]
            if not first.segment.acknowledge_before(first_unsettled) or first.events_left:
                return False
            try_to(self.popleft().dispose)
        return True

    def release(self) -> None:
        """Give them up, for the next writer, with what is not settled in them."""
        for orphan in self:
            orphan.segment.release()
        self.clear()


def orphans_in(folder: Path, fingerprint: bytes | None) -> list[Orphan]:
    """Take over what dead writers left for a destination, oldest first; None: for any destination.

    What belongs to a living writer or to another destination is left alone; so is what is no segment, with a warning.
    """
    segments = filter(None, (_taken_over(path, fingerprint) for path in sorted(folder.glob(f"*{SUFFIX}"))))
    return [Orphan(segment) for segment in sorted(segments, key=lambda segment: segment.header.created_ns)]


def _taken_over(path: Path, fingerprint: bytes | None) -> Segment | None:
    try:
        segment = Segment.open(path, fingerprint)
    except (ForeignSegmentError, FileNotFoundError):
        return None  # for another database; or its writer has just finished it
    except (SegmentError, OSError) as exc:
        warn_once(f"{path} is left alone: {exc}")
        return None
    if segment.take_over():
        return segment
    segment.release()
    return None


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


def try_to(dispose: Callable[[], object]) -> None:
    """Delete or rename a file that is settled. If that fails, a later writer finds it again and sends nothing of it."""
    try:
        dispose()
    except OSError as exc:
        log.warning("A settled journal segment cannot be removed: %s", exc.strerror)


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
    return events, damaged + segment.is_damaged_after(offset)
