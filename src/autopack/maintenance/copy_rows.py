"""A stored row, as some other database may take it, or why it cannot. Pure.

A row of autopack's is taken as it is, with its id and its instant. One of an older system's table has no id: it goes
the way of an export that is imported, and gets the same id as there, which follows from its content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from autopack.analysis.reading.records import EventRecord
from autopack.maintenance.importing.rows import NoEvent, RowMaker
from autopack.telemetry.event.schema import Row

COLUMNS = Row.__struct_fields__
_TIMESTAMP = COLUMNS.index("timestamp")
_FLAGS = tuple(map(COLUMNS.index, ("success", "truncated", "underestimated")))
_TRUTH = {0: False, 1: True}


class Misfit(NamedTuple):
    """A stored row that no event can be made of: why, and what it is."""

    reason: str
    text: bytes


def from_columns(rows: Iterable[Sequence[Any]]) -> Iterator[Row | Misfit]:
    """Rows whose values are those of `COLUMNS`, as the driver gave them."""
    for values in rows:
        fields = list(values)
        try:
            fields[_TIMESTAMP] = _instant(values[_TIMESTAMP])
            for flag in _FLAGS:
                fields[flag] = _TRUTH.get(fields[flag], fields[flag])
            yield msgspec.convert(dict(zip(COLUMNS, fields, strict=True)), Row)
        except (ValueError, TypeError) as exc:
            yield Misfit(str(exc), _shown(dict(zip(COLUMNS, values, strict=True))))


def from_records(records: Iterable[EventRecord]) -> Iterator[Row | Misfit]:
    """Records of a table without ids."""
    maker = RowMaker()
    for record in records:
        line = _shown(record)
        try:
            yield maker.from_export(line)
        except NoEvent as exc:
            yield Misfit(str(exc), line)


def _instant(stored: Any) -> datetime:
    try:
        instant = datetime.fromisoformat(stored)
    except (TypeError, ValueError) as exc:
        raise ValueError("timestamp: not an instant") from exc
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _shown(row: Any) -> bytes:
    return msgspec.json.encode(row, enc_hook=str)
