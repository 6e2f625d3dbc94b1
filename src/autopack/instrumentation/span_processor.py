"""Every stack that makes GenAI spans: each finished inference span becomes one event.

`provider.add_span_processor(autopack.TelemetrySpanProcessor())`. The phase is read when the span starts. Of nested
spans of one call the innermost that has counts becomes the event (see `span_nodes`); what an instrumented client
records itself is left to it.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from autopack.instrumentation.calls import Asked, Call, EventSink, Recording, Unattributed, quietly
from autopack.instrumentation.span_attributes import asked_of_span, is_inference
from autopack.instrumentation.span_endings import conclude
from autopack.instrumentation.span_nodes import SpanNode, open_spans
from autopack.telemetry.recorder import is_enabled

_NANOSECONDS_PER_S = 1e9


class TelemetrySpanProcessor(SpanProcessor):
    """Records each finished inference span as one event; does nothing where telemetry is off and none is given.

    telemetry: where to record; None: the process-wide one. unattributed: `record` or `drop` calls outside a phase.
    """

    def __init__(self, *, telemetry: EventSink | None = None, unattributed: Unattributed = "record") -> None:
        self._telemetry = telemetry
        self._recording = Recording(telemetry, unattributed)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Reads the phase."""
        if self._telemetry is not None or is_enabled():
            quietly(self._begin, span)

    def on_end(self, span: ReadableSpan) -> None:
        """Records the span, or counts why not."""
        quietly(self._end, span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Waits until what was recorded is written."""
        from autopack.telemetry import get_telemetry

        flush = getattr(self._telemetry or get_telemetry(), "flush", None)
        return bool(flush is None or flush(timeout_millis / 1000))

    def _begin(self, span: Span) -> None:
        parent, context = span.parent, span.context
        parent_id = parent.span_id if parent is not None and not parent.is_remote else None
        node = open_spans.open(context.span_id, parent_id)
        if node.claimed:
            return
        attributes = span.attributes or {}
        # A call is begun only where the start says that it is one: it takes a turn of the phase. Of a span that says so
        # at its end the phase is kept.
        node.call = _Begun(self._recording)
        if is_inference(attributes):
            for outer in node.ancestors():
                outer.open_inside.add(context.span_id)

    def _end(self, span: ReadableSpan) -> None:
        node = open_spans.close(span.context.span_id)
        if node is None or node.call is None:
            return
        attributes = span.attributes or {}
        for outer in node.ancestors():
            outer.open_inside.discard(span.context.span_id)
        if not node.counts or not is_inference(attributes):
            return
        if self._has_outer_hook(node) and not _has_counts(attributes):
            return  # the span around it is of the same call, and may know more
        call = node.call.as_call(asked_of_span(attributes))
        recorded = conclude(
            call,
            attributes,
            failed=span.status.status_code is StatusCode.ERROR,
            ended_well=span.status.status_code is StatusCode.OK or not attributes.get("gen_ai.request.stream"),
            duration_s=_duration_s(span),
        )
        if recorded:
            node.cover_ancestors()
