"""What a command reads: the database that the environment names, announced, or the lines of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import click

from autopack.analysis.reading.decoding import decoded
from autopack.analysis.reading.lines import FileLines, bounded_lines
from autopack.analysis.reading.selection import Source
from autopack.commands._output import announce, note, tracked
from autopack.database.destination import Destination, current_destination
from autopack.database.driver_errors import driver_errors_described
from autopack.errors import DatabaseError, describe_error
from autopack.telemetry.engine import AUTO, journal_folder


def announced_database() -> Destination:
    """The database that the environment names, which is said on standard error. Raises `DatabaseUrlError`."""
    destination = current_destination()
    announce(destination)
    return destination


def database_to_read() -> Destination:
    """The same for a command that reads events: those that wait in the journal, and are not read, are said too."""
    destination = announced_database()
    try:
        for line in _waiting(destination):
            note(f"# Not in the database yet: {line}")
    except Exception as exc:  # noqa: BLE001 (what lies in the journal's folder does not keep the database from being read)
        note(f"# The journal cannot be looked at: {describe_error(exc)}")
    return destination


def _waiting(destination: Destination) -> Iterator[str]:
    folder = journal_folder(AUTO, destination.telemetry_dir)
    if destination.in_memory or folder is None or not folder.is_dir():
        return
    from autopack.maintenance.health import waiting_events  # only now: it loads what reads segments

    dead, live = waiting_events(destination)
    if dead:
        yield f"{dead} event(s) of dead processes wait in the journal; autopack recover delivers them"
    if live:
        yield f"{live} event(s) of running processes wait in the journal; they are being written"


@contextmanager
def as_click_error(destination: Destination, what: str) -> Iterator[None]:
    """Ends the command with `<database> <what>: <reason>` where its block is refused by the database or its driver."""
    try:
        with driver_errors_described(destination, what):
            yield
    except DatabaseError as exc:
        raise click.ClickException(describe_error(exc)) from exc


@contextmanager
def opened_lines(file: Path, source: Source) -> Iterator[FileLines]:
    """The lines of a file, or of standard input (`-`), with a progress bar on a terminal. Raises `OSError`, and
    `ReadError` where it is none of lines.
    """
    with click.open_file(str(file), "rb") as stream:
        name = "standard input" if str(file) == "-" else str(file)
        lines = bounded_lines(decoded(cast("BinaryIO", stream), name).readline)
        yield FileLines(tracked(lines, "Reading", None), name, source)
