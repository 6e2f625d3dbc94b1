"""The reply to a call, told as a log line, an event and a result. Pure.

It is read by `autopack.instrumentation.replies`, as every reply is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autopack._util.text import log_field, truncate_for_display
from autopack.build.phase import PhaseCall
from autopack.estimation.metrics import WHOLE_CALL, smape
from autopack.instrumentation.replies import ModelReply


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a phase, numbered from 1: its reply, or why there is none.

    `max_tokens` is the ceiling that was sent; `error` is one line without secrets.
    """

    number: int
    max_tokens: int
    reply: ModelReply | None
    error: str | None
    duration_ms: int


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


def log_line(call: PhaseCall, reply: ModelReply) -> str:
    """Format the host system's `[TokenEstimationV2]` line: the exact output count, or the total where there is none.

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


def event_fields(call: PhaseCall, attempt: Attempt, reply: ModelReply, provider: str) -> dict[str, Any]:
    """Return the fields of the reply's event.

    Without an output count they are those of the host system's fallback: the total in its place, `truncated` False,
    `stop_reason` None; the attribute `usage` then says `total`.
    """
    counted = reply.output_tokens is not None
    return {
        "run_id": call.run_id,
        "phase_id": call.phase_id,
        "category": call.category,
        "complexity": call.complexity,
        "deliverables": list(call.deliverables),
        "predicted_output_tokens": call.predicted_output_tokens,
        "actual_output_tokens": reply.output_tokens if counted else reply.total_tokens,
        "selected_budget": call.selected_budget,
        "success": reply.success,
        "truncated": counted and reply.truncated,
        "stop_reason": reply.stop_reason if counted else None,
        "model": reply.model,
        "actual_max_tokens": attempt.max_tokens,
        "input_tokens": reply.input_tokens,
        "duration_ms": attempt.duration_ms,
        "existing": None if call.existing is None else list(call.existing),
        "provider": provider,
        "call_id": reply.call_id,
        "attempt": attempt.number,
        "turn": 1,
        "reasoning_tokens": reply.reasoning_tokens,
        "cache_read_tokens": reply.cache_read_tokens,
        "cache_write_tokens": reply.cache_write_tokens,
        "attributes": None if counted else dict(WHOLE_CALL),
    }


def phase_result(attempts: Sequence[Attempt]) -> PhaseResult:
    """Sum up the attempts of one phase, in their order; the last one decides."""
    last = attempts[-1]
    reply = last.reply
    return PhaseResult(
        success=reply is not None and reply.success,
        tokens_used=sum(attempt.reply.total_tokens for attempt in attempts if attempt.reply),
        text=reply.text if reply else "",
        stop_reason=reply.stop_reason if reply else None,
        error=last.error if reply is None else _complaint(reply),
        attempts=len(attempts),
    )


def _complaint(reply: ModelReply) -> str | None:
    if reply.success:
        return None
    if reply.truncated:
        return f"the reply was cut off at the ceiling, after {reply.output_tokens or 'an unknown number of'} tokens"
    return f"the reply stopped for the reason {truncate_for_display(str(reply.stop_reason))}"
