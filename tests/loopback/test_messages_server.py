from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack.build.phase import phase_headers
from autopack.build.plan import Phase
from autopack.build.sdk import describe_call_error
from autopack.errors import InputFileError
from autopack.loopback.replies import (
    RecordedReplies,
    RecordedReply,
    Refusal,
    Reply,
    ReplyRequest,
    ReplySource,
    parse_recording,
)
from autopack.loopback.server import serve_messages
from autopack.loopback.simulation import SIMULATED_MODEL, Faults, SimulatedReplies, parse_faults

RECORDING = [
    RecordedReply("p1", "claude-sonnet-4-5", 1164, 1218, "end_turn"),
    RecordedReply("p2", "claude-sonnet-4-5", 52441, 16384, "max_tokens"),
    RecordedReply("p2", "claude-sonnet-4-5", 52441, 16205, "end_turn"),
]


class Answers:
    """A source that gives the same answer to all, and keeps what it was asked."""

    def __init__(self, answer: Reply | Refusal) -> None:
        self.answer = answer
        self.asked: list[ReplyRequest] = []

    def reply(self, request: ReplyRequest) -> Reply | Refusal:
        self.asked.append(request)
        return self.answer


@contextmanager
def connected(source: ReplySource) -> Iterator[httpx2.Client]:
    with serve_messages(source) as url, httpx2.Client(base_url=url, trust_env=False, timeout=20) as http:
        yield http


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 16384, "messages": [{"role": "user", "content": "hello"}], **changes}


def request(
    phase_id: str | None = "p1", attempt: int = 1, http_retry: int = 0, max_tokens: int = 16384
) -> ReplyRequest:
    return ReplyRequest(phase_id, attempt, http_retry, "m", max_tokens, 400)


def a_reply(**changes: Any) -> Reply:
    fields = {"model": "m", "input_tokens": 7, "output_tokens": 50, "stop_reason": "end_turn", "text": "some text"}
    return Reply(**{**fields, **changes})


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data")]


async def test_the_unmodified_sdk_streams_a_reply() -> None:
    from anthropic import AsyncAnthropic

    with serve_messages(RecordedReplies(RECORDING)) as url:
        http = httpx2.AsyncClient(trust_env=False)
        async with (
            AsyncAnthropic(base_url=url, api_key="none", http_client=http) as sdk,
            sdk.messages.stream(
                model="m",
                max_tokens=16384,
                messages=[{"role": "user", "content": "hello"}],
                extra_headers=phase_headers("p1", 1),
            ) as stream,
        ):
            message = await stream.get_final_message()
    assert (message.model, message.stop_reason) == ("claude-sonnet-4-5", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (1164, 1218)


def test_the_unmodified_sdk_gets_a_whole_reply_and_typed_errors() -> None:
    from anthropic import Anthropic, NotFoundError

    with serve_messages(RecordedReplies(RECORDING)) as url, httpx2.Client(trust_env=False) as http:
        sdk = Anthropic(base_url=url, api_key="none", http_client=http)
        question: Any = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "hello"}]}
        message = sdk.messages.create(**question, extra_headers=phase_headers("p1", 1))
        assert (message.usage.output_tokens, message.stop_reason) == (1000, "max_tokens")
        with pytest.raises(NotFoundError) as refused:
            sdk.messages.create(**question, extra_headers=phase_headers("p1", 2))
    assert refused.value.type == "not_found_error"
    assert describe_call_error(refused.value) == "404 not_found_error: no further recorded reply for phase 'p1'"
    assert refused.value.request_id is not None


