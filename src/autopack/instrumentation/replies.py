"""The one way to read a reply: what a model's answer says of itself, whole or streamed. Pure.

Each reader takes either one whole body or the events of a stream, as SDK objects or as decoded JSON, and takes a
figure only where it is one. Only a closing usage counts: the first events of a stream carry placeholders (1 token), so
a stream that ends before its last figures has no count. What a later event leaves out never erases what an earlier one
said.

    API                 the stream ends with     its counts come with
    Messages            message_stop             message_delta (output), message_start and message_delta (input)
    Chat Completions    [DONE], unseen           the last chunk, where `stream_options.include_usage` asks for it
    Responses           response.completed,      the same event
                        .incomplete, .failed

`input_tokens` is all input, what came from the prompt cache included; reasoning tokens are inside `output_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autopack.estimation.stop_reasons import is_complete, is_cut

LONGEST_WORD = 200


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A reply that came to its end; None where it does not say.

    `input_tokens` is all input, cached included. `reasoning_tokens` are part of `output_tokens`. `call_id` is the
    provider's id of the reply. `text` is kept only for a reader that was asked to keep it.
    """

    model: str
    input_tokens: int | None
    output_tokens: int | None
    stop_reason: str | None
    call_id: str | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    text: str = ""

    @property
    def total_tokens(self) -> int:
        """Input and output, as far as the reply says."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    @property
    def truncated(self) -> bool:
        """Whether the reply was cut off, at its ceiling or where the context was full: its length is a lower bound."""
        return is_cut(self.stop_reason)

    @property
    def success(self) -> bool:
        """Whether the model ended its reply of its own accord: a refusal, a pause or a full context is no success."""
        return is_complete(self.stop_reason)


class ReplyReader(Protocol):
    """Reads one reply."""

    def feed(self, event: Any) -> None:
        """Takes one event of the stream; kinds that it does not know are passed over."""

    def whole(self, body: Any) -> None:
        """Takes a reply that was not streamed."""

    def finish(self, *, stopped_by_caller: bool = False) -> ModelReply | None:
        """The reply; None where the stream ended before its end.

        `stopped_by_caller`: the caller read no further, so an end that was not seen is no sign of a broken stream; the
        closing figures are enough.
        """


class MessagesReader:
    """A reply of the Messages API. `requested_model` stands where the reply does not name one."""

    def __init__(self, requested_model: str, *, keeps_text: bool = False) -> None:
        self._model = requested_model
        self._call_id: str | None = None
        self._uncached: int | None = None
        self._cache_read: int | None = None
        self._cache_write: int | None = None
        self._reasoning: int | None = None
        self._output: int | None = None
        self._stop_reason: str | None = None
        self._text: list[str] | None = [] if keeps_text else None
        self._ended = False

    def feed(self, event: Any) -> None:
        """Takes one raw event of the stream."""
        kind = _get(event, "type")
        if kind == "message_start":
            message = _get(event, "message")
            self._take_names(message)
            self._take_input(_get(message, "usage"))
        elif kind == "content_block_delta" and self._text is not None:
            text = _get(_get(event, "delta"), "text")
            self._text.append(text if isinstance(text, str) else "")
        elif kind == "message_delta":
            self._take_closing(_get(event, "usage"), _get(event, "delta"))
        elif kind == "message_stop":
            self._ended = True

    def whole(self, body: Any) -> None:
        """Takes a `Message`."""
        self._take_names(body)
        self._take_closing(_get(body, "usage"), body)
        self._ended = True

    def finish(self, *, stopped_by_caller: bool = False) -> ModelReply | None:
        """The reply, once `message_stop` has come, or once its closing figures have, where the caller stopped."""
        closed = self._output is not None and self._stop_reason is not None
        if not (self._ended or (stopped_by_caller and closed)):
            return None
        return ModelReply(
            model=self._model,
            input_tokens=_sum(self._uncached, self._cache_read, self._cache_write),
            output_tokens=self._output,
            stop_reason=self._stop_reason,
            call_id=self._call_id,
            cache_read_tokens=self._cache_read,
            cache_write_tokens=self._cache_write,
            reasoning_tokens=self._reasoning,
            text="".join(self._text or ()),
        )

    def _take_names(self, message: Any) -> None:
        self._model = word(_get(message, "model")) or self._model
        self._call_id = word(_get(message, "id")) or self._call_id

    def _take_input(self, usage: Any) -> None:
        self._uncached = _newer(_count(usage, "input_tokens"), self._uncached)
        self._cache_read = _newer(_count(usage, "cache_read_input_tokens"), self._cache_read)
        self._cache_write = _newer(_count(usage, "cache_creation_input_tokens"), self._cache_write)

    def _take_closing(self, usage: Any, delta: Any) -> None:
        self._take_input(usage)
        self._output = _newer(_count(usage, "output_tokens"), self._output)
        self._reasoning = _newer(_count(_get(usage, "output_tokens_details"), "thinking_tokens"), self._reasoning)
        self._stop_reason = word(_get(delta, "stop_reason")) or self._stop_reason


class ChatReader:
    """A reply of Chat Completions, or of the Completions that came before them."""

    def __init__(self, requested_model: str) -> None:
        self._model = requested_model
        self._call_id: str | None = None
        self._usage: Any = None
        self._reasons: list[str] = []

    def feed(self, event: Any) -> None:
        """Takes one chunk. A usage that comes before a finish reason is a running count, not a closing one."""
        self._take(event)
        if self._reasons and (usage := _get(event, "usage")) is not None:
            self._usage = usage

    def whole(self, body: Any) -> None:
        """Takes a `ChatCompletion` or a `Completion`."""
        self._take(body)
        self._usage = _get(body, "usage")

    @property
    def has_count(self) -> bool:
        """Whether the closing usage says how long the reply is."""
        return _count(self._usage, "completion_tokens") is not None

    def finish(self, *, stopped_by_caller: bool = False) -> ModelReply | None:
        """The reply, once a finish reason has come; where the caller stopped, the usage, too."""
        if not self._reasons or (stopped_by_caller and self._usage is None):
            return None
        details = _get(self._usage, "prompt_tokens_details")
        return ModelReply(
            model=self._model,
            input_tokens=_count(self._usage, "prompt_tokens"),
            output_tokens=_count(self._usage, "completion_tokens"),
            stop_reason=next(filter(is_cut, self._reasons), self._reasons[0]),
            call_id=self._call_id,
            cache_read_tokens=_count(details, "cached_tokens"),
            cache_write_tokens=_count(details, "cache_write_tokens"),
            reasoning_tokens=_count(_get(self._usage, "completion_tokens_details"), "reasoning_tokens"),
        )

    def _take(self, source: Any) -> None:
        self._model = word(_get(source, "model")) or self._model
        self._call_id = word(_get(source, "id")) or self._call_id
        choices = _get(source, "choices")
        for choice in choices if isinstance(choices, Sequence) else ():
            reason = word(_get(choice, "finish_reason"))
            if reason is not None:
                self._reasons.append(reason)


_ENDS = ("response.completed", "response.incomplete", "response.failed")
# Calls of tools that the caller runs: the model goes on with another request. It runs the others itself.
_CALLER_RUNS = ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call")


class ResponsesReader:
    """A reply of the Responses API. Where it calls a tool that the caller runs, `stop_reason` is `tool_calls`."""

    def __init__(self, requested_model: str) -> None:
        self._model = requested_model
        self._response: Any = None

    def feed(self, event: Any) -> None:
        """Takes one event; the last one carries the whole response."""
        if _get(event, "type") in _ENDS:
            self._response = _get(event, "response")

    def whole(self, body: Any) -> None:
        """Takes a `Response`."""
        self._response = body

    def finish(self, *, stopped_by_caller: bool = False) -> ModelReply | None:  # noqa: ARG002 (its end is one event)
        """The reply; None where it is still being made, in the background, or where it failed."""
        response = self._response
        stop_reason = self._stop_reason(response)
        if stop_reason is None:
            return None
        usage = _get(response, "usage")
        details = _get(usage, "input_tokens_details") or _get(usage, "prompt_tokens_details")
        output_details = _get(usage, "output_tokens_details") or _get(usage, "completion_tokens_details")
        return ModelReply(
            model=word(_get(response, "model")) or self._model,
            # The second names are LiteLLM's, which tells every usage in those of Chat Completions.
            input_tokens=_newer(_count(usage, "input_tokens"), _count(usage, "prompt_tokens")),
            output_tokens=_newer(_count(usage, "output_tokens"), _count(usage, "completion_tokens")),
            stop_reason=stop_reason,
            call_id=word(_get(response, "id")),
            cache_read_tokens=_count(details, "cached_tokens"),
            cache_write_tokens=_count(details, "cache_write_tokens"),
            reasoning_tokens=_count(output_details, "reasoning_tokens"),
        )

    @staticmethod
    def _stop_reason(response: Any) -> str | None:
        status = _get(response, "status")
        if status == "incomplete":
            return word(_get(_get(response, "incomplete_details"), "reason")) or "incomplete"
        if status != "completed":
            return None
        output = _get(response, "output")
        items = output if isinstance(output, Sequence) else ()
        return "tool_calls" if any(_get(item, "type") in _CALLER_RUNS for item in items) else "completed"


def word(value: Any) -> str | None:
    """A text that names something, cut to 200 characters; None for anything else, and for an empty one."""
    return str.__str__(value)[:LONGEST_WORD] if isinstance(value, str) and value else None


def count(value: Any) -> int | None:
    """A count of tokens; None for anything else."""
    return value if type(value) is int and value >= 0 else None


def _get(source: Any, name: str) -> Any:
    """A field of an SDK's object or of decoded JSON; None where there is none."""
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _count(source: Any, name: str) -> int | None:
    return count(_get(source, name))


def _newer(new: int | None, old: int | None) -> int | None:
    return old if new is None else new


def _sum(*counts: int | None) -> int | None:
    known = [value for value in counts if value is not None]
    return sum(known) if known else None
