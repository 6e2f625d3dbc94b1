"""A folder of Parquet files, partitioned by month as Hive does it: `month=2026-11/events-0.parquet`.

The folder appears whole or not at all, as a file does in `atomic_write`. A folder that is there already is replaced if
it holds nothing but such files; between the two renames that takes, no folder has the name.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

from autopack._util.files import atomic_write, sync_folder
from autopack.analysis.exporting.parquet import ParquetFile
from autopack.analysis.reading.records import EventRecord
from autopack.errors import AnalysisError

_NO_MONTH = "__HIVE_DEFAULT_PARTITION__"  # Hive's name for null
_MONTH_LENGTH = len("2026-11")
_EXPORTED = re.compile(r"month=[^/]+(/events-\d+\.parquet)?")


def write_by_month(records: Iterable[EventRecord], folder: Path) -> int:
    """Write a folder of the records; returns how many values became null because they did not fit their column.

    Newest first, as they are read, only one month is open at a time. One that comes again gets a further file.

    Raises:
        AnalysisError: the name is taken by something that is no such export, or pyarrow is not installed.
        OSError: it cannot be written there.

    """
    with _atomic_folder(folder) as new:
        return sum(_write_month(run, new / f"month={month}") for month, run in groupby(records, key=_month_of))


def _month_of(record: EventRecord) -> str:
    return record.timestamp[:_MONTH_LENGTH] if record.timestamp else _NO_MONTH


def _write_month(records: Iterable[EventRecord], folder: Path) -> int:
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"events-{sum(1 for _ in folder.iterdir())}.parquet"
    with atomic_write(path) as stream, ParquetFile(stream) as file:
        file.write_all(records)
    return file.misfits


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    _refuse_all_but_an_export(folder)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name[:64]}.", suffix=".part", dir=folder.parent))
    try:
        yield new
        sync_folder(new)
        _replace(folder, new)
    except BaseException:
        shutil.rmtree(new)
        raise
    sync_folder(folder.parent)


def _replace(folder: Path, new: Path) -> None:
    old = new.with_suffix(".old")
    with suppress(FileNotFoundError):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        with suppress(FileNotFoundError):
            old.rename(folder)
        raise
    if old.exists():
        shutil.rmtree(old)


def _refuse_all_but_an_export(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise AnalysisError(f"{folder} is not a folder; give the path of one to be made or replaced")
    foreign = [path for path in folder.rglob("*") if not _EXPORTED.fullmatch(path.relative_to(folder).as_posix())]
    if foreign:
        raise AnalysisError(
            f"{folder} holds {foreign[0].relative_to(folder)}, which is not of an export; "
            "give another folder, this one would be replaced"
        )