def test_usage_arrives_in_the_events_in_which_the_real_api_sends_it() -> None:
    with connected(Answers(a_reply())) as http:
        response = http.post("/v1/messages", json=body(stream=True))
    events = events_of(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 7
    assert events[0]["message"]["usage"]["output_tokens"] == 1
    assert events[0]["message"]["stop_reason"] is None
    assert events[6]["usage"] == {"output_tokens": 50}
    assert events[6]["delta"]["stop_reason"] == "end_turn"
    assert events[3]["delta"]["text"] + events[4]["delta"]["text"] == "some text"


def test_recorded_replies_come_in_order_per_phase_and_each_once() -> None:
    source = RecordedReplies(RECORDING)
    lengths = [reply.output_tokens for _ in range(2) if isinstance(reply := source.reply(request("p2")), Reply)]
    assert lengths == [16384, 16205]
    assert isinstance(source.reply(request("p2")), Refusal)
    assert isinstance(source.reply(request("p1")), Reply)


@given(st.integers(1, 40_000), st.integers(0, 40_000))
def test_no_recorded_reply_is_longer_than_the_request_allows(max_tokens: int, recorded_tokens: int) -> None:
    source = RecordedReplies([RecordedReply("p1", "m", 1, recorded_tokens, "end_turn")])
    reply = source.reply(request(max_tokens=max_tokens))
    assert isinstance(reply, Reply)
    assert reply.output_tokens == min(recorded_tokens, max_tokens)
    assert (reply.stop_reason == "max_tokens") is (recorded_tokens > max_tokens)


def test_a_phase_without_a_recording_is_a_clear_404() -> None:
    with connected(RecordedReplies(RECORDING)) as http:
        response = http.post("/v1/messages", json=body(), headers=phase_headers("p\x1b[2J3", 1))
        nameless = http.post("/v1/messages", json=body())
    assert response.status_code == 404
    assert response.json()["error"] == {
        "type": "not_found_error",
        "message": "no recorded reply for phase 'p\\x1b[2J3'",
    }
    assert response.json()["request_id"] == response.headers["request-id"]
    assert nameless.status_code == 404
    assert "names no phase" in nameless.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "content", "status", "kind"),
    [
        ("POST", "/v1/messages", b"{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"[" * 50_000, 400, "invalid_request_error"),
        ("POST", "/v1/messages", b'{"model": "m", "messages": [1]}', 400, "invalid_request_error"),
        ("POST", "/v1/messages", b'{"model": "m", "messages": [1], "max_tokens": 0}', 400, "invalid_request_error"),
        ("POST", "/v1/messages", b'{"model": "m", "messages": [], "max_tokens": 1}', 400, "invalid_request_error"),
        ("GET", "/v1/messages", b"", 405, "invalid_request_error"),
        ("POST", "/v1/complete", b"{}", 404, "not_found_error"),
    ],
)
def test_errors_have_the_shape_of_the_real_api(method: str, path: str, content: bytes, status: int, kind: str) -> None:
    with connected(Answers(a_reply())) as http:
        response = http.request(method, path, content=content)
    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == kind
    assert response.json()["error"]["message"]
    assert response.headers["request-id"].startswith("req_")


@pytest.mark.slow
@pytest.mark.parametrize("phase_id", ["p1", "a/b c", "ü🙂", "x\r\nx-evil: 1", "%41", "\ud800", "\x00"])
def test_any_text_can_be_a_phase_id(phase_id: str) -> None:
    source = Answers(a_reply())
    with connected(source) as http:
        http.post("/v1/messages", json=body(), headers={**phase_headers(phase_id, 2), "x-stainless-retry-count": "3"})
    assert [(asked.phase_id, asked.attempt, asked.http_retry) for asked in source.asked] == [(phase_id, 2, 3)]


def test_headers_that_are_no_numbers_or_no_utf_8_do_no_harm() -> None:
    source = Answers(a_reply())
    with connected(source) as http:
        odd = http.post("/v1/messages", json=body(), headers={"x-autopack-attempt": "9" * 5000})
        bad = http.post("/v1/messages", json=body(), headers={"x-autopack-phase-id": "%ff"})
    assert (odd.status_code, source.asked[0].attempt) == (200, 1)
    assert bad.status_code == 400


@pytest.mark.parametrize(("kind", "status"), [("rate_limit", 429), ("overload", 529)])
def test_a_refusal_says_when_to_ask_again(kind: str, status: int) -> None:
    with connected(SimulatedReplies(1, faults=Faults(**{kind: 1.0}))) as http:
        response = http.post("/v1/messages", json=body())
    assert response.status_code == status
    assert response.headers["retry-after"] == "1"
    assert response.headers["retry-after-ms"] == "20"


@pytest.mark.parametrize("stream", [True, False])
def test_a_dropped_reply_ends_in_the_middle_and_logs_nothing(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A dropped reply ends in the middle, and leaves nothing in the log."""
    with connected(Answers(a_reply(drops=True))) as http:
        with pytest.raises(httpx2.RemoteProtocolError):
            http.post("/v1/messages", json=body(stream=stream))
        again = http.post("/v1/complete")
    assert again.status_code == 404
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_reply_without_usage_has_no_output_count_anywhere() -> None:
    with connected(Answers(a_reply(gives_usage=False))) as http:
        events = events_of(http.post("/v1/messages", json=body(stream=True)))
        whole = http.post("/v1/messages", json=body()).json()
    assert "output_tokens" not in events[0]["message"]["usage"]
    assert "usage" not in events[6]
    assert "output_tokens" not in whole["usage"]


def test_leaving_the_server_ends_its_thread_and_closes_its_port() -> None:
    with serve_messages(Answers(a_reply())) as url:
        names = [thread.name for thread in threading.enumerate()]
        port = int(url.rpartition(":")[2])
    assert "autopack-messages-server" in names
    assert "autopack-messages-server" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.slow
def test_leaving_the_server_does_not_wait_for_a_reply_that_stalls(caplog: pytest.LogCaptureFixture) -> None:
    with httpx2.Client(trust_env=False, timeout=20) as http:
        with serve_messages(Answers(a_reply(stall_s=3600.0))) as url:
            answer = http.send(http.build_request("POST", f"{url}/v1/messages", json=body(stream=True)), stream=True)
            chunks = answer.iter_bytes()
            first = next(chunks)
            started = time.monotonic()
        took_s = time.monotonic() - started
        with pytest.raises(httpx2.RemoteProtocolError):
            list(chunks)
    assert b"message_start" in first
    assert took_s < 4
    assert caplog.records == []


def test_a_client_that_leaves_during_a_stall_does_not_delay_the_stop() -> None:
    """A client that goes away during a stall does not hold up the stop."""
    with serve_messages(Answers(a_reply(stall_s=3600.0))) as url:
        with httpx2.Client(trust_env=False, timeout=20) as http:
            answer = http.send(http.build_request("POST", f"{url}/v1/messages", json=body(stream=True)), stream=True)
            next(answer.iter_bytes())
            answer.close()
        started = time.monotonic()
    assert time.monotonic() - started < 1


def test_a_client_that_leaves_in_its_request_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client that goes away in the middle of its request leaves nothing in the log."""
    source = Answers(a_reply())
    with connected(source) as http:
        port = http.base_url.port
        with socket.create_connection(("127.0.0.1", port or 0), timeout=5) as half:
            half.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            http.post("/v1/messages", json=body())
        for _ in range(3):
            http.post("/v1/messages", json=body())
    assert len(source.asked) == 4
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_callers_loop_goes_on_while_the_server_answers() -> None:
    loop = asyncio.get_running_loop()
    with serve_messages(Answers(a_reply())) as url:
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
            answers = await asyncio.gather(*(http.post("/v1/messages", json=body()) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert asyncio.get_running_loop() is loop


@given(st.integers(), st.permutations(range(8)))
def test_the_same_seed_gives_the_same_run_in_any_order(seed: int, order: list[int]) -> None:
    phases = [Phase(f"p{number}", deliverables=["a.py"] * (number + 1)) for number in range(8)]
    faults = Faults(rate_limit=0.2, drop=0.2, truncate=0.2, no_usage=0.2)
    straight = {n: SimulatedReplies(seed, phases, faults).reply(request(f"p{n}")) for n in range(8)}
    shared = SimulatedReplies(seed, phases, faults)
    assert {number: shared.reply(request(f"p{number}")) for number in order} == straight


@given(st.integers(), st.text(st.characters(exclude_categories=())), st.integers(1, 3), st.integers(1, 70_000))
def test_a_simulated_reply_keeps_to_the_ceiling_and_says_it_is_one(
    seed: int, phase_id: str, attempt: int, max_tokens: int
) -> None:
    """A simulated reply keeps to the ceiling, and says that it is simulated."""
    reply = SimulatedReplies(seed).reply(request(phase_id, attempt, max_tokens=max_tokens))
    assert isinstance(reply, Reply)
    assert 1 <= reply.output_tokens <= max_tokens
    assert reply.stop_reason in ("end_turn", "max_tokens")
    assert reply.model == SIMULATED_MODEL
    assert reply.model.startswith("simulated")


def test_different_seeds_and_phases_give_different_lengths() -> None:
    lengths = {
        reply.output_tokens
        for seed in range(10)
        for phase in range(10)
        if isinstance(reply := SimulatedReplies(seed).reply(request(f"p{phase}")), Reply)
    }
    assert len(lengths) > 80


def test_a_refused_request_can_succeed_when_the_sdk_repeats_it() -> None:
    source = SimulatedReplies(3, faults=Faults(rate_limit=0.5))
    outcomes = [type(source.reply(request("p1", http_retry=retry))) for retry in range(20)]
    assert {Reply, Refusal} == set(outcomes)


def test_a_fault_strikes_about_as_often_as_asked_and_never_by_default() -> None:
    faulty, sound = SimulatedReplies(5, faults=Faults(drop=0.3)), SimulatedReplies(5)
    replies = [faulty.reply(request(f"p{number}")) for number in range(1000)]
    assert 250 < sum(isinstance(reply, Reply) and reply.drops for reply in replies) < 350
    for number in range(1000):
        reply = sound.reply(request(f"p{number}"))
        assert isinstance(reply, Reply)
        assert (reply.drops, reply.gives_usage, reply.stall_s) == (False, True, 0.0)


def test_faults_are_read_from_text() -> None:
    assert parse_faults([]) == Faults()
    assert parse_faults(["rate-limit=0.5", "no_usage=1"]) == Faults(rate_limit=0.5, no_usage=1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fire=1", "unknown fault 'fire'"),
        ("drop", "give a probability"),
        ("drop=often", "give a probability"),
        ("drop=1.1", "between 0 and 1"),
        ("drop=nan", "between 0 and 1"),
        ("drop=-1", "between 0 and 1"),
    ],
)
def test_a_bad_fault_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_faults([text])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not json", "not valid JSON"),
        (b"[]", "holds no reply"),
        (b"{}", "Expected `array`"),
        (b'[{"phase_id": "p1"}]', "missing required field"),
        (
            b'[{"phase_id": "p", "model": "m", "input_tokens": 1, "output_tokens": -1, "stop_reason": "end_turn"}]',
            r"\$\[0\]\.output_tokens",
        ),
    ],
)
def test_a_bad_recording_is_refused_in_one_line(content: bytes, complaint: str) -> None:
    with pytest.raises(InputFileError, match=rf"^rec\.json: .*{complaint}.*$"):
        parse_recording(content, "rec.json")
