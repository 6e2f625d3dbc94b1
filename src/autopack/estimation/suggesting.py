"""Which `max_tokens` to send for a phase: the best of what was learned, and what it rests on. Pure.

In this order:

    memory         the phase was executed at least twice under this model: its largest reply × the factor by which the
                   next reply exceeds the largest one
    stratum        the prediction × the factor of its category and complexity
    pooled         the prediction × the factor of all strata together
    coefficients   the estimator's budget, for which nothing is promised

and never above `budget_cap`, or the model's maximum where that is given: then that is the basis. What is learned stands
in the file that `autopack calibrate` wrote. Tokens that a reply leaves of `max_tokens` are not paid for; they count
against rate limits that reserve the ceiling. A truncated reply is paid for and has to be asked for again.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from autopack.estimation.coefficients import Coefficients, Learned, Promise, Remembered
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.estimator import Estimate, estimate
from autopack.estimation.phases import phase_key

Basis = Literal["memory", "stratum", "pooled", "coefficients", "maximum"]

LEAST_EXECUTIONS = 2
MOST_WITHOUT_STREAMING = 21_333
"""The largest `max_tokens` that Anthropic's SDK sends without streaming."""

_NOTHING = Learned()


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A `max_tokens`, and what it rests on.

    alpha_percent     the share of replies above it, at most, on average; None where nothing is promised
    bound_percent     what that share can be in one history, with 95 %
    remembered        what is known of the phase's earlier replies under this model
    """

    max_tokens: int
    basis: Basis
    predicted_output_tokens: int
    alpha_percent: float | None = None
    bound_percent: float | None = None
    remembered: Remembered | None = None


def suggest_max_tokens(
    deliverables: object,
    category: str,
    complexity: str,
    coefficients: Coefficients,
    *,
    phase_id: str | None = None,
    model: str = "",
    existing: Collection[str] = (),
    maximum: int | None = None,
) -> Suggestion:
    """The ceiling to send for a phase, in microseconds; `coefficients` are those of `load_coefficients`, to be read
    once, and `maximum` is the model's.
    """
    learned = coefficients.learned or _NOTHING
    estimated = estimate(deliverables, category, complexity, coefficients, existing)
    remembered = None
    if phase_id and (memory := learned.memory.get(model)):
        remembered = memory.get(phase_key(phase_id, category, complexity, flatten_deliverables(deliverables)))
    tokens, basis, promise = _found(f"{category}/{complexity}", estimated, remembered, coefficients, learned)
    most = coefficients.budget_cap if maximum is None else maximum
    if tokens > most:
        tokens, basis, promise = most, "maximum", None
    return Suggestion(
        max_tokens=tokens,
        basis=basis,
        predicted_output_tokens=estimated.predicted_output_tokens,
        alpha_percent=None if promise is None else promise.alpha_percent,
        bound_percent=None if promise is None else promise.bound_percent,
        remembered=remembered,
    )


def _found(
    stratum: str, estimated: Estimate, remembered: Remembered | None, figures: Coefficients, learned: Learned
) -> tuple[int, Basis, Promise | None]:
    if (
        learned.memory_factor is not None
        and remembered is not None
        and remembered.replies >= LEAST_EXECUTIONS
        and not remembered.truncated
    ):
        return math.ceil(remembered.largest * learned.memory_factor), "memory", learned.memory_promise
    base = figures.budget_base(estimated.predicted_output_tokens)
    factor, promise = figures.budget_factor.get(stratum), learned.strata.get(stratum)
    if factor is not None and estimated.deliverable_count and not (promise and promise.is_pooled):
        return max(1, math.ceil(base * factor)), "stratum", promise
    if learned.pooled_factor is not None and estimated.deliverable_count:
        return max(1, math.ceil(base * learned.pooled_factor)), "pooled", learned.pooled_promise
    return estimated.selected_budget, "coefficients", None
