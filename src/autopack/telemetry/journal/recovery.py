"""Segments that dead writers left behind: found, taken over, read to their end, removed."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from autopack._util.files import is_at, open_private, try_lock
from autopack.errors import ForeignSegmentError, SegmentError
from autopack.telemetry import log
from autopack.telemetry.journal.format import Record
from autopack.telemetry.journal.segment import SUFFIX, UNFINISHED_SUFFIX, LeftSegment, Position, read_header_of
from autopack.telemetry.lifecycle import warn_once

# A segment is made in milliseconds; a younger file may be in the making, and not locked yet.
_UNFINISHED_FOR_S = 60.0
_MOST_OPEN = 128  # segments at once: each is an open file and a map

T = TypeVar("T")


class Orphan:
    """A segment whose writer is dead. `events` are those to be delivered, `damaged` what cannot be read."""

    def __init__(self, segment: LeftSegment) -> None:
        self.segment = segment
        self.events, self.damaged = _survey(segment)
        self.events_left = self.events
        self._finder = segment.record_finder()

    def next_record(self) -> Record | None:
        """The next good record, None at the end."""
        if not self.events_left:
            return None
        record = self._finder.next_from(self.segment.read_offset)
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


class Recovery:
    """Takes over what dead writers left for a destination, in rounds; of each round the oldest first.

    A segment is taken over and surveyed only when those before it have been read, so that a large backlog costs the
    worker one segment at a time, and other processes may take the rest. Where another process was faster, or the file
    is gone, all is well.
    """

    def __init__(self, folder: Path, fingerprint: bytes) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._candidates: deque[Path] = deque()
        self._orphans: deque[Orphan] = deque()
        self._round = (0, 0, 0)  # segments, events, damaged records
        self.events = 0
        self.damaged = 0

    def begin_round(self) -> None:
        """Look for dead writers' segments, unless there is more to read of the last round, or no folder to list."""
        if self._candidates or self.events_left:
            return
        try:
            remove_unfinished(self._folder)
            with os.scandir(self._folder) as entries:  # from Python 3.13 on `glob` finds nothing and says nothing
                paths = sorted(Path(entry) for entry in entries if entry.name.endswith(SUFFIX))
        except FileNotFoundError:
            return
        except OSError as exc:
            warn_once(f"{self._folder} cannot be searched for events of earlier processes: {exc.strerror}")
            return
        found = filter(None, (_created(path, self._fingerprint) for path in paths))
        self._candidates.extend(path for _, path in sorted(found, key=lambda item: item[0]))

    @property
    def is_over(self) -> bool:
        """Whether all that was found is settled."""
        return not self._candidates and not self._orphans

    @property
    def has_more(self) -> bool:
        """Whether there may be more to read than `events_left`."""
        return bool(self._candidates) and len(self._orphans) < _MOST_OPEN

    @property
    def events_left(self) -> int:
        """How many events were not read yet, of the segments that are taken over."""
        return sum(orphan.events_left for orphan in tuple(self._orphans))

    def read(self, limit: int) -> Iterator[list[tuple[Position, bytes]]]:
        """At most `limit` records that were not read yet, in order: one list for each segment."""
        for orphan in tuple(self._orphans):
            records = orphan.next_records(limit)
            limit -= len(records)
            yield records
        while limit > 0 and (taken := self._take_over_next()) is not None:
            records = taken.next_records(limit)
            limit -= len(records)
            yield records

    def _take_over_next(self) -> Orphan | None:
        """One more; None where no more are to be had, or enough are open."""
        while self.has_more:
            segment = _taken_over(self._candidates.popleft(), self._fingerprint)
            if segment is not None:
                orphan = Orphan(segment)
                self._orphans.append(orphan)
                self.events += orphan.events
                self.damaged += orphan.damaged
                segments, events, damaged = self._round
                self._round = segments + 1, events + orphan.events, damaged + orphan.damaged
                return orphan
        return None

    def acknowledge(self, first_unsettled: Position | None) -> None:
        """Some of what was read is settled, all of it before a position: move the marks, remove the files in which
        nothing is left, wherever they stand.
        """
        for orphan in tuple(self._orphans):
            is_settled = orphan.segment.acknowledge_before(first_unsettled)
            if orphan.events_left:
                return
            if is_settled:
                self._orphans.remove(orphan)
                try_to(orphan.dispose)
        if self.is_over:
            self._log_round()

    def _log_round(self) -> None:
        (segments, events, damaged), self._round = self._round, (0, 0, 0)
        if events or damaged:
            log.warning(
                "Recovered %d event(s) of earlier processes from %d journal segment(s), %d damaged",
                events,
                segments,
                damaged,
            )

    def release(self) -> None:
        """Give them up, for the next writer, with what is not settled in them."""
        self._candidates.clear()
        while self._orphans:
            self._orphans.popleft().segment.release()


def _created(path: Path, fingerprint: bytes) -> tuple[int, Path] | None:
    """When a segment was made, if it is for this destination; None for anything else, which is left alone."""
    header = _unless_unusable(path, lambda: read_header_of(path, fingerprint))
    return None if header is None else (header.created_ns, path)


def _taken_over(path: Path, fingerprint: bytes | None) -> LeftSegment | None:
    segment = _unless_unusable(path, lambda: LeftSegment.open(path, fingerprint))
    if segment is None or segment.take_over():
        return segment
    segment.release()
    return None


def _unless_unusable(path: Path, look: Callable[[], T]) -> T | None:
    """What a look at a file gives; None, and said once, where it is to be left alone."""
    try:
        return look()
    except (ForeignSegmentError, FileNotFoundError):
        return None  # for another database; or its writer has just finished it
    except (SegmentError, OSError) as exc:
        warn_once(f"{path} is left alone: {exc}")
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


def _survey(segment: LeftSegment) -> tuple[int, int]:
    """How many good records there are from the acknowledged mark on, and how many are known to be damaged.

    Where records are written rather than mapped, a hole is what was refused, and not damaged, as long as it is zeros.
    """
    offset = segment.read_offset
    events = damaged = 0
    expected: int | None = None
    finder = segment.record_finder()
    while (record := finder.next_from(offset)) is not None:
        if record.start != offset and not segment.is_hole(offset, record.start):
            # Where they follow each other nothing is damaged, whatever their sequences: threads may swap theirs.
            damaged += 1 if expected is None else max(1, record.sequence - expected)
        events += 1
        expected = record.sequence + 1
        offset = record.end
    return events, damaged + segment.is_damaged_after(offset)
