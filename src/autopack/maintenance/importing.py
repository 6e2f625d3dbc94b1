"""Rows on their way into the database: in batches, through the same store and the same idempotent write as recording.

What the database is too busy for is tried again, as a writer does; what it refuses is found by halving, and is a
rejected line like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import msgspec

from autopack.analysis.reading.decoding import decoded
from autopack.analysis.reading.lines import bounded_lines
from autopack.maintenance.bulk_write import write_or_isolate
from autopack.maintenance.import_lines import FileReader, ReadLine
from autopack.maintenance.rejects import RejectFile
from autopack.telemetry.stores import Store, refusal_text

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
        ReadError: the file is none of lines: an archive, a database, or damaged.
        OSError: the file cannot be read, or the rejected lines cannot be written.

    """
    rejected_before, events, written = rejects.count, 0, 0
    lines = bounded_lines(decoded(stream, name).readline)
    for batch in _batches(reader.read(lines), store.max_batch_rows if store else 1):
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
    new, refused = await write_or_isolate(store, [line.row for line in lines if line.row])
    return new, {lines[place].number: refusal_text(code) for place, code in refused.items()}
