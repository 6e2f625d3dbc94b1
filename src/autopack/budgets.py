"""`suggest_max_tokens` and `retry_max_tokens`: what `estimation` says by the coefficients in force, read once."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import lru_cache

from autopack.coefficients import ENVIRONMENT_NAME, load_coefficients
from autopack.estimation.coefficients import Coefficients
from autopack.estimation.outlook import Retry, lengths_for, retry_after
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
    reasoning_level: str | None = None,
) -> Suggestion:
    """The ceiling to send for a phase, `max_tokens`, with its `basis` and the share of replies that exceeds it.

    The file that `AUTOPACK_ESTIMATOR_COEFFICIENTS` names is read at the first call, and again only where it names
    another one. `maximum` is the model's; None: what its documentation says, and the `budget_cap` of the coefficients.

    Raises:
        InputFileError: that file cannot be read, or is not of the form of the shipped one.

    """
    return suggested(
        deliverables,
        category,
        complexity,
        _in_force(os.environ.get(ENVIRONMENT_NAME, "")),
        phase_id=phase_id,
        model=model,
        existing=existing,
        maximum=maximum,
        reasoning_level=reasoning_level,
    )


def retry_max_tokens(
    cut_at: int,
    deliverables: object = (),
    *,
    category: str,
    complexity: str = "medium",
    phase_id: str | None = None,
    model: str = "",
    existing: Collection[str] = (),
    maximum: int | None = None,
    reasoning_level: str | None = None,
) -> Retry:
    """The ceiling to send after a reply was cut at `cut_at` tokens: of the recorded replies that were longer, one in
    ten exceeds it; the model's maximum where too few were. The arguments are those of `suggest_max_tokens`.

    Raises:
        InputFileError: as `suggest_max_tokens` does.

    """
    found = suggest_max_tokens(
        deliverables,
        category=category,
        complexity=complexity,
        phase_id=phase_id,
        model=model,
        existing=existing,
        maximum=maximum,
        reasoning_level=reasoning_level,
    )
    figures = _in_force(os.environ.get(ENVIRONMENT_NAME, ""))
    lengths = lengths_for(found, category, complexity, figures, reasoning_level=reasoning_level)
    return retry_after(cut_at, lengths, found.most_tokens)


@lru_cache(maxsize=4)
def _in_force(name: str) -> Coefficients:
    return load_coefficients({ENVIRONMENT_NAME: name})
