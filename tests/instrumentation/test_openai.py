"""The unmodified SDK of OpenAI against a loopback server."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from tests.instrumentation.recording import CHAT, USAGE, Events, counted
from tests.openai_loopback import Answer, OpenAIServer, serve_openai

import autopack
from autopack.telemetry import lifecycle

openai = pytest.importorskip("openai", minversion="3.0")

RESPONSE: dict[str, Any] = {"model": "gpt-x", "max_output_tokens": 60, "input": "secret-prompt"}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serve_openai() as served:
        yield served


@pytest.fixture
def bare(server: OpenAIServer) -> Iterator[Any]:
    with httpx2.Client(trust_env=False) as http_client:
        yield openai.OpenAI(base_url=server.url, api_key="sk-secret-key", http_client=http_client, max_retries=1)
        gc.collect()


@pytest.fixture
def client(bare: Any, sink: Events) -> Any:
    return autopack.instrument(bare, telemetry=sink)


def create(client: Any) -> None:
    client.chat.completions.create(**CHAT)


def parse(client: Any) -> None:
    client.chat.completions.parse(**CHAT)


def stream(client: Any) -> None:
    list(client.chat.completions.create(**CHAT, **USAGE))


def stream_helper(client: Any) -> None:
    with client.chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as events:
        events.get_final_completion()


def raw_response(client: Any) -> None:
    client.chat.completions.with_raw_response.create(**CHAT).parse()


def raw_stream(client: Any) -> None:
    list(client.chat.completions.with_raw_response.create(**CHAT, **USAGE).parse())


def streaming_response(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        response.parse()


def streaming_response_as_json(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert response.json()["id"] == "call-1"


def streaming_response_of_a_stream(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, **USAGE) as response:
        list(response.parse())


def with_options(client: Any) -> None:
    create(client.with_options(timeout=5).copy())


def responses(client: Any) -> None:
    client.responses.create(**RESPONSE)


def responses_parse(client: Any) -> None:
    client.responses.parse(**RESPONSE)


def responses_stream(client: Any) -> None:
    list(client.responses.create(**RESPONSE, stream=True))


def responses_helper(client: Any) -> None:
    with client.responses.stream(**RESPONSE) as events:
        events.get_final_response()


@pytest.mark.parametrize(
    "call",
    [
        create,
        parse,
        stream,
        stream_helper,
        raw_response,
        raw_stream,
        streaming_response,
        streaming_response_as_json,
        streaming_response_of_a_stream,
        with_options,
        responses,
        responses_parse,
        responses_stream,
        responses_helper,
    ],
)
def test_each_way_to_call_is_one_event(call: Callable[[Any], None], client: Any, sink: Events) -> None:
    """Its counts are those that the server sent; a helper that calls another counts once."""
    with autopack.phase("p3", run_id="r", reasoning_level="high"), counted() as counts:
        call(client)
    (event,) = sink.take()
    expected = {
        "phase_id": "p3",
        "actual_output_tokens": 50,
        "input_tokens": 9,
        "cache_read_tokens": 4,
        "reasoning_tokens": 40,
        "reasoning_level": "high",
        "actual_max_tokens": 60,
        "success": True,
        "truncated": False,
        "model": "gpt-x-2026",
        "provider": "openai",
        "call_id": "call-1",
    }
    assert counts == {}
    assert {name: event[name] for name in expected} == expected


def test_what_is_sent_is_what_the_caller_says(client: Any, bare: Any, server: OpenAIServer) -> None:
    for one in (bare, client):
        one.chat.completions.create(**CHAT, **USAGE, reasoning_effort="low")
    assert server.requests[0] == server.requests[1]


def test_a_stream_without_usage_is_counted_and_said(
    client: Any, bare: Any, sink: Events, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle._warned.clear()
    with counted() as counts:
        for _ in range(2):
            list(client.chat.completions.create(**CHAT, stream=True))
    assert (sink.take(), counts) == ([], {"without_usage": 2})
    assert [record.getMessage() for record in caplog.records if "stream_usage" in record.getMessage()] != []
    assert caplog.text.count("stream_usage") == 1
    asking = autopack.instrument(bare, telemetry=sink, stream_usage=True)
    list(asking.chat.completions.create(**CHAT, stream=True))
    assert sink.take("actual_output_tokens") == [(50,)]
    assert server.requests[-1]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(("call", "finish"), [(create, "length"), (stream, "length"), (responses, "max_output_tokens")])
def test_what_reaches_the_ceiling_is_a_lower_bound(
    call: Callable[[Any], None], finish: str, client: Any, sink: Events, server: OpenAIServer
) -> None:
    server.answers.append(Answer(60, finish))
    call(client)
    assert sink.take("truncated", "success", "stop_reason") == [(True, False, finish)]


@pytest.mark.parametrize("call", [create, stream, responses, responses_stream])
def test_a_tool_loop_is_the_turns_of_one_execution(
    call: Callable[[Any], None], client: Any, sink: Events, server: OpenAIServer
) -> None:
    server.answers += [Answer(finish="tool_calls"), Answer(finish="tool_calls"), Answer()]
    with autopack.phase("loop", run_id=f"openai-{call.__name__}"):
        for _ in range(4):
            call(client)
    assert sink.take("attempt", "turn") == [(1, 1), (1, 2), (1, 3), (1, 1)]


def test_broken_streams_errors_and_retries_are_counted(client: Any, sink: Events, server: OpenAIServer) -> None:
    server.answers.append(Answer(drops=True))
    with counted() as counts:
        stream(client)
    assert (sink.take(), counts) == ([], {"broken_stream": 1})
    server.answers.append(Answer(status=429))
    with counted() as counts:
        create(client)
    assert (len(sink.take()), counts) == (1, {"retried": 1})
    server.answers.append(Answer(status=400))
    with counted() as counts, pytest.raises(openai.BadRequestError):
        create(client)
    assert (sink.take(), counts) == ([], {"error_400": 1})


def stop_after_one(client: Any) -> None:
    for _ in client.chat.completions.create(**CHAT, **USAGE):
        break
    gc.collect()


def stop_the_helper(client: Any) -> None:
    with client.chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as events:
        for _ in events:
            break


def leave_unread(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT):
        pass


@pytest.mark.parametrize("call", [stop_after_one, stop_the_helper, leave_unread])
def test_what_is_not_read_to_its_end_is_counted(call: Callable[[Any], None], client: Any, sink: Events) -> None:
    with counted() as counts:
        call(client)
    assert (sink.take(), counts) == ([], {"stopped_reading": 1})


def test_a_caller_who_stops_after_the_last_figures_is_recorded(client: Any, sink: Events) -> None:
    """Nothing is missing then."""
    for event in client.responses.create(**RESPONSE, stream=True):
        if event.type == "response.completed":
            break
    gc.collect()
    assert sink.take("actual_output_tokens") == [(50,)]


def test_other_endpoints_are_no_model_calls(client: Any, sink: Events, server: OpenAIServer) -> None:
    with counted() as counts:
        client.post("/embeddings", body={"model": "e", "input": "x"}, cast_to=object)
    assert (sink.take(), counts) == ([], {})
    assert len(server.requests) == 1


def test_a_reply_that_does_not_say_why_it_ended(client: Any, sink: Events, server: OpenAIServer) -> None:
    server.answers.append(Answer(finish=""))
    with autopack.phase("p3"), counted() as counts:
        create(client)
    assert (sink.take(), counts) == ([], {"without_stop_reason": 1})


def test_a_reply_of_the_background_is_none_yet(client: Any, sink: Events, server: OpenAIServer) -> None:
    server.answers.append(Answer(finish="queued"))
    with counted() as counts:
        client.responses.create(**RESPONSE, background=True)
    assert (sink.take(), counts) == ([], {"without_usage": 1})


def test_azure_is_read_alike(server: OpenAIServer, sink: Events) -> None:
    with httpx2.Client(trust_env=False) as http_client:
        endpoint = server.url.removesuffix("/v1")
        bare = openai.AzureOpenAI(
            azure_endpoint=endpoint, api_key="k", api_version="2024-10-21", http_client=http_client
        )
        create(autopack.instrument(bare, telemetry=sink).with_options(timeout=5))
        gc.collect()
    assert sink.take("provider", "actual_output_tokens") == [("azure.ai.openai", 50)]


@pytest.mark.slow
async def test_asynchronous_clients_are_read_alike(server: OpenAIServer, sink: Events) -> None:
    """Calls, streams, helpers, raw responses, twenty tasks at once, one that is cancelled."""
    async with openai.AsyncOpenAI(
        base_url=server.url, api_key="k", http_client=httpx2.AsyncClient(trust_env=False)
    ) as bare:
        client = autopack.instrument(bare, telemetry=sink)
        with autopack.phase("p3", run_id="asynchronous"):
            await client.chat.completions.create(**CHAT)
            async for _ in await client.chat.completions.create(**CHAT, **USAGE):
                pass
            async with client.chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as events:
                await events.get_final_completion()
            async with client.responses.stream(**RESPONSE) as events:
                await events.get_final_response()
            async with client.chat.completions.with_streaming_response.create(**CHAT) as response:
                await response.parse()
            (await client.chat.completions.with_raw_response.create(**CHAT)).parse()
            assert sink.take("phase_id", "actual_output_tokens") == [("p3", 50)] * 6
            await asyncio.gather(*(client.responses.create(**RESPONSE) for _ in range(20)))
            assert sink.take("attempt", "turn") == [(1, 1)] * 20
            server.answers.append(Answer(stall_s=5))
            with counted() as counts:
                events = await client.chat.completions.create(**CHAT, **USAGE)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(_drain(events), 0.3)
                await events.close()
            server.released.set()
        assert (sink.take(), counts) == ([], {"stopped_reading": 1})


async def _drain(events: Any) -> None:
    async for _ in events:
        pass


def test_nothing_of_the_content_is_kept(client: Any, sink: Events, server: OpenAIServer) -> None:
    server.default = Answer(text="secret-output", finish="tool_calls")
    for call in (create, stream, responses, responses_stream, raw_response):
        call(client)
    text = repr(sink.take())
    assert "secret" not in text
    assert "call-1" in text
