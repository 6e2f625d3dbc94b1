"""What the tests of the hooks share: a sink of events, scripted replies, clients that reach a loopback server."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autopack.loopback.replies import Refusal, Reply, ReplyRequest
from autopack.telemetry import not_recorded

MODEL = "claude-x"
MESSAGES: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "secret-prompt"}],
}
CHAT: dict[str, Any] = {
    "model": "gpt-x",
    "max_completion_tokens": 60,
    "messages": [{"role": "user", "content": "secret-prompt"}],
}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


class Events:
    """Keeps the events that it is handed."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def record(self, **fields: Any) -> bool:
        self.events.append(fields)
        return True

    def take(self, *names: str) -> list[Any]:
        """The events since the last look: of each the named fields, or all."""
        taken, self.events = self.events, []
        return [tuple(event[name] for name in names) if names else event for event in taken]


class Script:
    """Gives its answers in order, then one of 77 tokens."""

    def __init__(self) -> None:
        self.answers: deque[Reply | Refusal] = deque()

    def reply(self, _request: ReplyRequest) -> Reply | Refusal:
        return self.answers.popleft() if self.answers else a_reply()


def a_reply(output_tokens: int = 77, stop_reason: str = "end_turn", **changes: Any) -> Reply:
    return Reply(MODEL, 11, output_tokens, stop_reason, "secret-output " * 20, **changes)


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """The calls that became no event in here, by reason, once it is over."""
    before = not_recorded.snapshot()
    counts: dict[str, int] = {}
    yield counts
    counts.update(not_recorded.snapshot() - before)
