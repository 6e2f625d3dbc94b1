"""Every stack that makes GenAI spans: each finished inference span becomes one event.

`provider.add_span_processor(autopack.TelemetrySpanProcessor())`. The phase is read when the span starts. Of nested
spans of one call the innermost that has counts becomes the event (see `span_nodes`); what an instrumented client
records itself is left to it.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from autopack.instrumentation.calls import Call, EventSink, Recording, Unattributed, quietly
from autopack.instrumentation.phases import current_phase
from autopack.instrumentation.span_attributes import STREAMED, asked_of_span, is_inference, reply_of_span
from autopack.instrumentation.span_endings import conclude
from autopack.instrumentation.span_nodes import Hook, open_spans
from autopack.telemetry import get_telemetry, is_enabled

_NANOSECONDS_PER_S = 1e9


class TelemetrySpanProcessor(SpanProcessor):  # type: ignore[misc, unused-ignore]
    """Records each finished inference span as one event; does nothing where telemetry is off and none is given.

    telemetry: where to record; None: the process-wide one. unattributed: `record` or `drop` calls outside a phase.
    """

    def __init__(self, *, telemetry: EventSink | None = None, unattributed: Unattributed = "record") -> None:
        self._telemetry = telemetry
        self._recording = Recording(telemetry, unattributed)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 (the interface)
        """Reads the phase of the span."""
        if self._telemetry is not None or is_enabled():
            quietly(self._begin, span)

    def on_end(self, span: ReadableSpan) -> None:
        """Records the span, or counts why not."""
        quietly(self._end, span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Waits until what was recorded is written."""
        flush = getattr(self._telemetry or get_telemetry(), "flush", None)
        return bool(flush is None or flush(timeout_millis / 1000))

    def _begin(self, span: Span) -> None:
        context, parent = span.get_span_context(), span.parent
        attributes = span.attributes or {}
        inference = is_inference(attributes)
        scope, asked = span.instrumentation_scope, asked_of_span(attributes)
        node = open_spans.open(
            context.span_id,
            None if parent is None else parent.span_id,
            span.start_time or 0,
            Hook("" if scope is None else scope.name, asked.provider, asked.model) if inference else None,
        )
        if node.claimed:
            return
        node.phase = current_phase()
        if inference:
            node.call = Call(asked, self._recording)
            for outer in node.ancestors():
                outer.open_inside.add(context.span_id)

    def _end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        node = None if context is None else open_spans.close(context.span_id)
        if context is None or node is None:
            return
        for outer in node.ancestors():
            outer.open_inside.discard(context.span_id)
        attributes = span.attributes or {}
        inference = is_inference(attributes)
        status = span.status.status_code
        ended_well = status is StatusCode.OK or (status is StatusCode.UNSET and not attributes.get(STREAMED))
        # A span around this one, of the same call, may know what this one does not.
        around = any(outer.call is not None for outer in node.ancestors())
        silent = around and ended_well and reply_of_span(attributes).output_tokens is None
        if silent or not (inference and node.counts):
            if node.call is not None:  # it is no call after all, or another span of the same call counts
                node.call.forget()
            return
        if node.call is None:
            node.call = Call(asked_of_span(attributes), self._recording, node.phase)
        node.call.asked = asked_of_span(attributes)
        conclude(
            node.call,
            attributes,
            failed=status is StatusCode.ERROR,
            ended_well=ended_well,
            duration_s=_duration_s(span),
        )
        node.cover_ancestors()


def _duration_s(span: ReadableSpan) -> float | None:
    start, end = span.start_time, span.end_time
    return None if start is None or end is None else (end - start) / _NANOSECONDS_PER_S
