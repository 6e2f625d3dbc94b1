"""Files that belong to one user: made 0600 in folders 0700, never reached through a link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner alone. Raises OSError."""
    if not folder.is_dir():
        make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)


def ensure_private_folder(folder: Path) -> None:
    """Make a folder for its owner alone. Raises OSError if the path is a link, not a folder, or somebody else's."""
    make_folders(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder of this user", str(folder))


def open_private(path: Path, flags: int) -> int:
    """Open a regular file of this user, 0600 if it is made. Raises OSError for a link or anything else."""
    # O_NONBLOCK: opening a FIFO that somebody put there must not wait for its other end.
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(file)
        raise PermissionError(errno.EPERM, "not a regular file of this user", str(path))
    return file


def try_lock(file: int) -> bool:
    """Take the exclusive `flock` of an open file if nobody has it. Other errors of `flock` are raised."""
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
