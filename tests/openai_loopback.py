"""A loopback HTTP server that speaks OpenAI's API as far as the instrumentation reads it, for the unmodified SDK."""

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer; `drops` ends the connection in the middle, `stall_s` holds a stream back after its first event."""

    output_tokens: int = 50
    finish: str = "stop"
    text: str = "hello"
    input_tokens: int = 9
    cached_tokens: int = 4
    reasoning_tokens: int = 40
    model: str = "gpt-x-2026"
    status: int = 200
    drops: bool = False
    stall_s: float = 0.0
    call_id: str = "call-1"


@dataclass
class OpenAIServer:
    """The server: `answers` are given in order, then the default one; `requests` holds the bodies that came."""

    url: str
    answers: deque[Answer] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    default: Answer = field(default_factory=Answer)
    released: threading.Event = field(default_factory=threading.Event)

    def next_answer(self) -> Answer:
        try:
            return self.answers.popleft()
        except IndexError:
            return self.default


@contextmanager
def serve_openai() -> Iterator[OpenAIServer]:
    """Serves on a free port of 127.0.0.1; yields the server, whose `url` ends in `/v1`."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    server = OpenAIServer(f"http://127.0.0.1:{http.server_port}/v1")
    http.state = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        pass

    def do_POST(self) -> None:
        server: OpenAIServer = self.server.state  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.requests.append(body)
        server.headers.append({name.lower(): value for name, value in self.headers.items()})
        answer = server.next_answer()
        if answer.status != 200:
            self._json(answer.status, {"error": {"message": "no", "type": "x", "code": "y"}}, {"retry-after-ms": "1"})
            return
        path = self.path.partition("?")[0]
        if path.endswith("/responses"):
            whole, events = _response(answer), _response_events(answer)
        else:
            whole, events = _completion(answer), _chunks(answer, body)
        if not body.get("stream"):
            self._json(200, whole, cut=answer.drops)
            return
        self._stream(server, answer, events)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def _stream(self, server: OpenAIServer, answer: Answer, events: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for number, event in enumerate(events[:1] if answer.drops else events):
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                self.wfile.flush()
                if number == 0 and answer.stall_s:
                    server.released.wait(answer.stall_s)
            if not answer.drops:
                self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the caller stopped reading, which is what some tests are about


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
    }


def _message(answer: Answer) -> dict[str, Any]:
    if answer.finish != "tool_calls":
        return {"role": "assistant", "content": answer.text}
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": "secret-argument"}'}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _completion(answer: Answer) -> dict[str, Any]:
    choice = {"index": 0, "message": _message(answer), "text": answer.text, "finish_reason": answer.finish}
    return {
        "id": answer.call_id,
        "object": "chat.completion",
        "created": 1,
        "model": answer.model,
        "choices": [choice],
        "usage": _usage(answer),
    }


def _chunks(answer: Answer, body: dict[str, Any]) -> list[dict[str, Any]]:
    base = {"id": answer.call_id, "object": "chat.completion.chunk", "created": 1, "model": answer.model}
    text = {"index": 0, "delta": {"role": "assistant", "content": answer.text}, "finish_reason": None}
    end: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": answer.finish}
    chunks = [{**base, "choices": [text]}, {**base, "choices": [end]}]
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**base, "choices": [], "usage": _usage(answer)})
    return chunks


def _response(answer: Answer) -> dict[str, Any]:
    message = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": answer.text, "annotations": []}],
    }
    call = {"id": "f1", "type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    cut = answer.finish in ("max_output_tokens", "content_filter")
    return {
        "id": answer.call_id,
        "object": "response",
        "created_at": 1,
        "model": answer.model,
        "status": answer.finish if answer.finish in ("failed", "queued") else "incomplete" if cut else "completed",
        "incomplete_details": {"reason": answer.finish} if cut else None,
        "output": [call if answer.finish == "tool_calls" else message],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": answer.input_tokens + answer.output_tokens,
        },
    }


def _response_events(answer: Answer) -> list[dict[str, Any]]:
    whole = _response(answer)
    kind = {"completed": "response.completed", "failed": "response.failed"}.get(whole["status"], "response.incomplete")
    started = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    return [
        {"type": "response.created", "sequence_number": 0, "response": started},
        {"type": kind, "sequence_number": 1, "response": whole},
    ]
