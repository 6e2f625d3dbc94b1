"""Every stack that makes GenAI spans, and several of them on one call."""

import asyncio
import json
import time
from typing import Any

import anthropic
import httpx2
import pytest
from tests.instrumentation.recording import CHAT, MESSAGES, Events, Script, a_reply, counted
from tests.openai_loopback import serve_openai

import autopack
from autopack.instrumentation.span_nodes import open_spans

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode


@pytest.fixture
def provider(sink: Events) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(autopack.TelemetrySpanProcessor(telemetry=sink))
    return made


CURRENT: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "p",
    "gen_ai.request.model": "m",
    "gen_ai.request.max_tokens": 60,
    "gen_ai.request.reasoning.level": "low",
    "gen_ai.usage.input_tokens": 9,
    "gen_ai.usage.output_tokens": 50,
    "gen_ai.usage.reasoning.output_tokens": 40,
    "gen_ai.usage.cache_read.input_tokens": 4,
    "gen_ai.response.finish_reasons": ("length",),
    "gen_ai.response.id": "one-of-a-thousand",
}
FORMER: dict[str, Any] = {
    "gen_ai.operation.name": "text_completion",
    "gen_ai.system": "p",
    "gen_ai.request.model": "m",
    "gen_ai.request.max_tokens": 60,
    "gen_ai.request.reasoning_effort": "low",
    "gen_ai.usage.prompt_tokens": 9,
    "gen_ai.usage.completion_tokens": 50,
    "gen_ai.usage.reasoning_tokens": 40,
    "gen_ai.usage.cache_read_input_tokens": 4,
    "gen_ai.response.finish_reasons": ["length"],
}
OPENINFERENCE: dict[str, Any] = {
    "openinference.span.kind": "LLM",
    "llm.provider": "p",
    "llm.model_name": "m",
    "llm.invocation_parameters": json.dumps({"max_tokens": 60, "reasoning_effort": "low", "stop": "secret"}),
    "llm.token_count.prompt": 9,
    "llm.token_count.completion": 50,
    "llm.token_count.completion_details.reasoning": 40,
    "llm.token_count.prompt_details.cache_read": 4,
    "llm.finish_reason": "length",
    "llm.input_messages.0.message.content": "secret-prompt",
}


@pytest.mark.parametrize("attributes", [CURRENT, FORMER, OPENINFERENCE])
def test_names_of_every_kind_are_read(attributes: Any, provider: TracerProvider, sink: Events) -> None:
    with autopack.phase("p3", run_id="r"):
        provider.get_tracer("t").start_span("chat", attributes=attributes).end()
    (event,) = sink.take()
    expected = {
        "phase_id": "p3",
        "provider": "p",
        "model": "m",
        "actual_max_tokens": 60,
        "input_tokens": 9,
        "actual_output_tokens": 50,
        "reasoning_tokens": 40,
        "reasoning_level": "low",
        "cache_read_tokens": 4,
        "truncated": True,
        "stop_reason": "length",
    }
    assert {name: event[name] for name in expected} == expected
    assert "secret" not in repr(event)


@pytest.mark.parametrize(
    "attributes",
    [
        {**CURRENT, "gen_ai.operation.name": "invoke_agent"},
        {**CURRENT, "gen_ai.operation.name": "embeddings"},
        {**OPENINFERENCE, "openinference.span.kind": "AGENT"},
        {"http.method": "POST"},
    ],
)
def test_the_sum_of_an_agent_and_other_spans_are_no_calls(
    attributes: Any, provider: TracerProvider, sink: Events
) -> None:
    with counted() as counts:
        provider.get_tracer("t").start_span("x", attributes=attributes).end()
    assert (sink.take(), counts) == ([], {})


