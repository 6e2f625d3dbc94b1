"""`autopack import`: parse, wire, print."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

import anyio
import click
import msgspec

from autopack._util.text import escape_terminal
from autopack.commands._options import Instant
from autopack.commands._output import announce, print_json, tracked_file
from autopack.database.destination import current_destination, database_url
from autopack.errors import StoreError
from autopack.maintenance.import_lines import FileReader, ImportFormat
from autopack.maintenance.importing import Imported, import_stream
from autopack.maintenance.rejects import RejectFile
from autopack.telemetry.stores import Store, store_for

_STDIN = "-"


class ImportSummary(msgspec.Struct, frozen=True):
    """What `autopack import` says. `rejects` is the file of rejected lines, None where there is none."""

    database: str
    dry_run: bool
    files: list[Imported]
    rejects: str | None

    @property
    def problems(self) -> list[str]:
        """What a person should look at, in words."""
        found = [f"no event in {file.file}; --format says what it is" for file in self.files if not _claims(file)]
        rejected = sum(file.rejected for file in self.files)
        return [*found, *([f"{rejected} line(s) rejected, see {self.rejects}"] if rejected else [])]


@click.command("import", short_help="Bring logs and exports into the database.")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(path_type=Path, allow_dash=True, exists=True, dir_okay=False),
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["auto", "log", "ndjson"]),
    default="auto",
    show_default=True,
    help="What the files are; auto looks at the first line of each.",
)
@click.option(
    "--assume-time",
    type=Instant(),
    metavar="TIME",
    help="When log lines happened that say no time; without it they are rejected.",
)
@click.option(
    "--rejects",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where rejected lines go, with reasons. Default: <first FILE>.rejects.ndjson",
)
@click.option("--dry-run", is_flag=True, help="Say what would be imported or rejected; the database is not touched.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def import_command(
    *,
    files: Sequence[Path],
    file_format: ImportFormat,
    assume_time: datetime | None,
    rejects: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring [TokenEstimationV2] lines of logs, and NDJSON exports, into the database that DATABASE_URL names.

    Importing twice changes nothing: events keep their ids, and an event without one gets an id that follows from what
    it is and how often the file has it. Log lines name neither run nor phase: those of a day become one run, named
    imported-log-<date>, and each line a phase of its own. Their clock is taken to be UTC where it states
    no zone. Files of UTF-16 and gzip are read as well. What was logged with
    telemetry on is in the database already, under its real ids: do not import that log.

    A line that is no event is rejected by itself, with the reason, to a file of its own. The exit code is 0 when every
    event is in the database, and 1 when a line was rejected, a file has no event, or the database cannot be written.

    Example: autopack import build.log telemetry_export.ndjson
    """
    destination = current_destination()
    if destination.identity is None:
        raise click.ClickException("a database in memory is gone with its process; set DATABASE_URL")
    announce(destination)
    reject_path = rejects or _beside(files[0])
    if any(_is_same(reject_path, file) for file in files):
        raise click.UsageError(f"--rejects {escape_terminal(str(reject_path))} would replace a file that is imported")
    with RejectFile(reject_path) as reject_file:
        imported = anyio.run(_import_all, files, file_format, assume_time, reject_file, not dry_run)
    summary = ImportSummary(str(destination), dry_run, imported, str(reject_file.path) if reject_file.count else None)
    if as_json:
        print_json({**msgspec.structs.asdict(summary), "problems": summary.problems})
    else:
        click.echo("\n".join(map(escape_terminal, _lines(summary))))
    sys.exit(1 if summary.problems else 0)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _beside(file: Path) -> Path:
    return Path("stdin.rejects.ndjson") if str(file) == _STDIN else file.with_name(f"{file.name}.rejects.ndjson")


async def _import_all(
    files: Sequence[Path], file_format: ImportFormat, assume_time: datetime | None, rejects: RejectFile, write: bool
) -> list[Imported]:
    store: Store | None = store_for(database_url()) if write else None
    imported = []
    try:
        for file in files:
            with _opened(file) as stream:
                reader = FileReader(file_format, assume_time)
                imported.append(await import_stream(stream, str(file), reader, rejects, store))
    except StoreError as exc:
        raise click.ClickException(
            f"the database cannot be written ({exc.code}). What was imported before stays; run "
            "it again when the database is back, nothing is written twice"
        ) from exc
    finally:
        if store:
            await store.close()
    return imported


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The file, or standard input; a file with a progress bar on a terminal."""
    with click.open_file(str(file), "rb") as opened:
        stream = cast("BinaryIO", opened)
        with nullcontext(stream) if str(file) == _STDIN else tracked_file(stream, file) as read:
            yield read


def _claims(file: Imported) -> bool:
    return bool(file.events or file.rejected)


def _lines(summary: ImportSummary) -> Iterator[str]:
    for file in summary.files:
        told = (
            f"{file.events} events would be imported, but for those that are there already"
            if summary.dry_run
            else f"{file.events} events: {file.written} written, {file.duplicates} were there already"
        )
        yield f"{file.file} ({file.format}): {told}; {file.rejected} rejected, {file.passed_over} other lines"
    for problem in summary.problems:
        yield f"problem: {problem}"
