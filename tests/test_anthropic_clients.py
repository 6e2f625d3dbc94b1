from __future__ import annotations

import asyncio
import gc
import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack.anthropic_clients import (
    AnthropicBuilderClient,
    _write_token_estimation_v2_telemetry,
    open_client,
    open_loopback_client,
)
from autopack.build.phase import describe_call, prescribed_budget, prompt_of
from autopack.build.reply import PhaseResult, log_line
from autopack.build.sdk import check_setup, describe_call_error
from autopack.coefficients import shipped_coefficients
from autopack.errors import ClientSetupError, MissingCredentialsError
from autopack.instrumentation.replies import MessagesReader, ModelReply
from autopack.loopback.replies import RecordedReplies, RecordedReply, Refusal, Reply, ReplyRequest, ReplySource
from autopack.loopback.server import serve_messages
from autopack.loopback.simulation import Faults, SimulatedReplies
from autopack.telemetry import Telemetry, get_telemetry
from autopack.telemetry.stores import MemoryStore

COEFFICIENTS = shipped_coefficients()
SPEC = {
    "run_id": "nightly",
    "phase_id": "p1",
    "category": "implementation",
    "complexity": "medium",
    "description": "Add a clock",
    "deliverables": ["src/clock.py", "tests/test_clock.py"],
}


class Events:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def record(self, **fields: Any) -> bool:
        self.events.append(fields)
        return True


