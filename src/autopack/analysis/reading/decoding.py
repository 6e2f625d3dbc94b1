"""A file of text as UTF-8, however it is stored: UTF-16, as PowerShell's `>` writes it, and gzip, as `logrotate` does.

What else is recognised cannot be read here, and is named. Everything is decoded as it is read, in bounded memory.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable
from typing import BinaryIO

from autopack.errors import ReadError

_HEAD_BYTES = 16
_PIECE_BYTES = 1 << 16
_GZIP = b"\x1f\x8b"
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_NOT_READ = {
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it first (zstd -d)",
    b"\xfd7zXZ\0": "compressed by xz; decompress it first (xz -d)",
    b"BZh": "compressed by bzip2; decompress it first (bzip2 -d)",
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"SQLite format 3\0": "a SQLite database; autopack copy reads one",
    b"PAR1": "a Parquet file; export --format ndjson can be read again",
}


def decoded(stream: BinaryIO, name: str, *, may_be_packed: bool = True) -> BinaryIO:
    """The bytes of a stream as UTF-8, without a byte order mark of UTF-16; `name` names it in messages.

    Raises:
        ReadError: it is something that cannot be read as lines; also while it is read, where what is packed is damaged.

    """
    head = stream.read(_HEAD_BYTES)
    for start, what in _NOT_READ.items():
        if head.startswith(start):
            raise ReadError(f"{name} is {what}")
    whole = _buffered(_After(head, stream).take)
    if may_be_packed and head.startswith(_GZIP):
        unpacked = _buffered(_Gunzipped(whole, name).take)
        return decoded(unpacked, f"{name} (unpacked)", may_be_packed=False)
    mark = next((mark for mark in _UTF16 if head.startswith(mark)), None)
    if mark is None:
        return whole
    whole.read(len(mark))
    return _buffered(_Utf16(whole, _UTF16[mark]).take)


class _After:
    """What was read of a stream already, then the rest of it."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head = head
        self._read = getattr(stream, "read1", stream.read)  # a pipe gives what there is

    def take(self, most: int) -> bytes:
        piece, self._head = self._head[:most], self._head[most:]
        found: bytes = piece or self._read(most)
        return found


class _Gunzipped:
    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._file = gzip.GzipFile(fileobj=stream)
        self._name = name

    def take(self, most: int) -> bytes:
        try:
            return self._file.read1(most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise ReadError(f"{self._name} is damaged: its gzip data cannot be unpacked to the end") from exc


class _Utf16:
    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""

    def take(self, most: int) -> bytes:
        while not self._ready:
            piece = self._stream.read(_PIECE_BYTES)
            self._ready = self._decoder.decode(piece, final=not piece).encode()
            if not piece:
                break
        found, self._ready = self._ready[:most], self._ready[most:]
        return found


class _Taken(io.RawIOBase):
    """A raw stream of what a function gives, at most so many bytes at a time; empty at the end."""

    def __init__(self, take: Callable[[int], bytes]) -> None:
        self._take = take

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        piece = self._take(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def _buffered(take: Callable[[int], bytes]) -> BinaryIO:
    return io.BufferedReader(_Taken(take), _PIECE_BYTES)