def test_what_has_no_closing_figures_is_counted(provider: TracerProvider, sink: Events) -> None:
    tracer = provider.get_tracer("t")
    without_reason = {name: value for name, value in CURRENT.items() if "finish" not in name}
    without_output = {name: value for name, value in CURRENT.items() if "output" not in name}
    with counted() as counts:
        tracer.start_span("chat", attributes=without_reason).end()
        tracer.start_span("chat", attributes=without_output).end()
        failed = tracer.start_span("chat", attributes={**CURRENT, "http.response.status_code": 529})
        failed.set_status(Status(StatusCode.ERROR))
        failed.end()
    assert sink.take() == []
    assert counts == {"without_stop_reason": 1, "without_usage": 1, "error_529": 1}


def test_of_nested_spans_the_innermost_counts(provider: TracerProvider, sink: Events) -> None:
    """Told by the chain of parents, over spans of other kinds and over any number of hooks."""
    tracer = provider.get_tracer("t")
    with (
        tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}),
        tracer.start_as_current_span("chat", attributes={**CURRENT, "gen_ai.usage.output_tokens": 1}),
        tracer.start_as_current_span("retry"),
    ):
        for tokens in (51, 52):
            tracer.start_span("chat", attributes={**CURRENT, "gen_ai.usage.output_tokens": tokens}).end()
    assert sink.take("actual_output_tokens") == [(51,), (52,)]
    assert len(open_spans) == 0


def test_an_inner_span_without_counts_leaves_the_call_to_the_outer(provider: TracerProvider, sink: Events) -> None:
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("chat", attributes=CURRENT), counted() as counts:
        tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
    assert sink.take("actual_output_tokens") == [(50,)]
    assert counts == {}


def test_calls_whose_ids_are_equal_are_calls_of_their_own(provider: TracerProvider, sink: Events) -> None:
    """Local servers give every reply the same id, or one of a thousand."""
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("request"):
        spans = [tracer.start_span("chat", attributes=CURRENT) for _ in range(20)]
        for span in spans:
            span.end()
    assert len(sink.take()) == 20


def test_the_phase_is_the_one_in_which_the_span_starts(provider: TracerProvider, sink: Events) -> None:
    """Also of a span that says only at its end that it is a call."""
    tracer = provider.get_tracer("t")
    with autopack.phase("first"):
        early, late = tracer.start_span("chat", attributes=CURRENT), tracer.start_span("x")
    with autopack.phase("second"):
        late.set_attributes({**CURRENT, "gen_ai.usage.output_tokens": 51})
        late.end()
        early.end()
    assert sorted(sink.take("phase_id", "actual_output_tokens")) == [("first", 50), ("first", 51)]


def test_a_hook_that_does_not_make_its_span_the_current_one(provider: TracerProvider, sink: Events) -> None:
    """A span of another hook beside it, in the same context and while it is open, is of the same call."""
    outer_hook, inner_hook = provider.get_tracer("outer"), provider.get_tracer("inner")
    for _ in range(3):
        outer = outer_hook.start_span("chat", attributes={"gen_ai.operation.name": "chat"})
        inner_hook.start_span("chat", attributes=CURRENT).end()
        outer.set_attributes({**CURRENT, "gen_ai.usage.output_tokens": 51})
        outer.end()
    assert sink.take("actual_output_tokens") == [(50,)] * 3


def test_open_spans_are_bounded(provider: TracerProvider) -> None:
    tracer = provider.get_tracer("t")
    spans = [tracer.start_span("never ended") for _ in range(10_100)]
    assert len(open_spans) == 10_000
    for span in spans:
        span.end()
    assert len(open_spans) == 0


def test_the_sdks_own_spans_and_an_instrumented_client_are_one_row(
    provider: TracerProvider, url: str, script: Script, sink: Events
) -> None:
    """With the processor, with the client, and with both on the same call."""
    with httpx2.Client(trust_env=False) as http_client:
        bare = anthropic.Anthropic(
            base_url=url, api_key="k", http_client=http_client, open_telemetry={"tracer_provider": provider}
        )
        for client in (bare, autopack.instrument(bare, telemetry=sink)):
            with autopack.phase("p3"), provider.get_tracer("user").start_as_current_span("outer"):
                client.messages.create(**MESSAGES)
                with client.messages.stream(**MESSAGES) as stream:
                    stream.get_final_message()
            assert sink.take("phase_id", "actual_output_tokens") == [("p3", 77)] * 2
            script.answers.append(a_reply(drops=True))
            with counted() as counts, pytest.raises(httpx2.RemoteProtocolError):
                list(client.messages.create(stream=True, **MESSAGES))
            assert (sink.take(), counts) == ([], {"broken_stream": 1})


