"""From one database into another: read in one moment's snapshot, written through the other's own store.

Every batch is a transaction that skips what is there already, so a copy may be broken off anywhere and run again: what
has landed costs a look, and nothing is written twice. No place is noted to go on from: an event may land in the source
behind any such place, recovered late by its writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import TypeVar

import msgspec

from autopack.analysis.reading.rows import open_columns, open_events, reader_of
from autopack.database.destination import Destination
from autopack.maintenance.bulk_write import write_apart
from autopack.maintenance.copy_rows import COLUMNS, Misfit, from_columns, from_records
from autopack.maintenance.importing.rejects import RejectFile
from autopack.models import TokenEstimationV2Event
from autopack.telemetry.event.schema import Row, named
from autopack.telemetry.stores.base import Store

T = TypeVar("T")
_BATCH_ROWS = 2_000


class Copied(msgspec.Struct, frozen=True):
    """What became of the rows of the source: `read = written + duplicates + rejected`, but for a dry run.

    duplicates  were in the destination already
    rejected    no event can be made of them, or the destination refuses them
    """

    read: int
    written: int
    duplicates: int
    rejected: int


@contextmanager
def open_rows(source: Destination) -> Iterator[tuple[int, Iterator[Row | Misfit]]]:
    """How many rows a database holds, and the rows, to be taken once. Raises `ReadError`."""
    if _has_ids(source):
        with open_columns(source, dict.fromkeys(COLUMNS)) as rows:
            yield rows.total, from_columns(chain.from_iterable(rows.blocks))
    else:
        with open_events(source) as events:
            yield events.total, from_records(events.records)


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
        new, refused = await write_apart(store, list(fit.values())) if store else (0, {})
        codes = {number: refused[place] for place, number in enumerate(fit) if place in refused}
        for number, row in enumerate(batch, read + 1):
            if isinstance(row, Misfit):
                rejects.add(name, number, row.reason, row.text)
            elif number in codes:
                rejects.add(name, number, f"the database refused it: {codes[number]}", msgspec.json.encode(named(row)))
        read += len(batch)
        written += new
        progress(len(batch))
    duplicates = read - written - rejects.count if store else 0
    return Copied(read=read, written=written, duplicates=duplicates, rejected=rejects.count)


def _has_ids(source: Destination) -> bool:
    reader = reader_of(source)
    with reader.connected(source) as connection:
        # A table that is not there counts as one with ids: reading it says what is wrong.
        present = reader.column_names(connection, TokenEstimationV2Event.__tablename__)
    return not present or "event_uid" in present


def _batches(items: Iterator[T], most: int) -> Iterator[list[T]]:
    while batch := list(islice(items, most)):
        yield batch
