"""What goes wrong with a database, as the one line that a command ends with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.exc import SQLAlchemyError

from autopack._util.text import escape_terminal
from autopack.database.destination import Destination
from autopack.database.driver_errors import describe_driver_error
from autopack.errors import SchemaError


@contextmanager
def as_click_error(destination: Destination, what: str) -> Iterator[None]:
    """Ends the command with `<database> <what>: <reason>` where its block is refused by the database or its driver."""
    try:
        yield
    except SchemaError as exc:
        raise click.ClickException(escape_terminal(f"{destination} {what}: {exc}")) from exc
    except SQLAlchemyError as exc:
        raise click.ClickException(escape_terminal(f"{destination} {what}: {describe_driver_error(exc)}")) from exc
