"""A driver's error as one line: without a row, a statement or a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autopack._util.text import mask
from autopack.database.destination import Destination
from autopack.errors import DatabaseError, SchemaError


def describe_driver_error(exc: BaseException) -> str:
    """Return the reason in an exception of SQLAlchemy or of a driver.

    Of PostgreSQL's own errors it is the first line, which names no value; of a failed connection all that libpq says of
    each server. It is foreign text, to be made safe where it is shown.
    """
    cause = getattr(exc, "orig", None) or exc.__cause__ or exc
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    said = " ".join(str(primary or cause).split())
    return mask(said) or type(cause).__name__


@contextmanager
def driver_errors_described(destination: Destination, what: str) -> Iterator[None]:
    """Raise `DatabaseError`, `<database> <what>: <reason>`, for what is refused in the block."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SchemaError as exc:
        raise DatabaseError(f"{destination} {what}: {exc}") from exc
    except SQLAlchemyError as exc:
        raise DatabaseError(f"{destination} {what}: {describe_driver_error(exc)}") from exc
