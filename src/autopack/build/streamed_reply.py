"""A streamed reply, put together from its events.

The SDK's own accumulator fails on a reply without usage, so the raw events are read here, and each figure is
taken only where it is one.
"""

from __future__ import annotations

from typing import Any

from autopack.build.phase import ModelReply


class StreamedReply:
    """Collects the events of one stream; `finish()` gives the reply once `message_stop` has come."""

    def __init__(self, requested_model: str) -> None:
        self._model = requested_model
        self._usage: dict[str, int] = {}
        self._final_output_tokens: int | None = None
        self._stop_reason: str | None = None
        self._text: list[str] = []
        self._ended = False

    def feed(self, event: Any) -> None:
        """Takes one raw event of the SDK's stream; kinds that it does not know are passed over."""
        kind = getattr(event, "type", None)
        if kind == "message_start":
            self._start(getattr(event, "message", None))
        elif kind == "content_block_delta":
            self._text.append(_text(getattr(event, "delta", None), "text") or "")
        elif kind == "message_delta":
            self._delta(event)
        elif kind == "message_stop":
            self._ended = True

    def finish(self) -> ModelReply | None:
        """The whole reply; None where the stream ended before its end, when no output count is final."""
        if not self._ended:
            return None
        output_tokens = self._final_output_tokens
        return ModelReply(
            model=self._model,
            input_tokens=self._usage.get("input_tokens"),
            output_tokens=output_tokens,
            total_tokens=sum(self._usage.values()) + (output_tokens or 0),
            stop_reason=self._stop_reason,
            text="".join(self._text),
        )

    def _start(self, message: Any) -> None:
        self._model = _text(message, "model") or self._model
        self._take_input(getattr(message, "usage", None))

    def _delta(self, event: Any) -> None:
        usage = getattr(event, "usage", None)
        self._take_input(usage)
        self._final_output_tokens = _count(usage, "output_tokens")
        self._stop_reason = _text(getattr(event, "delta", None), "stop_reason")

    def _take_input(self, usage: Any) -> None:
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
            count = _count(usage, name)
            if count is not None:
                self._usage[name] = count


def _count(source: Any, name: str) -> int | None:
    value = getattr(source, name, None)
    return value if type(value) is int and value >= 0 else None


def _text(source: Any, name: str) -> str | None:
    value = getattr(source, name, None)
    return value if isinstance(value, str) and value else None
