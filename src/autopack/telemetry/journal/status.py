"""What lies in a journal folder, seen without taking anything over.

A segment's lock is tried, to learn whether its writer lives, and given up before the file is read: a writer that starts
during the look must be able to recover. So a number may be out of date when it is read; nothing is ever changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from autopack.errors import SegmentError
from autopack.telemetry.journal.recovery import Orphan
from autopack.telemetry.journal.segment import CORRUPT_SUFFIX, SUFFIX, LeftSegment, is_gone

State = Literal["live", "orphaned", "unusable"]


class SegmentFile(msgspec.Struct, frozen=True):
    """One file of a journal folder.

    state        live: a process holds it, its writer or a child of that; orphaned: its writer is gone, the next one
                 recovers it; unusable: left alone
    ours         whether its events are for the database that was asked for; None where that cannot be known
    fingerprint  which database they are for, in hex; empty where that cannot be known
    events       how many wait in it; of a live one about so many
    pid          the number of the process that made it; 0 where that is not known
    pid_is_gone  whether no such process is seen here: it is dead, or in another container
    problem      why it is unusable, else None
    """

    name: str
    state: State
    ours: bool | None = None
    fingerprint: str = ""
    events: int = 0
    pid: int = 0
    pid_is_gone: bool = False
    problem: str | None = None

    @property
    def why(self) -> str:
        """What there is to say of a file that is left alone."""
        whose = "" if self.ours else ", for another database"
        which = f"; process {self.pid}" if self.pid else ""
        match self.state:
            case "unusable":
                return f"no usable segment: {self.problem}"
            case "live" if self.pid_is_gone:
                return (
                    f"held by a child of process {self.pid}, which is gone, or by that process in another container; "
                    f"{self.events} event(s) wait{whose}"
                )
            case "live":
                return f"its writer lives, {self.events} event(s) wait{whose}{which}"
            case "orphaned":
                return f"its writer is gone, {self.events} event(s) wait{whose}{which}"


class JournalStatus(msgspec.Struct, frozen=True):
    """A journal folder, oldest name first. `corrupt`: damaged files that recovery has kept for a person."""

    folder: str
    files: list[SegmentFile]
    corrupt: list[str]

    @property
    def orphaned(self) -> list[SegmentFile]:
        """Those that the next writer of their database recovers."""
        return [file for file in self.files if file.state == "orphaned"]


def journal_status(folder: Path, fingerprint: bytes) -> JournalStatus:
    """What is in a journal folder now; one that does not exist is empty."""
    return JournalStatus(
        folder=str(folder),
        files=list(_segment_files(folder, fingerprint)),
        corrupt=sorted(path.name for path in folder.glob(f"*{CORRUPT_SUFFIX}")),
    )


def _segment_files(folder: Path, fingerprint: bytes) -> Iterator[SegmentFile]:
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            yield _segment_file(path, fingerprint)
        except FileNotFoundError:
            continue  # its writer has just finished it
        except (SegmentError, OSError) as exc:
            yield SegmentFile(path.name, "unusable", problem=getattr(exc, "strerror", None) or str(exc))


def _segment_file(path: Path, fingerprint: bytes) -> SegmentFile:
    segment = LeftSegment.open(path)
    try:
        state: State = "live" if segment.has_living_owner() else "orphaned"
        theirs = segment.header.fingerprint
        return SegmentFile(
            path.name,
            state,
            theirs == fingerprint,
            theirs.hex(),
            Orphan(segment).events,
            segment.process.pid,
            is_gone(segment.process),
        )
    finally:
        segment.release()