class Script:
    """Gives its answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: Reply | Refusal) -> None:
        self.answers = list(answers)
        self.asked: list[ReplyRequest] = []

    def reply(self, request: ReplyRequest) -> Reply | Refusal:
        self.asked.append(request)
        return self.answers.pop(0)


def a_reply(**changes: Any) -> Reply:
    fields = {"model": "m-1", "input_tokens": 900, "output_tokens": 3137, "stop_reason": "end_turn", "text": "done"}
    return Reply(**{**fields, **changes})


@asynccontextmanager
async def client_of(source: ReplySource, **options: Any) -> AsyncIterator[AnthropicBuilderClient]:
    with serve_messages(source) as url:
        async with open_loopback_client(url, **{"provider": "recorded", "telemetry": Events(), **options}) as client:
            yield client


async def execute(
    source: ReplySource, spec: Mapping[str, Any] = SPEC, existing: list[str] | None = None, **options: Any
) -> tuple[PhaseResult, list[dict[str, Any]]]:
    sink = Events()
    async with client_of(source, telemetry=sink, **options) as client:
        return await client.execute_phase(spec, existing=existing), sink.events


async def test_each_reply_becomes_one_event_with_all_that_is_known() -> None:
    """Each reply becomes one event with everything that is known of it."""
    ticks = iter([10.0, 12.5])
    result, events = await execute(Script(a_reply()), existing=["src/clock.py"], clock=lambda: next(ticks))
    assert result == PhaseResult(True, 4037, "done", "end_turn", None, 1)
    assert events == [
        {
            "run_id": "nightly",
            "phase_id": "p1",
            "category": "implementation",
            "complexity": "medium",
            "deliverables": ["src/clock.py", "tests/test_clock.py"],
            "predicted_output_tokens": int((3000 + 700 + 1400) * 1.3),
            "actual_output_tokens": 3137,
            "selected_budget": 12288,
            "success": True,
            "truncated": False,
            "stop_reason": "end_turn",
            "model": "m-1",
            "actual_max_tokens": 16384,
            "input_tokens": 900,
            "duration_ms": 2500,
            "existing": ["src/clock.py"],
            "provider": "recorded",
            "call_id": events[0]["call_id"],
            "attempt": 1,
            "turn": 1,
            "reasoning_tokens": None,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "attributes": None,
        }
    ]


async def test_an_event_is_accepted_by_the_real_telemetry() -> None:
    store = MemoryStore()
    with Telemetry(store) as telemetry:
        async with client_of(Script(a_reply()), telemetry=telemetry) as client:
            await client.execute_phase(SPEC)
        assert telemetry.flush(5)
        stats = telemetry.stats()
    assert (stats.accepted, stats.written, stats.dead_lettered) == (1, 1, 0)


async def test_a_truncated_reply_is_retried_once_with_a_larger_ceiling() -> None:
    """A truncated reply is asked for once more, with a larger ceiling."""
    cut = a_reply(output_tokens=16384, stop_reason="max_tokens")
    source = Script(cut, a_reply(output_tokens=16205))
    result, events = await execute(source)
    assert [(asked.attempt, asked.max_tokens) for asked in source.asked] == [(1, 16384), (2, 20480)]
    assert [(event["success"], event["truncated"], event["actual_max_tokens"]) for event in events] == [
        (False, True, 16384),
        (True, False, 20480),
    ]
    assert {(event["run_id"], event["phase_id"]) for event in events} == {("nightly", "p1")}
    assert [event["attempt"] for event in events] == [1, 2]
    assert result == PhaseResult(True, 16384 + 16205 + 1800, "done", "end_turn", None, 2)


async def test_a_reply_that_is_truncated_twice_is_a_failure() -> None:
    """A reply that is truncated twice is a failure, and is not asked for again."""
    source = SimulatedReplies(1, faults=Faults(truncate=1.0))
    result, events = await execute(source)
    assert (result.success, result.attempts, result.stop_reason) == (False, 2, "max_tokens")
    assert result.error == "the reply was cut off at the ceiling, after 20480 tokens"
    assert [event["actual_output_tokens"] for event in events] == [16384, 20480]


async def test_a_budget_above_the_floor_is_the_ceiling() -> None:
    spec = {**SPEC, "metadata": {"token_prediction": {"selected_budget": 30_000}}}
    source = Script(a_reply())
    _, events = await execute(source, spec)
    assert source.asked[0].max_tokens == 30_000
    assert (events[0]["selected_budget"], events[0]["actual_max_tokens"]) == (30_000, 30_000)


async def test_a_reply_without_usage_is_recorded_with_the_total(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A reply without usage is recorded with the total in place of the output."""
    with caplog.at_level(logging.INFO, logger="autopack.anthropic_clients"):
        result, events = await execute(Script(a_reply(gives_usage=False)))
    assert result.success
    assert result.tokens_used == 900
    assert events[0]["actual_output_tokens"] == 900
    assert events[0]["attributes"] == {"usage": "total"}
    assert (events[0]["truncated"], events[0]["stop_reason"], events[0]["success"]) == (False, None, True)
    assert "actual_total=900 " in caplog.messages[0]
    assert "stop_reason=None truncated=False" in caplog.messages[0]


async def test_a_truncated_reply_without_usage_is_retried() -> None:
    """A truncated reply without usage is retried, although its event does not say that it was truncated."""
    cut = a_reply(gives_usage=False, stop_reason="max_tokens")
    result, events = await execute(Script(cut, cut))
    assert (result.success, result.attempts) == (False, 2)
    assert [(event["truncated"], event["stop_reason"]) for event in events] == [(False, None)] * 2


async def test_a_refusal_by_the_model_is_no_success() -> None:
    result, events = await execute(Script(a_reply(stop_reason="refusal")))
    assert (result.success, result.error) == (False, "the reply stopped for the reason refusal")
    assert events[0]["success"] is False


async def test_the_logged_line_has_the_form_of_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="autopack.anthropic_clients"):
        await execute(Script(a_reply()))
    assert caplog.messages == [
        "[TokenEstimationV2] predicted_output=8320 actual_output=3137 smape=90.5% selected_budget=12288"
        " category=implementation complexity=medium deliverables=2 success=True stop_reason=end_turn"
        " truncated=False model=m-1"
    ]


