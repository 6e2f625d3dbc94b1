"""Rows on their way into the database: in batches, through the same store and the same idempotent write as recording.

What the database is too busy for is tried again, as a writer does; what it refuses is found by halving, and is a
rejected line like any other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import anyio
import msgspec

from autopack.analysis.replay_sources import bounded_lines
from autopack.importing.reading import FileReader, ReadLine
from autopack.importing.rejects import RejectFile
from autopack.telemetry.backoff import Retries
from autopack.telemetry.errors import DataRejectedError, StoreError
from autopack.telemetry.events import Row
from autopack.telemetry.settings import Settings
from autopack.telemetry.stores.base import Store

_BATCH_BYTES = 8 << 20


class Imported(msgspec.Struct, frozen=True):
    """What became of a file: `events = written + duplicates`; `events + rejected + passed_over` lines are not blank.

    format       "log" or "ndjson"; "auto" of a file in which no line tells
    duplicates   were in the database already, or twice in the file under one id
    passed_over  lines that claim to be no event: headers, and what else is in a log
    """

    file: str
    format: str
    lines: int
    events: int
    written: int
    duplicates: int
    rejected: int
    passed_over: int


async def import_stream(
    stream: BinaryIO, name: str, reader: FileReader, rejects: RejectFile, store: Store | None
) -> Imported:
    """Import one file; `store` None: only look at it, `written` and `duplicates` are then 0.

    Raises:
        StoreError: the database cannot be written. The batches before are in it.
        OSError: the file cannot be read, or the rejected lines cannot be written.

    """
    rejected_before, events, written = rejects.count, 0, 0
    for batch in _batches(reader.read(bounded_lines(stream.readline)), store.max_batch_rows if store else 1):
        landed, refused = await _write(store, [line for line in batch if line.row]) if store else (0, {})
        for line in batch:
            if line.row is None or line.number in refused:
                rejects.add(name, line.number, refused.get(line.number, line.reason), line.text)
            else:
                events += 1
        written += landed
    return Imported(
        file=name,
        format=reader.format,
        lines=reader.lines,
        events=events,
        written=written,
        duplicates=events - written if store else 0,
        rejected=rejects.count - rejected_before,
        passed_over=reader.passed_over,
    )


def _batches(lines: Iterable[ReadLine], most_rows: int) -> Iterator[list[ReadLine]]:
    """Bounded by number and by bytes: a file of huge lines must not be taken into memory."""
    batch: list[ReadLine] = []
    size_bytes = 0
    for line in lines:
        batch.append(line)
        size_bytes += len(line.text)
        if len(batch) >= most_rows or size_bytes >= _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


async def _write(store: Store, lines: Sequence[ReadLine]) -> tuple[int, dict[int, str]]:
    """Write these; returns how many were new, and by line number what the database refused."""
    if not lines:
        return 0, {}
    try:
        return await _try(store, [line.row for line in lines if line.row]), {}
    except DataRejectedError as exc:
        if len(lines) == 1:
            return 0, {lines[0].number: f"the database refused it: {exc.code}"}
    middle = len(lines) // 2
    new, refused = await _write(store, lines[:middle])
    more, also_refused = await _write(store, lines[middle:])
    return new + more, refused | also_refused


async def _try(store: Store, rows: Sequence[Row]) -> int:
    """Write the rows, as often as a writer tries before it calls it an outage."""
    retries = Retries(Settings(), started_s=time.monotonic(), uniform=random.uniform)
    while True:
        try:
            return await store.write(rows)
        except StoreError as exc:
            now_s = time.monotonic()
            if not exc.transient or retries.is_outage(now_s):
                raise
            await anyio.sleep(retries.delay_s(now_s))
