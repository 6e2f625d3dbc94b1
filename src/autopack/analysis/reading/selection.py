"""Which events, and where from: what `--run-id`, `--since`, `--source` and the like mean. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

Source = Literal["db", "log", "ndjson"]
"""The database, the lines of a log, or an export."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The events that are wanted: each condition that is given must hold, one of several values is enough.

    `since` is inclusive, `until` is not, so that neighbouring periods share no event. `limit` counts events,
    the newest; None is all of them. `landed`: only the rows that SQLite gave a number after the first and up to the
    second of these, which it counts up as they land.
    """

    run_ids: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    landed: tuple[int, int] | None = None


EVERYTHING = Selection()


def parse_instant(text: str) -> datetime:
    """An ISO 8601 date (its first moment) or date and time, as aware UTC; without a zone it is UTC.

    Raises:
        ValueError: it is neither, or lies outside the years 1 to 9999 in UTC.

    """
    try:
        instant = datetime.fromisoformat(text.strip())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError(
            f"{text!r} is not an ISO date or time; use for example 2025-12-29 or 2025-12-29T19:40:00Z"
        ) from exc
