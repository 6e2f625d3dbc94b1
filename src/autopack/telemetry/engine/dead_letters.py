"""Events that the database will never take as they are: one line of JSON each, kept until a person acts.

# The file

It is `dead-letters.ndjson` in the destination's telemetry folder, private to its owner. Several processes append to it;
the lines of a batch go in with one `write` under a lock. `autopack dead-letters retry` first renames the file, so that
no writer appends to what it reads, and removes it when every line of it has been dealt with. A crash in between leaves
a `*.retrying` file, which the next `list` or `retry` finds; ids make sending twice harmless.

# Without room

The disk may be full, and the file has a cap (`Settings.dead_letter_bytes`). What finds no room waits in
`WaitingDeadLetters`, and its events stay unsettled: in the journal, where there is one. They are offered again at most
once in an outage's interval, at a flush and at the end.

# Invariants

- `append` keeps a prefix: it returns how many of the last letters are not kept. Each of the others is whole, in order,
  and was handed to the disk (`fsync`).
- A line that is not kept leaves nothing in the file, unless `fsync` failed: then it may be there twice in the end.
- An event is settled as dead-lettered only after its letter is kept.
- What waits costs memory of the size of its lines: at most what the journal, or the queue in memory, holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from autopack._util import os_threads
from autopack._util.files import ensure_private_folder, is_at, open_private, try_lock
from autopack._util.ids import event_uid
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.event.decode import Decoder, encode_given
from autopack.telemetry.event.schema import Rejected
from autopack.telemetry.stores.base import refusal_text

FILE_NAME = "dead-letters.ndjson"
MAX_BYTES = Settings().dead_letter_bytes
# A dead letter is an event written as JSON, where a byte may become six.
_LARGEST_BYTES = 6 * Settings().max_event_bytes
_OFFERED_AT_ONCE = 500
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


def refused_dead_letter(decode: Decoder, payload: bytes, code: str, subject: str | None, attempts: int) -> DeadLetter:
    """The dead letter of an event that the database refused, for `code`; `subject`: what the refusal is about."""
    reason = f"{refusal_text(code)}, {subject}" if subject else refusal_text(code)
    return dead_letter(decode.rejected(payload, reason), kind="data", code=code, attempts=attempts)


class DeadLetterSink(Protocol):
    """Takes the events that were rejected."""

    @property
    def problem(self) -> str:
        """Why the last ones found no room, in a few words."""

    @property
    def forgotten(self) -> int:
        """How many were kept and are not there any more, although no person has acted."""

    def append(self, letters: Sequence[DeadLetter]) -> int:
        """Keep them, in order, as far as there is room; returns how many of the last are not kept."""


class MemoryDeadLetters:
    """The newest dead letters of a database in memory, to be looked at by tests and programs."""

    problem = ""

    def __init__(self, limit: int = 1000) -> None:
        self.letters: deque[DeadLetter] = deque(maxlen=limit)
        self.forgotten = 0

    def append(self, letters: Sequence[DeadLetter]) -> int:
        """Keep them, and forget the oldest beyond the limit: these go the way of the database."""
        self.forgotten += max(0, len(self.letters) + len(letters) - (self.letters.maxlen or 0))
        self.letters.extend(letters)
        return 0


class DeadLetterFile:
    """The dead letters in a folder. Every method opens what it needs and leaves nothing open."""

    forgotten = 0

    def __init__(
        self, folder: Path, *, max_bytes: int = MAX_BYTES, sleep: Callable[[float], None] = os_threads.sleep
    ) -> None:
        self.path = folder / FILE_NAME
        self.problem = ""
        self._max_bytes = max_bytes
        self._sleep = sleep

    def append(self, letters: Sequence[DeadLetter]) -> int:
        """Add lines, in order; returns how many of the last found no room: the file is full, or cannot be written."""
        encoder = msgspec.json.Encoder()
        lines = [encoder.encode(letter) + b"\n" for letter in letters]
        try:
            with self._opened() as file:
                return len(lines) - self._append_lines(file, lines)
        except OSError as exc:
            self.problem = exc.strerror or type(exc).__name__
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
        """Append as many of the first lines as there is room for; returns how many. Raises OSError: none."""
        size = os.fstat(file).st_size
        # One that is larger than the cap is kept all the same, alone: it would wait for ever, and all behind it.
        fitting = list(_fitting(lines, self._max_bytes - size)) or ([] if size else lines[:1])
        if len(fitting) < len(lines):
            self.problem = f"{self.path} has reached its {self._max_bytes} bytes"
        if not fitting:
            return 0
        # A line that a crash has torn must not take the first new one with it.
        start = b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""
        try:
            written = os.write(file, start + b"".join(fitting))
            whole = list(_fitting(fitting, written - len(start)))
            if len(whole) < len(fitting):
                self.problem = os.strerror(errno.ENOSPC)
                os.ftruncate(file, size + len(start) + sum(map(len, whole)) if whole else size)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)
            raise
        # Not while others wait for the lock. Should it fail, the lines may be there twice in the end.
        fcntl.flock(file, fcntl.LOCK_UN)
        os.fsync(file)
        return len(whole)

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


class WaitingDeadLetters:
    """Dead letters that have found no room in a sink yet, under the keys of their events."""

    def __init__(self, sink: DeadLetterSink) -> None:
        self._sink = sink
        self._lines: dict[int, bytes] = {}  # as JSON, which takes a fifth of the memory of its objects
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(DeadLetter).decode

    def __len__(self) -> int:
        return len(self._lines)

    def offer(self, letters: Mapping[int, DeadLetter]) -> list[int]:
        """Have the sink keep these; returns the keys of those that it kept. The others wait, behind earlier ones."""
        kept = [] if self._lines else self._kept_of(letters)
        kept_keys = set(kept)
        self._lines |= {key: self._encode(letter) for key, letter in letters.items() if key not in kept_keys}
        return kept

    def offer_again(self) -> list[int]:
        """Have the sink keep what waits, oldest first, until it has no room; returns the keys of those that it kept."""
        kept: list[int] = []
        while self._lines:
            some = dict(itertools.islice(self._lines.items(), _OFFERED_AT_ONCE))
            now_kept = self._kept_of({key: self._decode(line) for key, line in some.items()})
            for key in now_kept:
                del self._lines[key]
            kept += now_kept
            if len(now_kept) < len(some):
                break
        return kept

    def _kept_of(self, letters: Mapping[int, DeadLetter]) -> list[int]:
        keys = list(letters)
        return keys[: len(keys) - self._sink.append(list(letters.values()))]


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


def dead_letter_status(folder: Path, *, max_bytes: int = MAX_BYTES) -> DeadLetterStatus:
    """The dead letters in a telemetry folder. Raises OSError where they cannot be read."""
    dead_letters = DeadLetterFile(folder)
    unreadable = waiting = 0
    for letter in dead_letters.read():
        unreadable += letter is None
        waiting += letter is not None
    size_bytes = dead_letters.path.stat().st_size if dead_letters.path.exists() else 0
    return DeadLetterStatus(waiting, unreadable, full=size_bytes >= max_bytes - min(_LARGEST_BYTES, max_bytes // 8))
