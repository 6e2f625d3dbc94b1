"""A loopback HTTP server that speaks the Messages API, so that the unmodified SDK talks real HTTP without a key.

It runs in a thread and an event loop of its own: the caller's loop, if there is one, is not disturbed, and a
blocking caller is served too. The socket listens before the thread starts, so a connection made at once waits in
its queue, and no caller waits for the server. Sources of replies are asked in that one thread only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import uuid4

from autopack.build.phase import ATTEMPT_HEADER, PHASE_HEADER
from autopack.errors import require
from autopack.loopback.replies import Refusal, Reply, ReplyRequest, ReplySource
from autopack.loopback.wire import (
    MessagesRequest,
    decode_request,
    error_body,
    message_body,
    retry_headers,
    stream_chunks,
)

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

_SDK_RETRY_HEADER = "x-stainless-retry-count"

_CUT_AFTER_CHUNKS = 4  # in a stream: after the first piece of text
_STOP_TIMEOUT_S = 5.0
_GRACE_S = 1
_JSON = "application/json"

logger = logging.getLogger(__name__)


def require_server() -> None:
    """Check that what serves is installed. Raises `MissingExtraError`."""
    for module in ("starlette", "uvicorn"):
        require(module, "simulate", "the loopback server")


@contextmanager
def serve_messages(source: ReplySource) -> Iterator[str]:
    """Serve `source` on a free port of 127.0.0.1 while the context is open; yields the base URL.

    Leaving the context closes the port and all connections and ends the thread: within a quarter of a second where
    no request is open, within a few seconds in any case. Raises `MissingExtraError`.
    """
    require_server()
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    quiet = _ExpectedErrors()
    config = uvicorn.Config(
        messages_app(source),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="autopack-messages-server", daemon=True)
    errors = logging.getLogger("uvicorn.error")
    errors.addFilter(quiet)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        quiet.stopping = True
        server.should_exit = True
        thread.join(_STOP_TIMEOUT_S)
        listener.close()
        errors.removeFilter(quiet)
        if thread.is_alive():
            logger.warning("the messages server did not stop within %s s", _STOP_TIMEOUT_S)


def messages_app(source: ReplySource) -> Starlette:
    """Return the ASGI application that answers from `source`."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.routing import Route

    async def messages(request: Request) -> _Response:
        try:
            body = await request.body()
        except ClientDisconnect:  # a cancelled call; no client reads this
            return _refusal(Refusal(400, "invalid_request_error", "the request broke off before its end"))
        return _answer(source, body, request.headers)

    return Starlette(
        routes=[Route("/v1/messages", messages, methods=["POST"])],
        exception_handlers={HTTPException: _http_error},  # type: ignore[dict-item]
    )


class _ExpectedErrors(logging.Filter):
    """Keeps out of the log what happens on purpose: a reply that is dropped, requests that a stop interrupts."""

    stopping = False

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.stopping and record.msg != "ASGI callable returned without completing response."


@dataclass(frozen=True, slots=True)
class _Response:
    """An ASGI response. One that is not `complete` lacks its last message, so the server drops the connection."""

    status: int
    headers: Mapping[str, str]
    chunks: Sequence[bytes]
    complete: bool = True
    stall_s: float = 0.0

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for number, chunk in enumerate(self.chunks):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if number == 0 and self.stall_s and await _disconnects(receive, self.stall_s):
                return
        if self.complete:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _answer(source: ReplySource, body: bytes, headers: Mapping[str, str]) -> _Response:
    """Return the response to a request: the source's answer, in the form that the request asks for."""
    asked = decode_request(body)
    if isinstance(asked, Refusal):
        return _refusal(asked)
    try:
        phase_id = _phase_id(headers)
    except UnicodeDecodeError:
        return _refusal(Refusal(400, "invalid_request_error", f"{PHASE_HEADER} is not percent-encoded UTF-8"))
    answer = source.reply(
        ReplyRequest(
            phase_id=phase_id,
            attempt=_number(headers, ATTEMPT_HEADER, 1),
            http_retry=_number(headers, _SDK_RETRY_HEADER, 0),
            model=asked.model,
            max_tokens=asked.max_tokens,
            prompt_bytes=len(body),
        )
    )
    return _refusal(answer) if isinstance(answer, Refusal) else _reply(answer, asked)


def _reply(reply: Reply, asked: MessagesRequest) -> _Response:
    message_id = f"msg_{uuid4().hex}"
    chunks = stream_chunks(reply, message_id) if asked.stream else [message_body(reply, message_id)]
    if reply.drops:
        chunks = chunks[:_CUT_AFTER_CHUNKS] if asked.stream else [chunks[0][: len(chunks[0]) // 2]]
    content_type = "text/event-stream; charset=utf-8" if asked.stream else _JSON
    headers = {"content-type": content_type, "cache-control": "no-cache", "request-id": _request_id()}
    return _Response(200, headers, chunks, complete=not reply.drops, stall_s=reply.stall_s)


def _refusal(refusal: Refusal) -> _Response:
    request_id = _request_id()
    body = error_body(refusal, request_id)
    headers = {"content-type": _JSON, "content-length": str(len(body)), "request-id": request_id}
    return _Response(refusal.status, headers | retry_headers(refusal), [body])


def _http_error(_request: Request, error: HTTPException) -> _Response:
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"  # noqa: PLR2004 (HTTP's own)
    return _refusal(Refusal(error.status_code, kind, error.detail))


def _phase_id(headers: Mapping[str, str]) -> str | None:
    encoded = headers.get(PHASE_HEADER)
    return None if encoded is None else unquote(encoded, errors="surrogatepass")


def _number(headers: Mapping[str, str], name: str, default: int) -> int:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default  # noqa: PLR2004 (fits any int)


def _request_id() -> str:
    return f"req_{uuid4().hex}"


async def _disconnects(receive: Receive, within_s: float) -> bool:
    """Wait for the client to go away, at most so long; return whether it has."""
    try:
        async with asyncio.timeout(within_s):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
