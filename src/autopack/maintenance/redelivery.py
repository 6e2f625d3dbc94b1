"""Dead letters on their way again: validated anew, written under their own ids, kept if they are refused again."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from autopack.errors import DataRejectedError
from autopack.telemetry.engine import DeadLetter, DeadLetterFile, dead_letter, dead_letters_in, refused_dead_letter
from autopack.telemetry.event import Decoder, Rejected
from autopack.telemetry.stores import Store


class Redelivered(NamedTuple):
    """What became of the dead letters, in events; `kept` counts lines that cannot be read as well."""

    written: int
    duplicates: int
    kept: int


async def resend(dead_letters: DeadLetterFile, store: Store) -> Redelivered:
    """Send all dead letters of a file to a store.

    Raises:
        TransientStoreError, StoreUnusableError: the database cannot be written; every letter is still there.

    """
    try:
        outcomes = [await _resend_file(path, dead_letters, store) for path in dead_letters.claim()]
    finally:
        await store.close()
    return Redelivered(*map(sum, zip(*outcomes, strict=True))) if outcomes else Redelivered(0, 0, 0)


async def _resend_file(path: Path, dead_letters: DeadLetterFile, store: Store) -> Redelivered:
    """One claimed file; it is removed when every line of it is in the database, or in the file again."""
    with dead_letters.claimed(path) as mine:
        return await _resend_lines(path, dead_letters, store) if mine else Redelivered(0, 0, 0)


async def _resend_lines(path: Path, dead_letters: DeadLetterFile, store: Store) -> Redelivered:
    decode = Decoder()
    results = [None if letter is None else await _resend_one(letter, decode, store) for letter in dead_letters_in(path)]
    kept = [result for result in results if isinstance(result, DeadLetter)]
    if None in results or dead_letters.append(kept):
        # A line cannot be read, or there is no room for those that stay: the file is left for a person.
        return Redelivered(results.count(1), results.count(0), len(kept) + results.count(None))
    dead_letters.discard(path)
    return Redelivered(results.count(1), results.count(0), len(kept))


async def _resend_one(letter: DeadLetter, decode: Decoder, store: Store) -> DeadLetter | int:
    """The letter again if it is refused again, else how many rows were new: 1 or 0."""
    payload = letter.payload()
    row = decode(payload)
    if isinstance(row, Rejected):
        return dead_letter(row, kind="invalid", attempts=letter.attempts)
    try:
        return await store.write([row])
    except DataRejectedError as exc:
        return refused_dead_letter(decode, payload, exc.code, exc.subject, letter.attempts + 1)
