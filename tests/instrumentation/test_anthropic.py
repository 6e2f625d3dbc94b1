"""The unmodified SDK against the product's own loopback server, by both ways: its spans, and at `request`.

`scripts/matrix sdks` runs this with the last SDKs before 2.0 and before 1.0, which have no spans of their own.
"""

import asyncio
import gc
import http.server
import importlib
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import pytest
from opentelemetry import baggage, context, trace
from tests.instrumentation.recording import MESSAGES, Events, Script, a_reply, counted

import autopack
from autopack.instrumentation.calls import Recording
from autopack.instrumentation.sdk_requests import instrument_requests
from autopack.loopback.replies import Refusal

Wrap = Callable[..., Any]

TRACES_ITSELF = "open_telemetry" in inspect.signature(anthropic.Anthropic).parameters
# Before 1.0 the SDK's HTTP client was httpx, which httpx2 continues under the same names.
http_library: Any = (
    httpx2 if issubclass(anthropic.DefaultHttpxClient, httpx2.Client) else importlib.import_module("httpx")
)


def by_spans(client: Any, sink: Events) -> Any:
    return autopack.instrument(client, telemetry=sink)


def by_requests(client: Any, sink: Events) -> Any:
    """As for the SDKs before 2.0."""
    return instrument_requests(client, Recording(sink), sdk="anthropic")


_opened: list[Any] = []


@pytest.fixture(autouse=True)
def _close_what_was_opened() -> Iterator[None]:
    yield
    gc.collect()
    while _opened:
        _opened.pop().close()


def bare_client(url: str, **options: Any) -> anthropic.Anthropic:
    http_client = http_library.Client(trust_env=False)
    _opened.append(http_client)
    return anthropic.Anthropic(base_url=url, api_key="sk-secret-key", http_client=http_client, **options)


def async_client(url: str) -> anthropic.AsyncAnthropic:
    http_client = http_library.AsyncClient(trust_env=False)
    return anthropic.AsyncAnthropic(base_url=url, api_key="sk-secret-key", http_client=http_client)


WAYS = (by_spans, by_requests) if TRACES_ITSELF else (by_requests,)
both = pytest.mark.parametrize("wrap", WAYS)
only_by_spans = pytest.mark.skipif(not TRACES_ITSELF, reason="this SDK does not trace itself")


def create(client: Any) -> None:
    client.messages.create(**MESSAGES)


def create_in_beta(client: Any) -> None:
    client.beta.messages.create(**MESSAGES)


def raw_stream(client: Any) -> None:
    list(client.messages.create(stream=True, **MESSAGES))


def stream_helper(client: Any) -> None:
    with client.messages.stream(**MESSAGES) as stream:
        stream.get_final_message()


def raw_response(client: Any) -> None:
    client.messages.with_raw_response.create(**MESSAGES).parse()


def raw_response_of_a_stream(client: Any) -> None:
    list(client.messages.with_raw_response.create(stream=True, **MESSAGES).parse())


def streaming_response_of_a_stream(client: Any) -> None:
    with client.messages.with_streaming_response.create(stream=True, **MESSAGES) as response:
        list(response.parse())


def with_options(client: Any) -> None:
    create(client.with_options(timeout=5))


def with_spans_off(client: Any) -> None:
    create(client.with_options(open_telemetry=False))


def with_a_conversation(client: Any) -> None:
    create(client.with_options(open_telemetry={"conversation_id": "c"}))