@given(*[st.text(st.characters(exclude_categories=()), max_size=300)] * 4)
def test_no_text_from_outside_can_add_a_line_or_a_field_to_the_log(
    category: str, complexity: str, stop_reason: str, model: str
) -> None:
    call = describe_call({**SPEC, "category": category, "complexity": complexity}, COEFFICIENTS)
    line = log_line(call, ModelReply(model, 1, 2, stop_reason))
    assert len(line.split()) == 12
    assert len(line.splitlines()) == 1
    assert [field.partition("=")[0] for field in line.split()[1:]] == [
        "predicted_output",
        "actual_output",
        "smape",
        "selected_budget",
        "category",
        "complexity",
        "deliverables",
        "success",
        "stop_reason",
        "truncated",
        "model",
    ]
    line.encode()


async def test_a_phase_without_a_reply_is_a_failed_result_and_no_event() -> None:
    result, events = await execute(RecordedReplies([RecordedReply("p2", "m", 1, 1, "end_turn")]))
    assert result == PhaseResult(False, 0, "", None, "404 not_found_error: no recorded reply for phase 'p1'", 1)
    assert events == []


async def test_the_sdk_repeats_a_refused_request_before_the_call_fails() -> None:
    busy = Refusal(529, "overloaded_error", "overloaded", retry_after_ms=1)
    source = Script(busy, busy, a_reply())
    result, events = await execute(source)
    assert [asked.http_retry for asked in source.asked] == [0, 1, 2]
    assert result.success
    assert len(events) == 1
    result, events = await execute(Script(busy, busy, busy))
    assert (result.error, events) == ("529 overloaded_error: overloaded", [])


async def test_a_reply_that_breaks_off_is_a_failed_result_and_no_event() -> None:
    result, events = await execute(Script(a_reply(drops=True)))
    assert not result.success
    assert result.error is not None
    assert "peer closed connection" in result.error
    assert events == []


@pytest.mark.slow
async def test_a_server_that_is_gone_is_a_failed_result() -> None:
    with serve_messages(Script()) as url:
        pass
    async with open_loopback_client(url, telemetry=Events()) as client:
        result = await client.execute_phase(SPEC)
    assert (result.success, result.error) == (
        False,
        "APIConnectionError: Connection error. (ConnectError: All connection attempts failed)",
    )


def test_the_reason_of_a_failure_is_one_line_without_secrets() -> None:
    reason = describe_call_error(
        RuntimeError("key sk-ant-api03-abcdef at\nhttps://user:hunter2@proxy/\x1b[2J" + "x" * 1000)
    )
    assert reason.startswith("RuntimeError: key sk-*** at\\nhttps://user:***@proxy/\\x1b[2J")
    assert len(reason) < 400


@pytest.mark.slow
async def test_a_key_that_no_header_can_carry_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "hunter2\n")
    with serve_messages(Script()) as url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        async with open_client(telemetry=Events()) as client:
            result = await client.execute_phase(SPEC)
    assert result.error == "APIConnectionError: Connection error. (LocalProtocolError)"


class RaisesOnRecord:
    def record(self, **_fields: Any) -> bool:
        raise RuntimeError


class ReturnsGarbage:
    def record(self, **_fields: Any) -> bool:
        return "no bool"  # type: ignore[return-value]

    def __bool__(self) -> bool:
        raise RuntimeError


@pytest.mark.slow
@pytest.mark.parametrize("broken", [RaisesOnRecord(), ReturnsGarbage(), object(), 0, ""])
async def test_telemetry_that_is_broken_changes_nothing_about_the_result(broken: Any) -> None:
    result, _ = await execute(Script(a_reply()))
    async with client_of(Script(a_reply()), telemetry=broken) as client:
        assert await client.execute_phase(SPEC) == result


async def test_a_cancelled_call_is_cancelled_and_not_a_result() -> None:
    async with client_of(Script(a_reply(stall_s=3600.0))) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.execute_phase(SPEC)


