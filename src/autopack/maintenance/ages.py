"""How old is old: `90d`, read. Pure."""

from __future__ import annotations

import re
from datetime import timedelta

LEAST = timedelta(hours=1)
MOST = timedelta(days=36_500)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_age(text: str) -> timedelta:
    """An age: a whole number and its unit, s, m, h, d or w.

    Raises:
        ValueError: it is none, or is less than an hour (events of a writer may still be on their way, and a slip in the
            unit is worth a question) or more than a hundred years.

    """
    match = re.fullmatch(r"([0-9]{1,12})([smhdw])", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no age; use a number and s, m, h, d or w, for example 90d")
    number, unit = int(match[1]), _UNITS[match[2]]
    try:
        age = timedelta(**{unit: number})
    except OverflowError:
        age = MOST + LEAST
    if not LEAST <= age <= MOST:
        raise ValueError(f"{text!r} is not from 1h to {MOST.days}d")
    return age
