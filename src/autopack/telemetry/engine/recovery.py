"""Recovery without a build: what dead writers left in a journal folder goes its normal way to the database.

A worker runs in the calling thread and is commanded to close from the start: it recovers, delivers what it finds and
ends, at the latest at the deadline. Nothing is recorded meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio
import msgspec

from autopack.telemetry import log
from autopack.telemetry.engine.control import WorkerCommands, WorkerState
from autopack.telemetry.engine.dead_letters import DeadLetterSink
from autopack.telemetry.engine.journal_queue import JournalQueue
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.engine.worker import Worker
from autopack.telemetry.journal.status import journal_status
from autopack.telemetry.stores.base import Store


class RecoveryResult(msgspec.Struct, frozen=True):
    """What was found, in events, and what became of it: `found = written + duplicates + dead_lettered + left`.

    damaged     records that could not be read; their file was quarantined as `*.corrupt`
    left        events that are still in the journal; `without_room`: of these, refused ones that found no room in the
                dead letters
    last_error  class and code of the last failure of the database; None: there was none
    """

    found: int = 0
    written: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    damaged: int = 0
    left: int = 0
    without_room: int = 0
    last_error: str | None = None


def recover(
    folder: Path,
    fingerprints: Iterable[bytes],
    store: Store,
    dead_letters: DeadLetterSink,
    settings: Settings,
    *,
    timeout_s: float,
) -> RecoveryResult:
    """Deliver what dead writers left for these destinations to one store, each within the timeout.

    A destination whose events could not all be delivered ends it: the database is away for the others, too.
    Raises OSError where the folder cannot be used.
    """
    store.load()
    total = RecoveryResult()
    with log.only_errors():  # what the worker would warn of is in the result
        for fingerprint in fingerprints:
            queue = JournalQueue(folder, fingerprint, settings)
            result = _recover_one(queue, store, dead_letters, settings, timeout_s)
            left = sum(file.events for file in journal_status(folder, fingerprint).orphaned if file.ours)
            total = _sum(total, msgspec.structs.replace(result, found=result.found + left, left=left))
            if total.left:
                break
    return total


def _recover_one(
    queue: JournalQueue, store: Store, dead_letters: DeadLetterSink, settings: Settings, timeout_s: float
) -> RecoveryResult:
    """All but what is left, which lies in the folder."""
    commands, state = WorkerCommands(), WorkerState()
    commands.close(timeout_s)
    worker = Worker(
        queue=queue, store=store, dead_letters=dead_letters, settings=settings, commands=commands, state=state
    )
    try:
        anyio.run(worker.run)
        account = queue.account()
    finally:
        queue.close()
    return RecoveryResult(
        found=account.written + account.duplicates + account.dead_lettered,
        written=account.written,
        duplicates=account.duplicates,
        dead_lettered=account.dead_lettered,
        damaged=account.damaged,
        without_room=state.waiting_letters,
        last_error=state.last_error,
    )


def _sum(one: RecoveryResult, other: RecoveryResult) -> RecoveryResult:
    first, second = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    first.pop("last_error"), second.pop("last_error")
    return RecoveryResult(
        **{name: count + second[name] for name, count in first.items()}, last_error=other.last_error or one.last_error
    )
