"""How the rows of a batch come into the table, and whose fault it is where some do not.

# The experiment

A database that refuses a batch says with which code, and not whether a row is wrong or the table. The code does not
tell them apart either: a NOT NULL violation is the row's fault where the column is one of ours, and the table's where
a column of the user's has no default. So it is tried out:

| outcome | verdict |
|---|---|
| some rows of the batch pass | those that are refused are so for themselves: dead letters |
| none passes, but a row known to be good would | the same |
| none passes, and the known good row is refused with the same code | it is the table: all of them wait |

Known to be good is the last row that the table took, under an id of its own; before there is one, a plain row that our
validation takes. It is written and rolled back. Rows that a trigger, a rule or a policy leaves out in silence are
refused too (`LEFT_OUT`): a write of n rows that makes fewer new ones is followed by a look for their ids.

# While it is the table

The rows wait, unsettled, and so does what comes after them. Once in an outage's interval the table is asked again, by
the oldest rows at once and by the known good row: two statements. In rounds 1, 2, 4, … and each 64th, the next batch
is taken as well and tried row by row, so that a good row behind many refused ones gets through. As soon as any row
passes, everything that waits is tried anew, and judged by the first two lines of the table.

# Invariants

- A row is settled only when it is in the table, or given up as refused for itself.
- Halving finds p refused rows among n in at most 2 · p · log2(n) + 1 statements.
- Nothing is decided by a message, which may hold the row; what a refusal is about is only said.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from autopack._util.ids import random_sequence_start
from autopack.errors import DataRejectedError, StoreError, StoreUnusableError
from autopack.telemetry.engine.retry import Retries
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.event.sample import sample_row
from autopack.telemetry.event.schema import Row
from autopack.telemetry.stores.base import Store

if TYPE_CHECKING:
    from autopack.telemetry.engine.worker import Worker

_CLOSELY_EVERY = 64  # rounds
_MOST_QUESTIONS = 3


class Refused(NamedTuple):
    """That the database refused one row: with which code, at which try, and what the refusal is about if it says so."""

    code: str
    attempts: int
    subject: str | None = None


class Delivery:
    """Writes the rows of one worker, which says what else happens with them."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        worker: Worker,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._worker = worker
        self._uniform = uniform
        self._clock_s = clock_s
        self._known_good: Row | None = None
        self._sequence = itertools.count(random_sequence_start())

    async def deliver(self, rows: Mapping[int, Row]) -> None:
        """Write and settle these rows, those that are refused for themselves as given up; wait while it is the table.

        Raises DeadlineExpired.
        """
        trial = await self._tried(rows)
        if not trial.refused:
            return
        of_table = {} if trial.accepted else await self._refused_like_a_good_row(trial.refused)
        if own := {key: refused for key, refused in trial.refused.items() if key not in of_table}:
            self._worker.give_up(own)
        if of_table:
            await self._outlast({key: rows[key] for key in of_table}, next(iter(of_table.values())))

    async def _tried(self, rows: Mapping[int, Row]) -> _Trial:
        """Write and settle what the table takes of these rows, and find out what it refuses."""
        trial = _Trial(rows)
        await self._halve(trial, list(rows))
        return trial

    async def _halve(self, trial: _Trial, keys: list[int], *, refused: bool = False) -> bool:
        """Returns whether any of these was refused. `refused`: it is known that one of them will be."""
        if not refused or len(keys) == 1:
            answer = await self._try(trial, keys)
            if answer is None:
                return False
            if len(keys) == 1:
                trial.refused[keys[0]] = answer
                return True
        middle = len(keys) // 2
        first_refused = await self._halve(trial, keys[:middle])
        await self._halve(trial, keys[middle:], refused=not first_refused)
        return True

    async def _try(self, trial: _Trial, keys: list[int]) -> Refused | None:
        """Write these rows in one transaction, as often as it takes; returns the refusal, if any."""
        batch = [trial.rows[key] for key in keys]
        retries: Retries | None = None  # from the first failure on: nearly every transaction has none
        started_s = self._clock_s()
        while True:
            attempts = retries.failures + 1 if retries else 1
            try:
                new = await self._store.write(batch)
                left_out = await self._left_out(batch) if new < len(batch) else {}
            except DataRejectedError as exc:
                self._worker.note_answer()
                return Refused(exc.code, attempts, exc.subject)
            except StoreError as exc:
                retries = retries or Retries(self._settings, started_s=started_s, uniform=self._uniform)
                await self._wait(exc, retries)
            else:
                self._worker.note_answer()
                present = [key for place, key in enumerate(keys) if place not in left_out]
                trial.refused |= {keys[place]: Refused(code, attempts) for place, code in left_out.items()}
                if present:
                    trial.accepted += len(present)
                    self._known_good = trial.rows[present[-1]]
                    self._worker.note_accepted()
                    self._worker.settle_written(present, new=min(new, len(present)))
                return None

    async def _left_out(self, batch: list[Row]) -> dict[int, str]:
        """Those that are not in the table although it said that it took them, by their place, with the code. What it
        would take now was there and has been deleted since.
        """
        codes = {place: await self._store.refusal(batch[place]) for place in await self._store.absent(batch)}
        return {place: code for place, code in codes.items() if code is not None}

    async def _wait(self, exc: StoreError, retries: Retries) -> None:
        outage = not exc.transient or retries.is_outage(self._clock_s())
        await self._worker.wait_for_store(exc, retries.delay_s(self._clock_s()), outage=outage)

    async def _refused_like_a_good_row(self, refused: Mapping[int, Refused]) -> Mapping[int, Refused]:
        """Those that are refused with the code with which the table refuses the known good row, too."""
        if (code := await self._refusal_of_good_row()) is None:
            return {}
        return {key: answer for key, answer in refused.items() if answer.code == code}

    async def _refusal_of_good_row(self) -> str | None:
        """The code with which the table refuses a row that is known to be good; None where it would take it.

        A question that itself cannot be asked, as where a rule rewrites inserts, is an answer after a few tries.
        """
        retries = Retries(self._settings, started_s=self._clock_s(), uniform=self._uniform)
        while True:
            try:
                return await self._store.refusal(sample_row(time.time_ns(), next(self._sequence), self._known_good))
            except StoreError as exc:
                if not exc.transient and retries.failures >= _MOST_QUESTIONS:
                    return exc.code
                await self._wait(exc, retries)

    async def _outlast(self, rows: Mapping[int, Row], refused: Refused) -> None:
        """Keep these rows until the table takes any, then deliver them, and what was read meanwhile, anew."""
        self._worker.blame_table(refused, len(rows))
        waiting = [rows]
        for number in itertools.count(1):
            delay_s = self._uniform(self._settings.probe_interval_s / 2, self._settings.probe_interval_s)
            await self._worker.wait_for_store(StoreUnusableError(refused.code), delay_s, outage=True)
            if await self._takes_any_of(waiting, closely=number.bit_count() == 1 or number % _CLOSELY_EVERY == 0):
                break
        for left in waiting:
            if left:
                await self.deliver(left)

    async def _takes_any_of(self, waiting: list[Mapping[int, Row]], *, closely: bool) -> bool:
        """Whether the table takes the oldest rows, or the known good one; or, looking closely, any of the next batch,
        or of the oldest where there is none. What it takes leaves `waiting`.
        """
        oldest = _Trial(waiting[0])
        if await self._try(oldest, list(waiting[0])) is None and oldest.accepted:
            waiting[0] = oldest.left
            return True
        if await self._refusal_of_good_row() is None:
            return True
        if not closely:
            return False
        if more := await self._worker.read_more():
            waiting.append(more)
        else:
            waiting.append(waiting.pop(0))
        trial = await self._tried(waiting[-1])
        waiting[-1] = trial.left
        return trial.accepted > 0


class _Trial:
    """What the table did with some rows: how many it took, and which it refused."""

    def __init__(self, rows: Mapping[int, Row]) -> None:
        self.rows = rows
        self.accepted = 0
        self.refused: dict[int, Refused] = {}

    @property
    def left(self) -> dict[int, Row]:
        """The rows that were refused."""
        return {key: self.rows[key] for key in self.refused}
