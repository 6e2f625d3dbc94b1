"""The Messages API as bytes: what a reply and an error look like on the wire. Pure.

As from the real API, usage comes in two parts of a stream: `message_start` has the input tokens and a first count
of output, `message_delta` the final count beside the stop reason.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from autopack._util.text import truncate_for_display
from autopack.loopback.replies import Refusal, Reply

_FIRST_OUTPUT_TOKENS = 1


class MessagesRequest(msgspec.Struct, frozen=True):
    """The part of a request's body that the server acts on."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    messages: Annotated[list[Any], msgspec.Meta(min_length=1)]
    stream: bool = False


def decode_request(body: bytes) -> MessagesRequest | Refusal:
    """Return the request in a body, or the refusal that says why it is none."""
    try:
        return msgspec.json.decode(body, type=MessagesRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return Refusal(400, "invalid_request_error", truncate_for_display(str(exc)))


def error_body(refusal: Refusal, request_id: str) -> bytes:
    """Return the body of an error response."""
    error = {"type": refusal.error_type, "message": refusal.message}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def retry_headers(refusal: Refusal) -> dict[str, str]:
    """Return the headers that say when to ask again: whole seconds, rounded up, and milliseconds."""
    if refusal.retry_after_ms is None:
        return {}
    return {"retry-after": str(-(-refusal.retry_after_ms // 1000)), "retry-after-ms": str(refusal.retry_after_ms)}


def message_body(reply: Reply, message_id: str) -> bytes:
    """Return the body of a response that is not streamed."""
    content = [{"type": "text", "text": reply.text}]
    return msgspec.json.encode(_message(reply, message_id, content, reply.stop_reason, reply.output_tokens))


def stream_chunks(reply: Reply, message_id: str) -> list[bytes]:
    """Return the server-sent events of a streamed response, in order; the text comes in two pieces."""
    half = len(reply.text) // 2
    started = _message(reply, message_id, [], None, min(_FIRST_OUTPUT_TOKENS, reply.output_tokens))
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": started},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": reply.text[:half]}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": reply.text[half:]}},
        {"type": "content_block_stop", "index": 0},
        _message_delta(reply),
        {"type": "message_stop"},
    ]
    return [b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in events]


def _message(
    reply: Reply, message_id: str, content: list[dict[str, str]], stop_reason: str | None, output_tokens: int
) -> dict[str, Any]:
    usage = {"input_tokens": reply.input_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    if reply.gives_usage:
        usage["output_tokens"] = output_tokens
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _message_delta(reply: Reply) -> dict[str, Any]:
    event: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": reply.stop_reason, "stop_sequence": None},
    }
    if reply.gives_usage:
        event["usage"] = {"output_tokens": reply.output_tokens}
    return event
