"""Events that the database will never take as they are: one line of JSON each, kept until a person acts.

The file is `dead-letters.ndjson` in the destination's telemetry folder, private to its owner. Several processes append
to it; the lines of a batch go in with one `write` under a lock. `autopack dead-letters retry` first renames the file,
so that no writer appends to what it reads, and removes it when every line of it has been dealt with. A crash in between
leaves a `*.retrying` file, which the next `list` or `retry` finds; ids make sending twice harmless.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from autopack._util import os_threads
from autopack._util.files import ensure_private_folder, is_at, open_private, try_lock
from autopack._util.ids import event_uid
from autopack.telemetry.event.decode import encode_given
from autopack.telemetry.event.schema import Rejected

FILE_NAME = "dead-letters.ndjson"
MAX_BYTES = 64 << 20
# A dead letter is an event of at most 256 KiB written as JSON, where a byte may become six.
_LARGEST_BYTES = 6 * (256 << 10)
_LOCK_TRIES = 100
_LOCK_PAUSE_S = 0.01


class DeadLetter(msgspec.Struct, frozen=True):
    """One event that was refused.

    `kind` is "invalid" where the validation refused it and "data" where the database did; `reason` says why, `code`
    is the driver's. `at` is when it was refused (UTC), `attempts` how often it was tried. `event` holds the fields as
    they were given, as far as JSON can; `timestamp_ns` and `sequence` give it the same id when it is sent again.
    """

    event_uid: str
    kind: str
    reason: str
    code: str | None
    at: datetime
    attempts: int
    timestamp_ns: int
    sequence: int
    event: dict[str, Any]

    def payload(self) -> bytes:
        """The event on the wire again, to be validated and written as if it had just been recorded."""
        return encode_given(self.timestamp_ns, self.sequence, self.event)


def dead_letter(rejected: Rejected, *, kind: str, code: str | None = None, attempts: int = 0) -> DeadLetter:
    """The dead letter of a rejected event, now."""
    return DeadLetter(
        event_uid=event_uid(rejected.timestamp_ns, rejected.sequence),
        kind=kind,
        reason=rejected.reason,
        code=code,
        at=datetime.now(UTC),
        attempts=attempts,
        timestamp_ns=rejected.timestamp_ns,
        sequence=rejected.sequence,
        event=rejected.fields,
    )


class DeadLetterSink(Protocol):
    """Takes the events that were rejected."""

    def append(self, letters: Sequence[DeadLetter]) -> int:
        """Keep them; returns how many could not be kept."""


class MemoryDeadLetters:
    """The newest dead letters of a database in memory, to be looked at by tests and programs."""

    def __init__(self, limit: int = 1000) -> None:
        self.letters: deque[DeadLetter] = deque(maxlen=limit)

    def append(self, letters: Sequence[DeadLetter]) -> int:
        """Keep them, and forget the oldest beyond the limit."""
        forgotten = max(0, len(self.letters) + len(letters) - (self.letters.maxlen or 0))
        self.letters.extend(letters)
        return forgotten


class DeadLetterFile:
    """The dead letters in a folder. Every method opens what it needs and leaves nothing open."""

    def __init__(
        self, folder: Path, *, max_bytes: int = MAX_BYTES, sleep: Callable[[float], None] = os_threads.sleep
    ) -> None:
        self.path = folder / FILE_NAME
        self._max_bytes = max_bytes
        self._sleep = sleep

    def append(self, letters: Sequence[DeadLetter]) -> int:
        """Add lines; returns how many of them found no place because the file is full or cannot be written."""
        encoder = msgspec.json.Encoder()
        lines = [encoder.encode(letter) + b"\n" for letter in letters]
        try:
            with self._opened() as file:
                return self._append_lines(file, lines)
        except OSError:
            return len(lines)

    def read(self) -> Iterator[DeadLetter | None]:
        """All letters, oldest file first; None for a line that cannot be read, such as the torn end of a crash."""
        for path in self._files():
            yield from dead_letters_in(path)

    def claim(self) -> list[Path]:
        """Take the present letters out of the way of those that append; returns the files that now hold them."""
        with contextlib.suppress(FileNotFoundError), self._opened(create=False):
            self.path.rename(self.path.with_suffix(f".{os.getpid()}-{time.time_ns()}.retrying"))
        return self._claimed()

    @contextlib.contextmanager
    def claimed(self, path: Path) -> Iterator[bool]:
        """Whether this process alone deals with a claimed file, for as long as the context lasts."""
        try:
            file = open_private(path, os.O_RDONLY)
        except OSError:
            yield False
            return
        try:
            yield try_lock(file) and is_at(file, path)
        finally:
            os.close(file)

    def discard(self, path: Path) -> None:
        """Remove a claimed file: every line of it has been dealt with."""
        path.unlink()

    def _files(self) -> list[Path]:
        return [*self._claimed(), *([self.path] if self.path.exists() else [])]

    def _claimed(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.*.retrying"))

    def _append_lines(self, file: int, lines: list[bytes]) -> int:
        size = os.fstat(file).st_size
        fitting = list(_fitting(lines, self._max_bytes - size))
        if not fitting:
            return len(lines)
        # A line that a crash has torn must not take the first new one with it.
        start = b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""
        data = start + b"".join(fitting)
        if os.write(file, data) != len(data):
            return len(lines)
        return len(lines) - len(fitting)

    @contextlib.contextmanager
    def _opened(self, *, create: bool = True) -> Iterator[int]:
        """The file, locked, as long as it is the one that the path names."""
        if create:
            ensure_private_folder(self.path.parent)
        for _ in range(_LOCK_TRIES):
            file = open_private(self.path, os.O_APPEND | os.O_RDWR | (os.O_CREAT if create else 0))
            try:
                if try_lock(file) and is_at(file, self.path):
                    yield file
                    return
            finally:
                os.close(file)
            self._sleep(_LOCK_PAUSE_S)
        raise OSError(errno.EBUSY, "the dead letters are locked by another process", str(self.path))


def _fitting(lines: Iterable[bytes], room: int) -> Iterator[bytes]:
    for line in lines:
        room -= len(line)
        if room < 0:
            return
        yield line


def dead_letters_in(path: Path) -> Iterator[DeadLetter | None]:
    """The letters of one file; None for a line that cannot be read."""
    decoder = msgspec.json.Decoder(DeadLetter)
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        for line in filter(bytes.strip, file):
            try:
                yield decoder.decode(line)
            except msgspec.MsgspecError:
                yield None


class DeadLetterStatus(msgspec.Struct, frozen=True):
    """The dead letters of a database. `unreadable`: lines that cannot be read; `full`: there is no room for more."""

    waiting: int
    unreadable: int
    full: bool


def dead_letter_status(folder: Path) -> DeadLetterStatus:
    """The dead letters in a telemetry folder. Raises OSError where they cannot be read."""
    dead_letters = DeadLetterFile(folder)
    unreadable = waiting = 0
    for letter in dead_letters.read():
        unreadable += letter is None
        waiting += letter is not None
    size_bytes = dead_letters.path.stat().st_size if dead_letters.path.exists() else 0
    return DeadLetterStatus(waiting, unreadable, full=size_bytes >= MAX_BYTES - _LARGEST_BYTES)
