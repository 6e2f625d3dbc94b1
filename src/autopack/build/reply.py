"""The reply to a call: put together from its stream, and told as a log line, an event and a result. Pure.

The SDK's own accumulator fails on a reply without usage. `StreamedReply` therefore reads the raw events, and takes a
figure only where it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autopack._util.text import log_field, truncate_for_display
from autopack.build.phase import PhaseCall
from autopack.estimation.metrics import WHOLE_CALL, smape


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A reply that came to its end.

    `output_tokens` is None where the reply does not say; `total_tokens` is then the sum of the counts that it does
    give, the input at least. `input_tokens` excludes the prompt cache, None where not given.
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


class StreamedReply:
    """Collects the events of one stream; `finish()` returns the reply once `message_stop` has come."""

    def __init__(self, requested_model: str) -> None:
        self._model = requested_model
        self._usage: dict[str, int] = {}
        self._final_output_tokens: int | None = None
        self._stop_reason: str | None = None
        self._text: list[str] = []
        self._ended = False

    def feed(self, event: Any) -> None:
        """Take one raw event of the SDK's stream; ignore an unknown kind."""
        kind = getattr(event, "type", None)
        if kind == "message_start":
            self._start(getattr(event, "message", None))
        elif kind == "content_block_delta":
            self._text.append(_text(getattr(event, "delta", None), "text") or "")
        elif kind == "message_delta":
            self._delta(event)
        elif kind == "message_stop":
            self._ended = True

    def finish(self) -> ModelReply | None:
        """Return the whole reply; None where the stream broke off, when no output count is final."""
        if not self._ended:
            return None
        output_tokens = self._final_output_tokens
        return ModelReply(
            model=self._model,
            input_tokens=self._usage.get("input_tokens"),
            output_tokens=output_tokens,
            total_tokens=sum(self._usage.values()) + (output_tokens or 0),
            stop_reason=self._stop_reason,
            text="".join(self._text),
        )

    def _start(self, message: Any) -> None:
        self._model = _text(message, "model") or self._model
        self._take_input(getattr(message, "usage", None))

    def _delta(self, event: Any) -> None:
        usage = getattr(event, "usage", None)
        self._take_input(usage)
        self._final_output_tokens = _count(usage, "output_tokens")
        self._stop_reason = _text(getattr(event, "delta", None), "stop_reason")

    def _take_input(self, usage: Any) -> None:
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
            count = _count(usage, name)
            if count is not None:
                self._usage[name] = count


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
        "attributes": {
            "attempt": attempt.number,
            "provider": provider,
            **({} if counted else WHOLE_CALL),
        },
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


def _count(source: Any, name: str) -> int | None:
    value = getattr(source, name, None)
    return value if type(value) is int and value >= 0 else None


def _text(source: Any, name: str) -> str | None:
    value = getattr(source, name, None)
    return value if isinstance(value, str) and value else None
