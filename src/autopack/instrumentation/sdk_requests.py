"""Reads the calls of a client at `request`, through which every call of it goes: OpenAI's SDK, Anthropic's before 2.0.

The copy is of a subclass made for the client's class, so what the SDK makes of a client (`copy`, `with_options`,
`with_raw_response`, `with_streaming_response`) is read too, helpers that call one another count once, and closing is
the SDK's business. Bodies are not touched, unless `stream_usage` was asked for.

A reply that comes as an object is read at once. A stream is read as the caller reads it, and concluded when it ends,
is closed or is dropped. A raw response is read when the caller reads it: no call reads more than the caller does.
"""

from __future__ import annotations

import inspect
import json
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from autopack.instrumentation.calls import Call, Recording, asked_of, failure_reason, quietly
from autopack.instrumentation.replies import ChatReader, MessagesReader, ReplyReader, ResponsesReader
from autopack.instrumentation.span_nodes import claim_surrounding, claimed, mark_recorded
from autopack.telemetry import not_recorded, warn_once

C = TypeVar("C")

_CHAT_PATHS = ("/chat/completions", "/completions")
_RESPONSES_PATH = "/responses"
_MESSAGES_PATH = "/v1/messages"
_MODEL_PATHS = (*_CHAT_PATHS, _RESPONSES_PATH, _MESSAGES_PATH)
_PROVIDERS = (
    ("Azure", "azure.ai.openai"),
    ("Bedrock", "aws.bedrock"),
    ("Vertex", "gcp.vertex_ai"),
)


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How the calls of a client are read. `stream_usage`: ask for the counts of streams that do not ask themselves."""

    recording: Recording
    provider: str
    stream_usage: bool = False


def instrument_requests(client: C, recording: Recording, *, sdk: str, stream_usage: bool = False) -> C:
    """A copy of the client whose calls are read; made, shared and closed as the SDK's `copy` says."""
    source: Any = client
    kind = type(source)
    provider = next((name for part, name in _PROVIDERS if part in kind.__name__), sdk)
    # Bedrock's `copy` makes an HTTP client of its own in some releases; OpenAI's counts who shares one.
    made = source.copy(http_client=source._client) if sdk == "anthropic" else source.copy()  # noqa: SLF001
    made.__class__ = _subclass_of(kind, RequestOptions(recording, provider, stream_usage))
    result: C = made
    return result


