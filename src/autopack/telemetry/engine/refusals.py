"""Whose fault it is where the table does not take a row: the row's or its own.

# The experiment

A database that refuses a batch says with which code, and not whether a row is wrong or the table. The code does not
tell them apart either: a NOT NULL violation is the row's fault where autopack made the column, and the table's where
a column of the user's has no default. So it is tried out:

| outcome | verdict |
|---|---|
| some rows of the batch pass | those that are refused are so for themselves: dead letters |
| none passes, but a row known to be good would | the same |
| none passes, and the known good row is refused with the same code | it is the table: all of them wait |

Known to be good is the last row that the table took, under an id of its own; before there is one, a plain row that our
validation takes. It is written and rolled back. A copy breaks each unique index of the user's own: where that is the
answer, a plain row is asked with as well. Rows that a trigger, a rule or a policy leaves out in silence are
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
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from autopack._util.ids import random_sequence_start
from autopack.errors import StoreError, StoreUnusableError
from autopack.telemetry.engine.retry import Retries
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.event.sample import sample_row
from autopack.telemetry.event.schema import Row
from autopack.telemetry.stores.base import LEFT_OUT, Store

if TYPE_CHECKING:
    from autopack.telemetry.engine.worker import Worker

_CLOSELY_EVERY = 64  # rounds
_MOST_QUESTIONS = 3
# That a row is in conflict with another one, which says nothing of the table: a unique index, an exclusion.
_CONFLICTS = ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505", "23P01")


class Refused(NamedTuple):
    """That the database refused one row: with which code, at which try, and what the refusal is about if it says so."""

    code: str
    attempts: int
    subject: str | None = None


class Outcome(NamedTuple):
    """What became of a transaction: how many rows are in the table now, which it left out, or why it took none."""

    accepted: int
    left_out: Mapping[int, Refused]
    refused: Refused | None


class Refusals:
    """What a worker does about rows that are refused. `known_good` is the last row that the table took."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        worker: Worker,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.known_good: Row | None = None
        self._store = store
        self._settings = settings
        self._worker = worker
        self._uniform = uniform
        self._clock_s = clock_s
        self._sequence = itertools.count(random_sequence_start())

    async def resolve(self, rows: Mapping[int, Row], outcome: Outcome) -> None:
        """Given what became of a first try: write those that the table takes, give up those that are refused for
        themselves, and wait with those that are not until it takes them, too. Raises DeadlineExpired.
        """
        tried: deque[tuple[Mapping[int, Row], Outcome | None]] = deque([(rows, outcome)])
        while tried:
            left, known = tried.popleft()
            found = known or await self._worker.try_rows(list(left), left)
            if not (found.refused or found.left_out):
                continue
            if of_table := await self._give_up_own(left, found):
                waiting = await self._outlast({key: left[key] for key in of_table}, next(iter(of_table.values())))
                tried.extendleft((again, None) for again in reversed(waiting))

    async def _give_up_own(self, rows: Mapping[int, Row], outcome: Outcome) -> Mapping[int, Refused]:
        """Write those that the table takes, and give up those that are refused for themselves; returns the others."""
        trial = _Trial(rows)
        await self._halve(trial, list(rows), outcome)
        of_table = {} if trial.accepted else await self._refused_like_a_good_row(trial.refused)
        if own := {key: refused for key, refused in trial.refused.items() if key not in of_table}:
            self._worker.give_up(own)
        return of_table

    async def left_out(self, batch: Sequence[Row]) -> dict[int, str]:
        """Those that are not in the table although it said that it took them, by their place, with the code. What it
        would take now was there and has been deleted since. Raises StoreError.
        """
        codes = {place: await self._store.refusal(batch[place]) for place in await self._store.absent(batch)}
        return {place: code for place, code in codes.items() if code is not None}

    async def _halve(self, trial: _Trial, keys: list[int], outcome: Outcome | None = None) -> bool:
        """Write what the table takes of these, and note the others; returns whether any was refused.

        `outcome`: of these, if it is known already.
        """
        outcome = outcome or await self._worker.try_rows(keys, trial.rows)
        trial.accepted += outcome.accepted
        trial.refused |= outcome.left_out
        if outcome.refused is None:
            return False
        if len(keys) == 1:
            trial.refused[keys[0]] = outcome.refused
            return True
        first, second = keys[: len(keys) // 2], keys[len(keys) // 2 :]
        first_refused = await self._halve(trial, first)
        # Where the first half passes as a whole, the second is certain to be refused as one.
        certain = None if first_refused or len(second) == 1 else outcome
        await self._halve(trial, second, certain)
        return True

    async def _refused_like_a_good_row(self, refused: Mapping[int, Refused]) -> Mapping[int, Refused]:
        """Those that are refused with the code with which the table refuses the known good row, too."""
        if (code := await self._refusal_of_good_row()) is None:
            return {}
        return {key: answer for key, answer in refused.items() if answer.code == code}

    async def _refusal_of_good_row(self) -> str | None:
        """The code with which the table refuses a row that is known to be good; None where it would take it.

        A copy of a row that is there is refused by each unique index of the user's own: then a plain one is asked with.
        """
        code = await self._refusal_of(self._like(self.known_good))
        of_another_row = self.known_good is not None and code is not None and code.endswith(_CONFLICTS)
        return await self._refusal_of(self._like(None)) if of_another_row else code

    def _like(self, row: Row | None) -> Row:
        return sample_row(time.time_ns(), next(self._sequence), row)

    async def _refusal_of(self, row: Row) -> str | None:
        """The code with which the table refuses a row; None where it would take it.

        A question that itself cannot be asked, as where a rule rewrites inserts, is an answer after a few tries.
        """
        retries = Retries(self._settings, started_s=self._clock_s(), uniform=self._uniform)
        while True:
            try:
                return await self._store.refusal(row)
            except StoreError as exc:
                if not exc.transient and retries.failures >= _MOST_QUESTIONS:
                    return exc.code
                await self._worker.wait_for_store(exc, retries)

    async def _outlast(self, rows: Mapping[int, Row], refused: Refused) -> list[Mapping[int, Row]]:
        """Keep these rows until the table takes any; returns them, and what was read meanwhile, to be tried anew."""
        self._worker.blame_table(refused, len(rows))
        waiting = [rows]
        outage = Retries(self._settings, started_s=-math.inf, uniform=self._uniform)
        for number in itertools.count(1):
            await self._worker.wait_for_store(StoreUnusableError(refused.code), outage)
            closely = number.bit_count() == 1 or number % _CLOSELY_EVERY == 0
            if await self._takes_any_of(waiting, closely=closely, in_silence=refused.code == LEFT_OUT):
                break
        return [left for left in waiting if left]

    async def _takes_any_of(self, waiting: list[Mapping[int, Row]], *, closely: bool, in_silence: bool) -> bool:
        """Whether the table takes the oldest rows, or the known good one; or, looking closely, any of the next batch,
        or of the oldest where there is none. What it takes leaves `waiting`.

        Where rows are left out in silence, each is asked about first: what left it out may have put it elsewhere, and
        a write of it, which passes, would do so each time.
        """
        oldest = waiting[0]
        first = dict(itertools.islice(oldest.items(), 1))
        if not in_silence or await self._would_be_taken(first):
            outcome = await self._worker.try_rows(list(oldest), oldest)
            if outcome.accepted:
                waiting[0] = {key: oldest[key] for key in outcome.left_out}
                return True
        if await self._refusal_of_good_row() is None:
            return True
        if not closely:
            return False
        waiting.append(await self._worker.read_more() or waiting.pop(0))
        trial = _Trial(waiting[-1])
        if tried := list(await self._would_be_taken(trial.rows) if in_silence else trial.rows):
            await self._halve(trial, tried)
        waiting[-1] = {key: row for key, row in trial.rows.items() if key in trial.refused or key not in tried}
        return trial.accepted > 0

    async def _would_be_taken(self, rows: Mapping[int, Row]) -> Mapping[int, Row]:
        """Those of these rows that the table would take now."""
        return {key: row for key, row in rows.items() if await self._refusal_of(row) is None}


class _Trial:
    """What the table did with some rows: how many it took, and which it refused."""

    def __init__(self, rows: Mapping[int, Row]) -> None:
        self.rows = rows
        self.accepted = 0
        self.refused: dict[int, Refused] = {}
