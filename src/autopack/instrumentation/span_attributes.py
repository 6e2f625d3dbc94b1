"""What the attributes of a span say of a model call: the names that are in use, the first one that is there wins. Pure.

Current and former names of OpenTelemetry's `gen_ai.*`, and OpenInference's `llm.*`. Nothing else of a span is ever
read: prompts and outputs have names too, and they are not in these lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autopack.instrumentation.calls import Asked, first_count
from autopack.instrumentation.replies import ModelReply, count, word

Attributes = Mapping[str, Any]

_OPERATION = "gen_ai.operation.name"
_OPERATIONS = frozenset({"chat", "generate_content", "text_completion"})
_KIND = "openinference.span.kind"
_FORMER_OPERATION = "llm.request.type"
_FORMER_OPERATIONS = frozenset({"chat", "completion"})
_INVOCATION = "llm.invocation_parameters"  # JSON; only the ceiling and the effort are taken from it

_OUTPUT = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
)
_INPUT = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
)
_CACHE_READ = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.details.cache_read_input_tokens",
    "gen_ai.usage.details.cache_read_tokens",
    "llm.token_count.prompt_details.cache_read",
)
_CACHE_WRITE = (
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.details.cache_creation_input_tokens",
    "gen_ai.usage.details.cache_write_tokens",
    "llm.token_count.prompt_details.cache_write",
)
_REASONING = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "gen_ai.usage.details.reasoning_tokens",
    "llm.token_count.completion_details.reasoning",
)
_RESPONSE_MODEL = ("gen_ai.response.model", "llm.response.model_name", "gen_ai.request.model", "llm.model_name")
_REQUEST_MODEL = ("gen_ai.request.model", "llm.model_name")
_PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
_CEILING = ("gen_ai.request.max_tokens",)
_REASONING_LEVEL = ("gen_ai.request.reasoning.level", "gen_ai.request.reasoning_effort", "anthropic.thinking.type")
_STOP_REASON = ("anthropic.message.stop_reason", "gen_ai.response.finish_reasons", "gen_ai.response.finish_reason")
_STOP_REASON_LATER = ("llm.finish_reason", "llm.response.finish_reason", "llm.response.stop_reason")
_CALL_ID = ("gen_ai.response.id",)
STATUS = ("http.response.status_code", "http.status_code")
RESENT = "http.request.resend_count"
ERROR = "error.type"
STREAMED = "gen_ai.request.stream"

# All that is ever kept of a span.
WANTED = frozenset(
    {
        _OPERATION,
        _KIND,
        _FORMER_OPERATION,
        _INVOCATION,
        RESENT,
        ERROR,
        STREAMED,
        *_OUTPUT,
        *_INPUT,
        *_CACHE_READ,
        *_CACHE_WRITE,
        *_REASONING,
        *_RESPONSE_MODEL,
        *_PROVIDER,
        *_CEILING,
        *_REASONING_LEVEL,
        *_STOP_REASON,
        *_STOP_REASON_LATER,
        *_CALL_ID,
        *STATUS,
    }
)


def is_inference(attributes: Attributes) -> bool:
    """Whether the span is one call of a model; an agent's, with the sum of several, is none."""
    operation = attributes.get(_OPERATION)
    if operation is not None:
        return operation in _OPERATIONS
    kind = attributes.get(_KIND)
    return kind == "LLM" if kind is not None else attributes.get(_FORMER_OPERATION) in _FORMER_OPERATIONS


def asked_of_span(attributes: Attributes) -> Asked:
    """What the request asked for."""
    parameters = _invocation_parameters(attributes)
    ceilings = ("max_completion_tokens", "max_tokens", "max_output_tokens", "max_tokens_to_sample")
    return Asked(
        provider=_word(attributes, _PROVIDER),
        model=_word(attributes, _REQUEST_MODEL),
        max_tokens=first_count([*map(attributes.get, _CEILING), *map(parameters.get, ceilings)]),
        reasoning_level=_word(attributes, _REASONING_LEVEL) or word(parameters.get("reasoning_effort")),
    )


def reply_of_span(attributes: Attributes) -> ModelReply:
    """The reply as far as the span says; None for what it does not."""
    return ModelReply(
        model=_word(attributes, _RESPONSE_MODEL) or "",
        input_tokens=_count(attributes, _INPUT),
        output_tokens=_count(attributes, _OUTPUT),
        stop_reason=_word(attributes, (*_STOP_REASON, *_STOP_REASON_LATER)),
        call_id=_word(attributes, _CALL_ID),
        cache_read_tokens=_count(attributes, _CACHE_READ),
        cache_write_tokens=_count(attributes, _CACHE_WRITE),
        reasoning_tokens=_count(attributes, _REASONING),
    )


def _count(attributes: Attributes, names: Sequence[str]) -> int | None:
    return first_count(map(attributes.get, names))


def _word(attributes: Attributes, names: Sequence[str]) -> str | None:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, tuple | list):  # the finish reason of each choice
            value = next(iter(value), None)
        found = word(value)
        if found is not None:
            return found
    return None


def _invocation_parameters(attributes: Attributes) -> Mapping[str, Any]:
    text = attributes.get(_INVOCATION)
    if not isinstance(text, str):
        return {}
    import json

    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return parameters if isinstance(parameters, Mapping) else {}


def resent(attributes: Attributes) -> int:
    """How often the SDK sent the request again."""
    return count(attributes.get(RESENT)) or 0