def with_its_own_option_again(client: Any) -> None:
    create(client.with_options(open_telemetry={**client.open_telemetry, "traces": False}).copy())


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    "call",
    [
        create,
        create_in_beta,
        raw_stream,
        stream_helper,
        raw_response,
        raw_response_of_a_stream,
        streaming_response_of_a_stream,
        with_options,
        pytest.param(with_spans_off, marks=only_by_spans),
        pytest.param(with_a_conversation, marks=only_by_spans),
        pytest.param(with_its_own_option_again, marks=only_by_spans),
    ],
)
def test_each_way_to_call_is_one_event(wrap: Wrap, call: Callable[[Any], None], url: str, sink: Events) -> None:
    """Its counts are those that the server sent."""
    client = wrap(bare_client(url), sink)
    with autopack.phase("p3", run_id="r", category="refactoring"), counted() as counts:
        call(client)
    (event,) = sink.take()
    assert counts == {}
    assert event["call_id"].startswith("msg_")
    expected = {
        "run_id": "r",
        "phase_id": "p3",
        "category": "refactoring",
        "predicted_output_tokens": 4550,
        "actual_output_tokens": 77,
        "input_tokens": 11,
        "actual_max_tokens": 100,
        "success": True,
        "truncated": False,
        "stop_reason": "end_turn",
        "model": "claude-x",
        "provider": "anthropic",
        "cache_read_tokens": 0,
        "turn": 1,
    }
    assert {name: event[name] for name in expected} == expected


def stop_after_one_event(client: Any) -> None:
    for _ in client.messages.create(stream=True, **MESSAGES):
        break
    gc.collect()


def stop_the_helper(client: Any) -> None:
    with client.messages.stream(**MESSAGES) as stream:
        for _ in stream.text_stream:
            break


def read_nothing(client: Any) -> None:
    client.messages.create(stream=True, **MESSAGES)
    gc.collect()


def open_and_leave(client: Any) -> None:
    with client.messages.with_streaming_response.create(**MESSAGES):
        pass


@pytest.mark.slow
@both
@pytest.mark.parametrize("call", [stop_after_one_event, stop_the_helper, read_nothing, open_and_leave])
def test_a_reply_that_is_not_read_to_its_end_is_counted(
    wrap: Wrap, call: Callable[[Any], None], url: str, sink: Events
) -> None:
    client = wrap(bare_client(url), sink)
    with autopack.phase("p3"), counted() as counts:
        call(client)
    assert (sink.take(), counts) == ([], {"stopped_reading": 1})


@both
def test_a_body_that_ends_early_is_no_event(wrap: Wrap, url: str, script: Script, sink: Events) -> None:
    """Not one of 1 token, which is what its first event says."""
    script.answers.append(a_reply(50, drops=True))
    client = wrap(bare_client(url), sink)
    with autopack.phase("p3"), counted() as counts, pytest.raises(http_library.RemoteProtocolError):
        raw_stream(client)
    assert (sink.take(), counts) == ([], {"broken_stream": 1})


@both
def test_errors_and_retries_are_counted(wrap: Wrap, url: str, script: Script, sink: Events) -> None:
    """An attempt that the SDK repeats is none; the one that succeeds is one event."""
    client = wrap(bare_client(url, max_retries=1), sink)
    script.answers += [Refusal(429, "rate_limit_error", "no", 1)]
    with autopack.phase("p3"):
        with counted() as counts:
            create(client)
        assert (len(sink.take()), counts) == (1, {"retried": 1})
        script.answers += [Refusal(400, "invalid_request_error", "no")]
        with counted() as counts, pytest.raises(anthropic.BadRequestError):
            create(client)
        assert (sink.take(), counts) == ([], {"error_400": 1})
        script.answers.append(a_reply(gives_usage=False))
        with counted() as counts:
            create(client)
        assert (sink.take(), counts) == ([], {"without_usage": 1})


@both
def test_turns_and_attempts_of_a_phase(wrap: Wrap, url: str, script: Script, sink: Events) -> None:
    client = wrap(bare_client(url), sink)
    script.answers += [a_reply(stop_reason="tool_use"), a_reply(stop_reason="tool_use"), a_reply(100, "max_tokens")]
    with autopack.phase("loop", run_id=f"turns-{wrap.__name__}"):
        for _ in range(4):
            create(client)
    assert sink.take("attempt", "turn", "truncated") == [(1, 1, False), (1, 2, False), (1, 3, True), (2, 1, False)]


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("stop_reason", "success", "truncated"),
    [("model_context_window_exceeded", False, True), ("refusal", False, False), ("pause_turn", False, False)],
)
def test_a_reply_that_is_not_complete_is_no_success(  # noqa: PLR0917 (a table's columns and three fixtures)
    wrap: Wrap, stop_reason: str, success: bool, truncated: bool, url: str, script: Script, sink: Events
) -> None:
    script.answers.append(a_reply(stop_reason=stop_reason))
    create(wrap(bare_client(url), sink))
    assert sink.take("success", "truncated") == [(success, truncated)]


