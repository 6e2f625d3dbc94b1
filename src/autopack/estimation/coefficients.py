"""The form of the estimator's figures, and their fingerprint; `autopack.coefficients` reads them. Pure."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Annotated

import msgspec

from autopack._util.decoding import decode_input
from autopack._util.text import truncate_for_display
from autopack.errors import InputFileError

FALLBACK_COMPLEXITY = "medium"

Tokens = Annotated[float, msgspec.Meta(ge=0, le=10_000_000)]
Budget = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Factor = Annotated[float, msgspec.Meta(gt=0, le=100)]


class Marginals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Output tokens that one more deliverable of each kind costs."""

    backend: Tokens
    frontend: Tokens
    test: Tokens
    doc: Tokens
    config: Tokens


class MarginalTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The marginals of a deliverable that is written anew and of one that is there already."""

    new: Marginals
    modified: Marginals


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far budgets follow predictions: with a power of 1 all the way, with 0 not at all."""

    power: Annotated[float, msgspec.Meta(ge=0, le=1)]
    centre: Annotated[float, msgspec.Meta(gt=0, le=10_000_000)]

    def base(self, predicted: int) -> float:
        """What a budget factor multiplies instead of the prediction."""
        return self.centre * math.pow(predicted / self.centre, self.power) if predicted > 0 else 0.0


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The earlier executions of a phase under one model: how many, and the most tokens that one of them took."""

    replies: Budget
    largest: Tokens
    truncated: bool = False


class Promise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of replies that exceeds a budget, in percent: on average at most, and in one history with 95 %."""

    alpha_percent: Percent
    bound_percent: Percent
    is_pooled: bool = False


class Lengths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long replies were, as multiples of the base of their budget (of `memory`: of the largest earlier reply).

    exact          of replies that ended of their own accord, ascending; each weighs the same, all together the rest
    cut            of those that were cut, which is a lower bound; all together they weigh `cut_share`
    input_tokens   the mean of their requests; None where it was not recorded
    """

    exact: list[Tokens]
    cut: list[Tokens] = []
    cut_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    input_tokens: Tokens | None = None


class Factored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A factor on the base of budgets, what it keeps, and how long replies were."""

    factor: Factor
    promise: Promise
    lengths: Lengths | None = None


class ModelBudgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was learned from one model at one reasoning level: only what has phases enough for α of its own.

    replies             from how many replies
    reasoning_percent   how much of their output was reasoning; None where that was not recorded
    """

    model: str
    reasoning_level: str | None
    replies: Budget
    strata: dict[str, Factored] = {}
    pooled: Factored | None = None
    reasoning_percent: Percent | None = None


class Learned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `autopack budget` looks up, beside the figures of the estimator: no prediction is made from it.

    until            when the newest reply happened that was learned from, in seconds since 1970
    memory           by model, then by `estimation.phases.phase_key`
    memory_factor    what the largest earlier reply of a phase is multiplied by, and `memory_promise` what that keeps
    strata           the promise of each `budget_factor`
    pooled_factor    that of all strata together, for one that was not there, and `pooled_promise`
    models           each model and reasoning level that there was
    lengths          of each stratum that has its own factor; `pooled_lengths` of all, `memory_lengths` of next replies
    """

    until: float | None = None
    memory: dict[str, dict[str, Remembered]] = {}
    memory_factor: Factor | None = None
    memory_promise: Promise | None = None
    strata: dict[str, Promise] = {}
    pooled_factor: Factor | None = None
    pooled_promise: Promise | None = None
    models: list[ModelBudgets] = []
    lengths: dict[str, Lengths] = {}
    pooled_lengths: Lengths | None = None
    memory_lengths: Lengths | None = None

    def of_model(self, model: str, reasoning_level: str | None) -> ModelBudgets | None:
        """What was learned from a model at a reasoning level; None where it was not there."""
        wanted = (model, reasoning_level or None)
        return next((each for each in self.models if (each.model, each.reasoning_level) == wanted), None)


class Coefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All figures of the estimator, in output tokens; `overhead` is keyed by `category/complexity`.

    So is `budget_factor`: where it has a key, the budget is the prediction times that factor, rounded up;
    `budget_buffer` and the floors do not count then. Where there is a `budget_spread`, the factor multiplies its base.
    """

    safety_margin: Factor
    budget_buffer: Factor
    budget_cap: Budget
    budget_floor: dict[str, Budget]
    default_overhead: Tokens
    overhead: dict[str, Tokens]
    marginal: MarginalTable
    budget_factor: dict[str, Factor] = {}
    budget_spread: Spread | None = None
    about: str = ""
    learned: Learned | None = None

    def budget_base(self, predicted: int) -> float:
        """What a budget factor multiplies."""
        return predicted if self.budget_spread is None else self.budget_spread.base(predicted)


def estimator_fingerprint(coefficients: Coefficients) -> str:
    """8 hexadecimal digits that stand for all figures that predictions and budgets are made from."""
    figures = msgspec.to_builtins(msgspec.structs.replace(coefficients, about=""))
    del figures["learned"]
    if coefficients.budget_spread is None:
        del figures["budget_spread"]
    return blake2b(msgspec.json.encode(figures, order="deterministic"), digest_size=4).hexdigest()


def parse_coefficients(data: bytes, source: str) -> Coefficients:
    """Return the coefficients in a JSON text; `source` names it in messages. Raises `InputFileError`."""
    coefficients = decode_input(data, Coefficients, source)
    if FALLBACK_COMPLEXITY not in coefficients.budget_floor:
        raise InputFileError(
            f"{truncate_for_display(source)}: budget_floor needs {FALLBACK_COMPLEXITY!r}, which stands in for others"
        )
    above = [name for name, floor in coefficients.budget_floor.items() if floor > coefficients.budget_cap]
    if above:
        raise InputFileError(
            f"{truncate_for_display(source)}: budget_floor of {truncate_for_display(above[0])!r} is above budget_cap"
        )
    return coefficients
