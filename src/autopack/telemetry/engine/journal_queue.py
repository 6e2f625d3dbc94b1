"""The queue that lives in a journal: an account (`Ledger`) over a `Journal` and the orphans it has taken over.

Every event that was taken has a key and a position. The worker settles keys, in any order: an event waits where the
table refuses it, or where its dead letter finds no room, and those behind it are settled before it. Each file is
acknowledged up to its first event that is not settled, and deleted once all of it is read and settled, whatever waits
in the files before it. The process's own events and those of dead ones are two chains, each in order, and each is
acknowledged by itself.

# What dead processes left

The worker that begins looks for it, then at most once a minute, and at once when the folder is more than half full or
refuses a segment: a living writer must not starve on what dead ones left.

- *Order.* What dead ones left comes first in a batch. While own events wait at least half of each batch is theirs, so
  that one of them waits for at most as many recovered events as there are own ones before it, and half a batch.
- *Cost.* One segment is surveyed at a time, when those before it have been read.
- *Flush.* It waits for the process's own events, and for what the worker found when it began, not for what later
  rounds find.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from autopack._util import os_threads
from autopack.errors import QueueRejected
from autopack.telemetry.engine.ledger import Account, Ledger
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.journal.journal import Journal
from autopack.telemetry.journal.recovery import Recovery
from autopack.telemetry.journal.segment import Position
from autopack.telemetry.journal.segment_maker import JournalSizes
from autopack.telemetry.lifecycle import best_effort

ROUND_INTERVAL_S = 60.0


class JournalQueue:
    """A `Queue` on disk."""

    def __init__(
        self,
        folder: Path,
        fingerprint: bytes,
        settings: Settings,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = Journal(
            folder,
            fingerprint,
            JournalSizes(
                settings.max_event_bytes,
                settings.journal_first_segment_bytes,
                settings.journal_segment_bytes,
                settings.journal_bytes,
            ),
            settings.journal_append,
        )
        self.append = self.journal.append
        self.slot_bytes = self.journal.max_payload_bytes
        self.durable_path: Path | None = folder
        self._clock_s = clock_s
        self._ledger = Ledger()
        self._own: dict[int, Position] = {}  # of what is in flight, in order
        self._others: dict[int, Position] = {}  # the same of dead processes
        self._taken_here = 0
        self._recovery = Recovery(folder, fingerprint)
        self._is_recovering = False  # mostly; then nothing of it is looked at
        self._next_round_s = 0.0
        self._in_first_round = False
        self._settled_at_take: int | None = None  # while events are taken that are not in flight yet
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
        return self._left_behind + (self._recovery.events_left if self._is_recovering else 0)

    @property
    def has_more_to_recover(self) -> bool:
        return self._is_recovering and self._recovery.has_more

    @property
    def damaged(self) -> int:
        """Records of dead processes that could not be read."""
        return self._recovery.damaged

    def recover(self) -> None:
        self._in_first_round = self._in_first_round or not self._next_round_s
        self._begin_round()

    def _begin_round(self) -> None:
        self._next_round_s = self._clock_s() + ROUND_INTERVAL_S
        self.journal.clear_crowded()
        self._recovery.begin_round()
        self._note_end_of_round()

    def _note_end_of_round(self) -> None:
        self._is_recovering = not self._recovery.is_over
        self._in_first_round = self._in_first_round and self._is_recovering

    def take(self, limit: int) -> Mapping[int, bytes]:
        self.journal.append_deferred()
        with best_effort(self._lock):
            if requeued := self._ledger.take_requeued(limit):
                return requeued
            self._settled_at_take = self.settled_through
            try:
                share = max(1, limit // 2) if self.journal.appended > self._taken_here else limit
                recovered = self._enter(self._recovery.read(share), self._others) if self._is_recovering else {}
                own = self._enter(self.journal.read(limit - len(recovered)), self._own)
                self._taken_here += len(own)
            finally:
                self._settled_at_take = None
            if not recovered:
                self._acknowledge_recovered()  # segments in which nothing was left to read
            return recovered | own

    def _enter(self, lists: Iterable[list[tuple[Position, bytes]]], positions: dict[int, Position]) -> dict[int, bytes]:
        batch: dict[int, bytes] = {}
        for records in lists:
            if records:  # all of one segment; counted first: too many would keep a file, too few would delete one
                records[0][0].segment.unsettled += len(records)
            entered = self._ledger.enter([payload for _, payload in records])
            positions.update(zip(entered, [position for position, _ in records], strict=True))
            batch |= entered
        return batch

    def requeue_in_flight(self) -> None:
        self._ledger.requeue_in_flight()

    def settle(self, keys: Iterable[int], *, written: int = 0, duplicates: int = 0, dead_lettered: int = 0) -> None:
        with best_effort(self._lock):
            keys = list(keys)
            self._ledger.settle(keys, written=written, duplicates=duplicates, dead_lettered=dead_lettered)
            for key in keys:
                (self._own if key in self._own else self._others).pop(key).segment.unsettled -= 1
        self._acknowledge()

    def _acknowledge(self) -> None:
        self._acknowledge_recovered()
        self.journal.acknowledge(next(iter(self._own.values()), None))

    def _acknowledge_recovered(self) -> None:
        if self._is_recovering:
            self._recovery.acknowledge(next(iter(self._others.values()), None))
            self._note_end_of_round()

    def account(self) -> Account:
        with best_effort(self._lock):
            waiting = self._left_of_orphans - self._taken_here + self.journal.accepted
            account = self._ledger.account(waiting)
        return msgspec.structs.replace(
            account,
            recovered=self._recovery.events,
            damaged=self.damaged,
            inline_segments=self.journal.inline_segments.value,
        )

    @property
    def accepted_through(self) -> int:
        return self.journal.accepted_through

    @property
    def settled_through(self) -> int:
        with best_effort(self._lock):
            if self._settled_at_take is not None:
                return self._settled_at_take
            if self._in_first_round:
                return -1
            first = next(iter(self._own.values()), None)
            return self.journal.read_through if first is None else first.place

    def set_wake_threshold(self, waiting: int) -> None:
        self.journal.set_wake_threshold(max(1, waiting - self.backlog) if waiting else 0)

    def clear_wake_threshold(self) -> None:
        self.journal.clear_wake_threshold()

    def maintain(self) -> None:
        self.journal.maintain()
        if self.journal.closed:
            return
        if self.journal.is_crowded or self._clock_s() >= self._next_round_s:
            self._begin_round()

    def close(self) -> None:
        """Delete what is settled, and leave the rest to the next writer with this destination."""
        self.close_to_new()
        self.journal.close(settled=not self.account().pending)
        self._left_behind += self._recovery.events_left
        self._recovery.release()

    def prepare_fork(self, timeout_s: float) -> bool:
        return self.journal.prepare_fork(timeout_s)

    def resume_after_fork(self) -> None:
        self.journal.resume_after_fork()

    def reset_in_child(self) -> None:
        self.journal.reset_in_child()
        self._recovery.release()