@both
async def test_twenty_tasks_at_once_are_twenty_executions(wrap: Wrap, url: str, sink: Events) -> None:
    async with async_client(url) as bare:
        client = wrap(bare, sink)
        with autopack.phase("many", run_id=f"twenty-{wrap.__name__}"):
            await asyncio.gather(*(client.messages.create(**MESSAGES) for _ in range(20)))
    assert sink.take("phase_id", "actual_output_tokens", "attempt", "turn") == [("many", 77, 1, 1)] * 20


@pytest.mark.slow
@both
async def test_a_cancelled_call_is_counted(wrap: Wrap, url: str, script: Script, sink: Events) -> None:
    async with async_client(url) as bare:
        client = wrap(bare, sink)
        script.answers += [a_reply(stall_s=5), a_reply(stall_s=5)]
        with autopack.phase("p3"), counted() as counts:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.messages.create(**MESSAGES), 0.3)
            stream = await client.messages.create(stream=True, **MESSAGES)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_drain(stream), 0.3)
            await stream.close()
    assert (sink.take(), counts) == ([], {"cancelled": 1, "stopped_reading": 1})


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass


@both
def test_the_phase_is_the_one_in_which_the_call_starts(wrap: Wrap, url: str, sink: Events) -> None:
    """Also where the stream is read in another phase, in none, or in another thread."""
    client = wrap(bare_client(url), sink)
    with autopack.phase("first"):
        stream = client.messages.create(stream=True, **MESSAGES)
    with autopack.phase("second"):
        list(stream)
    with autopack.phase("third"):
        stream = client.messages.create(stream=True, **MESSAGES)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(list, stream).result()
    assert sink.take("phase_id") == [("first",), ("third",)]


@both
def test_threads_that_are_bound_are_in_the_phase(wrap: Wrap, url: str, sink: Events) -> None:
    client = wrap(bare_client(url), sink)
    with autopack.phase("p3"), ThreadPoolExecutor(4) as pool:
        list(pool.map(autopack.bind(create), [client] * 8))
        assert sink.take("phase_id") == [("p3",)] * 8
        pool.submit(create, client).result()
    assert sink.take("category") == [("unattributed",)]


def test_calls_outside_a_phase_are_unattributed(url: str, sink: Events) -> None:
    """They are seen: in rows of a category of their own, in a count, and, if they are dropped, by that reason."""
    client = autopack.instrument(bare_client(url), telemetry=sink)
    create(client)
    (event,) = sink.take()
    said = ("unattributed", 0, 0, None, None)
    names = ("category", "predicted_output_tokens", "selected_budget", "attempt", "turn")
    assert tuple(event[name] for name in names) == said
    assert event["run_id"].startswith("process-")
    dropping = autopack.instrument(bare_client(url), telemetry=sink, unattributed="drop")
    with counted() as counts:
        create(dropping)
    assert (sink.take(), counts) == ([], {"unattributed": 1})
    with pytest.raises(ValueError, match="record"):
        autopack.instrument(bare_client(url), telemetry=sink, unattributed="lose")  # type: ignore[arg-type]


def test_the_copy_is_of_the_same_type_and_shares_the_connection(url: str, sink: Events) -> None:
    client = bare_client(url)
    made = autopack.instrument(client, telemetry=sink)
    assert isinstance(made, anthropic.Anthropic)
    assert type(made).__name__ == "Anthropic"
    assert made is not client
    assert made._client is client._client
    assert autopack.instrument(made, telemetry=sink) is made
    create(client)
    assert sink.take() == []


