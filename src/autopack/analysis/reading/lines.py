"""The lines of a log or an export, one at a time; the records in an export; what a file without records is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

from autopack.analysis.reading.selection import Source
from autopack.errors import ReadError

LONGEST_LINE_BYTES = 2 << 20  # an event is recorded in at most 256 KiB; all of it as \u escapes is six times that

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EXPECTED = {"log": "[TokenEstimationV2] lines of a log", "ndjson": "an export, one JSON object a line"}

T = TypeVar("T")


def bounded_lines(readline: Callable[[int], bytes]) -> Iterator[bytes]:
    """The lines that a stream's `readline` gives. A line longer than 2 MiB, which no record is, comes cut to that
    and does not take the memory. A byte order mark before the first line, as Windows programs write it, is left out.
    """
    read_line = partial(readline, LONGEST_LINE_BYTES)
    line = _first_line(readline)
    while line:
        yield line
        while line and not line.endswith(b"\n"):
            line = read_line()
        line = read_line()


def _first_line(readline: Callable[[int], bytes]) -> bytes:
    start = readline(len(_BYTE_ORDER_MARK))
    if start.endswith(b"\n"):
        return start
    begun = b"" if start == _BYTE_ORDER_MARK else start
    return begun + readline(LONGEST_LINE_BYTES - len(begun))


def is_claim(line: bytes) -> bool:
    """Whether a line of an export claims to be a record: it is neither blank nor a header (`#`)."""
    return bool(line.strip()) and not line.startswith(b"#")


def exported(lines: Iterable[bytes], kind: type[T]) -> Iterator[T | None]:
    """The records in an export, autopack's or the host system's, as a `kind`; None is one that cannot be read."""
    decode = msgspec.json.Decoder(kind).decode
    for line in filter(is_claim, lines):
        try:
            yield decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield None


class FileLines:
    """The lines of a file, to be taken once. `claims` counts those taken that are neither blank nor a header (`#`)."""

    def __init__(self, lines: Iterable[bytes], name: str, source: Source) -> None:
        self.claims = 0
        self._lines = lines
        self._name = name
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.claims += is_claim(line)
            yield line

    def check(self, events: int) -> None:
        """Raises `ReadError` where the file holds something and no event was read: it is not what it was taken for.

        A file without a line, or with headers only, is in order: there was nothing to export.
        """
        if self.claims and not events:
            raise ReadError(
                f"{self._name}: none of its {self.claims} line(s) can be read as an event; "
                f"--source {self._source} takes {_EXPECTED[self._source]}"
            )
