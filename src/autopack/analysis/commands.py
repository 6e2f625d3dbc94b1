"""`autopack export`: parse, wire, print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from autopack.analysis.export import Format, encoded_lines
from autopack.analysis.options import selection_options
from autopack.analysis.rows import Events, open_events
from autopack.analysis.selection import Selection
from autopack.analysis.whole_file import whole_file
from autopack.database import current_destination
from autopack.streams import is_terminal
from autopack.text import for_terminal

_BUFFER_BYTES = 1 << 16


@click.command("export", short_help="Write the recorded events, newest first.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write this file, whole or not at all, instead of standard output. A link is refused.")  # fmt: skip
@click.option("--format", "output_format", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@click.option("--raw", is_flag=True, help="CSV: do not put ' before text that a spreadsheet takes for a formula.")
@selection_options
def export_command(output: Path | None, output_format: Format, raw: bool, selection: Selection) -> None:
    """Write the recorded events, newest first: one JSON object per line, or CSV with a header row.

    Headers and warnings go to standard error.

    Example: autopack export --since 2025-12-01 --output events.ndjson
    """
    destination = current_destination()
    note(f"# Database: {destination}")
    with open_events(destination, selection) as events:
        note("# TokenEstimationV2 Telemetry Export")
        note(f"# Total events: {events.total}")
        lines = encoded_lines(
            events.records, output_format, raw=raw, to_terminal=output is None and is_terminal(sys.stdout)
        )
        with _sink(output) as sink:
            sink.writelines(_with_progress(lines, events, output))
    _report(events, output)


def _report(events: Events, output: Path | None) -> None:
    if not events.total:
        note("No events: the database has none that match.")
    if events.unreadable.rows:
        note(f"Warning: {events.unreadable.rows} events have an unreadable time, deliverables, existing or attributes; "
             "null stands in their place.")  # fmt: skip
    if output is not None:
        note(f"Wrote {events.total} events to {output}")


def note(line: str) -> None:
    """Print a line for people, on standard error."""
    click.echo(for_terminal(line), err=True)


def _sink(output: Path | None) -> AbstractContextManager[BinaryIO]:
    return _standard_output() if output is None else whole_file(output)


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    if sys.stdout is None:
        raise click.ClickException("standard output is closed; use --output FILE")
    # A buffer of its own: with PYTHONUNBUFFERED there is none, and what could not be written is dropped with it.
    with open(sys.stdout.fileno(), "wb", buffering=_BUFFER_BYTES, closefd=False) as stream:
        yield stream


def _with_progress(lines: Iterable[bytes], events: Events, output: Path | None) -> Iterable[bytes]:
    """The lines, with a progress bar on standard error where it would disturb nobody."""
    if not is_terminal(sys.stderr) or (output is None and is_terminal(sys.stdout)):
        return lines
    from rich.console import Console
    from rich.progress import track

    return track(lines, "Exporting", total=events.total, console=Console(stderr=True), transient=True)
