"""What lies in a journal folder and among the dead letters, seen without taking anything over.

A segment's lock is tried, to learn whether its writer lives, and given up before the file is read: a writer that starts
while somebody looks must be able to recover. So a number may be out of date when it is read; nothing is ever changed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from autopack._util.files import open_private, try_lock
from autopack.errors import SegmentError
from autopack.telemetry.engine.dead_letters import MAX_BYTES as DEAD_LETTERS_MAX_BYTES
from autopack.telemetry.engine.dead_letters import DeadLetterFile
from autopack.telemetry.journal.recovery import Orphan
from autopack.telemetry.journal.segment import FIRST_RECORD, SUFFIX, Segment, check_size, read_header

CORRUPT_SUFFIX = ".corrupt"
# A letter is an event of at most 256 KiB written as JSON, where a byte may become six.
_LARGEST_LETTER_BYTES = 6 * (256 << 10)

State = Literal["live", "orphaned", "unusable"]


class SegmentFile(msgspec.Struct, frozen=True):
    """One file of a journal folder.

    state        live: its writer runs; orphaned: its writer is gone, the next one recovers it; unusable: left alone
    ours         whether its events are for the database that was asked for; None where that cannot be known
    fingerprint  which database they are for, in hex; empty where that cannot be known
    events       how many wait in it; of a live one about so many
    problem      why it is unusable, else None
    """

    name: str
    state: State
    ours: bool | None = None
    fingerprint: str = ""
    events: int = 0
    problem: str | None = None

    @property
    def why(self) -> str:
        """What there is to say of a file that is left alone."""
        whose = "" if self.ours else ", for another database"
        match self.state:
            case "unusable":
                return f"no usable segment: {self.problem}"
            case "live":
                return f"its writer lives, {self.events} event(s) wait{whose}"
            case "orphaned":
                return f"its writer is gone, {self.events} event(s) wait{whose}"


class JournalState(msgspec.Struct, frozen=True):
    """A journal folder, oldest name first. `corrupt`: damaged files that recovery has set aside for a person."""

    folder: str
    files: list[SegmentFile]
    corrupt: list[str]

    @property
    def orphaned(self) -> list[SegmentFile]:
        """Those that the next writer of their database recovers."""
        return [file for file in self.files if file.state == "orphaned"]


class DeadLetterState(msgspec.Struct, frozen=True):
    """The dead letters of a database. `unreadable`: lines that cannot be read; `full`: no further one finds room."""

    waiting: int
    unreadable: int
    full: bool


def journal_state(folder: Path, fingerprint: bytes) -> JournalState:
    """What is in a journal folder now; one that does not exist is empty."""
    return JournalState(
        folder=str(folder),
        files=list(_segment_files(folder, fingerprint)),
        corrupt=sorted(path.name for path in folder.glob(f"*{CORRUPT_SUFFIX}")),
    )


def dead_letter_state(folder: Path) -> DeadLetterState:
    """The dead letters in a telemetry folder. Raises OSError where they cannot be read."""
    dead_letters = DeadLetterFile(folder)
    unreadable = waiting = 0
    for letter in dead_letters.read():
        unreadable += letter is None
        waiting += letter is not None
    size_bytes = dead_letters.path.stat().st_size if dead_letters.path.exists() else 0
    return DeadLetterState(waiting, unreadable, full=size_bytes >= DEAD_LETTERS_MAX_BYTES - _LARGEST_LETTER_BYTES)


def _segment_files(folder: Path, fingerprint: bytes) -> Iterator[SegmentFile]:
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            yield _look_at(path, fingerprint)
        except FileNotFoundError:
            continue  # its writer has just finished it
        except (SegmentError, OSError) as exc:
            yield SegmentFile(path.name, "unusable", problem=getattr(exc, "strerror", None) or str(exc))


def _look_at(path: Path, fingerprint: bytes) -> SegmentFile:
    file = open_private(path, os.O_RDWR)
    try:
        check_size(os.fstat(file).st_size)
        header = read_header(os.pread(file, FIRST_RECORD, 0))
        state: State = "orphaned" if try_lock(file) else "live"
        fcntl.flock(file, fcntl.LOCK_UN)
        segment = Segment(path, file, header)
    except BaseException:
        os.close(file)
        raise
    try:
        segment.read_offset = segment.acknowledged()
        events = Orphan(segment).events
    finally:
        segment.release()
    return SegmentFile(path.name, state, header.fingerprint == fingerprint, header.fingerprint.hex(), events)
