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
from autopack.telemetry.event.schema import ROW_TYPES, TABLE, Row, positions

COLUMNS = TABLE.names
_INSTANTS = positions("instant")
_FLAGS = positions("truth")
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
            for number in _INSTANTS:
                fields[number] = _instant(fields[number])
            for flag in _FLAGS:
                fields[flag] = _TRUTH.get(fields[flag], fields[flag])
            row: Row = msgspec.convert(fields, ROW_TYPES)
            yield row
        except (ValueError, TypeError) as exc:
            yield Misfit(_by_name(str(exc)), _shown(dict(zip(COLUMNS, values, strict=True))))


def from_records(records: Iterable[EventRecord]) -> Iterator[Row | Misfit]:
    """Records of a table without ids."""
    maker = RowMaker()
    for record in records:
        line = _shown(record)
        try:
            yield maker.from_export(line)
        except NoEvent as exc:
            yield Misfit(str(exc), line)


def _by_name(reason: str) -> str:
    """Msgspec names a value by its position, `$[7]`; people know it by its column."""
    for number, name in enumerate(COLUMNS):
        reason = reason.replace(f"`$[{number}]`", f"`{name}`")
    return reason


def _instant(stored: Any) -> str:
    try:
        instant = datetime.fromisoformat(stored)
    except (TypeError, ValueError) as exc:
        raise ValueError("timestamp: not an instant") from exc
    wall_clock = instant if instant.tzinfo is None else instant.astimezone(UTC).replace(tzinfo=None)
    return wall_clock.isoformat(" ", "microseconds")


def _shown(row: Any) -> bytes:
    return msgspec.json.encode(row, enc_hook=str)
