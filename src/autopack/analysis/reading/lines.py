"""The lines of a log or an export, one at a time, and the records in those of an export. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

LONGEST_LINE_BYTES = 2 << 20  # an event is recorded in at most 256 KiB; all of it as \u escapes is six times that

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

T = TypeVar("T")


def bounded_lines(readline: Callable[[int], bytes]) -> Iterator[bytes]:
    """The lines that a stream's `readline` gives. One that is longer than 2 MiB comes cut to that: it is no record
    of ours, and must not take the memory. A byte order mark before the first line, as Windows programs write it, is
    none of the text.
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
    """The records in an export, ours or the plan's, as a `kind`; None is one that cannot be read as that."""
    decode = msgspec.json.Decoder(kind).decode
    for line in filter(is_claim, lines):
        try:
            yield decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield None