def _subclass_of(kind: type, options: RequestOptions) -> type:
    original: Callable[..., Any] = kind.request  # type: ignore[attr-defined]

    async def request_async(self: Any, cast_to: Any, request_options: Any, *args: Any, **kwargs: Any) -> Any:
        reading = quietly(_begin, request_options, options)
        if reading is None:
            return await original(self, cast_to, request_options, *args, **kwargs)
        try:
            with claimed():
                result = await original(self, cast_to, reading.request_options, *args, **kwargs)
        except BaseException as exc:
            quietly(reading.call.fail, failure_reason(exc))
            raise
        quietly(reading.take, result)
        return result

    def request(self: Any, cast_to: Any, request_options: Any, *args: Any, **kwargs: Any) -> Any:
        reading = quietly(_begin, request_options, options)
        if reading is None:
            return original(self, cast_to, request_options, *args, **kwargs)
        try:
            with claimed():
                result = original(self, cast_to, reading.request_options, *args, **kwargs)
        except BaseException as exc:
            quietly(reading.call.fail, failure_reason(exc))
            raise
        quietly(reading.take, result)
        return result

    made = request_async if inspect.iscoroutinefunction(original) else request
    body: dict[str, Any] = {"request": made, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    if hasattr(kind, "_prepare_request"):
        body["_prepare_request"] = _counting_retries(kind)
    return type(kind.__name__, (kind,), {**body, "autopack_instrumented": True})


def _counting_retries(kind: Any) -> Callable[[Any, Any], Any]:
    """The SDK's own hook before each attempt, counting those that repeat one that gave no reply."""
    original: Callable[[Any, Any], Any] = kind._prepare_request  # noqa: SLF001 (made to be overridden)

    def prepare(self: Any, request: Any) -> Any:
        quietly(_count_retry, request)
        return original(self, request)

    return prepare


def _count_retry(request: Any) -> None:
    if request.headers.get("x-stainless-retry-count", "0") != "0" and request.url.path.endswith(_MODEL_PATHS):
        not_recorded.add("retried")


def _begin(request_options: Any, options: RequestOptions) -> _Reading | None:
    """The reading of a request; None for one that calls no model."""
    path = str(request_options.url).partition("?")[0].rstrip("/")
    body = request_options.json_data
    if str(request_options.method).lower() != "post" or not isinstance(body, Mapping):
        return None
    streamed = bool(body.get("stream"))
    if path.endswith(_CHAT_PATHS):
        if options.stream_usage and streamed and body.get("stream_options") is None:
            body = {**body, "stream_options": {"include_usage": True}}
            request_options = request_options.model_copy(update={"json_data": body})
        reader: ReplyReader = ChatReader("")
    elif path.endswith(_RESPONSES_PATH):
        reader = ResponsesReader("")
    elif path.endswith(_MESSAGES_PATH):
        reader = MessagesReader("")
    else:
        return None
    call = Call(asked_of(body, options.provider), options.recording)
    _claim_current_span()
    return _Reading(call, reader, request_options)


def _claim_current_span() -> None:
    """Tells span processors that the spans around this call are of a call that is recorded here."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        claim_surrounding(trace.get_current_span().get_span_context().span_id)


class _Reading:
    """One request and what has been read of its reply."""

    def __init__(self, call: Call, reader: ReplyReader, request_options: Any) -> None:
        self.call = call
        self.request_options = request_options
        self.is_reading = False
        self._reader = reader
        self._concluded = False
        self._watched = False

    def __enter__(self) -> Self:
        """The stream is asked for its next event."""
        self.is_reading = True
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None) -> None:
        """It has given one, or has ended: the exception goes on to the caller."""
        if exc is not None:
            quietly(self.ended, exc)
        self.is_reading = False

    def take(self, result: Any) -> None:
        """Reads what `request` returned: a reply, a stream, or a raw response around one of them."""
        response = getattr(result, "http_response", None)
        if response is not None and hasattr(result, "parse"):
            self._take_raw(result, response)
        elif hasattr(result, "_iterator"):
            self.watch(result)
        else:
            self.whole(result)

    def feed(self, event: Any) -> None:
        """Reads one event of a stream."""
        self._reader.feed(event)

    def whole(self, body: Any) -> None:
        """Reads a reply that was not streamed."""
        self._reader.whole(body)
        counted = isinstance(self._reader, ChatReader) and self._reader.has_count
        self.conclude("without_stop_reason" if counted else "without_usage")

    def watch(self, stream: Any) -> None:
        """Has the events of a stream read as the caller reads them."""
        iterator = stream._iterator  # noqa: SLF001 (the SDKs have no public place to stand in)
        kind = _AsyncWatched if hasattr(iterator, "__anext__") else _SyncWatched
        stream._iterator = kind(iterator, self)  # noqa: SLF001
        self._watched = True
        if getattr(stream, "response", None) is not None:
            _at_close(stream.response, self)

    def ended(self, exc: BaseException) -> None:
        """Concludes a stream that gave no further event: it is at its end, it broke, or its reader was cancelled."""
        cancelled = not isinstance(exc, Exception)
        self.conclude("stopped_reading" if cancelled else "broken_stream", stopped_by_caller=cancelled)

    def stopped(self, response: Any = None) -> None:
        """Concludes what the caller does not read any further."""
        consumed = getattr(response, "is_stream_consumed", False) and not self._watched
        self.conclude("without_usage" if consumed else "stopped_reading", stopped_by_caller=True)

    def conclude(self, reason: str, *, stopped_by_caller: bool = False) -> None:
        """Records the reply if it is whole, else counts the reason why it is not. The first conclusion counts."""
        if self._concluded:
            return
        self._concluded = True
        mark_recorded()
        reply = self._reader.finish(stopped_by_caller=stopped_by_caller)
        if reply is None:
            self.call.fail(reason)
            return
        if reply.output_tokens is None and isinstance(self._reader, ChatReader) and not self._asks_for_usage():
            warn_once(
                "A streamed reply gave no token counts, so it was not recorded: send "
                'stream_options={"include_usage": True}, or use autopack.instrument(client, stream_usage=True)'
            )
        self.call.finish(reply)

    def _take_raw(self, raw: Any, response: Any) -> None:
        if self._is_streamed():
            _after(raw, "parse", lambda stream: self.watch(stream) if hasattr(stream, "_iterator") else None)
            _at_close(response, self)
        elif hasattr(response, "_content"):
            self.whole(_decoded(response))
        else:
            _around_read(raw, response, self)
            _at_close(response, self)

    def _is_streamed(self) -> bool:
        return bool(self.request_options.json_data.get("stream"))

    def _asks_for_usage(self) -> bool:
        options = self.request_options.json_data.get("stream_options")
        return not self._is_streamed() or (isinstance(options, Mapping) and bool(options.get("include_usage")))

    def __del__(self) -> None:
        quietly(self.stopped)


def _decoded(response: Any) -> Any:
    """The JSON of a body that the caller has read; None where it is something else."""
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _after(owner: Any, name: str, observe: Callable[[Any], Any]) -> None:
    """Has one method of one object tell what it returned, awaited where it is awaitable."""
    original = getattr(owner, name)

    async def awaited(result: Any) -> Any:
        value = await result
        quietly(observe, value)
        return value

    def observed(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if inspect.isawaitable(result):
            return awaited(result)
        quietly(observe, result)
        return result

    owner.__dict__[name] = observed


def _around_read(raw: Any, response: Any, reading: _Reading) -> None:
    """Has a raw response tell when its body has been read, which `parse`, `json` and `text` do, too."""
    original = raw.read

    async def awaited(result: Any) -> Any:
        try:
            content = await result
        finally:
            reading.is_reading = False
        quietly(reading.whole, _decoded(response))
        return content

    def read() -> Any:
        reading.is_reading = True
        result = original()
        if inspect.isawaitable(result):
            return awaited(result)
        reading.is_reading = False
        quietly(reading.whole, _decoded(response))
        return result

    raw.__dict__["read"] = read


def _at_close(response: Any, reading: _Reading) -> None:
    """Concludes the reading when its response is closed by the caller. References are weak: dropping is closing."""
    known, weak = weakref.ref(response), weakref.ref(reading)
    kind = type(response)

    def conclude() -> None:
        found = weak()
        if found is not None and not found.is_reading:
            found.stopped(known())

    def close() -> None:
        quietly(conclude)
        if (still := known()) is not None:
            kind.close(still)

    async def aclose() -> None:
        quietly(conclude)
        if (still := known()) is not None:
            await kind.aclose(still)

    response.__dict__.update(close=close, aclose=aclose)


class _SyncWatched:
    """The events of a stream on their way to the caller."""

    def __init__(self, iterator: Any, reading: _Reading) -> None:
        self._iterator = iterator
        self._reading = reading

    def __iter__(self) -> _SyncWatched:
        return self

    def __next__(self) -> Any:
        with self._reading as reading:
            event = next(self._iterator)
        quietly(reading.feed, event)
        return event

    def close(self) -> None:
        """As a generator's: nothing more is read."""
        quietly(self._reading.stopped)
        self._iterator.close()


class _AsyncWatched:
    """The events of an asynchronous stream on their way to the caller."""

    def __init__(self, iterator: Any, reading: _Reading) -> None:
        self._iterator = iterator
        self._reading = reading

    def __aiter__(self) -> _AsyncWatched:
        return self

    async def __anext__(self) -> Any:
        with self._reading as reading:
            event = await anext(self._iterator)
        quietly(reading.feed, event)
        return event

    async def aclose(self) -> None:
        """As a generator's: nothing more is read."""
        quietly(self._reading.stopped)
        await self._iterator.aclose()
