"""Whether the database can be written, checked before a recorded run makes its first paid call."""

from __future__ import annotations

import os
from pathlib import Path

from autopack.database.destination import Destination, require_driver

_SQLITE_MAGIC = b"SQLite format 3\0"


def database_problem(destination: Destination) -> str | None:
    """Return why the database can never be written as things are, None where no reason is found; creates nothing.

    What may pass by itself (a lock, a full disk) is no reason: the journal keeps events until then.
    Raises `MissingExtraError` where the driver is not installed.
    """
    if destination.server is not None:
        require_driver("asyncpg")
        return None
    path = destination.path
    if path is None:
        return None
    try:
        folder = _nearest_existing(path.parent)
        if not folder.is_dir():
            return f"{folder} is not a folder"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"no permission to write in {folder}"
        return _file_problem(path) if path.exists() else None
    except OSError as exc:
        return f"{path}: {exc.strerror}"


def _nearest_existing(folder: Path) -> Path:
    return next(candidate for candidate in (folder, *folder.parents) if candidate.exists())


def _file_problem(path: Path) -> str | None:
    if not path.is_file():
        return f"{path} is not a file"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"no permission to write {path}"
    with path.open("rb") as file:
        start = file.read(len(_SQLITE_MAGIC))
    return f"{path} is not a SQLite database" if start not in {b"", _SQLITE_MAGIC} else None
