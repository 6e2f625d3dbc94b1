"""The questions and answers of the loopback server, and the source that answers from a recording. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec

from autopack._util.decoding import decode_input
from autopack._util.text import truncate_for_display
from autopack.build.plan import Identifier
from autopack.errors import InputFileError

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """One HTTP request, as far as a source needs it.

    `phase_id` is None where the request does not say which phase it is for. `attempt` counts the calls of a phase
    from 1, `http_retry` the SDK's own repetitions of one call from 0.
    """

    phase_id: str | None
    attempt: int
    http_retry: int
    model: str
    max_tokens: int
    prompt_bytes: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the model. Without `gives_usage` it does not count its output tokens; with `drops` the connection
    ends in the middle of it; after its first event it pauses for `stall_s` seconds.
    """

    model: str
    input_tokens: int
    output_tokens: int
    stop_reason: str
    text: str
    gives_usage: bool = True
    drops: bool = False
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error in place of an answer: HTTP status, the API's type of error, and when to ask again (None: never)."""

    status: int
    error_type: str
    message: str
    retry_after_ms: int | None = None


class ReplySource(Protocol):
    """Answers requests, one after the other."""

    def reply(self, request: ReplyRequest) -> Reply | Refusal:
        """Answer one request."""


class RecordedReply(msgspec.Struct, frozen=True):
    """One entry of a recording; its other fields are not needed to answer."""

    phase_id: Identifier
    model: Identifier
    input_tokens: Count
    output_tokens: Count
    stop_reason: Annotated[str, msgspec.Meta(min_length=1)]


class RecordedReplies:
    """Answers with the entries of a recording: those of a phase in their order, each once.

    As with the real API no reply is longer than the request's `max_tokens`; one that was is cut there, with the
    stop reason `max_tokens`.
    """

    def __init__(self, recording: Sequence[RecordedReply]) -> None:
        self._left: dict[str, deque[RecordedReply]] = {}
        for entry in recording:
            self._left.setdefault(entry.phase_id, deque()).append(entry)

    def reply(self, request: ReplyRequest) -> Reply | Refusal:
        """Return the next recorded reply of the request's phase, a 404 where there is none (any more)."""
        if request.phase_id is None:
            return Refusal(404, "not_found_error", "the request names no phase, so no recorded reply belongs to it")
        left = self._left.get(request.phase_id)
        name = truncate_for_display(repr(request.phase_id))
        if left is None:
            return Refusal(404, "not_found_error", f"no recorded reply for phase {name}")
        if not left:
            return Refusal(404, "not_found_error", f"no further recorded reply for phase {name}")
        return _cut(left.popleft(), request.max_tokens)


def parse_recording(data: bytes, source: str) -> list[RecordedReply]:
    """Return the recording in a JSON text; `source` names it in messages. Raises `InputFileError`."""
    recording = decode_input(data, list[RecordedReply], source)
    if not recording:
        raise InputFileError(f"{truncate_for_display(source)}: holds no reply")
    return recording


def _cut(recorded: RecordedReply, max_tokens: int) -> Reply:
    too_long = recorded.output_tokens > max_tokens
    return Reply(
        model=recorded.model,
        input_tokens=recorded.input_tokens,
        output_tokens=max_tokens if too_long else recorded.output_tokens,
        stop_reason="max_tokens" if too_long else recorded.stop_reason,
        text=f"Recorded reply of {recorded.output_tokens} tokens; its text was not recorded.",
    )
