"""Files that a user hands in: read, or refused in one line that names the file."""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path

from autopack._util.text import truncate_for_display
from autopack.errors import InputFileError

LARGEST_INPUT_BYTES = 64 << 20
WRITER_WAIT_S = 10.0


def read_input(path: Path, source: str | None = None, *, writer_wait_s: float = WRITER_WAIT_S) -> bytes:
    """Return the bytes of a file or pipe; `source` names it in messages, else its path does.

    writer_wait_s: how long a pipe may be without a program that writes into it.

    Raises:
        InputFileError: it cannot be read, or is larger than 64 MiB, as a device without an end is.

    """
    try:
        data = _read(path, writer_wait_s)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a path"
        raise InputFileError(f"{truncate_for_display(source or str(path))}: {reason}") from exc
    if len(data) > LARGEST_INPUT_BYTES:
        raise InputFileError(
            f"{truncate_for_display(source or str(path))}: larger than {LARGEST_INPUT_BYTES >> 20} MiB"
        )
    return data


def _read(path: Path, writer_wait_s: float) -> bytes:
    """Read a file, at most as much as is too much. A pipe is opened without waiting for its other end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        start = _start_of_pipe(file, writer_wait_s) if stat.S_ISFIFO(os.fstat(file).st_mode) else b""
        os.set_blocking(file, True)
        with open(file, "rb", closefd=False) as stream:
            return start + stream.read(LARGEST_INPUT_BYTES + 1)
    finally:
        os.close(file)


def _start_of_pipe(file: int, writer_wait_s: float) -> bytes:
    """Return what is in a pipe already, nothing where a program is about to write; raises OSError where none comes."""
    try:
        if start := os.read(file, 1 << 16):
            return start
    except BlockingIOError:
        return b""  # a program has it open
    poll = select.poll()
    poll.register(file, select.POLLIN)
    if not poll.poll(writer_wait_s * 1000):
        raise OSError(errno.ENODATA, f"a pipe into which no program writes (waited {writer_wait_s:g} s)")
    return b""
