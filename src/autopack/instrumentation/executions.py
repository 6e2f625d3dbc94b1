"""Which calls of a phase belong together: attempts of one task, turns of one tool loop.

A call that starts while no other call of the same entry is open continues what the reply before it left:

- it ended in a tool call or a paused turn: the next turn of the same attempt;
- it was cut off: the next attempt;
- otherwise, and for every call that starts while another is open, the call is an execution of its own, with the
  entry's attempt and turn 1. Twenty concurrent calls are twenty executions.

A call that fails leaves what it took, so that the caller's own retry continues from there.

No lock: calls end in signal handlers, in garbage collection and in forked children. Each step is one operation on a
set, a deque or a counter.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from autopack.estimation.stop_reasons import continues, is_cut

_MOST_PHASES = 10_000

_entries: dict[tuple[str, str], itertools.count[int]] = {}


def count_entry(run_id: str, phase_id: str) -> int:
    """The number of this entry of a phase in this process, from 1; of the last 10,000 phases."""
    key = (run_id, phase_id)
    counter = _entries.setdefault(key, itertools.count(1))
    while len(_entries) > _MOST_PHASES:
        _entries.pop(next(iter(_entries.copy())), None)
    return next(counter)


@dataclass(frozen=True, slots=True)
class Turn:
    """The place of one call: `attempt` and `turn` count from 1."""

    attempt: int
    turn: int
    ticket: int = 0
    continued: _Ended | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    """A reply that came to its end: its place and why it stopped."""

    attempt: int
    turn: int
    stop_reason: str | None


class Executions:
    """The calls of one entry of a phase. `next_attempt` numbers an attempt that follows a reply that was cut off."""

    def __init__(self, attempt: int, next_attempt: Callable[[int], int]) -> None:
        self.attempt = attempt
        self._next_attempt = next_attempt
        self._tickets = itertools.count()
        self._open: set[int] = set()
        self._pid = os.getpid()
        self._last: deque[_Ended] = deque(maxlen=1)

    def begin(self) -> Turn:
        """The place of a call that starts now."""
        if self._pid != os.getpid():  # a child that was forked in this phase: what is open is the parent's
            self._pid, self._open = os.getpid(), set()
        ticket = next(self._tickets)
        self._open.add(ticket)
        ended = self._take_last() if len(self._open) == 1 else None
        if ended is None:
            return Turn(self.attempt, 1, ticket)
        if continues(ended.stop_reason):
            return Turn(ended.attempt, ended.turn + 1, ticket, ended)
        if is_cut(ended.stop_reason):
            return Turn(self._next_attempt(ended.attempt), 1, ticket, ended)
        return Turn(self.attempt, 1, ticket, ended)

    def end(self, turn: Turn, stop_reason: str | None) -> None:
        """The call came to its end, with that stop reason."""
        self._last.append(_Ended(turn.attempt, turn.turn, stop_reason))
        self._open.discard(turn.ticket)

    def fail(self, turn: Turn) -> None:
        """The call gave no whole reply."""
        if turn.continued is not None and not self._last:
            self._last.append(turn.continued)
        self._open.discard(turn.ticket)

    def _take_last(self) -> _Ended | None:
        try:
            return self._last.pop()
        except IndexError:
            return None
