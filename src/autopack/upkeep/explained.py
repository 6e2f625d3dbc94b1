"""What goes wrong with a database, as the one line that a command ends with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.exc import SQLAlchemyError

from autopack.database import Destination
from autopack.database_errors import reason_of
from autopack.migrations import SchemaError
from autopack.text import for_terminal


@contextmanager
def explained(destination: Destination, what: str) -> Iterator[None]:
    """Ends the command with `<database> <what>: <reason>` where its block is refused by the database or its driver."""
    try:
        yield
    except SchemaError as exc:
        raise click.ClickException(for_terminal(f"{destination} {what}: {exc}")) from exc
    except SQLAlchemyError as exc:
        raise click.ClickException(for_terminal(f"{destination} {what}: {reason_of(exc)}")) from exc
