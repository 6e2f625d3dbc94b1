"""The background writer: takes batches from the queue, and settles every event of them.

# The loop

The worker runs in a thread and an event loop of its own. It waits in one place (`_next_batch`), for a full batch, a
flush, a close, a fork, or the end of the flush interval. A batch is decoded and validated, then written in one
transaction. If the database is another process and a whole further batch waits, that one is decoded meanwhile.

# What can happen to a batch

| the store says | the worker |
|---|---|
| written, n of them new | settles all: n written, the others duplicates |
| `DataRejectedError` | finds out whether it is the rows, dead letters then, or the table (see `refusals`) |
| `TransientStoreError`, `StoreUnusableError` | waits with backoff and full jitter, then tries the same rows again |
| any other exception | dies; `Writer` starts another worker, which begins with what is in flight |

A dead letter that finds no room waits, and its event stays in the queue (see `dead_letters`): good events go on.

`Refusals` decides about a refusal and acts through the worker, which owns it: it calls `write`'s own parts `try_rows`,
`read_more`, `give_up`, `blame_table` and `wait_for_store`. Nothing else calls these from outside.

# Invariants

- An event leaves the queue only by `settle`, and is settled only after its commit, or after its dead letter is kept.
- What keeps failing is tried at a bounded rate, for as long as the process lives, and once more at the end.
- The worker is asked to stop and never cancelled: a cancelled query loses its connection.
- After the deadline of a close nothing more is tried; what is unsettled stays in the queue.
- Before a fork the worker writes one more batch, if that is all there is, closes its connections and ends, whatever is
  unsettled. Another run goes on where it ended (see `lifecycle`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from autopack.errors import AutopackError, DataRejectedError, StoreError
from autopack.telemetry import log
from autopack.telemetry.engine.control import WorkerCommands, WorkerState
from autopack.telemetry.engine.dead_letters import (
    DeadLetter,
    DeadLetterSink,
    WaitingDeadLetters,
    dead_letter,
    refused_dead_letter,
)
from autopack.telemetry.engine.queue import Queue
from autopack.telemetry.engine.refusals import Outcome, Refusals, Refused
from autopack.telemetry.engine.retry import Retries
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import TABLE, Rejected, Row
from autopack.telemetry.stores.base import Store

_LOG_INTERVAL_S = 10.0
_CLOSING_DELAY_S = 0.25
_MAINTAIN_INTERVAL_S = 0.5  # in an outage
_IN_PROGRESS_PAUSE_S = 0.005
_IN_PROGRESS_TRIES = 20
_SLICE_EVENTS = 200  # decoded at a time: one or two ms, in which the loop does nothing else


class DeadlineExpired(AutopackError):  # noqa: N818 (an end, not an error)
    """The time to drain is over; what is unsettled stays in the queue."""


class ForkExpected(AutopackError):  # noqa: N818 (an end, not an error)
    """The process is about to fork; what is unsettled stays in the queue."""


class Batch(NamedTuple):
    """Events that were taken together, under their keys: as they came, good ones as rows, others as dead letters."""

    payloads: Mapping[int, bytes]
    rows: Mapping[int, Row]
    invalid: Mapping[int, DeadLetter]


class Worker:
    """Owns the store. `run` ends when a close was commanded and everything is settled, or the deadline has passed."""

    def __init__(
        self,
        *,
        queue: Queue,
        store: Store,
        dead_letters: DeadLetterSink,
        settings: Settings,
        commands: WorkerCommands,
        state: WorkerState,
        uniform: Callable[[float, float], float] = random.uniform,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._store = store
        self._dead_letters = dead_letters
        self._waiting = WaitingDeadLetters(dead_letters)
        self._settings = settings
        self._commands = commands
        self._state = state
        self._clock_s = clock_s
        self._uniform = uniform
        self._refusals = Refusals(store, settings, self, uniform=uniform, clock_s=clock_s)
        self._decode = Decoder()
        self._ahead: Batch | None = None
        self._fork_is_near = False
        self._in_outage = False
        self._table_blamed = False
        self._lack_of_room_said = False
        self._payloads: dict[int, bytes] = {}  # of the rows that are on their way
        self._offer_again_s = 0.0
        self._offered_through = 0
        self._dead_lettered_since_logged = 0
        self._next_log_s = 0.0

    async def run(self) -> bool:
        """Work until the end; returns False if it only ends because the process is about to fork."""
        self._commands.waker.attach()
        self._end_loading()
        # What an earlier run, or an earlier worker, had in flight is taken again.
        self._ahead = None
        self._payloads.clear()
        self._waiting = WaitingDeadLetters(self._dead_letters)
        self._state.waiting_letters = 0
        self._fork_is_near = False
        try:
            self._queue.requeue_in_flight()
            self._queue.recover()
            while batch := await self._next_batch():
                await self._deliver(batch)
            if self._fork_is_near and (batch := await self._last_batch_before_fork()):
                await self._deliver(batch)
            self._offer_dead_letters_again(at_once=True)
        except DeadlineExpired:
            self._fork_is_near = False
            self._offer_dead_letters_again(at_once=True)
        except ForkExpected:
            self._fork_is_near = True
        finally:
            self._queue.clear_wake_threshold()
            # Not final for a worker that dies of a bug, or ends for a fork: another run begins.
            await self._store.close(final=self._commands.closing and not self._fork_is_near)
        return not self._fork_is_near

    def _end_loading(self) -> None:
        """From here on the time of a close counts; `Writer.begin_close` does the same, whichever comes second."""
        self._state.loaded = True
        self._commands.shorten_close(self._settings.shutdown_timeout_s)
        self._state.announce()

    async def _next_batch(self) -> Batch | None:
        """The next events, as soon as there is a reason to write them; None when it is time to stop."""
        while not self._sees_fork():
            self._queue.maintain()
            self._offer_dead_letters_again(at_once=self._offered_through < self._commands.flush_through)
            self._queue.set_wake_threshold(self._settings.batch_size)
            if not self._ahead and not self._has_reason_to_write():
                await self._commands.waker.wait(self._settings.flush_interval_s)
            self._queue.clear_wake_threshold()
            if self._sees_fork():
                break
            if self._deadline_is_over():
                raise DeadlineExpired
            batch = await self._ready_or_next()
            if batch or (self._commands.closing and await self._wait_for_in_progress()):
                return batch
        return None

    def _sees_fork(self) -> bool:
        """Whether a fork is expected. The answer is kept: the fork may be over before the worker has ended."""
        self._fork_is_near = self._fork_is_near or self._commands.fork_expected
        return self._fork_is_near

    async def _last_batch_before_fork(self) -> Batch | None:
        """What is left, if the thread can be spared for it: then the next event starts the next thread.

        No fork has to wait for more than this: if more is left, a thread starts as soon as the fork is over.
        """
        if self._in_outage or self._queue.backlog > self._settings.batch_size:
            return None
        return await self._ready_or_next()

    async def _ready_or_next(self) -> Batch | None:
        """The batch that is ready, or else the next one. One that another task makes ready meanwhile stays ready."""
        ready, self._ahead = self._ahead, None
        return ready or await self._read()

    async def _read(self) -> Batch | None:
        """Take events and decode them; None when there are none."""
        payloads = self._queue.take(self._batch_limit())
        rows: dict[int, Row] = {}
        invalid: dict[int, DeadLetter] = {}
        for number, (key, payload) in enumerate(payloads.items(), 1):
            decoded = self._decode(payload)
            if isinstance(decoded, Rejected):
                invalid[key] = dead_letter(decoded, kind="invalid")
            else:
                rows[key] = decoded
            if number % _SLICE_EVENTS == 0 and self._store.is_remote:
                await anyio.lowlevel.checkpoint()
        return Batch(payloads, rows, invalid) if payloads else None

    async def _read_ahead(self) -> None:
        """Have the next batch ready, if it is a full one: a smaller one may grow until this one is written."""
        if self._queue.backlog >= self._settings.batch_size:
            self._ahead = await self._read()

    async def _wait_for_in_progress(self) -> bool:
        """Wait for calls of `record()` that were admitted before the close and have not appended their event yet.

        Returns False as soon as one has: there is something to write.
        """
        for _ in range(_IN_PROGRESS_TRIES):
            if self._queue.backlog or self._queue.has_more_to_recover:
                return False
            if not self._queue.has_in_progress_appends:
                return True
            await anyio.sleep(_IN_PROGRESS_PAUSE_S)
        return True

    def _has_reason_to_write(self) -> bool:
        if self._commands.closing:
            return True
        backlog = self._queue.backlog
        if self._commands.flush_through > self._queue.settled_through and (backlog or not self._state.waiting_letters):
            return True  # but not for what only waits for room in the dead letters
        return self._queue.has_more_to_recover or backlog >= self._settings.batch_size

    def _batch_limit(self) -> int:
        """A backlog is written in larger batches: fewer transactions, fewer hops between threads."""
        backlog = self._queue.backlog >= 2 * self._settings.batch_size
        return self._store.max_batch_rows if backlog else min(self._settings.batch_size, self._store.max_batch_rows)

    async def _deliver(self, batch: Batch) -> None:
        self._dead_letter(batch.invalid)
        if not batch.rows:
            return
        self._payloads |= batch.payloads
        writing = self.write(batch.rows)
        await (_both(writing, self._read_ahead) if self._store.is_remote else writing)
        self._payloads.clear()

    async def write(self, rows: Mapping[int, Row]) -> None:
        """Write and settle these rows, as often as it takes; those that are refused for themselves are dead letters."""
        outcome = await self.try_rows(list(rows), rows)
        if outcome.refused or outcome.left_out:
            await self._refusals.resolve(rows, outcome)

    async def try_rows(self, keys: list[int], rows: Mapping[int, Row]) -> Outcome:
        """Write and settle those of these keys in one transaction, tried again while the store cannot be written."""
        batch = [rows[key] for key in keys]
        started_s = self._clock_s()
        retries: Retries | None = None  # from the first failure on: nearly every transaction has none
        while True:
            attempts = retries.failures + 1 if retries else 1
            try:
                new = await self._store.write(batch)
                codes = await self._refusals.left_out(batch) if new < len(batch) else {}
            except DataRejectedError as exc:
                self._end_outage()
                return Outcome(0, {}, Refused(exc.code, attempts, exc.subject))
            except StoreError as exc:
                retries = retries or Retries(self._settings, started_s=started_s, uniform=self._uniform)
                await self.wait_for_store(exc, retries)
            else:
                self._end_outage()
                left_out = {keys[place]: Refused(code, attempts) for place, code in codes.items()}
                present = [key for key in keys if key not in left_out] if left_out else keys
                if present:
                    self._note_accepted(rows[present[-1]])
                    new = min(new, len(present))
                    self._settle(present, written=new, duplicates=len(present) - new)
                return Outcome(len(present), left_out, None)

    def _note_accepted(self, row: Row) -> None:
        self._refusals.known_good = row
        if self._table_blamed:
            self._table_blamed = False
            log.warning("The table %s takes rows again; what waited is being written", TABLE.name)

    def _end_outage(self) -> None:
        if self._in_outage:
            self._in_outage = False
            log.warning("The database can be written again; what waited is being written")

    # What `Refusals` asks for.

    async def read_more(self) -> Mapping[int, Row]:
        """The rows of the next batch; none where nothing waits."""
        batch = await self._ready_or_next()
        if batch is None:
            return {}
        self._dead_letter(batch.invalid)
        self._payloads |= batch.payloads
        return batch.rows

    def give_up(self, refused: Mapping[int, Refused]) -> None:
        """The database refuses these for themselves."""
        self._dead_letter(
            {
                key: refused_dead_letter(
                    self._decode, self._payloads[key], answer.code, answer.subject, answer.attempts
                )
                for key, answer in refused.items()
            }
        )

    def blame_table(self, refused: Refused, rows: int) -> None:
        """The table refuses every row. Says so once, until it takes one."""
        if not self._table_blamed:
            self._table_blamed = True
            log.warning(
                "The table %s refuses every row, and one known to be good as well (%s%s): %d event(s) wait, with all "
                "that come after them, and nothing is lost. Change the column, the constraint, the policy or the "
                "trigger so that it takes rows again: they are then written without a restart",
                TABLE.name,
                refused.code,
                f", {refused.subject}" if refused.subject else "",
                rows,
            )

    async def wait_for_store(self, exc: StoreError, retries: Retries) -> None:
        """Wait before the next try; raises DeadlineExpired when there will be none."""
        self._state.retries.add()
        self._state.last_error = exc.code
        outage = not exc.transient or retries.is_outage(self._clock_s())
        delay_s = retries.delay_s(self._clock_s())
        if outage and not (self._in_outage or self._table_blamed):
            self._in_outage = True
            log.warning("The database cannot be written (%s); events wait, and it is tried again", exc.code)
        await self._sleep(min(delay_s, _CLOSING_DELAY_S) if self._commands.closing else delay_s)
        if self._deadline_is_over():
            raise DeadlineExpired

    # Dead letters.

    def _dead_letter(self, dead_letters: Mapping[int, DeadLetter]) -> None:
        if not dead_letters:
            return
        kept = self._waiting.offer(dead_letters)
        self._settle(kept, dead_lettered=len(kept))
        self._dead_lettered_since_logged += len(kept)
        if kept:
            self._log_dead_letters(dead_letters[kept[-1]].reason)
        if len(kept) < len(dead_letters):
            self._note_waiting_dead_letters()

    def _offer_dead_letters_again(self, *, at_once: bool) -> None:
        """Offer the letters that wait for room, if it is time or `at_once`."""
        self._offered_through = self._commands.flush_through
        if not self._state.waiting_letters or not (at_once or self._clock_s() >= self._offer_again_s):
            return
        kept = self._waiting.offer_again()
        self._settle(kept, dead_lettered=len(kept))
        self._state.waiting_letters = len(self._waiting)
        if self._waiting:
            self._note_waiting_dead_letters()
        else:
            self._lack_of_room_said = False
            log.warning("There is room in the dead letters again; %d event(s) that waited went there", len(kept))

    def _note_waiting_dead_letters(self) -> None:
        if not self._lack_of_room_said:
            self._lack_of_room_said = True
            stay_in = self._queue.durable_path or "memory, and are lost with this process"
            log.warning(
                "Event(s) that were refused find no room in the dead letters (%s): they stay in %s, and are tried "
                "again. Make room, `autopack dead-letters retry`, or set TELEMETRY_DEAD_LETTER_BYTES",
                self._dead_letters.problem,
                stay_in,
            )
        self._state.waiting_letters = len(self._waiting)
        self._offer_again_s = self._clock_s() + self._settings.probe_interval_s

    def _log_dead_letters(self, reason: str) -> None:
        """At most every 10 s: a logging pipeline that records what it logs must not feed itself. The line at close is
        exact.
        """
        now_s = self._clock_s()
        if now_s < self._next_log_s:
            return
        self._next_log_s = now_s + _LOG_INTERVAL_S
        count, self._dead_lettered_since_logged = self._dead_lettered_since_logged, 0
        log.warning("%d event(s) went to the dead letters, the last because: %r", count, reason)

    def _settle(self, keys: Mapping[int, object] | list[int], **counts: int) -> None:
        self._queue.settle(keys, **counts)
        self._state.announce()

    async def _sleep(self, delay_s: float) -> None:
        """Wait, at most until the deadline; a command to close ends the wait at once, so that one more try is made."""
        was_closing = self._commands.closing
        until_s = self._clock_s() + delay_s
        while not self._deadline_is_over() and (left_s := until_s - self._clock_s()) > 0:
            if self._commands.fork_expected:
                raise ForkExpected
            if self._commands.closing and not was_closing:
                return
            self._queue.maintain()  # an outage may last: the journal's folder may be deleted, or its next file be due
            await self._commands.waker.wait(min(left_s, _MAINTAIN_INTERVAL_S))

    def _deadline_is_over(self) -> bool:
        return self._commands.deadline_s is not None and self._clock_s() >= self._commands.deadline_s


async def _both(writing: Awaitable[object], meanwhile: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `meanwhile` while `writing` waits; raises what either raised. `writing` is never cancelled."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meanwhile)
            with anyio.CancelScope(shield=True):
                await writing
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
