"""The FILE and the `--source` of the commands that read the database or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from autopack.analysis.reading.selection import EVERYTHING, Selection

Source = Literal["db", "log", "ndjson"]


def source_options(*, logs: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `FILE` and `--source`; without `logs` a file can only be an export."""
    log = "[TokenEstimationV2] lines of a log FILE, " if logs else ""
    why_not = "" if logs else " A log does not name deliverables."
    option = click.option(
        "--source",
        type=click.Choice(["db", *_files(logs=logs)]),
        default="db",
        show_default=True,
        help=f"The database, {log}or an export FILE (- is standard input).{why_not}",
    )
    argument = click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
    return lambda command: argument(option(command))


def check_source(file: Path | None, source: Source, selection: Selection, *, logs: bool) -> None:
    """Raises `UsageError` where these do not go together: a file is read whole, and `db` needs none."""
    if source == "db" and file is not None:
        known = " or ".join(_files(logs=logs))
        raise click.UsageError(f"--source db reads the database of DATABASE_URL; for a FILE use --source {known}")
    if source != "db" and file is None:
        raise click.UsageError(f"--source {source} needs a FILE (- is standard input)")
    if source != "db" and selection != EVERYTHING:
        raise click.UsageError("the options that select events are for --source db")


def _files(*, logs: bool) -> list[Source]:
    return ["log", "ndjson"] if logs else ["ndjson"]
