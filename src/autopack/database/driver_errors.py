"""A driver's error as one line: without a row, a statement or a password."""

from __future__ import annotations

from autopack._util.text import mask


def describe_driver_error(exc: BaseException) -> str:
    """Return the reason in an exception of SQLAlchemy or of a driver.

    Of PostgreSQL's own errors it is the first line, which names no value; of a failed connection all that libpq says of
    each server. It is foreign text, to be made safe where it is shown.
    """
    cause = getattr(exc, "orig", None) or exc.__cause__ or exc
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    said = " ".join(str(primary or cause).split())
    return mask(said) or type(cause).__name__
