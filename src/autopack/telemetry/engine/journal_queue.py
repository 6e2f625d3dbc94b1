"""The queue that lives in a journal: an account (`Ledger`) over a `Journal` and the orphans it has taken over.

Every event that was taken has a key and a position. The worker settles keys; the files are acknowledged up to the
position of the first event that is not settled, and one that lies wholly before it is deleted. Events of dead processes
come first and have negative keys, so that `settled_through` counts this process's own only when theirs are settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from autopack._util import os_threads
from autopack.errors import QueueRejected
from autopack.telemetry import log
from autopack.telemetry.engine.ledger import Account, Ledger
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal.journal import Journal
from autopack.telemetry.journal.recovery import Orphans, orphans_in, remove_unfinished
from autopack.telemetry.journal.segment import Position
from autopack.telemetry.journal.segment_maker import JournalSizes
from autopack.telemetry.lifecycle import best_effort


class JournalQueue:
    """A `Queue` on disk. Raises OSError when the folder cannot be used at all: then there is no journal."""

    def __init__(self, folder: Path, fingerprint: bytes, settings: Settings) -> None:
        self.journal = Journal(
            folder,
            fingerprint,
            JournalSizes(
                settings.max_event_bytes,
                settings.journal_first_segment_bytes,
                settings.journal_segment_bytes,
                settings.journal_bytes,
            ),
        )
        self.append = self.journal.append
        self.slot_bytes = self.journal.max_payload_bytes
        self.durable_path: Path | None = folder
        self.damaged = 0
        self._folder = folder
        self._fingerprint = fingerprint
        self._ledger = Ledger()
        self._positions: dict[int, Position] = {}  # of what is in flight, in order
        self._taken_here = 0
        self._orphans = Orphans()
        self._recovery_begun = False
        self._recovered = 0
        self._left_behind = 0  # events of orphans that were not read before `close` gave them back
        self._lock = os_threads.RLock()  # for consistent snapshots: only the worker takes and settles

    def append_any(self, payload: bytes) -> bool:
        if len(payload) > self.slot_bytes:
            raise QueueRejected("too_large")
        return self.append(payload)

    def close_to_new(self) -> None:
        self.journal.close_to_new()

    @property
    def has_in_progress_appends(self) -> bool:
        """There are none: an event is in, or its caller will find every segment sealed, or looks at the threshold."""
        return False

    @property
    def backlog(self) -> int:
        """What overflowed cannot be taken yet, and is not counted."""
        # In this order: more may be appended, and then taken, meanwhile.
        return self._left_of_orphans - self._taken_here + self.journal.appended

    @property
    def _left_of_orphans(self) -> int:
        return self._left_behind + (self._orphans.events_left if self._orphans else 0)

    def recover(self) -> None:
        if self._recovery_begun:
            return
        self._recovery_begun = True
        remove_unfinished(self._folder)
        orphans = orphans_in(self._folder, self._fingerprint)
        with best_effort(self._lock):
            self._orphans.extend(orphans)
            self._recovered = sum(orphan.events for orphan in orphans)
            self.damaged = sum(orphan.damaged for orphan in orphans)
            self._ledger.next_key = -self._recovered
        if self._recovered or self.damaged:
            log.warning(
                "Recovered %d event(s) of earlier processes from %d journal segment(s), %d damaged",
                self._recovered,
                len(orphans),
                self.damaged,
            )
        self._acknowledge()

    def take(self, limit: int) -> Mapping[int, bytes]:
        self.journal.append_deferred()
        with best_effort(self._lock):
            if requeued := self._ledger.take_requeued(limit):
                return requeued
            batch = self._enter(self._orphans.read(limit)) if self._orphans else {}
            taken_here = self._enter(self.journal.read(limit - len(batch)))
            self._taken_here += len(taken_here)
            return batch | taken_here

    def _enter(self, lists: Iterable[list[tuple[Position, bytes]]]) -> dict[int, bytes]:
        batch: dict[int, bytes] = {}
        for records in lists:
            entered = self._ledger.enter([payload for _, payload in records])
            self._positions.update(zip(entered, [position for position, _ in records], strict=True))
            batch |= entered
        return batch

    def requeue_in_flight(self) -> None:
        self._ledger.requeue_in_flight()

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        with best_effort(self._lock):
            keys = list(keys)
            self._ledger.settle(keys, written=written, duplicates=duplicates, dead_lettered=dead_lettered)
            for key in keys:
                del self._positions[key]
        self._acknowledge()

    def _acknowledge(self) -> None:
        first_unsettled = next(iter(self._positions.values()), None)
        if not self._orphans or self._orphans.acknowledge(first_unsettled):
            self.journal.acknowledge(first_unsettled)

    def account(self) -> Account:
        with best_effort(self._lock):
            waiting = self._left_of_orphans - self._taken_here + self.journal.accepted
            account = self._ledger.account(waiting)
        return msgspec.structs.replace(
            account,
            recovered=self._recovered,
            damaged=self.damaged,
            inline_segments=self.journal.inline_segments.value,
        )

    @property
    def accepted_here(self) -> int:
        return self.journal.accepted

    @property
    def settled_through(self) -> int:
        with best_effort(self._lock):
            return self._ledger.settled_through

    def set_wake_threshold(self, waiting: int) -> None:
        self.journal.set_wake_threshold(max(1, waiting - self.backlog) if waiting else 0)

    def clear_wake_threshold(self) -> None:
        self.journal.clear_wake_threshold()

    def maintain(self) -> None:
        self.journal.maintain()

    def close(self) -> None:
        """Delete what is settled, and leave the rest to the next writer with this destination."""
        self.close_to_new()
        self.journal.close(settled=not self.account().pending)
        self._left_behind += self._orphans.events_left
        self._orphans.release()

    def prepare_fork(self, timeout_s: float) -> bool:
        return self.journal.prepare_fork(timeout_s)

    def resume_after_fork(self) -> None:
        self.journal.resume_after_fork()

    def reset_in_child(self) -> None:
        self.journal.reset_in_child()
        self._orphans.release()
