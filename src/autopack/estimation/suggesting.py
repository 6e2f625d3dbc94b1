"""Which `max_tokens` to send for a phase: the best of what was learned, and what it rests on. Pure.

In this order:

    memory         the phase was executed at least twice under this model: its largest reply × the factor by which the
                   next reply exceeds the largest one
    stratum        the prediction × the factor of its category and complexity: that of this model and reasoning level
                   where there were phases enough, else that of all
    pooled         the prediction × the factor of all strata together, alike
    coefficients   the estimator's budget, for which nothing is promised

and never above the `maximum` that is given, else not above `budget_cap` and the model's own maximum where that is known
(`model_limits`): then that is the basis. What is learned stands
in the file that `autopack calibrate` wrote. Tokens that a reply leaves of `max_tokens` are not paid for; they count
against rate limits that reserve the ceiling. A truncated reply is paid for and has to be asked for again.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from autopack.estimation.coefficients import Coefficients, Learned, ModelBudgets, Promise, Remembered
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.estimator import Estimate, estimate
from autopack.estimation.model_limits import maximum_output_tokens
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
    model             that was asked for
    most_tokens       the largest ceiling that there is
    """

    max_tokens: int
    basis: Basis
    predicted_output_tokens: int
    alpha_percent: float | None = None
    bound_percent: float | None = None
    remembered: Remembered | None = None
    model: str = ""
    most_tokens: int = 0


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
    reasoning_level: str | None = None,
) -> Suggestion:
    """The ceiling to send for a phase, in microseconds; `coefficients` are those of `load_coefficients`, to be read
    once, and `maximum` is the model's.
    """
    learned = coefficients.learned or _NOTHING
    estimated = estimate(deliverables, category, complexity, coefficients, existing)
    remembered = None
    if phase_id and (memory := learned.memory.get(model)):
        remembered = memory.get(phase_key(phase_id, category, complexity, flatten_deliverables(deliverables)))
    stratum = f"{category}/{complexity}"
    of_model = learned.of_model(model, reasoning_level)
    tokens, basis, promise = _found(stratum, estimated, remembered, of_model, coefficients)
    most = maximum
    if most is None:
        most = min(coefficients.budget_cap, maximum_output_tokens(model) or coefficients.budget_cap)
    if tokens > most:
        tokens, basis, promise = most, "maximum", None
    return Suggestion(
        max_tokens=tokens,
        basis=basis,
        predicted_output_tokens=estimated.predicted_output_tokens,
        alpha_percent=None if promise is None else promise.alpha_percent,
        bound_percent=None if promise is None else promise.bound_percent,
        remembered=remembered,
        model=model,
        most_tokens=most,
    )


def _found(
    stratum: str,
    estimated: Estimate,
    remembered: Remembered | None,
    of_model: ModelBudgets | None,
    figures: Coefficients,
) -> tuple[int, Basis, Promise | None]:
    learned = figures.learned or _NOTHING
    if (
        learned.memory_factor is not None
        and remembered is not None
        and remembered.replies >= LEAST_EXECUTIONS
        and not remembered.truncated
    ):
        return math.ceil(remembered.largest * learned.memory_factor), "memory", learned.memory_promise
    if not estimated.deliverable_count:
        return estimated.selected_budget, "coefficients", None
    found = _factor(stratum, of_model, figures, learned)
    if found is None:
        return estimated.selected_budget, "coefficients", None
    factor, basis, promise = found
    return max(1, math.ceil(figures.budget_base(estimated.predicted_output_tokens) * factor)), basis, promise


def _factor(
    stratum: str, of_model: ModelBudgets | None, figures: Coefficients, learned: Learned
) -> tuple[float, Basis, Promise | None] | None:
    """What the base is multiplied by, and what that keeps; None where nothing was learned."""
    if of_model is not None and (own := of_model.strata.get(stratum)):
        return own.factor, "stratum", own.promise
    factor, promise = figures.budget_factor.get(stratum), learned.strata.get(stratum)
    if factor is not None and not (promise and promise.is_pooled):
        return factor, "stratum", promise
    if of_model is not None and of_model.pooled is not None:
        return of_model.pooled.factor, "pooled", of_model.pooled.promise
    if learned.pooled_factor is not None:
        return learned.pooled_factor, "pooled", learned.pooled_promise
    return None
