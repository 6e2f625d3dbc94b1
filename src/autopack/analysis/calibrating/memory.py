"""What each phase took before, by model, and how far its next reply exceeds that. Pure.

The score of a phase is its last reply over the largest one before it, of at least two: a reply that was truncated, or
that follows a truncated one, has no known score and counts as infinite. One that failed, such as a refusal, is no
earlier reply: a phase does not take as little as that. One score a phase, so that the conformal rank is exact
(`conformal`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from autopack.analysis.calibrating.coefficient_fit import is_informative
from autopack.analysis.calibrating.conformal import Scores, supported_factor
from autopack.analysis.calibrating.history import Reply
from autopack.estimation.coefficients import Promise, Remembered
from autopack.estimation.suggesting import LEAST_EXECUTIONS

Memory = dict[str, dict[str, Remembered]]


def memory_of(replies: Iterable[Reply], alpha: Fraction) -> tuple[Memory, float | None, Promise | None]:
    """The memory, the factor on the largest earlier reply, and what that keeps; None where the data carry none."""
    memory: Memory = {}
    scores = []
    for model, phase, executions in _phases(replies):
        memory.setdefault(model, {})[phase] = _remembered(executions)
        if len(executions) > LEAST_EXECUTIONS:
            scores.append(_score(executions))
    factor, promise = supported_factor(Scores(scores, [""] * len(scores)), alpha)
    return memory, factor, promise


def next_scores(replies: Iterable[Reply]) -> list[tuple[float, float]]:
    """Of each phase whose score is known, that, with the same weight for all."""
    found = [_score(executions) for *_, executions in _phases(replies) if len(executions) > LEAST_EXECUTIONS]
    return [(score, 1.0) for score in found if not math.isinf(score)]


def _phases(replies: Iterable[Reply]) -> Iterator[tuple[str, str, list[Reply]]]:
    """Model, phase, and its executions in the order of time."""
    phases: defaultdict[tuple[str, str], list[Reply]] = defaultdict(list)
    for reply in replies:
        if reply.phase and is_informative(reply):
            phases[reply.model, reply.phase].append(reply)
    for (model, phase), executions in sorted(phases.items()):
        executions.sort(key=lambda reply: (reply.at_s, reply.actual))
        yield model, phase, executions


def _remembered(executions: Sequence[Reply]) -> Remembered:
    return Remembered(
        replies=len(executions),
        largest=max(reply.actual for reply in executions),
        truncated=any(reply.truncated for reply in executions),
    )


def _score(executions: Sequence[Reply]) -> float:
    *earlier, last = executions
    if any(reply.truncated for reply in executions):
        return math.inf
    return last.actual / max(reply.actual for reply in earlier)
