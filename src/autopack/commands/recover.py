"""`autopack recover`: deliver what dead processes left in the journal, without a build."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from autopack._util.text import escape_terminal
from autopack.commands._output import print_json
from autopack.commands._reading import announced_database
from autopack.database.destination import Destination
from autopack.errors import ConfigError
from autopack.telemetry.engine import AUTO, DeadLetterFile, RecoveryResult, Settings, journal_folder, recover, resolve
from autopack.telemetry.journal import SegmentFile, fingerprint_of, journal_status
from autopack.telemetry.stores import store_of


class RecoveryReport(msgspec.Struct, frozen=True):
    """What `autopack recover` says: `events` is what was found and what became of it, `segments` in how many files.

    left        events of dead processes that are in the journal now, of the databases that were asked for
    corrupt     damaged files that were quarantined
    left_alone  the segment files that are there now, and why
    """

    database: str
    journal: str
    segments: int
    events: RecoveryResult
    left: int
    corrupt: list[str]
    left_alone: list[SegmentFile]

    @property
    def something_stayed(self) -> bool:
        """Whether a person should look."""
        return bool(self.left) or any(file.state == "unusable" for file in self.left_alone)


@click.command("recover", short_help="Deliver what dead processes left in the journal.")
@click.option(
    "--journal-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The journal folder. Default: TELEMETRY_JOURNAL_DIR, else the one of the database.",
)
@click.option(
    "--any-destination", is_flag=True, help="Deliver events that were meant for other databases, too: to this one."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the database may be away before the rest stays.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def recover_command(journal_dir: Path | None, any_destination: bool, timeout_s: float, as_json: bool) -> None:
    """Deliver the events that dead processes left in the journal of the database that DATABASE_URL names.

    They go the normal way: validated, in batches, refused ones to the dead letters; one that is in the database already
    is not written again. Segments of running processes, of other databases, and files that are no usable segment are
    left alone and named.

    The exit code is 0 when nothing is left, and 1 when events of dead processes, or files that cannot be used, stayed.

    Example: autopack recover --json
    """
    destination = announced_database()
    folder = _folder(destination, journal_dir)
    settings = _settings()
    report = _recover(destination, folder, settings, timeout_s, any_destination=any_destination)
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(_lines(report)))
    sys.exit(1 if report.something_stayed else 0)


def _folder(destination: Destination, given: Path | None) -> Path:
    if destination.in_memory:
        raise click.ClickException("a database in memory has no journal; set DATABASE_URL")
    folder = journal_folder(AUTO if given is None else given, destination.telemetry_dir)
    if folder is None:
        raise click.ClickException("TELEMETRY_JOURNAL_DIR is off; name the folder with --journal-dir")
    if given is not None and not folder.is_dir():
        raise click.ClickException(f"{escape_terminal(str(given))} is not a folder")
    return folder


def _settings() -> Settings:
    try:
        return resolve({})
    except ConfigError as exc:
        raise click.ClickException(escape_terminal(str(exc))) from exc


def _recover(
    destination: Destination, folder: Path, settings: Settings, timeout_s: float, *, any_destination: bool
) -> RecoveryReport:
    fingerprint = fingerprint_of(destination.identity or "")
    before = journal_status(folder, fingerprint)
    wanted = [file for file in before.orphaned if file.ours or any_destination]
    events = _deliver(wanted, destination, folder, settings, timeout_s) if wanted else RecoveryResult()
    after = journal_status(folder, fingerprint)
    return RecoveryReport(
        database=str(destination),
        journal=str(folder),
        segments=len(wanted),
        events=events,
        left=sum(file.events for file in after.orphaned if file.ours or any_destination),
        corrupt=sorted(set(after.corrupt) - set(before.corrupt)),
        left_alone=after.files,
    )


def _deliver(
    files: Sequence[SegmentFile], destination: Destination, folder: Path, settings: Settings, timeout_s: float
) -> RecoveryResult:
    fingerprints = sorted({bytes.fromhex(file.fingerprint) for file in files})
    store = store_of(destination)
    dead_letters = DeadLetterFile(destination.telemetry_dir or folder, max_bytes=settings.dead_letter_bytes)
    return recover(folder, fingerprints, store, dead_letters, settings, timeout_s=timeout_s)


def _lines(report: RecoveryReport) -> Iterator[str]:
    events = report.events
    yield f"journal:       {escape_terminal(report.journal)}"
    yield f"found:         {events.found} event(s) of dead processes in {report.segments} segment(s)"
    yield f"written:       {events.written}"
    yield f"duplicates:    {events.duplicates}"
    yield f"dead letters:  {events.dead_lettered}" + (
        f"; {events.without_room} more find no room there and stay in the journal" if events.without_room else ""
    )
    yield f"damaged:       {events.damaged} record(s)"
    yield f"left:          {report.left}" + (f" ({events.last_error})" if report.left and events.last_error else "")
    for name in report.corrupt:
        yield f"quarantined:   {escape_terminal(name)}"
    for file in report.left_alone:
        yield f"left alone:    {escape_terminal(file.name)}: {escape_terminal(file.why)}"
