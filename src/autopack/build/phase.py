"""What a phase asks of the model, and how its reply reads in the log. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from autopack.estimation.coefficients import FALLBACK_COMPLEXITY, Coefficients
from autopack.estimation.deliverables import flatten_deliverables
from autopack._util.text import log_field
from autopack.estimation.metrics import smape
from autopack.estimation.estimator import estimate

PHASE_HEADER = "x-autopack-phase-id"
ATTEMPT_HEADER = "x-autopack-attempt"
UNKNOWN_ID = "unknown"
DEFAULT_CATEGORY = "implementation"

_LARGEST_BUDGET = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PhaseCall:
    """A phase as it is called: its names, its flat deliverables and what the estimator says of it.

    `existing` holds those deliverables that were there before the call, None where nobody looked.
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


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A reply that came to its end.

    `output_tokens` is None where the reply does not say; `total_tokens` is then all that it does say, the input
    at least. `input_tokens` is without what came from the prompt cache, None where not given.
    """

    model: str
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int
    stop_reason: str | None
    text: str

    @property
    def truncated(self) -> bool:
        """Whether the reply was cut off at the ceiling."""
        return self.stop_reason == "max_tokens"

    @property
    def success(self) -> bool:
        """Whether the model ended its reply of its own accord: a refusal or a full context is no success."""
        return self.stop_reason in ("end_turn", "stop_sequence", "tool_use")


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """How the call of a phase ended.

    `tokens_used` is input and output over all attempts, as far as the replies say; `text` and `stop_reason` are
    the last reply's. `error` is one line without secrets, None after a success. `attempts` counts calls.
    """

    success: bool
    tokens_used: int
    text: str
    stop_reason: str | None
    error: str | None
    attempts: int


def describe_call(
    phase_spec: Mapping[str, Any], coefficients: Coefficients, existing: Collection[str] | None = None
) -> PhaseCall:
    """The call that a phase of a plan asks for; what it leaves out or gives in another shape has a default.

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
    """`metadata.token_prediction.selected_budget` where it is a positive count of tokens, else None."""
    node: Any = phase_spec
    for name in ("metadata", "token_prediction", "selected_budget"):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if type(node) is int and 0 < node <= _LARGEST_BUDGET else None


def phase_headers(phase_id: str, attempt: int) -> dict[str, str]:
    """The headers that tell the loopback server which phase a request is for; no other server is sent them.

    Ids are any text and headers are not, so the id is percent-encoded.
    """
    return {PHASE_HEADER: quote(phase_id, safe="", errors="surrogatepass"), ATTEMPT_HEADER: str(attempt)}


def prompt_of(call: PhaseCall) -> str:
    """What the model is asked to do."""
    existing = set(call.existing or ())
    lines = [f"- {path}{' (exists; change it)' if path in existing else ''}" for path in call.deliverables]
    files = "\n".join(lines) or "- whatever the task needs"
    return (
        f"Task ({call.category}, {call.complexity} complexity): {call.description or call.phase_id}\n\n"
        f"Write each of these files in full:\n{files}\n\n"
        "Answer with one fenced block per file, its path on the line before it, and nothing else."
    )


def log_line(call: PhaseCall, reply: ModelReply) -> str:
    """The plan's `[TokenEstimationV2]` line: with the exact output count, or with the total where there is none.

    No id, model or stop reason can add a line or a field to it.
    """
    if reply.output_tokens is None:
        measured = f"actual_total={reply.total_tokens}"
        stop_reason, truncated = None, False
    else:
        error = smape(call.predicted_output_tokens, reply.output_tokens)
        measured = f"actual_output={reply.output_tokens} smape={error:.1f}%"
        stop_reason, truncated = reply.stop_reason, reply.truncated
    return (
        f"[TokenEstimationV2] predicted_output={call.predicted_output_tokens} {measured}"
        f" selected_budget={call.selected_budget} category={log_field(call.category)}"
        f" complexity={log_field(call.complexity)} deliverables={len(call.deliverables)}"
        f" success={reply.success} stop_reason={log_field(str(stop_reason))} truncated={truncated}"
        f" model={log_field(reply.model)}"
    )


def _text(value: object) -> str:
    """A value that should be text, as text; empty where it is something else."""
    if isinstance(value, str):
        return str.__str__(value)
    return str(value) if type(value) is int and value.bit_length() < 64 else ""  # noqa: PLR2004 (a number as an id)
