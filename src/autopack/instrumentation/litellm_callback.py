"""LiteLLM: `litellm.callbacks = [autopack.LiteLLMCallback()]`, for its functions, its router and its proxy.

The phase is read before the request is sent and travels with LiteLLM's own record of the call: its callbacks run in
other threads and contexts. A proxy's callers name theirs in the request: `metadata={"autopack": {"phase_id": …}}`.
Answers from LiteLLM's cache are no calls. A record that is dropped without a callback is a stream that was not read to
its end.

LiteLLM makes up what it is not told: an id for each reply, so `call_id` is None; and the counts of a stream without
usage, which its tokenizer guesses. A stream counts only where its usage came from the provider: where it was asked for
(`stream_options={"include_usage": True}`), or with providers whose streams always carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from autopack.instrumentation.calls import (
    Asked,
    Call,
    EventSink,
    Recording,
    Unattributed,
    asked_of,
    failure_reason,
    quietly,
)
from autopack.instrumentation.phases import Phase, current_phase, phase_of_fields
from autopack.instrumentation.replies import ChatReader, ModelReply, ResponsesReader
from autopack.telemetry import is_enabled, not_recorded

_OPEN_CALL = "autopack_call"
_STREAMS_CARRY_USAGE = frozenset({"anthropic", "bedrock", "bedrock_converse", "gemini", "vertex_ai", "vertex_ai_beta"})
_CALL_TYPES = frozenset({"completion", "text_completion", "responses", "anthropic_messages", "generate_content"})


class LiteLLMCallback(CustomLogger):  # type: ignore[misc, unused-ignore]
    """Records each call that LiteLLM makes; does nothing where telemetry is off and none is given.

    telemetry: where to record; None: the process-wide one. unattributed: `record` or `drop` calls outside a phase.
    """

    def __init__(self, *, telemetry: EventSink | None = None, unattributed: Unattributed = "record") -> None:
        super().__init__()
        self._telemetry = telemetry
        self._recording = Recording(telemetry, unattributed)

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:  # noqa: ARG002 (LiteLLM's interface)
        """Reads the phase; the request is about to be sent."""
        if self._telemetry is not None or is_enabled():
            quietly(self._begin, kwargs)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Records a reply."""
        quietly(self._finish, kwargs, response_obj, start_time, end_time)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
        """Counts a failure."""
        quietly(self._fail, kwargs)

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Records a reply."""
        quietly(self._finish, kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
        """Counts a failure."""
        quietly(self._fail, kwargs)

    def _begin(self, kwargs: dict[str, Any]) -> None:
        if not _is_model_call(kwargs):
            return
        found = kwargs.get(_OPEN_CALL)
        if isinstance(found, _OpenCall):  # LiteLLM sends the same call again
            not_recorded.add("retried")
            return
        kwargs[_OPEN_CALL] = _OpenCall(Call(_asked(kwargs), self._recording, _phase_of(kwargs)))

    def _finish(self, kwargs: Mapping[str, Any], response: Any, start: Any, end: Any) -> None:
        payload = kwargs.get("standard_logging_object") or {}
        found = kwargs.get(_OPEN_CALL)
        if kwargs.get("cache_hit") or payload.get("cache_hit"):
            if isinstance(found, _OpenCall):
                found.call.forget()
            if self._telemetry is not None or is_enabled():
                not_recorded.add("cached")
            return
        if not isinstance(found, _OpenCall):
            return  # telemetry was off when it began, or it is no call of a model
        reply = _reply(kwargs, payload, response)
        if reply is None:
            found.call.fail("without_stop_reason")
        else:
            found.call.finish(reply, (end - start).total_seconds())

    def _fail(self, kwargs: Mapping[str, Any]) -> None:
        found = kwargs.get(_OPEN_CALL)
        if not isinstance(found, _OpenCall):
            return
        exc = kwargs.get("exception")
        broke = (kwargs.get("optional_params") or {}).get("stream") and getattr(exc, "status_code", None) is None
        reason = failure_reason(exc) if isinstance(exc, BaseException) else "error_other"
        found.call.fail("broken_stream" if broke else reason)


class _OpenCall:
    """A call in LiteLLM's own record of it. Where that is dropped first, the caller did not read to the end."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __del__(self) -> None:
        quietly(self.call.fail, "stopped_reading")

    def __repr__(self) -> str:
        return "<open call>"


def _is_model_call(kwargs: Mapping[str, Any]) -> bool:
    kind = str(kwargs.get("call_type"))
    return kind in _CALL_TYPES or kind.removeprefix("a") in _CALL_TYPES


def _asked(kwargs: Mapping[str, Any]) -> Asked:
    provider = kwargs.get("custom_llm_provider")
    parameters = kwargs.get("optional_params")
    body = {**(parameters if isinstance(parameters, Mapping) else {}), "model": kwargs.get("model")}
    return asked_of(body, provider if isinstance(provider, str) else None)


def _phase_of(kwargs: Mapping[str, Any]) -> Phase | None:
    """The phase that the request's metadata names, else the one that this context is in."""
    parameters = kwargs.get("litellm_params") or {}
    for place in (parameters.get("metadata"), parameters.get("litellm_metadata")):
        for metadata in (place, (place or {}).get("requester_metadata")):
            said = metadata.get("autopack") if isinstance(metadata, Mapping) else None
            if isinstance(said, Mapping):
                return quietly(phase_of_fields, said) or current_phase()
    return current_phase()


def _reply(kwargs: Mapping[str, Any], payload: Mapping[str, Any], response: Any) -> ModelReply | None:
    model = kwargs.get("model")
    requested = model if isinstance(model, str) else ""
    reader: ChatReader | ResponsesReader = ChatReader(requested)
    if getattr(response, "object", None) == "response" or hasattr(response, "output"):
        reader = ResponsesReader(requested)
    reader.whole(response)
    reply = reader.finish()
    if reply is None:
        return None
    guessed = _is_guessed(kwargs, payload)
    return ModelReply(
        model=reply.model,
        input_tokens=None if guessed else reply.input_tokens,
        output_tokens=None if guessed else reply.output_tokens,
        stop_reason=reply.stop_reason,
        cache_read_tokens=reply.cache_read_tokens,
        cache_write_tokens=reply.cache_write_tokens,
        reasoning_tokens=reply.reasoning_tokens,
    )


def _is_guessed(kwargs: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    """Whether the counts are of LiteLLM's tokenizer: those of a stream that carried none."""
    parameters = kwargs.get("optional_params") or {}
    if not (parameters.get("stream") or kwargs.get("stream")):
        return False
    asked = (parameters.get("stream_options") or {}).get("include_usage")
    provider = payload.get("custom_llm_provider") or kwargs.get("custom_llm_provider")
    responses = str(kwargs.get("call_type")).endswith("responses")
    return not (asked or responses or provider in _STREAMS_CARRY_USAGE)
