"""The call that a phase of a plan asks for: its names, its estimate, its prompt and its headers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from autopack.estimation.coefficients import FALLBACK_COMPLEXITY, Coefficients
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.estimator import estimate

PHASE_HEADER = "x-autopack-phase-id"
ATTEMPT_HEADER = "x-autopack-attempt"
UNKNOWN_ID = "unknown"
DEFAULT_CATEGORY = "implementation"

_LARGEST_BUDGET = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PhaseCall:
    """One phase, ready to be called: its names, its flat deliverables and what the estimator says of it.

    `existing` holds those deliverables that were there before the call, None where that is unknown.
    """

    run_id: str
    phase_id: str
    category: str
    complexity: str
    description: str
    deliverables: tuple[str, ...]
    existing: tuple[str, ...] | None
    predicted_output_tokens: int
    selected_budget: int


def describe_call(
    phase_spec: Mapping[str, Any], coefficients: Coefficients, existing: Collection[str] | None = None
) -> PhaseCall:
    """Return the call that a phase of a plan asks for; what it leaves out or gives in another shape has a default.

    The category is `task_category`, else `category`, else `implementation`; missing ids are `unknown`; the budget
    is the one that the phase's metadata prescribes, where there is one, else the estimator's. Never raises.
    """
    category = _text(phase_spec.get("task_category")) or _text(phase_spec.get("category")) or DEFAULT_CATEGORY
    complexity = _text(phase_spec.get("complexity")) or FALLBACK_COMPLEXITY
    deliverables = flatten_deliverables(phase_spec.get("deliverables"))
    estimated = estimate(deliverables, category, complexity, coefficients, existing or ())
    return PhaseCall(
        run_id=_text(phase_spec.get("run_id")) or UNKNOWN_ID,
        phase_id=_text(phase_spec.get("phase_id")) or UNKNOWN_ID,
        category=category,
        complexity=complexity,
        description=_text(phase_spec.get("description")),
        deliverables=tuple(deliverables),
        existing=None if existing is None else tuple(existing),
        predicted_output_tokens=estimated.predicted_output_tokens,
        selected_budget=prescribed_budget(phase_spec) or estimated.selected_budget,
    )


def prescribed_budget(phase_spec: Mapping[str, Any]) -> int | None:
    """Return `metadata.token_prediction.selected_budget` where it is a positive count of tokens, else None."""
    node: Any = phase_spec
    for name in ("metadata", "token_prediction", "selected_budget"):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if type(node) is int and 0 < node <= _LARGEST_BUDGET else None


def phase_headers(phase_id: str, attempt: int) -> dict[str, str]:
    """Return the headers that tell the loopback server which phase a request is for. They go to no other server.

    An id may be any text and a header may not, so the id is percent-encoded.
    """
    return {PHASE_HEADER: quote(phase_id, safe="", errors="surrogatepass"), ATTEMPT_HEADER: str(attempt)}


def prompt_of(call: PhaseCall) -> str:
    """Return the task as the model reads it."""
    existing = set(call.existing or ())
    lines = [f"- {path}{' (exists; change it)' if path in existing else ''}" for path in call.deliverables]
    files = "\n".join(lines) or "- whatever the task needs"
    return (
        f"Task ({call.category}, {call.complexity} complexity): {call.description or call.phase_id}\n\n"
        f"Write each of these files in full:\n{files}\n\n"
        "Answer with one fenced block per file, its path on the line before it, and nothing else."
    )


def _text(value: object) -> str:
    """Return a value that should be text as text; empty where it is something else."""
    if isinstance(value, str):
        return str.__str__(value)
    return str(value) if type(value) is int and value.bit_length() < 64 else ""  # noqa: PLR2004 (a number as an id)
