"""Would new coefficients have predicted better than those in force? Asked of runs that they have not seen. Pure.

Replies of one run resemble each other (same plan, same prompts), so a run is never on both sides: the runs are split
into folds, each fold's replies are predicted with coefficients fitted to the other folds, and both predictions are
compared with what came. The error of one reply is

    |ln actual - ln expected|, of a truncated one max(0, ln bound - ln expected)

so 0.69 is a factor of two. The difference of the mean errors has a standard error from the sums of each run (a cluster
estimate); an improvement counts when it is more than three of them. That is a chance in a thousand for many runs, and
in fifty for five, which is the least number that is asked for.

Which fold a run belongs to follows from a digest of its id: chance decides nothing, and neither does the order of rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import chain

import msgspec

from autopack.analysis.calibrating.coefficient_fit import Model, is_informative
from autopack.analysis.calibrating.history import Reply

STANDARD_ERRORS = 3.0

Fit = Callable[[Sequence[Reply]], Model]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Mean errors on unseen runs, as natural logarithms; `improvement` is `before` - `after`."""

    replies: int
    runs: int
    folds: int
    before: float
    after: float
    improvement: float
    standard_error: float

    @property
    def is_certain(self) -> bool:
        """Whether the new coefficients are better beyond chance."""
        return self.improvement > max(1e-9, STANDARD_ERRORS * self.standard_error)


def split_by_run(replies: Sequence[Reply], folds: int) -> list[list[Reply]]:
    """The replies in as many parts, whole runs to each, as evenly as whole runs can be; some may be empty."""
    runs: defaultdict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        runs[reply.run_id].append(reply)
    parts: list[list[Reply]] = [[] for _ in range(folds)]
    for run_id in sorted(runs, key=lambda run_id: (-len(runs[run_id]), _digest(run_id))):
        min(parts, key=len).extend(runs[run_id])
    return parts


def predicted_unseen(replies: Sequence[Reply], fit: Fit, folds: int) -> list[tuple[Reply, Model]]:
    """Each reply with a model that has not seen its run; a model is fitted to the informative ones."""
    parts = [part for part in split_by_run(replies, folds) if part]
    pairs: list[tuple[Reply, Model]] = []
    for index, part in enumerate(parts):
        model = fit(list(filter(is_informative, chain(*parts[:index], *parts[index + 1 :]))))
        pairs += [(reply, model) for reply in part]
    return pairs


def compared(pairs: Sequence[tuple[Reply, Model]], before: Model, folds: int) -> Comparison:
    """The errors of the models that have not seen the runs, against those of `before`."""
    gains: defaultdict[str, list[float]] = defaultdict(list)
    old = new = 0.0
    for reply, model in pairs:
        error_before, error_after = _error(reply, before), _error(reply, model)
        old, new = old + error_before, new + error_after
        gains[reply.run_id].append(error_before - error_after)
    count = len(pairs)
    improvement = (old - new) / count
    return Comparison(
        replies=count,
        runs=len(gains),
        folds=min(folds, len(gains)),
        before=old / count,
        after=new / count,
        improvement=improvement,
        standard_error=_standard_error(gains, improvement, count),
    )


def _standard_error(gains: Mapping[str, Sequence[float]], mean: float, count: int) -> float:
    """Of a mean over replies that are independent from run to run only (cluster-robust, with the usual n/(n - 1))."""
    runs = len(gains)
    squares = math.fsum((math.fsum(values) - len(values) * mean) ** 2 for values in gains.values())
    return math.sqrt(squares * runs / (runs - 1)) / count


def _error(reply: Reply, model: Model) -> float:
    residual = math.log(reply.actual) - math.log(model.expected(reply.shape))
    return max(0.0, residual) if reply.truncated else abs(residual)


def _digest(run_id: str) -> bytes:
    return blake2b(run_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
