"""The background writer: takes batches from the buffer, and settles every event of them.

It runs in its own thread and loop and waits in one place, for a full batch, a flush, a close, a fork, or the end of the
flush interval. A batch is decoded and validated, then written in one transaction; while the database works on it the
next one is decoded, if there is a whole one and the database is another process. What the database refuses is found by
bisection and becomes a dead letter; what it cannot take now is tried again, with backoff, until it can, or until the
deadline of `close()`. Nobody cancels the worker: it is asked to stop, since a cancelled query loses its connection.

In a fork the parent's worker closes its connections first and waits until the fork is done (`pause`): SQLite keeps the
locks of a process in that process's memory, and a child that inherited them would believe that it holds them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from autopack.errors import DataRejectedError, StoreError
from autopack.telemetry import log
from autopack.telemetry.engine.control import Orders, Progress
from autopack.telemetry.engine.dead_letters import DeadLetter, DeadLetterOffice, dead_letter
from autopack.telemetry.engine.queue import Buffer
from autopack.telemetry.engine.retry import Retries
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import Rejected, Row
from autopack.telemetry.stores.base import Store

_PAUSE_POLL_S = 0.25
_SILENCE_S = 10.0
_CLOSING_DELAY_S = 0.25
_STRAGGLER_PAUSE_S = 0.005
_STRAGGLER_TRIES = 20
_SLICE_EVENTS = 200  # decoded at a time: one or two ms, in which the loop does nothing else


class DeadlineExpired(Exception):  # noqa: N818 (an end, not an error)
    """The time to drain is over; what is unsettled stays in the buffer."""


class Batch(NamedTuple):
    """Events that were taken together, under their keys: as they came, the good ones as rows, the others as letters."""

    payloads: Mapping[int, bytes]
    rows: Mapping[int, Row]
    invalid: Mapping[int, DeadLetter]


class Worker:
    """Owns the store. `run` ends when a close was ordered and everything is settled, or the deadline is over."""

    def __init__(
        self,
        *,
        buffer: Buffer,
        store: Store,
        office: DeadLetterOffice,
        settings: Settings,
        orders: Orders,
        progress: Progress,
        uniform: Callable[[float, float], float] = random.uniform,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer = buffer
        self._store = store
        self._office = office
        self._settings = settings
        self._orders = orders
        self._progress = progress
        self._uniform = uniform
        self._clock_s = clock_s
        self._decode = Decoder()
        self._ahead: Batch | None = None
        self._in_outage = False
        self._buried_since_said = 0
        self._silent_until_s = 0.0

    async def run(self) -> None:
        """Work until the end."""
        self._orders.bell.bind()
        try:
            self._buffer.rewind()
            self._buffer.recover()
            while batch := await self._next_batch():
                await self._deliver(batch)
        except DeadlineExpired:
            pass
        finally:
            self._buffer.disarm()
            # A worker that died of a bug starts again.
            await self._store.close(final=self._orders.closing)

    async def _next_batch(self) -> Batch | None:
        """The next events, as soon as there is a reason to write them; None when it is time to stop."""
        while True:
            await self._pause_if_asked()
            self._buffer.tend()
            self._buffer.arm(self._settings.batch_size)
            if not self._ahead and not self._has_reason_to_write():
                await self._orders.bell.wait(self._settings.flush_interval_s)
            self._buffer.disarm()
            if self._deadline_is_over():
                raise DeadlineExpired
            batch, self._ahead = self._ahead or await self._read(), None
            if batch or (self._orders.closing and await self._nobody_is_late()):
                return batch

    async def _read(self) -> Batch | None:
        """Take events and decode them; None when there are none."""
        payloads = self._buffer.take(self._batch_limit())
        rows: dict[int, Row] = {}
        invalid: dict[int, DeadLetter] = {}
        for number, (key, payload) in enumerate(payloads.items(), 1):
            decoded = self._decode(payload)
            if isinstance(decoded, Rejected):
                invalid[key] = dead_letter(decoded, kind="invalid")
            else:
                rows[key] = decoded
            if number % _SLICE_EVENTS == 0 and self._store.works_elsewhere:
                await anyio.lowlevel.checkpoint()
        return Batch(payloads, rows, invalid) if payloads else None

    async def _read_ahead(self) -> None:
        """Have the next batch ready, if it is a full one: a smaller one may grow until this one is written."""
        if self._buffer.backlog >= self._settings.batch_size:
            self._ahead = await self._read()

    async def _nobody_is_late(self) -> bool:
        """False while a `record()` that was let in before the close has not put its event down yet."""
        for _ in range(_STRAGGLER_TRIES):
            if self._buffer.backlog:
                return False
            if not self._buffer.has_stragglers:
                return True
            await anyio.sleep(_STRAGGLER_PAUSE_S)
        return True

    def _has_reason_to_write(self) -> bool:
        if self._orders.closing or self._orders.flush_through > self._buffer.settled_through:
            return True
        return self._buffer.backlog >= self._settings.batch_size

    def _batch_limit(self) -> int:
        """A backlog is written in larger batches: fewer transactions, fewer hops between threads."""
        backlog = self._buffer.backlog >= 2 * self._settings.batch_size
        return self._store.max_batch_rows if backlog else min(self._settings.batch_size, self._store.max_batch_rows)

    async def _deliver(self, batch: Batch) -> None:
        self._bury(batch.invalid)
        if not batch.rows:
            return
        writing = self._write(list(batch.rows), batch.rows, batch.payloads)
        await (_both(writing, self._read_ahead) if self._store.works_elsewhere else writing)

    async def _write(
        self,
        keys: list[int],
        rows: Mapping[int, Row],
        payloads: Mapping[int, bytes],
        refused: DataRejectedError | None = None,
    ) -> bool:
        """Write and settle these rows, refused ones as dead letters; returns whether any was refused.

        `refused`: what the database said to a superset of these rows, when the reason must be among these. Halving
        finds p bad rows among n in at most 2 · p · log2(n) + 1 statements.
        """
        if refused is None or len(keys) == 1:
            refused, attempts = await self._try(keys, rows)
            if refused is None:
                return False
            if len(keys) == 1:
                rejected = self._decode.rejected(payloads[keys[0]], f"the database refused it: {refused.code}")
                self._bury({keys[0]: dead_letter(rejected, kind="data", code=refused.code, attempts=attempts)})
                return True
        middle = len(keys) // 2
        first_refused = await self._write(keys[:middle], rows, payloads)
        await self._write(keys[middle:], rows, payloads, refused=None if first_refused else refused)
        return True

    async def _try(self, keys: list[int], rows: Mapping[int, Row]) -> tuple[DataRejectedError | None, int]:
        """Write these rows in one transaction, as often as it takes; returns the refusal, if any, and the attempts."""
        retries = Retries(self._settings, started_s=self._clock_s(), uniform=self._uniform)
        while True:
            try:
                new = await self._store.write([rows[key] for key in keys])
            except DataRejectedError as exc:
                self._recovered()
                return exc, retries.failures + 1
            except StoreError as exc:
                await self._wait_for_store(exc, retries)
            else:
                self._recovered()
                self._settle(keys, written=new, duplicates=len(keys) - new)
                return None, retries.failures + 1

    def _bury(self, letters: Mapping[int, DeadLetter]) -> None:
        if not letters:
            return
        lost = self._office.append(list(letters.values()))
        for _ in range(lost):
            self._progress.dead_letters_lost.add()
        self._settle(letters, dead_lettered=len(letters))
        self._buried_since_said += len(letters)
        self._say_buried(next(iter(letters.values())).reason)

    def _say_buried(self, reason: str) -> None:
        """Rarely: a logging pipeline that records what it logs must not feed itself. The line at close is exact."""
        now_s = self._clock_s()
        if now_s < self._silent_until_s:
            return
        self._silent_until_s = now_s + _SILENCE_S
        count, self._buried_since_said = self._buried_since_said, 0
        log.warning("%d event(s) went to the dead letters, the last because: %r", count, reason)

    def _settle(self, keys: Mapping[int, object] | list[int], **counts: int) -> None:
        self._buffer.settle(keys, **counts)
        self._progress.announce()

    async def _wait_for_store(self, exc: StoreError, retries: Retries) -> None:
        """Wait before the next try; raises DeadlineExpired when there will be none."""
        self._progress.retries.add()
        self._progress.last_error = exc.code
        delay_s = retries.delay_s(self._clock_s())
        if not self._in_outage and (retries.is_outage(self._clock_s()) or not exc.transient):
            self._in_outage = True
            log.warning("The database cannot be written (%s); events wait, and it is tried again", exc.code)
        await self._sleep(min(delay_s, _CLOSING_DELAY_S) if self._orders.closing else delay_s)
        if self._deadline_is_over():
            raise DeadlineExpired

    async def _sleep(self, delay_s: float) -> None:
        """Wait, at most until the deadline; an order to close ends the wait at once, so that one more try is made."""
        was_closing = self._orders.closing
        until_s = self._clock_s() + delay_s
        while not self._deadline_is_over() and (left_s := until_s - self._clock_s()) > 0:
            await self._pause_if_asked()
            if self._orders.closing and not was_closing:
                return
            await self._orders.bell.wait(left_s)

    def _deadline_is_over(self) -> bool:
        return self._orders.deadline_s is not None and self._clock_s() >= self._orders.deadline_s

    def _recovered(self) -> None:
        if self._in_outage:
            self._in_outage = False
            log.warning("The database can be written again; what waited is being written")

    async def _pause_if_asked(self) -> None:
        if not self._orders.pausing.is_set():
            return
        await self._store.close(final=False)
        self._orders.paused.set()
        while self._orders.pausing.is_set():
            await self._orders.bell.wait(_PAUSE_POLL_S)
        self._orders.paused.clear()


async def _both(writing: Awaitable[object], aside: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something aside while writing waits; raises what either raised. Writing is never cancelled."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(aside)
            with anyio.CancelScope(shield=True):
                await writing
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