def test_bedrock_and_vertex_are_read_alike(sink: Events) -> None:
    """Their requests go to other paths; the way to them is the same."""
    http_client = http_library.Client(transport=http_library.MockTransport(_answer), trust_env=False)
    takes_a_key = "api_key" in inspect.signature(anthropic.AnthropicBedrock).parameters
    account: dict[str, Any] = {"api_key": "b"} if takes_a_key else {"aws_access_key": "a", "aws_secret_key": "s"}
    bedrock = anthropic.AnthropicBedrock(
        aws_region="us-east-1", base_url="http://127.0.0.1:9", http_client=http_client, **account
    )
    project: dict[str, Any] = {"region": "us-east1", "project_id": "p", "access_token": "t"}
    vertex = anthropic.AnthropicVertex(**project, base_url="http://127.0.0.1:9", http_client=http_client)
    for bare in (bedrock, vertex):
        for wrap in WAYS:
            client = wrap(bare, sink)
            assert type(client).__mro__[1] is type(bare)
            assert client._client is http_client
            create(client)
            assert sink.take("actual_output_tokens") == [(7,)]
            if bare.copy()._client is http_client:  # not with every release of Bedrock's
                create(client.with_options(timeout=5))
                assert sink.take("actual_output_tokens") == [(7,)]


BODY = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "x"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 7},
}


def _answer(_request: Any) -> Any:
    return http_library.Response(200, json=BODY)


@contextmanager
def serving_headers() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that keeps the headers that tell a trace."""
    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            names = ("traceparent", "tracestate", "baggage")
            seen.append({name: self.headers[name] for name in names if name in self.headers})
            data = json.dumps(BODY).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@only_by_spans
def test_spans_and_headers_are_equal_with_and_without_us(sink: Events) -> None:
    """For a provider of the client's own, content and conversation included, with propagation on and off."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    options: list[Any] = [
        {"tracer_provider": provider},
        {"tracer_provider": provider, "propagation": False},
        {"tracer_provider": provider, "conversation_id": "c-1", "traces": {"content_mode": "content"}},
        {"tracer_provider": provider, "traces": False},
        False,
        {},
    ]
    with serving_headers() as (url, headers):
        for option in options:
            seen = []
            for instrumented in (False, True):
                client = bare_client(url, open_telemetry=option)
                if instrumented:
                    client = autopack.instrument(client, telemetry=sink)
                exporter.clear()
                headers.clear()
                token = context.attach(baggage.set_baggage("tenant", "t1"))
                with provider.get_tracer("user").start_as_current_span("outer") as outer:
                    create(client)
                    assert trace.get_current_span() is outer
                context.detach(token)
                spans = exporter.get_finished_spans()
                described = [
                    (span.name, span.kind, span.status.status_code, _stable(span), bool(span.parent)) for span in spans
                ]
                kept = [{name: value[:3] for name, value in found.items()} for found in headers]
                parent = spans[0].context.span_id if len(spans) > 1 else spans[-1].context.span_id
                sent = headers[0].get("traceparent", "")
                seen.append((described, kept, f"{parent:016x}" in sent))
            assert seen[0] == seen[1], option
    assert len(sink.take()) == len(options)


def _stable(span: Any) -> list[tuple[str, Any]]:
    changing = ("time_to_first_chunk", "server.port", "url.full")
    return sorted((name, value) for name, value in span.attributes.items() if not name.endswith(changing))


def test_content_is_never_kept(url: str, sink: Events) -> None:
    """Also where the client's own spans have it."""
    option: dict[str, Any] = {"open_telemetry": {"traces": {"content_mode": "content"}}} if TRACES_ITSELF else {}
    client = bare_client(url, **option)
    made = autopack.instrument(client, telemetry=sink)
    with autopack.phase("p3"):
        for call in (create, stream_helper, raw_stream):
            call(made)
    text = repr(sink.take())
    assert "secret" not in text
    assert "77" in text