async def test_the_loopback_server_is_reached_past_any_proxy_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loopback server is reached whatever the proxy variables say."""
    from anthropic import APIConnectionError, AsyncAnthropic

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    source = Script(a_reply(), a_reply())
    with serve_messages(source) as url:
        async with open_loopback_client(url, telemetry=Events()) as client:
            assert (await client.execute_phase(SPEC)).success
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as through_the_proxy:
            with pytest.raises(APIConnectionError):
                await through_the_proxy.models.list()


async def test_only_the_loopback_server_is_told_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Script(a_reply())
    with serve_messages(source) as url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
        monkeypatch.setenv("NO_PROXY", "*")
        async with open_client(telemetry=Events()) as client:
            assert (await client.execute_phase(SPEC)).success
    assert source.asked[0].phase_id is None


async def test_without_credentials_a_call_is_a_failed_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve_messages(Script()) as url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        async with open_client(telemetry=Events()) as client:
            result = await client.execute_phase(SPEC)
    assert not result.success
    assert "Could not resolve authentication method" in (result.error or "")
    with pytest.raises(MissingCredentialsError, match="set ANTHROPIC_API_KEY"):
        check_setup()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    assert check_setup() == url


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("ANTHROPIC_BASE_URL", "http://[::1", "InvalidURL: Invalid port"),
        ("ANTHROPIC_BASE_URL", "nonsense", "ANTHROPIC_BASE_URL: nonsense/ is no http:// or https:// URL"),
        ("ANTHROPIC_BASE_URL", "ftp://a:hunter2@x", "ANTHROPIC_BASE_URL: ftp://a:\\*\\*\\*@x is no http"),
        ("ANTHROPIC_BASE_URL", " ", "ANTHROPIC_BASE_URL: "),
        ("HTTPS_PROXY", "foo://a:hunter2@x:1", "Unknown scheme for proxy URL"),
        ("ALL_PROXY", "socks5://127.0.0.1:1", "ImportError: Using SOCKS proxy"),
        ("SSL_CERT_FILE", "/nope", "FileNotFoundError"),
        ("ANTHROPIC_API_KEY", "hunter2\n", "ANTHROPIC_API_KEY holds what cannot be sent"),
        ("ANTHROPIC_AUTH_TOKEN", "\x01hunter2", "ANTHROPIC_AUTH_TOKEN holds what cannot be sent"),
    ],
)
def test_an_environment_that_the_sdk_cannot_use_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    if name == "ANTHROPIC_AUTH_TOKEN":
        monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv(name, value)
    with pytest.raises(ClientSetupError, match=complaint) as raised:
        check_setup()
    assert "hunter2" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    gc.collect()
    assert capfd.readouterr().err == ""


def test_a_phase_that_says_little_gets_the_hosts_fallbacks() -> None:
    call = describe_call({}, COEFFICIENTS)
    assert (call.run_id, call.phase_id, call.category, call.complexity) == (
        "unknown",
        "unknown",
        "implementation",
        "medium",
    )
    assert (call.deliverables, call.existing, call.selected_budget) == ((), None, 12288)
    assert describe_call({"category": "docs", "task_category": "tests"}, COEFFICIENTS).category == "tests"
    assert describe_call({"category": "docs", "task_category": ""}, COEFFICIENTS).category == "docs"
    assert describe_call({"phase_id": 7, "run_id": None, "category": ["x"]}, COEFFICIENTS).phase_id == "7"


@pytest.mark.parametrize(
    ("metadata", "budget"),
    [
        ({"token_prediction": {"selected_budget": 9000}}, 9000),
        (None, None),
        ("text", None),
        ([], None),
        ({}, None),
        ({"token_prediction": None}, None),
        ({"token_prediction": [9000]}, None),
        ({"token_prediction": {"selected_budget": "9000"}}, None),
        ({"token_prediction": {"selected_budget": True}}, None),
        ({"token_prediction": {"selected_budget": 0}}, None),
        ({"token_prediction": {"selected_budget": -1}}, None),
        ({"token_prediction": {"selected_budget": 10**40}}, None),
    ],
)
def test_a_prescribed_budget_is_taken_where_there_is_one(metadata: Any, budget: int | None) -> None:
    assert prescribed_budget({"metadata": metadata}) == budget


def test_the_prompt_names_every_file_and_which_of_them_exist() -> None:
    prompt = prompt_of(describe_call(SPEC, COEFFICIENTS, existing=["src/clock.py"]))
    assert "Add a clock" in prompt
    assert "- src/clock.py (exists; change it)\n- tests/test_clock.py\n" in prompt


def test_a_stream_of_odd_events_gives_what_can_be_known() -> None:
    streamed = MessagesReader("asked")
    for event in [
        object(),
        SimpleNamespace(type="message_start"),
        SimpleNamespace(type="message_start", message=SimpleNamespace(usage=SimpleNamespace(input_tokens=True))),
        SimpleNamespace(type="content_block_delta"),
        SimpleNamespace(type="message_delta", usage=SimpleNamespace(output_tokens=-5, input_tokens=11)),
        SimpleNamespace(type="message_delta", delta=SimpleNamespace(stop_reason=7)),
    ]:
        streamed.feed(event)
    assert streamed.finish() is None
    streamed.feed(SimpleNamespace(type="message_stop"))
    assert streamed.finish() == ModelReply("asked", 11, None, None)


def test_tokens_from_the_prompt_cache_count_as_input() -> None:
    streamed = MessagesReader("asked")
    usage = SimpleNamespace(input_tokens=1, cache_creation_input_tokens=20, cache_read_input_tokens=300)
    streamed.feed(SimpleNamespace(type="message_start", message=SimpleNamespace(model="m", usage=usage)))
    streamed.feed(SimpleNamespace(type="message_delta", usage=SimpleNamespace(output_tokens=4000)))
    streamed.feed(SimpleNamespace(type="message_stop"))
    reply = streamed.finish()
    assert reply is not None
    assert (reply.input_tokens, reply.output_tokens, reply.total_tokens) == (321, 4000, 4321)


def test_the_hosts_helper_follows_flag_and_url_at_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host system's helper records as the flag and the URL say at the time of the call."""
    arguments: tuple[Any, ...] = (
        "r",
        "p",
        "tests",
        "low",
        ["a.py", ["b.py"]],
        100,
        150,
        8192,
        True,
        False,
        "end_turn",
        "m",
    )
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/one.db")
    monkeypatch.delenv("TELEMETRY_DB_ENABLED", raising=False)
    _write_token_estimation_v2_telemetry(*arguments)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("TELEMETRY_DB_ENABLED", "1")
    for name in ("one", "two"):
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/{name}.db")
        _write_token_estimation_v2_telemetry(*arguments)
        get_telemetry().close(5)
        with sqlite3.connect(tmp_path / f"{name}.db") as database:
            rows = database.execute(
                "SELECT run_id, deliverables_json, smape_percent, waste_ratio FROM token_estimation_v2_events"
            ).fetchall()
        database.close()
        assert [(row[0], json.loads(row[1]), *row[2:]) for row in rows] == [("r", ["a.py", "b.py"], 40, 66)]


def test_the_hosts_helper_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_DB_ENABLED", "1")
    garbage: Any = object()
    for url in ("mysql://x", f"sqlite:///{tmp_path}/three.db"):
        monkeypatch.setenv("DATABASE_URL", url)
        _write_token_estimation_v2_telemetry(*[garbage] * 12)
        get_telemetry().close(5)


def test_importing_the_client_imports_neither_the_sdk_nor_sqlalchemy() -> None:
    program = (
        "import sys, autopack.anthropic_clients;"
        "print([name for name in ('anthropic', 'sqlalchemy', 'httpx2', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
