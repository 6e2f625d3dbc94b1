"""What the end of a span says of its call: an event, or the reason why there is none."""

from __future__ import annotations

from autopack.instrumentation.calls import Call
from autopack.instrumentation.span_attributes import (
    ERROR,
    STATUS,
    STREAMED,
    Attributes,
    reply_of_span,
    resent,
)
from autopack.telemetry import not_recorded

_LEAST_ERROR_STATUS = 400


def conclude(call: Call, attributes: Attributes, *, failed: bool, ended_well: bool, duration_s: float | None) -> None:
    """Finishes or fails the call of a span that has ended.

    `failed`: the span's status is an error. `ended_well`: it is OK. Where it is neither, the caller stopped.
    """
    for _ in range(resent(attributes)):
        not_recorded.add("retried")
    reply = reply_of_span(attributes)
    if failed:
        call.fail(_failure(attributes))
    elif reply.output_tokens is not None and reply.stop_reason is not None:
        call.finish(reply, duration_s)
    elif ended_well:
        call.fail("without_usage" if reply.output_tokens is None else "without_stop_reason")
    else:
        call.fail("stopped_reading" if _was_answered(attributes) else "cancelled")


def _failure(attributes: Attributes) -> str:
    status = next((code for code in map(attributes.get, STATUS) if type(code) is int), None)
    if status is not None and status >= _LEAST_ERROR_STATUS:
        return f"error_{status}"
    if attributes.get(STREAMED) and _was_answered(attributes):
        return "broken_stream"
    kind = str(attributes.get(ERROR, "")).lower()
    if "timeout" in kind:
        return "error_timeout"
    return "error_connection" if "connect" in kind else "error_other"


def _was_answered(attributes: Attributes) -> bool:
    return any(attributes.get(name) is not None for name in STATUS)
