"""Which calls of a phase are one execution, where they say their attempt and turn. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """As `autopack.phase` counts: attempts of a phase, and turns of a tool loop, both from 1."""

    attempt: int
    turn: int


def executions(rows: Sequence[int], turns: Mapping[int, Turn]) -> list[list[int]]:
    """The executions of the first attempt of a phase among its calls, `rows`, given in the order of their time.

    A turn continues, of the executions whose last turn is the one before it, that which has waited longest: calls at
    once in one phase are executions of their own. A turn whose predecessor is missing is in none: what the others took
    is not known.
    """
    first = min(turns[row].attempt for row in rows)
    ordered = sorted((row for row in rows if turns[row].attempt == first), key=lambda row: turns[row].turn)
    found: list[list[int]] = []
    open_after: dict[int, list[list[int]]] = {}
    for row in ordered:
        number = turns[row].turn
        if number <= 1:
            execution: list[int] = []
            found.append(execution)
        elif waiting := open_after.get(number - 1):
            execution = waiting.pop(0)
        else:
            continue
        execution.append(row)
        open_after.setdefault(number, []).append(execution)
    return found
