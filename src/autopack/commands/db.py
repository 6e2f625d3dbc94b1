"""`autopack db`: the schema of the database. Parse, wire, print."""

from __future__ import annotations

import sys
from typing import Literal

import click
import msgspec

from autopack._util.text import escape_terminal
from autopack.commands._output import print_json
from autopack.commands._reading import announced_database, as_click_error
from autopack.database import migrations
from autopack.database.preflight import database_problem
from autopack.maintenance.schema import SchemaState, downgrade, state_of, upgrade

_SAID: dict[SchemaState, str] = {
    "current": "current",
    "none": "there is no schema; autopack db upgrade makes it",
    "older": "older than this program's; autopack db upgrade brings it there",
    "newer": "newer than this program's; events stay in the journal until a newer autopack writes them",
    "no table": "the schema says so, but the table is gone; autopack db upgrade makes it again",
}
_EXIT_CODES: dict[SchemaState, int] = {"current": 0, "none": 3, "older": 3, "newer": 4, "no table": 1}


class Current(msgspec.Struct, frozen=True):
    """What `autopack db current` says. `revision` is None where the database names none."""

    database: str
    revision: str | None
    program: str
    state: SchemaState


@click.group("db")
def db_command() -> None:
    """The schema of the database that DATABASE_URL names: look at it, upgrade it, undo that, print its SQL.

    A program that writes events upgrades it by itself; these commands do it before, or by hand.

    Example: autopack db upgrade
    """


@db_command.command("upgrade")
def upgrade_command() -> None:
    """Bring the schema to this program's version; where there is no database file yet, make it.

    Nothing happens where it is there already, and several may do it at once. A table of an older system is altered in
    place and keeps its rows. On PostgreSQL it takes one transaction, which needs the rights to create and alter tables.

    Example: autopack db upgrade
    """
    destination = announced_database()
    if destination.in_memory:
        raise click.ClickException("a database in memory is gone with its process; set DATABASE_URL")
    if problem := database_problem(destination):
        raise click.ClickException(escape_terminal(f"{destination} cannot be upgraded: {problem}"))
    with as_click_error(destination, "cannot be upgraded"):
        before, state = state_of(destination)
        upgrade(destination)
    was = before or {"none": "nothing", "older": "an older system's table"}.get(state)
    click.echo(
        {
            "current": f"{migrations.HEAD} already",
            "newer": f"{before}, newer than this program's {migrations.HEAD}: left as it is",
            "no table": f"the table was gone, and is made again at {migrations.HEAD}",
        }.get(state, f"upgraded from {was} to {migrations.HEAD}")
    )


@db_command.command("downgrade")
@click.confirmation_option(prompt="Columns and what they hold will be gone. Go on?", help="Do not ask.")
def downgrade_command() -> None:
    """Bring the table back to the form of the host system, which knows no other.

    Every row stays. All columns that only autopack fills (docs/origin.md) are gone with what they hold (autopack export
    keeps it), and on PostgreSQL event_id is the key again. End the writers before: the
    next one upgrades the table again, as autopack db upgrade does, and gives each row another event_uid.

    Example: autopack db downgrade --yes
    """
    destination = announced_database()
    with as_click_error(destination, "cannot be downgraded"):
        downgrade(destination)
    click.echo(f"downgraded from {migrations.HEAD} to the host system's table")


@db_command.command("current")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def current_command(as_json: bool) -> None:
    """Say which revision the schema has. Nothing is created or changed.

    The exit code is 0 when it is this program's, 3 when autopack db upgrade would bring it there (there is none, or an
    older one), 4 when it is newer, and 1 when it cannot be read or its table is gone.

    Example: autopack db current --json
    """
    destination = announced_database()
    with as_click_error(destination, "cannot be read"):
        revision, state = state_of(destination)
    if as_json:
        print_json(Current(str(destination), revision, migrations.HEAD, state))
    else:
        click.echo(
            f"revision: {escape_terminal(revision or 'none')}\nprogram:  {migrations.HEAD}\nstate:    {_SAID[state]}"
        )
    sys.exit(_EXIT_CODES[state])


@db_command.command("sql")
@click.option("--dialect", type=click.Choice(["sqlite", "postgresql"]), help="Default: that of DATABASE_URL.")
def sql_command(dialect: Literal["sqlite", "postgresql"] | None) -> None:
    """Print the SQL that makes this program's schema in an empty database, for a DBA. Nothing is connected to.

    It alters no table that is there already; autopack db upgrade does that, since it looks at the table first.

    Example: autopack db sql --dialect postgresql
    """
    if dialect is None:
        dialect = announced_database().dialect
    click.echo(migrations.upgrade_sql(dialect), nl=False)
