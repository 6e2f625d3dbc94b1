"""`autopack.suggest_max_tokens`: what `estimation.suggesting` says by the coefficients in force, read once."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import lru_cache

from autopack.estimation.coefficients import ENVIRONMENT_NAME, Coefficients, load_coefficients
from autopack.estimation.suggesting import Suggestion
from autopack.estimation.suggesting import suggest_max_tokens as suggested


def suggest_max_tokens(
    deliverables: object = (),
    *,
    category: str,
    complexity: str = "medium",
    phase_id: str | None = None,
    model: str = "",
    existing: Collection[str] = (),
    maximum: int | None = None,
) -> Suggestion:
    """The ceiling to send for a phase, `max_tokens`, with its `basis` and the share of replies that exceeds it.

    The file that `AUTOPACK_ESTIMATOR_COEFFICIENTS` names is read at the first call, and again only where it names
    another one. `maximum` is the model's; None: the `budget_cap` of the coefficients.

    Raises:
        InputFileError: that file cannot be read, or is not of the form of the shipped one.

    """
    figures = _in_force(os.environ.get(ENVIRONMENT_NAME, ""))
    return suggested(
        deliverables, category, complexity, figures, phase_id=phase_id, model=model, existing=existing, maximum=maximum
    )


@lru_cache(maxsize=4)
def _in_force(name: str) -> Coefficients:
    return load_coefficients({ENVIRONMENT_NAME: name})
