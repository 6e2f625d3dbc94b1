"""`autopack copy`: parse, wire, print."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import click
import msgspec

from autopack._util.input_files import read_input
from autopack._util.text import escape_terminal
from autopack.commands._output import announce, note, print_json, progress
from autopack.database.destination import Destination, parse_database_url
from autopack.database.preflight import database_problem
from autopack.errors import InputFileError, StoreError
from autopack.maintenance.copying import Copied, copy, open_rows
from autopack.maintenance.rejects import RejectFile
from autopack.telemetry.stores import store_of


class CopySummary(msgspec.Struct, frozen=True):
    """What `autopack copy` says. `rejects` is the file of rejected rows, None where there is none."""

    source: str
    destination: str
    dry_run: bool
    rows: Copied
    rejects: str | None


@click.command("copy", short_help="Copy all events into another database.")
@click.option("--from", "from_url", envvar="AUTOPACK_COPY_FROM", metavar="URL", help="The database to read.")
@click.option("--to", "to_url", envvar="AUTOPACK_COPY_TO", metavar="URL", help="The database to write.")
@click.option("--from-file", type=click.Path(path_type=Path), metavar="FILE", help="A file that holds the first URL.")
@click.option("--to-file", type=click.Path(path_type=Path), metavar="FILE", help="A file that holds the second URL.")
@click.option(
    "--rejects",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    default=Path("copy.rejects.ndjson"),
    show_default=True,
    help="Where rows go, with reasons, that the destination refuses.",
)
@click.option(
    "--dry-run", is_flag=True, help="Read all rows and say what would be copied; the destination is not touched."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
@click.pass_context
def copy_command(
    ctx: click.Context,
    *,
    from_url: str | None,
    to_url: str | None,
    from_file: Path | None,
    to_file: Path | None,
    rejects: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy all events from one database into another, between SQLite and PostgreSQL in any direction.

    Events keep their ids and instants, and one that is there already is not written again: after an interruption, or
    for what has been recorded since, run it again. What is written to the source meanwhile is not held up and not
    copied; nor is what waits in the source's journal or lies in its dead letters (autopack status). The destination
    gets the schema that it needs.

    A command line is public: a URL with a password comes from AUTOPACK_COPY_FROM and AUTOPACK_COPY_TO, or from a file.
    The exit code is 0 when every event is in the destination, and 1 when one was rejected or it cannot be written.

    Example: autopack copy --from sqlite:///autopack.db --to sqlite:///copy.db
    """
    source = parse_database_url(_url(ctx, "from", from_url, from_file))
    destination = parse_database_url(_url(ctx, "to", to_url, to_file))
    announce(source)
    note(f"# Into: {destination}")
    _check(source, destination)
    with RejectFile(rejects) as reject_file:
        copied = _copy(source, destination, reject_file, dry_run=dry_run)
    summary = CopySummary(
        str(source), str(destination), dry_run, copied, str(reject_file.path) if reject_file.count else None
    )
    if as_json:
        print_json(summary)
    else:
        click.echo("\n".join(_lines(summary)))
    sys.exit(1 if copied.rejected else 0)


def _url(ctx: click.Context, name: str, given: str | None, file: Path | None) -> str:
    """The URL from the command line, a file or the environment, in this order."""
    typed = ctx.get_parameter_source(f"{name}_url") is click.core.ParameterSource.COMMANDLINE
    if file is not None and typed:
        raise click.UsageError(f"--{name} and --{name}-file: give one of them")
    if file is not None:
        return _url_in(file)
    if not given:
        raise click.UsageError(f"which database? Give --{name}, --{name}-file or AUTOPACK_COPY_{name.upper()}")
    return given


def _url_in(file: Path) -> str:
    lines = read_input(file).decode("utf-8", "replace").split("\n")
    found = [line.strip() for line in lines if line.strip()]
    if len(found) != 1:
        raise InputFileError(f"{escape_terminal(str(file))}: {len(found)} lines; it has to hold one, a database URL")
    return found[0]


def _check(source: Destination, destination: Destination) -> None:
    if destination.in_memory:
        raise click.ClickException("a database in memory is gone with its process; name another destination")
    if source.identity == destination.identity:
        raise click.ClickException("both URLs name the same database; name another destination")
    if problem := database_problem(destination):
        raise click.ClickException(escape_terminal(f"{destination} cannot be written: {problem}"))


def _copy(source: Destination, destination: Destination, rejects: RejectFile, *, dry_run: bool) -> Copied:
    store = None if dry_run else store_of(destination)

    async def run() -> Copied:
        try:
            with open_rows(source) as (total, rows), progress("Copying", total) as advance:
                return await copy(rows, store, rejects, str(source), advance)
        finally:
            if store is not None:
                await store.close()

    try:
        return anyio.run(run)
    except StoreError as exc:
        raise click.ClickException(
            escape_terminal(
                f"{destination} cannot be written ({exc.code}). What was copied before stays; run it again when that "
                "is mended, nothing is written twice"
            )
        ) from exc


def _lines(summary: CopySummary) -> Iterator[str]:
    rows = summary.rows
    if summary.dry_run:
        yield f"{rows.read - rows.rejected} of {rows.read} events would be copied, but for those that are there already"
    else:
        told = f"{rows.written} written, {rows.duplicates} were there already, {rows.rejected} rejected"
        yield f"{rows.read} events: {told}"
    if summary.rejects:
        yield escape_terminal(f"problem: {rows.rejected} row(s) rejected, see {summary.rejects}")
