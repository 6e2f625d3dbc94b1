"""The lines that were not imported, each with its reason: a private file that is there only if there are any."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from autopack._util.files import atomic_write

_LONGEST_TEXT = 1_000


class Reject(msgspec.Struct, frozen=True):
    """One line: `text` is at most its first 1,000 bytes, and what is no UTF-8 in it stands as an escape."""

    file: str
    line: int
    reason: str
    text: str


class RejectFile:
    """Takes rejects; the file has its name when the context is left well, and replaces an older one of that name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._opened = ExitStack()
        self._file: BinaryIO | None = None

    def add(self, file: str, line: int, reason: str, text: bytes) -> None:
        """Write one down. Raises OSError."""
        if self._file is None:
            self._file = self._opened.enter_context(atomic_write(self.path))
        shown = text.strip()[:_LONGEST_TEXT].decode("utf-8", "backslashreplace")
        self._file.write(msgspec.json.encode(Reject(file, line, reason, shown)) + b"\n")
        self.count += 1

    def __enter__(self) -> Self:
        self._opened.__enter__()
        return self

    def __exit__(self, *exc: object) -> bool | None:
        return self._opened.__exit__(*exc)  # type: ignore[arg-type]
