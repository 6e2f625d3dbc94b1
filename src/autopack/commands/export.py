"""`autopack export`: parse, wire, print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import click

from autopack._util.files import atomic_write
from autopack._util.terminal import is_terminal
from autopack.analysis.exporting.parquet import ParquetFile, pyarrow_or_explain
from autopack.analysis.exporting.parquet_folder import write_by_month
from autopack.analysis.exporting.text import ExportFormat, encoded_lines
from autopack.analysis.reading.records import EventRecord
from autopack.analysis.reading.rows import Events, open_events
from autopack.analysis.reading.selection import Selection
from autopack.commands._options import selection_options
from autopack.commands._output import note, tracked
from autopack.commands._reading import database_to_read

_BUFFER_BYTES = 1 << 16


@click.command("export", short_help="Write the recorded events, newest first.")
@click.option(
    "--output",
    metavar="FILE",
    help="Write this file, whole or not at all, instead of standard output. A link is refused. "
    "Parquet: a name that ends in / is a folder, partitioned by month.",
)
@click.option(
    "--format", "output_format", type=click.Choice(["ndjson", "csv", "parquet"]), default="ndjson", show_default=True
)
@click.option("--raw", is_flag=True, help="CSV: do not put ' before text that a spreadsheet takes for a formula.")
@selection_options
def export_command(
    output: str | None, output_format: ExportFormat | Literal["parquet"], raw: bool, selection: Selection
) -> None:
    """Write the recorded events, newest first: one JSON object per line, CSV with a header row, or Parquet.

    Headers and warnings go to standard error. input_tokens is all input, what came from the prompt cache included; in
    rows whose cache_read_tokens and cache_write_tokens are empty, which are from before these columns or of a provider
    that does not say, it may leave the cache out.

    Example: autopack export --since 2025-12-01 --output events.ndjson
    """
    target = None if output is None else Path(output)
    into_folder = output is not None and output.endswith("/")
    _check_use(output_format, target, into_folder=into_folder)
    with open_events(database_to_read(), selection) as events:
        note("# TokenEstimationV2 Telemetry Export")
        note(f"# Total events: {events.total}")
        if output_format == "parquet":
            misfits = _export_parquet(events, target, into_folder=into_folder)
        else:
            misfits = 0
            _export_lines(events, target, output_format, raw=raw)
    _report(events, target, misfits)


def _check_use(output_format: str, target: Path | None, *, into_folder: bool) -> None:
    if into_folder and output_format != "parquet":
        raise click.UsageError(f"--output with a / at its end is a folder, which only Parquet has: {target}/")
    if output_format == "parquet":
        pyarrow_or_explain()
        if target is None and is_terminal(sys.stdout):
            raise click.UsageError("Parquet is nothing for a terminal; use --output FILE")


def _export_lines(events: Events, target: Path | None, output_format: ExportFormat, *, raw: bool) -> None:
    to_terminal = target is None and is_terminal(sys.stdout)
    records = _with_progress(events, target)
    with _sink(target) as sink:
        sink.writelines(encoded_lines(records, output_format, raw=raw, to_terminal=to_terminal))


def _export_parquet(events: Events, target: Path | None, *, into_folder: bool) -> int:
    records = _with_progress(events, target)
    if into_folder and target is not None:
        return write_by_month(records, target)
    with _sink(target) as sink, ParquetFile(sink) as file:
        file.write_all(records)
    return file.misfits


def _report(events: Events, output: Path | None, misfits: int) -> None:
    if not events.total:
        note("No events: the database has none that match.")
    if events.unreadable.rows:
        note(
            f"Warning: {events.unreadable.rows} events have an unreadable time, deliverables, existing or attributes; "
            "null stands in their place."
        )
    if misfits:
        note(f"Warning: {misfits} values are not of their column's type; null stands in their place.")
    if output is not None:
        note(f"Wrote {events.total} events to {output}")


def _sink(output: Path | None) -> AbstractContextManager[BinaryIO]:
    return _standard_output() if output is None else atomic_write(output)


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    if sys.stdout is None:
        raise click.ClickException("standard output is closed; use --output FILE")
    # A buffer of its own: with PYTHONUNBUFFERED there is none, and what could not be written is dropped with it.
    with open(sys.stdout.fileno(), "wb", buffering=_BUFFER_BYTES, closefd=False) as stream:
        yield stream


def _with_progress(events: Events, output: Path | None) -> Iterable[EventRecord]:
    """The records, with a progress bar unless they go to the same terminal."""
    would_disturb = output is None and is_terminal(sys.stdout)
    return events.records if would_disturb else tracked(events.records, "Exporting", events.total)
