"""Files of one user: made 0600 in folders 0700, never reached through a link, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner alone. Raises OSError."""
    if not folder.is_dir():
        make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)


def ensure_private_folder(folder: Path) -> None:
    """Make a folder for its owner alone. Raises OSError if the path is a link, not a folder, or another user's."""
    make_folders(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder of this user", str(folder))


def open_private(path: Path, flags: int) -> int:
    """Open a regular file of this user, 0600 if it is made. Raises OSError for a link or anything else."""
    # O_NONBLOCK: opening a FIFO that another program put there must not wait for its other end.
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(file)
        raise PermissionError(errno.EPERM, "not a regular file of this user", str(path))
    return file


def try_lock(file: int) -> bool:
    """Take the exclusive `flock` of an open file; return whether it was free. Raises what else `flock` raises."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(file: int, path: Path) -> bool:
    """Whether the path still leads to the open file: it may have been renamed or removed, or its folder, meanwhile."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file), path.lstat())
    return False


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the name `path` when the block ends well, and is removed when it does not.

    The result is on disk before it has its name, and private (0600), whatever was there before. An existing
    regular file is replaced. Anything else of that name is refused and left alone: a link (whether it or its target
    is meant is unknown), a device, a pipe, a directory.

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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, as `fsync` does the contents of a file. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
