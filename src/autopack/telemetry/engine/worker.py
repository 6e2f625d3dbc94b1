"""The background writer: takes batches from the queue, and settles every event of them.

# The loop

The worker runs in a thread and an event loop of its own. It waits in one place (`_next_batch`), for a full batch, a
flush, a close, a fork, or the end of the flush interval. A batch is decoded and validated, then written in one
transaction. If the database is another process and a whole further batch waits, that one is decoded meanwhile.

# What can happen to a batch

| the store says | the worker |
|---|---|
| written, n of them new | settles all: n written, the others duplicates |
| `DataRejectedError` | finds the rows by bisection, sends them to the dead letters, writes the others |
| `TransientStoreError`, `StoreUnusableError` | waits with backoff and full jitter, then tries the same rows again |
| any other exception | dies; `Writer` starts another worker, which begins with what is in flight |

# Invariants

- An event leaves the queue only by `settle`, and is settled only after its commit, or as a dead letter.
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
from autopack.telemetry.engine.dead_letters import DeadLetter, DeadLetterSink, dead_letter
from autopack.telemetry.engine.queue import Queue
from autopack.telemetry.engine.retry import Retries
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import Rejected, Row
from autopack.telemetry.stores.base import Store

_LOG_INTERVAL_S = 10.0
_CLOSING_DELAY_S = 0.25
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
        self._settings = settings
        self._commands = commands
        self._state = state
        self._uniform = uniform
        self._clock_s = clock_s
        self._decode = Decoder()
        self._ahead: Batch | None = None
        self._fork_is_near = False
        self._in_outage = False
        self._dead_lettered_since_logged = 0
        self._next_log_s = 0.0

    async def run(self) -> bool:
        """Work until the end; returns False if it only ends because the process is about to fork."""
        self._commands.waker.attach()
        self._end_loading()
        self._ahead = None  # what an earlier run had in flight is taken again
        self._fork_is_near = False
        try:
            self._queue.requeue_in_flight()
            self._queue.recover()
            while batch := await self._next_batch():
                await self._deliver(batch)
            if self._fork_is_near and (batch := await self._last_batch_before_fork()):
                await self._deliver(batch)
        except DeadlineExpired:
            self._fork_is_near = False
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
            self._queue.set_wake_threshold(self._settings.batch_size)
            if not self._ahead and not self._has_reason_to_write():
                await self._commands.waker.wait(self._settings.flush_interval_s)
            self._queue.clear_wake_threshold()
            if self._sees_fork():
                break
            if self._deadline_is_over():
                raise DeadlineExpired
            batch, self._ahead = self._ahead or await self._read(), None
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
        return self._ahead or await self._read()

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
        if self._commands.closing or self._commands.flush_through > self._queue.settled_through:
            return True
        return self._queue.has_more_to_recover or self._queue.backlog >= self._settings.batch_size

    def _batch_limit(self) -> int:
        """A backlog is written in larger batches: fewer transactions, fewer hops between threads."""
        backlog = self._queue.backlog >= 2 * self._settings.batch_size
        return self._store.max_batch_rows if backlog else min(self._settings.batch_size, self._store.max_batch_rows)

    async def _deliver(self, batch: Batch) -> None:
        self._dead_letter(batch.invalid)
        if not batch.rows:
            return
        writing = self._write(list(batch.rows), batch.rows, batch.payloads)
        await (_both(writing, self._read_ahead) if self._store.is_remote else writing)

    async def _write(
        self,
        keys: list[int],
        rows: Mapping[int, Row],
        payloads: Mapping[int, bytes],
        refused: DataRejectedError | None = None,
    ) -> bool:
        """Write and settle these rows, refused ones as dead letters; returns whether any was refused.

        `refused`: what the database answered to a superset of these rows, when the reason must be among these. Halving
        finds p bad rows among n in at most 2 · p · log2(n) + 1 statements.
        """
        if refused is None or len(keys) == 1:
            refused, attempts = await self._try(keys, rows)
            if refused is None:
                return False
            if len(keys) == 1:
                rejected = self._decode.rejected(payloads[keys[0]], f"the database refused it: {refused.code}")
                self._dead_letter({keys[0]: dead_letter(rejected, kind="data", code=refused.code, attempts=attempts)})
                return True
        middle = len(keys) // 2
        first_refused = await self._write(keys[:middle], rows, payloads)
        await self._write(keys[middle:], rows, payloads, refused=None if first_refused else refused)
        return True

    async def _try(self, keys: list[int], rows: Mapping[int, Row]) -> tuple[DataRejectedError | None, int]:
        """Write these rows in one transaction, as often as it takes; returns the refusal, if any, and the attempts."""
        started_s = self._clock_s()
        retries: Retries | None = None  # from the first failure on: nearly every transaction has none
        while True:
            try:
                new = await self._store.write([rows[key] for key in keys])
            except DataRejectedError as exc:
                self._end_outage()
                return exc, retries.failures + 1 if retries else 1
            except StoreError as exc:
                retries = retries or Retries(self._settings, started_s=started_s, uniform=self._uniform)
                await self._wait_for_store(exc, retries)
            else:
                self._end_outage()
                self._settle(keys, written=new, duplicates=len(keys) - new)
                return None, retries.failures + 1 if retries else 1

    def _dead_letter(self, dead_letters: Mapping[int, DeadLetter]) -> None:
        if not dead_letters:
            return
        lost = self._dead_letters.append(list(dead_letters.values()))
        for _ in range(lost):
            self._state.dead_letters_lost.add()
        self._settle(dead_letters, dead_lettered=len(dead_letters))
        self._dead_lettered_since_logged += len(dead_letters)
        self._log_dead_letters(next(iter(dead_letters.values())).reason)

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

    async def _wait_for_store(self, exc: StoreError, retries: Retries) -> None:
        """Wait before the next try; raises DeadlineExpired when there will be none."""
        self._state.retries.add()
        self._state.last_error = exc.code
        delay_s = retries.delay_s(self._clock_s())
        if not self._in_outage and (retries.is_outage(self._clock_s()) or not exc.transient):
            self._in_outage = True
            log.warning("The database cannot be written (%s); events wait, and it is tried again", exc.code)
        await self._sleep(min(delay_s, _CLOSING_DELAY_S) if self._commands.closing else delay_s)
        if self._deadline_is_over():
            raise DeadlineExpired

    async def _sleep(self, delay_s: float) -> None:
        """Wait, at most until the deadline; a command to close ends the wait at once, so that one more try is made."""
        was_closing = self._commands.closing
        until_s = self._clock_s() + delay_s
        while not self._deadline_is_over() and (left_s := until_s - self._clock_s()) > 0:
            if self._commands.fork_expected:
                raise ForkExpected
            if self._commands.closing and not was_closing:
                return
            await self._commands.waker.wait(left_s)

    def _deadline_is_over(self) -> bool:
        return self._commands.deadline_s is not None and self._clock_s() >= self._commands.deadline_s

    def _end_outage(self) -> None:
        if self._in_outage:
            self._in_outage = False
            log.warning("The database can be written again; what waited is being written")


async def _both(writing: Awaitable[object], meanwhile: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `meanwhile` while `writing` waits; raises what either raised. `writing` is never cancelled."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meanwhile)
            with anyio.CancelScope(shield=True):
                await writing
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
