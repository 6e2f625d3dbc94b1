from types import SimpleNamespace
from typing import Any

import pytest

from autopack.instrumentation.replies import ChatReader, MessagesReader, ModelReply, ReplyReader, ResponsesReader


def read(reader: ReplyReader, *events: Any, stopped_by_caller: bool = False) -> ModelReply | None:
    for event in events:
        reader.feed(event)
    return reader.finish(stopped_by_caller=stopped_by_caller)


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "model": "m-2",
        "usage": {"input_tokens": 1, "cache_read_input_tokens": 20, "output_tokens": 1},
    },
}
DELTA = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {
        "output_tokens": 77,
        "output_tokens_details": {"thinking_tokens": 30},
        "cache_creation_input_tokens": 300,
    },
}
STOP = {"type": "message_stop"}


def test_a_messages_stream_counts_at_its_end_only() -> None:
    """Neither the placeholder of its start nor an end that did not come is a count."""
    reply = read(MessagesReader("asked"), START, DELTA, STOP)
    assert reply == ModelReply("m-2", 321, 77, "end_turn", "msg_1", 20, 300, 30)
    assert read(MessagesReader("asked"), START) is None
    assert read(MessagesReader("asked"), START, stopped_by_caller=True) is None
    assert read(MessagesReader("asked"), START, DELTA) is None
    assert read(MessagesReader("asked"), START, DELTA, stopped_by_caller=True) == reply


@pytest.mark.parametrize(
    "silent",
    [
        {"type": "message_delta"},
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": None}},
        {"type": "message_delta", "delta": {"stop_reason": 5}, "usage": {"output_tokens": True}},
        SimpleNamespace(type="message_delta", delta=SimpleNamespace(), usage=SimpleNamespace(output_tokens=-1)),
    ],
)
def test_what_a_later_delta_leaves_out_is_not_erased(silent: Any) -> None:
    reply = read(MessagesReader("asked"), START, DELTA, silent, STOP)
    assert reply is not None
    assert (reply.output_tokens, reply.stop_reason, reply.reasoning_tokens) == (77, "end_turn", 30)


CHAT = {"id": "c1", "model": "m-3"}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 40},
}


def chunk(reason: str | None = None, usage: Any = None) -> dict[str, Any]:
    return {**CHAT, "choices": [{"finish_reason": reason}] if reason else [], "usage": usage}


def test_a_chat_stream_counts_what_comes_with_or_after_its_finish() -> None:
    """A usage before it is a running count."""
    expected = ModelReply("m-3", 9, 50, "stop", "c1", 4, None, 40)
    assert read(ChatReader("asked"), chunk(), chunk("stop"), chunk(usage=USAGE)) == expected
    assert read(ChatReader("asked"), chunk("stop", USAGE)) == expected
    assert read(ChatReader("asked"), chunk(usage=USAGE)) is None
    early = read(ChatReader("asked"), chunk(usage=USAGE), chunk("stop"))
    assert early is not None
    assert early.output_tokens is None
    assert read(ChatReader("asked"), chunk("stop"), stopped_by_caller=True) is None


def test_of_several_choices_one_that_was_cut_makes_the_reply_cut() -> None:
    reader = ChatReader("asked")
    reader.whole({**CHAT, "choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}], "usage": USAGE})
    reply = reader.finish()
    assert reply is not None
    assert (reply.truncated, reply.success) == (True, False)


def response(status: str, reason: str | None = None, *items: str) -> dict[str, Any]:
    return {
        "id": "r1",
        "model": "m-4",
        "status": status,
        "incomplete_details": {"reason": reason},
        "output": [{"type": item} for item in items],
        "usage": {"input_tokens": 9, "output_tokens": 50, "output_tokens_details": {"reasoning_tokens": 40}},
    }


@pytest.mark.parametrize(
    ("body", "stop_reason", "success", "truncated"),
    [
        (response("completed"), "completed", True, False),
        (response("completed", None, "reasoning", "function_call"), "tool_calls", True, False),
        (response("completed", None, "web_search_call", "message"), "completed", True, False),
        (response("incomplete", "max_output_tokens"), "max_output_tokens", False, True),
        (response("incomplete", "content_filter"), "content_filter", False, False),
    ],
)
def test_a_response_says_why_it_ended(body: Any, stop_reason: str, success: bool, truncated: bool) -> None:
    event = {"type": f"response.{body['status']}", "response": body}
    reply = read(ResponsesReader("asked"), {"type": "response.created", "response": response("in_progress")}, event)
    assert reply is not None
    assert (reply.stop_reason, reply.success, reply.truncated) == (stop_reason, success, truncated)
    assert (reply.output_tokens, reply.reasoning_tokens, reply.model) == (50, 40, "m-4")


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled", "", None])
def test_a_response_that_is_not_made_is_no_reply(status: Any) -> None:
    reader = ResponsesReader("asked")
    reader.whole(response(status))
    assert reader.finish() is None


@pytest.mark.parametrize(
    ("stop_reason", "success", "truncated"),
    [
        ("end_turn", True, False),
        ("tool_use", True, False),
        ("STOP", True, False),
        ("max_tokens", False, True),
        ("MAX_TOKENS", False, True),
        ("model_context_window_exceeded", False, True),
        ("refusal", False, False),
        ("pause_turn", False, False),
        (None, False, False),
    ],
)
def test_complete_cut_and_neither(stop_reason: str | None, success: bool, truncated: bool) -> None:
    """A full context is a lower bound; a refusal and a pause are neither complete nor at a ceiling."""
    reply = ModelReply("m", 1, 2, stop_reason)
    assert (reply.success, reply.truncated) == (success, truncated)


@pytest.mark.parametrize("reader", [MessagesReader, ChatReader, ResponsesReader])
def test_hostile_shapes_are_no_error(reader: Any) -> None:
    shapes: list[Any] = [
        None,
        5,
        [],
        "text",
        {"type": ["x"]},
        {"choices": 7, "usage": []},
        {"type": "message_delta", "usage": 3},
    ]
    for odd in shapes:
        made = reader("asked")
        made.feed(odd)
        made.whole(odd)
        made.finish()
    long = MessagesReader("asked")
    long.whole({"id": "i" * 10_000, "model": "m" * 10_000, "stop_reason": "s" * 10_000, "usage": {"output_tokens": 1}})
    reply = long.finish()
    assert reply is not None
    assert (len(reply.model), len(reply.call_id or ""), len(reply.stop_reason or "")) == (200, 200, 200)
