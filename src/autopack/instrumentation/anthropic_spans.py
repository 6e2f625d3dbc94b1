"""Anthropic's SDK from 2.0 on traces itself; here its spans are read on their way to where they went before.

`tracer_provider` of the client option `open_telemetry` is replaced by one on `opentelemetry-api` alone. It hands every
span on to the provider that the client had, its own or the registered one, so the user's spans, `traceparent`,
propagation, conversation and content mode stay as they were. A client whose spans were off has spans that go nowhere
and inject no header.

Of a span only the names in `span_attributes.WANTED` are kept; content is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry.trace import NoOpTracer, Span, SpanContext, Status, StatusCode, Tracer, TracerProvider

from autopack.instrumentation.calls import Call, Recording, quietly
from autopack.instrumentation.span_attributes import WANTED, asked_of_span, is_inference
from autopack.instrumentation.span_endings import conclude
from autopack.instrumentation.span_nodes import claimed

C = TypeVar("C")


def instrument_anthropic(client: C, recording: Recording) -> C:
    """A copy of a client that traces itself, whose spans are read; made, shared and closed as the SDK's `copy` says."""
    source: Any = client
    # Named, since Bedrock's `copy` makes an HTTP client of its own in some releases.
    made = source.copy(open_telemetry=_observed(source.open_telemetry, recording), http_client=source._client)  # noqa: SLF001
    made.__class__ = _subclass_of(type(source), recording)
    result: C = made
    return result


def _observed(option: Any, recording: Recording) -> dict[str, Any]:
    """A client's `open_telemetry` option with the provider replaced; where its spans are off, by one for none."""
    options: dict[str, Any] = {"traces": False} if option is False else {**(option or {})}
    traces = options.get("traces")
    enabled = traces is None or (traces if isinstance(traces, bool) else traces.get("enabled") in (True, None))
    provider = options.get("tracer_provider")
    if enabled and isinstance(provider, ObservingProvider):
        return options
    if enabled:
        return {**options, "tracer_provider": ObservingProvider(provider, recording)}
    kept = {**traces} if isinstance(traces, Mapping) else {}
    return {
        **options,
        "tracer_provider": ObservingProvider(None, recording, forwards=False),
        "traces": {**kept, "enabled": True, "content_mode": "metadata_only"},
        "propagation": False,
    }


def _subclass_of(kind: type, recording: Recording) -> type:
    """The client's class, whose copies are read too, whatever their `open_telemetry` says."""

    def copy(self: Any, *, open_telemetry: Any = None, **options: Any) -> Any:
        chosen = self.open_telemetry if open_telemetry is None else open_telemetry
        return kind.copy(self, open_telemetry=_observed(chosen, recording), **options)  # type: ignore[attr-defined]

    copy.__doc__ = kind.copy.__doc__  # type: ignore[attr-defined]
    body = {"copy": copy, "with_options": copy, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {**body, "autopack_instrumented": True})


class ObservingProvider(TracerProvider):
    """Hands spans on to a provider, None standing for the registered one, and reads them on the way.

    `forwards` False: hands them on to none.
    """

    def __init__(self, provider: TracerProvider | None, recording: Recording, *, forwards: bool = True) -> None:
        self._provider = provider
        self._recording = recording
        self._forwards = forwards

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        """A tracer that reads inference spans."""
        if not self._forwards:
            return _ObservingTracer(NoOpTracer(), self._recording)
        provider = trace.get_tracer_provider() if self._provider is None else self._provider
        return _ObservingTracer(provider.get_tracer(*args, **kwargs), self._recording)


class _ObservingTracer(Tracer):
    """Starts the spans of the tracer that the client had."""

    def __init__(self, tracer: Tracer, recording: Recording) -> None:
        self._tracer = tracer
        self._recording = recording

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        """The other tracer's span; around it, where it is a model call, one that reads it."""
        attributes = kwargs.get("attributes") or {}
        if not is_inference(attributes):
            return self._tracer.start_span(*args, **kwargs)
        with claimed():
            inner = self._tracer.start_span(*args, **kwargs)
        call: Call | None = quietly(Call, asked_of_span(attributes), self._recording)
        return inner if call is None else _ObservedSpan(inner, call, attributes)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        """The other tracer's; the SDK makes its call spans current by itself."""
        return self._tracer.start_as_current_span(*args, **kwargs)


class _ObservedSpan(Span):
    """A span that is handed on, and whose counts are kept. What it does not know of itself the other one does."""

    def __init__(self, inner: Span, call: Call, attributes: Mapping[str, Any]) -> None:
        self._inner = inner
        self._call = call
        self._kept = {name: value for name, value in attributes.items() if name in WANTED}
        self._status = StatusCode.UNSET
        self._open = True

    def get_span_context(self) -> SpanContext:
        return self._inner.get_span_context()

    def is_recording(self) -> bool:
        return self._open

    def set_attribute(self, key: str, value: Any) -> None:
        if key in WANTED:
            self._kept[key] = value
        self._inner.set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._kept.update((name, value) for name, value in attributes.items() if name in WANTED)
        self._inner.set_attributes(attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._status = status.status_code if isinstance(status, Status) else status
        self._inner.set_status(status, description)

    def end(self, end_time: int | None = None) -> None:
        if self._open:
            self._open = False
            quietly(
                conclude,
                self._call,
                self._kept,
                failed=self._status is StatusCode.ERROR,
                ended_well=self._status is StatusCode.OK,
                duration_s=None,
            )
        self._inner.end(end_time)

    def add_event(self, *args: Any, **kwargs: Any) -> None:
        self._inner.add_event(*args, **kwargs)

    def add_link(self, *args: Any, **kwargs: Any) -> None:
        self._inner.add_link(*args, **kwargs)

    def update_name(self, name: str) -> None:
        self._inner.update_name(name)

    def record_exception(self, *args: Any, **kwargs: Any) -> None:
        self._inner.record_exception(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
