"""`autopack dead-letters`: look at the events that no database would take, and send them again."""

from __future__ import annotations

import sys

import click

from autopack._util.text import escape_terminal
from autopack.analysis.tables import padded
from autopack.commands._output import print_json
from autopack.commands._reading import announced_database
from autopack.database.destination import current_destination
from autopack.telemetry.engine import DeadLetter, DeadLetterFile, dead_letter_bytes

_HEADER = ("event", "kind", "run", "phase", "reason")
_WIDTHS = (36, 8, 24, 24, 0)


@click.group("dead-letters")
def dead_letters_command() -> None:
    """Events that the database would not take: list them, send them again.

    Each is a line of JSON in the folder <database file>.telemetry, with the reason. DATABASE_URL says which database.

    Example: autopack dead-letters list
    """


@dead_letters_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with every field of the event.")
def list_command(as_json: bool) -> None:
    """Show the dead letters of the database that DATABASE_URL names, oldest first.

    Example: autopack dead-letters list --json
    """
    unreadable = 0
    shown = 0
    for letter in _dead_letters().read():
        if letter is None:
            unreadable += 1
            continue
        if shown == 0 and not as_json:
            click.echo(padded(_HEADER, _WIDTHS, figures=()))
        shown += 1
        if as_json:
            print_json(letter)
        else:
            click.echo(_line(letter))
    click.echo(f"{shown} dead letter(s)" + (f", {unreadable} unreadable line(s)" if unreadable else ""), err=True)


@dead_letters_command.command("retry")
def retry_command() -> None:
    """Send every dead letter again, under its own id, and remove what has landed.

    What is refused again stays, with the new reason. Ends with 1 if anything stayed.

    Example: autopack dead-letters retry
    """
    import anyio

    from autopack.errors import StoreError
    from autopack.maintenance.redelivery import resend
    from autopack.telemetry.stores import store_of

    dead_letters = _dead_letters()
    try:
        outcome = anyio.run(resend, dead_letters, store_of(current_destination()))
    except StoreError as exc:
        raise click.ClickException(f"the database cannot be written ({exc.code}); the dead letters stay") from exc
    click.echo(
        f"{outcome.written} written, {outcome.duplicates} were there already, {outcome.kept} stay in the dead letters"
    )
    sys.exit(1 if outcome.kept else 0)


def _dead_letters() -> DeadLetterFile:
    folder = announced_database().telemetry_dir
    if folder is None:
        raise click.ClickException("a database in memory has no dead letters on disk; set DATABASE_URL")
    return DeadLetterFile(folder, max_bytes=dead_letter_bytes())


def _line(letter: DeadLetter) -> str:
    run, phase = (escape_terminal(str(letter.event.get(name, "-"))) for name in ("run_id", "phase_id"))
    cells = (letter.event_uid, letter.kind, run, phase, escape_terminal(letter.reason))
    return padded(cells, _WIDTHS, figures=())
