"""LiteLLM's functions against a loopback server that speaks OpenAI's API."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.instrumentation.recording import Events, counted
from tests.openai_loopback import Answer, OpenAIServer, serve_openai

import autopack

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network when it is imported
litellm = pytest.importorskip("litellm")

# What LiteLLM does with pydantic and event loops is its own.
pytestmark = pytest.mark.filterwarnings("ignore")
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


class WaitingEvents(Events):
    """Tells when an event has come: LiteLLM's callbacks run in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Semaphore(0)

    def record(self, **fields: Any) -> bool:
        super().record(**fields)
        self.came.release()
        return True

    def wait(self, *names: str) -> Any:
        assert self.came.acquire(timeout=10)
        (event,) = self.take(*names)
        return event


class Relay:
    """Hands events on to the sink of the present test: LiteLLM keeps the first callback of a class for good."""

    def __init__(self) -> None:
        self.sink = WaitingEvents()

    def record(self, **fields: Any) -> bool:
        return self.sink.record(**fields)


RELAY = Relay()
CALLBACK = autopack.LiteLLMCallback(telemetry=RELAY)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serve_openai() as served:
        yield served


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> WaitingEvents:
    made = RELAY.sink = WaitingEvents()
    monkeypatch.setattr(litellm, "callbacks", [CALLBACK])
    monkeypatch.setattr(litellm, "suppress_debug_info", True)
    monkeypatch.setenv("no_proxy", "*")
    return made


@pytest.fixture
def request_fields(server: OpenAIServer) -> dict[str, Any]:
    return {
        "model": "openai/gpt-x",
        "api_key": "sk-secret-key",
        "api_base": server.url,
        "max_tokens": 60,
        "messages": [{"role": "user", "content": "secret-prompt"}],
        "num_retries": 0,
    }


def until(counts: Callable[[], bool]) -> None:
    """Waits for what LiteLLM's own thread does, which nothing announces."""
    deadline_s = time.monotonic() + 10
    while not counts():
        gc.collect()
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)


def not_recorded(reason: str) -> int:
    return autopack.telemetry.not_recorded.snapshot()[reason]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_is_one_event(streamed: bool, sink: WaitingEvents, request_fields: dict[str, Any]) -> None:
    """Its id is left out: LiteLLM makes it up. The phase is that of the call, not of the callback's thread."""
    with autopack.phase("p3", run_id="r"):
        reply = litellm.completion(**request_fields, **(USAGE if streamed else {}))
    if streamed:
        list(reply)
    event = sink.wait()
    expected = {
        "phase_id": "p3",
        "actual_output_tokens": 50,
        "input_tokens": 9,
        "cache_read_tokens": 4,
        "reasoning_tokens": 40,
        "actual_max_tokens": 60,
        "stop_reason": "stop",
        "provider": "openai",
        "call_id": None,
    }
    assert {name: event[name] for name in expected} == expected
    assert "secret" not in repr(event)


async def test_asynchronous_calls_are_events_too(sink: WaitingEvents, request_fields: dict[str, Any]) -> None:
    with autopack.phase("p3"):
        await litellm.acompletion(**request_fields)
        assert await asyncio.to_thread(sink.wait, "phase_id", "actual_output_tokens") == ("p3", 50)
        async for _ in await litellm.acompletion(**request_fields, **USAGE):
            pass
    assert await asyncio.to_thread(sink.wait, "phase_id", "actual_output_tokens") == ("p3", 50)


def test_counts_that_litellm_guesses_are_none(sink: WaitingEvents, request_fields: dict[str, Any]) -> None:
    """Of a stream without usage its own tokenizer says 1 token."""
    before = not_recorded("without_usage")
    list(litellm.completion(**request_fields, stream=True))
    until(lambda: not_recorded("without_usage") == before + 1)
    assert sink.take() == []


def test_what_breaks_and_what_is_left_is_counted(
    sink: WaitingEvents, request_fields: dict[str, Any], server: OpenAIServer
) -> None:
    server.answers.append(Answer(drops=True))
    before = not_recorded("broken_stream")
    with pytest.raises(litellm.exceptions.MidStreamFallbackError):
        list(litellm.completion(**request_fields, **USAGE))
    until(lambda: not_recorded("broken_stream") == before + 1)
    server.answers.append(Answer(status=400))
    before = not_recorded("error_400")
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**request_fields)
    until(lambda: not_recorded("error_400") == before + 1)
    before = not_recorded("stopped_reading")
    for _ in litellm.completion(**request_fields, **USAGE):
        break
    until(lambda: not_recorded("stopped_reading") == before + 1)
    assert sink.take() == []


def test_a_request_names_its_phase_itself(sink: WaitingEvents, request_fields: dict[str, Any]) -> None:
    """As the callers of a proxy do; what is no phase is no error, and the phase of the context counts."""
    said = {"phase_id": "mine", "run_id": "theirs", "category": "refactoring"}
    litellm.completion(**request_fields, metadata={"autopack": said})
    assert sink.wait("phase_id", "run_id", "predicted_output_tokens") == ("mine", "theirs", 4550)
    with autopack.phase("p3"), counted():
        litellm.completion(**request_fields, metadata={"autopack": {"nonsense": 1}})
    assert sink.wait("phase_id") == ("p3",)


def test_turns_are_told(sink: WaitingEvents, request_fields: dict[str, Any], server: OpenAIServer) -> None:
    server.answers.append(Answer(finish="tool_calls"))
    with autopack.phase("loop", run_id="litellm"):
        litellm.completion(**request_fields)
        first = sink.wait("attempt", "turn")
        litellm.completion(**request_fields)
        assert (first, sink.wait("attempt", "turn")) == ((1, 1), (1, 2))


def test_responses_are_read_and_embeddings_are_not(sink: WaitingEvents, request_fields: dict[str, Any]) -> None:
    fields = {name: request_fields[name] for name in ("model", "api_key", "api_base")}
    litellm.embedding(**fields, input=["x"])
    litellm.responses(**fields, input="secret-prompt", max_output_tokens=33)
    assert sink.wait("actual_output_tokens", "actual_max_tokens", "stop_reason") == (50, 33, "completed")


def test_an_answer_from_the_cache_is_no_call(sink: WaitingEvents) -> None:
    with counted() as counts:
        CALLBACK.log_success_event({"cache_hit": True, "call_type": "completion"}, None, 0, 1)
    assert (sink.take(), counts) == ([], {"cached": 1})


async def test_litellms_own_cache_gives_no_calls(
    sink: WaitingEvents, request_fields: dict[str, Any], server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and streamed: of three equal requests each, one is sent."""
    pytest.importorskip("soundfile")  # LiteLLM's cache imports it, and LiteLLM does not require it
    monkeypatch.setattr(litellm, "cache", litellm.Cache())
    before = not_recorded("cached")
    kinds: list[dict[str, Any]] = [{}, USAGE]
    for number, more in enumerate(kinds, 1):
        for attempt in range(3):
            reply = await litellm.acompletion(**request_fields, **more)
            if more:
                assert [chunk async for chunk in reply]
            if attempt == 0:
                assert await asyncio.to_thread(sink.wait, "actual_output_tokens") == (50,)
                await asyncio.to_thread(until, partial(_is_filled, number))
    await asyncio.to_thread(until, lambda: not_recorded("cached") == before + 4)
    assert (len(server.requests), sink.take()) == (2, [])


def _is_filled(entries: int) -> bool:
    return len(litellm.cache.cache.cache_dict) == entries
