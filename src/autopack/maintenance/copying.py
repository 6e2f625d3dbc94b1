"""From one database into another: read in one moment's snapshot, written through the other's own store.

Every batch is a transaction that skips what is there already, so a copy may be broken off anywhere and run again: what
has landed costs a look, and nothing is written twice. No place is noted to go on from: an event may land in the source
behind any such place, recovered late by its writer.

A row of autopack's is taken as it is, with its id and its instant. A row of an older system's table has no id: it goes
the way of an export that is imported, and gets the same id as there, which follows from its content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from autopack.analysis.reading.records import EventRecord
from autopack.analysis.reading.rows import open_columns, open_events, reader_of
from autopack.database.destination import Destination
from autopack.maintenance.bulk_write import write_or_isolate
from autopack.maintenance.import_rows import NoEvent, RowMaker
from autopack.maintenance.rejects import RejectFile
from autopack.models import TokenEstimationV2Event
from autopack.telemetry.event import ROW_TYPES, TABLE, Row, named, positions
from autopack.telemetry.stores import Store, refusal_text

T = TypeVar("T")
_BATCH_ROWS = 2_000
_COLUMNS = TABLE.names
_INSTANTS = positions("instant")
_FLAGS = positions("truth")
_TRUTH = {0: False, 1: True}


class Copied(msgspec.Struct, frozen=True):
    """What became of the rows of the source: `read = written + duplicates + rejected`, but for a dry run.

    duplicates  were in the destination already
    rejected    no event can be made of them, or the destination refuses them
    """

    read: int
    written: int
    duplicates: int
    rejected: int


class Misfit(NamedTuple):
    """A stored row that no event can be made of: why, and what it is."""

    reason: str
    text: bytes


@contextmanager
def open_rows(source: Destination) -> Iterator[tuple[int, Iterator[Row | Misfit]]]:
    """How many rows a database holds, and the rows, to be taken once. Raises `ReadError`."""
    if _has_ids(source):
        with open_columns(source, dict.fromkeys(_COLUMNS)) as rows:
            yield rows.total or 0, _from_columns(chain.from_iterable(rows.blocks))
    else:
        with open_events(source) as events:
            yield events.total, _from_records(events.records)


async def copy(
    rows: Iterable[Row | Misfit],
    store: Store | None,
    rejects: RejectFile,
    name: str,
    progress: Callable[[int], object] = int,
) -> Copied:
    """Write the rows; `store` None: only look at them, `written` and `duplicates` are then 0.

    `name` is the source's in the rejects; `progress` is told how many rows each batch had.

    Raises:
        StoreError: the destination cannot be written. The batches before are in it.
        OSError: the rejects cannot be written.

    """
    read = written = 0
    for batch in _batches(iter(rows), min(_BATCH_ROWS, store.max_batch_rows) if store else _BATCH_ROWS):
        fit = {read + number: row for number, row in enumerate(batch, 1) if not isinstance(row, Misfit)}
        new, refused = await write_or_isolate(store, list(fit.values())) if store else (0, {})
        codes = {number: refused[place] for place, number in enumerate(fit) if place in refused}
        for number, row in enumerate(batch, read + 1):
            if isinstance(row, Misfit):
                rejects.add(name, number, row.reason, row.text)
            elif number in codes:
                rejects.add(name, number, refusal_text(codes[number]), msgspec.json.encode(named(row)))
        read += len(batch)
        written += new
        progress(len(batch))
    duplicates = read - written - rejects.count if store else 0
    return Copied(read=read, written=written, duplicates=duplicates, rejected=rejects.count)


def _from_columns(rows: Iterable[Sequence[Any]]) -> Iterator[Row | Misfit]:
    """Rows whose values are those of the table's columns, as the driver gave them."""
    for values in rows:
        fields = list(values)
        try:
            for number in _INSTANTS:
                fields[number] = _instant(fields[number])
            for flag in _FLAGS:
                fields[flag] = _TRUTH.get(fields[flag], fields[flag])
            row: Row = msgspec.convert(fields, ROW_TYPES)
            yield row
        except (ValueError, TypeError, msgspec.ValidationError) as exc:
            yield Misfit(_by_name(str(exc)), _shown(dict(zip(_COLUMNS, values, strict=True))))


def _from_records(records: Iterable[EventRecord]) -> Iterator[Row | Misfit]:
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
    for number, name in enumerate(_COLUMNS):
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


def _has_ids(source: Destination) -> bool:
    reader = reader_of(source)
    with reader.connected(source) as connection:
        # A table that is not there counts as one with ids: reading it says what is wrong.
        present = reader.column_names(connection, TokenEstimationV2Event.__tablename__)
    return not present or "event_uid" in present


def _batches(items: Iterator[T], most: int) -> Iterator[list[T]]:
    while batch := list(islice(items, most)):
        yield batch
