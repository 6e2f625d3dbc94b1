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
from dataclasses import dataclass, field
from typing import Any, TypeVar

from autopack.instrumentation.calls import Call, Recording, asked_of, failure_reason, quietly
from autopack.instrumentation.replies import ChatReader, MessagesReader, ReplyReader, ResponsesReader
from autopack.instrumentation.span_nodes import claim_surrounding, claimed
from autopack.telemetry import lifecycle
from autopack.telemetry.counters import not_recorded

C = TypeVar("C")

_CHAT_PATHS = ("/chat/completions", "/completions")
_RESPONSES_PATH = "/responses"
_MESSAGES_PATH = "/v1/messages"
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
    made = source.copy()
    made.__class__ = _subclass_of(kind, RequestOptions(recording, provider, stream_usage))
    result: C = made
    return result


def _subclass_of(kind: type, options: RequestOptions) -> type:
    original: Callable[..., Any] = kind.request  # type: ignore[attr-defined]

    if inspect.iscoroutinefunction(original):

        async def request(self: Any, cast_to: Any, request_options: Any, *args: Any, **kwargs: Any) -> Any:
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

    else:

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

    body = {"request": request, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {**body, "autopack_instrumented": True})


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
            request_options = request_options.copy(update={"json_data": body})
        asks_for_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        reader: ReplyReader = ChatReader("", usage_was_asked_for=asks_for_usage)
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


@dataclass(slots=True, weakref_slot=True)
class _Reading:
    """One request and what has been read of its reply."""

    call: Call
    reader: ReplyReader
    request_options: Any
    concluded: bool = field(default=False)

    def take(self, result: Any) -> None:
        """Reads what `request` returned: a reply, a stream, or a raw response around one of them."""
        response = getattr(result, "http_response", None)
        if response is not None and hasattr(result, "parse"):
            _count_retries(getattr(response, "request", None))
            self._take_raw(result, response)
        elif hasattr(result, "_iterator"):
            _count_retries(getattr(result.response, "request", None))
            _watch_stream(result, self)
        else:
            self.whole(result)

    def whole(self, body: Any) -> None:
        """Reads a reply that was not streamed."""
        self.reader.whole(body)
        self.conclude("without_usage")

    def conclude(self, reason: str, *, stopped_by_caller: bool = False) -> None:
        """Records the reply if it is whole, else counts the reason why it is not."""
        if self.concluded:
            return
        self.concluded = True
        reply = self.reader.finish(stopped_by_caller=stopped_by_caller)
        if reply is None:
            self.call.fail(reason)
            return
        if reply.output_tokens is None and isinstance(self.reader, ChatReader) and self.request_options is not None:
            lifecycle.warn_once(
                "A streamed reply gave no token counts, so it was not recorded: send "
                'stream_options={"include_usage": True}, or use autopack.instrument(client, stream_usage=True)'
            )
        self.call.finish(reply)

    def _take_raw(self, raw: Any, response: Any) -> None:
        if self._is_streamed():
            _after(raw, "parse", lambda stream: _watch_stream(stream, self) if hasattr(stream, "_iterator") else None)
            _at_close(response, self, "without_usage")
        elif getattr(response, "is_stream_consumed", False) or hasattr(response, "_content"):
            self.whole(_decoded(response))
        else:
            _after(raw, "read", lambda _content: self.whole(_decoded(response)))
            _at_close(response, self, "without_usage")

    def _is_streamed(self) -> bool:
        return bool(self.request_options.json_data.get("stream"))


def _decoded(response: Any) -> Any:
    """The JSON of a body that the caller has read."""
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _count_retries(request: Any) -> None:
    """Counts the attempts that the SDK made before this one, none of which gave a reply."""
    text = "" if request is None else request.headers.get("x-stainless-retry-count", "")
    for _ in range(int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0):  # noqa: PLR2004 (retries)
        not_recorded.add("retried")


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


def _at_close(response: Any, reading: _Reading, reason: str, is_reading: Callable[[], bool] = bool) -> None:
    """Concludes the reading when the response is closed and not being read. References are weak: dropping is closing."""
    known, weak = weakref.ref(response), weakref.ref(reading)
    kind = type(response)

    def conclude() -> None:
        found = weak()
        if found is not None and not is_reading():
            found.conclude(reason, stopped_by_caller=True)

    def close() -> None:
        quietly(conclude)
        if (still := known()) is not None:
            kind.close(still)

    async def aclose() -> None:
        quietly(conclude)
        if (still := known()) is not None:
            await kind.aclose(still)

    response.__dict__.update(close=close, aclose=aclose)


def _watch_stream(stream: Any, reading: _Reading) -> None:
    """Has a stream's events read as the caller reads them."""
    asynchronous = hasattr(stream._iterator, "__anext__")  # noqa: SLF001 (the SDK has no other place to stand in)
    watched: _Watched = _AsyncWatched(stream._iterator, reading) if asynchronous else _SyncWatched(stream._iterator, reading)  # noqa: SLF001
    stream._iterator = watched  # noqa: SLF001
    weak = weakref.ref(watched)

    def is_reading() -> bool:
        found = weak()
        return found is not None and found.is_reading

    response = getattr(stream, "response", None)
    if response is not None:
        _at_close(response, reading, "stopped_reading", is_reading)


class _Watched:
    """The events of a stream on their way to the caller."""

    def __init__(self, iterator: Any, reading: _Reading) -> None:
        self._iterator = iterator
        self._reading = reading
        self.is_reading = False

    def _ended(self, exc: BaseException | None) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, StopIteration | StopAsyncIteration):
            self._reading.conclude("broken_stream")
        elif exc is None or isinstance(exc, StopIteration | StopAsyncIteration):
            self._reading.conclude("broken_stream")  # where the reader has not seen the end, there was none
        else:
            self._reading.conclude("stopped_reading", stopped_by_caller=True)

    def __del__(self) -> None:
        quietly(self._reading.conclude, "stopped_reading", stopped_by_caller=True)


class _SyncWatched(_Watched):
    def __iter__(self) -> _SyncWatched:
        return self

    def __next__(self) -> Any:
        self.is_reading = True
        try:
            event = next(self._iterator)
        except BaseException as exc:
            quietly(self._ended, exc)
            raise
        finally:
            self.is_reading = False
        quietly(self._reading.reader.feed, event)
        return event

    def close(self) -> None:
        quietly(self._reading.conclude, "stopped_reading", stopped_by_caller=True)
        self._iterator.close()


class _AsyncWatched(_Watched):
    def __aiter__(self) -> _AsyncWatched:
        return self

    async def __anext__(self) -> Any:
        self.is_reading = True
        try:
            event = await anext(self._iterator)
        except BaseException as exc:
            quietly(self._ended, exc)
            raise
        finally:
            self.is_reading = False
        quietly(self._reading.reader.feed, event)
        return event

    async def aclose(self) -> None:
        quietly(self._reading.conclude, "stopped_reading", stopped_by_caller=True)
        await self._iterator.aclose()
