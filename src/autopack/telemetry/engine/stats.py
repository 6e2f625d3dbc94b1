"""What a `Telemetry` says of itself: one frozen snapshot."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from autopack.telemetry.counters import not_recorded, unattributed_calls
from autopack.telemetry.engine.writer import Writer


class TelemetryStats(msgspec.Struct, frozen=True):
    """A snapshot. At every moment `accepted == written + duplicates + dead_lettered + pending`, and every call of
    `record()` is either accepted or in exactly one reason of `dropped`.

    accepted           calls of `record()` that returned True
    written            rows that were new in the database
    duplicates         rows that were there already, after a retry of a commit whose answer was lost
    dead_lettered      events that no database would take; `autopack dead-letters list` shows them
    pending            events that are none of these yet
    journal_dir        where `pending` events outlive the process; None: in memory only, they are lost with it
    dropped            calls of `record()` that returned False, by reason: queue_full, journal_full, too_large,
                       unencodable, closed, disabled; a reason that did not occur reads as 0.
                       `journal_full` also where the folder of the journal cannot be written
    retries            transactions that failed and were tried again
    last_error         class and code of the last failure of the database, never its text; None: there was none
    worker_alive       whether the writer's thread runs
    worker_restarts    how often the writer died of a bug and was started again
    dead_letters_waiting  of `pending`: events that were refused, and find no room in the dead letters now
    dead_letters_lost  those of `dead_lettered` that a database in memory has forgotten: it keeps the newest 1,000
    redaction_failures events that lost their paths because `redact` raised
    recovered          of `accepted`: events of dead processes that this one found in the journal
    not_recorded       of the process: calls that a hook saw and that became no event, by reason: broken_stream,
                       stopped_reading, cancelled, error_…, without_usage, unattributed, cached, retried, …
    unattributed       of the process: calls outside a phase, recorded (category `unattributed`) or not
    journal_damaged    records of the journal that could not be read; their file was quarantined as `*.corrupt`
    journal_inline_segments  calls of `record()` that had to make a journal file, since the writer had not in time
    """

    accepted: int = 0
    written: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    pending: int = 0
    dropped: Mapping[str, int] = msgspec.field(default_factory=dict)
    retries: int = 0
    last_error: str | None = None
    worker_alive: bool = False
    worker_restarts: int = 0
    dead_letters_waiting: int = 0
    dead_letters_lost: int = 0
    redaction_failures: int = 0
    recovered: int = 0
    journal_damaged: int = 0
    journal_inline_segments: int = 0
    journal_dir: str | None = None
    not_recorded: Mapping[str, int] = msgspec.field(default_factory=dict)
    unattributed: int = 0


def snapshot(writer: Writer, redaction_failures: int) -> TelemetryStats:
    """The counts of a writer as they are now."""
    account, state = writer.queue.account(), writer.state
    return TelemetryStats(
        accepted=account.accepted,
        written=account.written,
        duplicates=account.duplicates,
        dead_lettered=account.dead_lettered,
        pending=account.pending,
        dropped=writer.drops.snapshot(),
        retries=state.retries.value,
        last_error=state.last_error,
        worker_alive=writer.is_running,
        worker_restarts=state.restarts.value,
        dead_letters_waiting=state.waiting_letters,
        dead_letters_lost=writer.dead_letters.forgotten,
        redaction_failures=redaction_failures,
        recovered=account.recovered,
        journal_damaged=account.damaged,
        journal_inline_segments=account.inline_segments,
        not_recorded=not_recorded.snapshot(),
        unattributed=unattributed_calls.value,
        journal_dir=None if (path := writer.queue.durable_path) is None else str(path),
    )
