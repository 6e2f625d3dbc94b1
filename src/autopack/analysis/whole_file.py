"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name `path` when the block ends well, and vanishes when it does not.

    The result is on disk before it has its name, and private (0600), whatever was there before. An existing
    regular file is replaced. Anything else of that name is refused and left alone: a link (one would not know
    whether it or its target is meant), a device, a pipe, a directory.

    Raises:
        OSError: it cannot be written there, or the name is taken by something that is not a regular file.

    """
    _refuse_all_but_a_regular_file(path)
    descriptor, temporary = _temporary_beside(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 (Path.replace would need a Path made only for it)
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108 (as above)
        raise
    _sync_directory(path.parent)


def _temporary_beside(path: Path) -> tuple[int, str]:
    try:
        return tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=".part", dir=path.parent)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _refuse_all_but_a_regular_file(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "not a regular file"
        raise OSError(f"{path} is {kind}; give the path of a file to be made or replaced")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