def test_an_agents_span_around_an_instrumented_client_is_one_row(provider: TracerProvider, sink: Events) -> None:
    """OpenAI's client makes no spans, so the one around it has no inner span; it is told all the same."""
    openai = pytest.importorskip("openai", minversion="3.0")
    tracer = provider.get_tracer("framework")
    with serve_openai() as server, httpx2.Client(trust_env=False) as http_client:
        client = autopack.instrument(
            openai.OpenAI(base_url=server.url, api_key="k", http_client=http_client), telemetry=sink
        )
        with tracer.start_as_current_span("chat", attributes=CURRENT):
            client.chat.completions.create(**CHAT)
        start_ns = time.time_ns()
        client.chat.completions.create(**CHAT)
        tracer.start_span("afterwards", attributes=CURRENT, start_time=start_ns).end()
        assert len(sink.take()) == 2
        tracer.start_span("chat", attributes=CURRENT).end()
        assert len(sink.take()) == 1


@pytest.mark.slow
async def test_pydantic_ai_and_openinference_on_one_call_are_one_row(
    provider: TracerProvider, url: str, sink: Events
) -> None:
    """Native span, OpenInference's, pydantic-ai's and ours: one row, from whichever of them knows best."""
    pydantic_ai = pytest.importorskip("pydantic_ai")
    openinference = pytest.importorskip("openinference.instrumentation.anthropic")
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from pydantic_ai.providers.anthropic import AnthropicProvider

    hook = openinference.AnthropicInstrumentor()
    hook.instrument(tracer_provider=provider)
    pydantic_ai.Agent.instrument_all(InstrumentationSettings(tracer_provider=provider))
    try:
        async with httpx2.AsyncClient(trust_env=False) as http_client:
            bare = anthropic.AsyncAnthropic(
                base_url=url, api_key="k", http_client=http_client, open_telemetry={"tracer_provider": provider}
            )
            for client in (bare, autopack.instrument(bare, telemetry=sink)):
                model = AnthropicModel("claude-x", provider=AnthropicProvider(anthropic_client=client))
                agent = pydantic_ai.Agent(model, model_settings={"max_tokens": 100})
                with autopack.phase("p3"):
                    await agent.run("secret-prompt")
                (event,) = sink.take()
                assert (event["phase_id"], event["actual_output_tokens"], event["input_tokens"]) == ("p3", 77, 11)
                assert "secret" not in repr(event)
    finally:
        hook.uninstrument()
        pydantic_ai.Agent.instrument_all(False)


@pytest.mark.slow
def test_langchain_comes_through_spans(url: str, sink: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model class uses Anthropic's SDK, which makes spans for the registered provider."""
    langchain = pytest.importorskip("langchain_anthropic")
    registered = TracerProvider()
    registered.add_span_processor(autopack.TelemetrySpanProcessor(telemetry=sink))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", registered)
    monkeypatch.setenv("no_proxy", "*")
    model = langchain.ChatAnthropic(model="claude-x", max_tokens=100, base_url=url, api_key="k")
    with autopack.phase("p3"):
        model.invoke("secret-prompt")
        list(model.stream("secret-prompt"))
    assert sink.take("phase_id", "actual_output_tokens", "actual_max_tokens") == [("p3", 77, 100)] * 2


async def test_tasks_keep_their_phases_apart(provider: TracerProvider, sink: Events) -> None:
    async def one(number: int) -> None:
        with autopack.phase(f"p{number}"):
            span = provider.get_tracer("t").start_span("chat", attributes=CURRENT)
            await asyncio.sleep(0)
            span.end()

    await asyncio.gather(*map(one, range(5)))
    assert sorted(sink.take("phase_id")) == [(f"p{number}",) for number in range(5)]
