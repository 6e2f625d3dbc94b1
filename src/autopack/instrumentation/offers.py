"""What a phase may ask for: its prediction, its budget, and the ceiling that `phase.max_tokens` offers.

    prediction  the caller's; else the estimator's, for a category that it knows or for deliverables; else 0
    budget      the caller's; else the suggested ceiling; else 0
    max_tokens  the caller's budget (basis `given`), else what `suggest_max_tokens` says (`memory`, `stratum`, `pooled`,
                `coefficients`, `maximum`); else the known model's maximum (`model`); else 16,384 (`default`)

A prediction of 0 is none: the metrics leave it out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autopack.estimation.model_limits import maximum_output_tokens
from autopack.telemetry import warn_once

if TYPE_CHECKING:
    from autopack.estimation.coefficients import Coefficients

Basis = Literal["given", "memory", "stratum", "pooled", "coefficients", "maximum", "model", "default"]

DEFAULT_MAX_TOKENS = 16_384
_MOST_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True)
class Offer:
    """Prediction, budget and ceiling of a phase; `estimator` names the coefficients that predicted, if they did."""

    predicted_output_tokens: int
    selected_budget: int
    max_tokens: int
    basis: Basis
    estimator: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What an offer depends on. None: the caller did not say."""

    category: str | None
    complexity: str
    deliverables: Sequence[str]
    existing: Collection[str] | None
    model: str | None
    predicted_output_tokens: int | None
    selected_budget: int | None
    phase_id: str | None = None
    reasoning_level: str | None = None


def offer_for(shape: Shape) -> Offer:
    """The offer for a shape; never raises."""
    predicted, budget, basis, estimator = _estimated(shape)
    if shape.selected_budget is not None:
        budget, basis = shape.selected_budget, "given"
    if type(budget) is int and 1 <= budget <= _MOST_TOKENS:
        return Offer(predicted, budget, budget, basis, estimator)
    maximum = maximum_output_tokens(shape.model)
    if maximum is not None:
        return Offer(predicted, budget, maximum, "model", estimator)
    return Offer(predicted, budget, DEFAULT_MAX_TOKENS, "default", estimator)


def _estimated(shape: Shape) -> tuple[int, int, Basis, str | None]:
    """Prediction, suggested ceiling, its basis, and which coefficients predicted."""
    given = shape.predicted_output_tokens
    if given is not None and shape.selected_budget is not None:
        return given, shape.selected_budget, "given", None
    if given is None and not (shape.category or shape.deliverables):
        return 0, 0, "default", None
    loaded = current_coefficients()
    if loaded is None:
        return given or 0, 0, "default", None
    coefficients, fingerprint = loaded
    category = shape.category or "unknown"
    if given is not None:
        from autopack.estimation.estimator import budget_of

        positive = type(given) is int and 0 < given <= _MOST_TOKENS
        budget = budget_of(given, category, shape.complexity, coefficients) if positive else 0
        return given, min(budget, coefficients.budget_cap), "coefficients", None
    if not shape.deliverables and f"{category}/{shape.complexity}" not in coefficients.overhead:
        return 0, 0, "default", None
    from autopack.estimation.suggesting import suggest_max_tokens

    made = suggest_max_tokens(
        shape.deliverables,
        category,
        shape.complexity,
        coefficients,
        phase_id=shape.phase_id,
        model=shape.model or "",
        existing=shape.existing or (),
        maximum=maximum_output_tokens(shape.model),
        reasoning_level=shape.reasoning_level,
    )
    return made.predicted_output_tokens, made.max_tokens, made.basis, fingerprint


_loaded: dict[str, tuple[Coefficients, str] | None] = {}


def current_coefficients() -> tuple[Coefficients, str] | None:
    """The coefficients that the environment names, with their fingerprint; each file is read once.

    None where the file cannot be used, which is warned of once: a build does not fail for its estimator.
    """
    from autopack.coefficients import ENVIRONMENT_NAME, load_coefficients
    from autopack.errors import InputFileError
    from autopack.estimation.coefficients import estimator_fingerprint

    name = os.environ.get(ENVIRONMENT_NAME, "")
    if name not in _loaded:
        try:
            coefficients = load_coefficients(os.environ)
            _loaded[name] = coefficients, estimator_fingerprint(coefficients)
        except InputFileError as exc:
            warn_once(f"Phases have no prediction: {exc}")
            _loaded[name] = None
    return _loaded[name]
