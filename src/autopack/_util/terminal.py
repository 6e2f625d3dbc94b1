"""Standard output and standard error: whether each is a terminal, and what happens when it cannot be written.

A failing standard error does no harm. Its reader may have gone away (`2>&1 | head`), its disk may be full, it may
be closed: none of that may end a run whose calls are being paid for. Standard output carries the result: that it
cannot be written is an error, which its writer sees.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO, cast


def is_terminal(stream: object) -> bool:
    """Whether this stream is a terminal. None, which stands for a closed stream, is not."""
    return stream is not None and bool(getattr(stream, "isatty", bool)())


@contextmanager
def tolerate_stderr_errors() -> Iterator[None]:
    """While open, writing to `sys.stderr` raises no OSError: what cannot be written is lost, and what follows too."""
    with ExitStack() as opened:
        stream = sys.stderr or opened.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        with redirect_stderr(cast(TextIO, _TolerantStream(stream))):
            try:
                yield
            finally:
                redirect_to_devnull_if_broken(stream)


def redirect_to_devnull_if_broken(stream: TextIO | None) -> None:
    """Flush a stream; if that fails, send it to /dev/null, so that the exit does not fail with status 120."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        _redirect_to_devnull(stream)


def _redirect_to_devnull(stream: Any) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


class _TolerantStream:
    """A text stream whose writes never raise OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _redirect_to_devnull(self._stream)
            return len(text)

    def flush(self) -> None:
        redirect_to_devnull_if_broken(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
