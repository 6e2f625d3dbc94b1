"""Recovery without a build: what dead writers left in a journal folder goes its normal way to the database.

A worker of its own runs here, in the calling thread, with an order to close from the start: it recovers, delivers what
it finds and ends, at the latest at the deadline. Nothing is recorded meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio
import msgspec

from autopack.telemetry.engine.control import Orders, Progress
from autopack.telemetry.engine.dead_letters import DeadLetterSink
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.engine.worker import Worker
from autopack.telemetry.journal.journal import Journal
from autopack.telemetry.stores.base import Store


class Recovered(msgspec.Struct, frozen=True):
    """What was found, in events, and what became of it: `found = written + duplicates + dead_lettered + left`.

    damaged     records that could not be read; their file was set aside as `*.corrupt`
    left        events that are still in the journal
    last_error  class and code of the last failure of the database; None: there was none
    """

    found: int = 0
    written: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    dead_letters_lost: int = 0
    damaged: int = 0
    left: int = 0
    last_error: str | None = None


def recover(
    folder: Path,
    fingerprints: Iterable[bytes],
    store: Store,
    dead_letters: DeadLetterSink,
    settings: Settings,
    *,
    timeout_s: float,
) -> Recovered:
    """Deliver what dead writers left for these destinations to one store, each within the timeout.

    A destination whose events could not all be delivered ends it: the database is away for the others, too.
    Raises OSError where the folder cannot be used.
    """
    store.load()
    total = Recovered()
    for fingerprint in fingerprints:
        total = _sum(
            total,
            _recover_one(
                Journal(folder, fingerprint, settings, _wake_nobody), store, dead_letters, settings, timeout_s
            ),
        )
        if total.left:
            break
    return total


def _recover_one(
    journal: Journal, store: Store, dead_letters: DeadLetterSink, settings: Settings, timeout_s: float
) -> Recovered:
    orders, progress = Orders(), Progress()
    orders.close(timeout_s)
    worker = Worker(
        buffer=journal, store=store, dead_letters=dead_letters, settings=settings, orders=orders, progress=progress
    )
    try:
        anyio.run(worker.run)
        account = journal.account()
    finally:
        journal.close()
    return Recovered(
        found=account.recovered,
        written=account.written,
        duplicates=account.duplicates,
        dead_lettered=account.dead_lettered,
        dead_letters_lost=progress.dead_letters_lost.value,
        damaged=account.damaged,
        left=account.pending,
        last_error=progress.last_error,
    )


def _sum(one: Recovered, other: Recovered) -> Recovered:
    first, second = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    first.pop("last_error"), second.pop("last_error")
    return Recovered(
        **{name: count + second[name] for name, count in first.items()}, last_error=other.last_error or one.last_error
    )


def _wake_nobody() -> None:
    """Nothing is recorded here."""
