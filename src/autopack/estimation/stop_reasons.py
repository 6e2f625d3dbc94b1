"""What a reply's stop reason says of its length, in the words of every API. Pure.

complete    the model ended the reply of its own accord: its length is exact
cut         the reply reached a ceiling or filled the context: its length is a lower bound
continues   the reply asks for another request, whose reply is the next turn of the same execution

Anything else, a refusal in the middle or a paused turn, is neither complete nor cut: its length says nothing about how
well a prediction or a ceiling was chosen.
"""

from __future__ import annotations

_COMPLETE = frozenset(
    {"end_turn", "stop_sequence", "tool_use", "stop", "tool_calls", "tool_call", "function_call", "completed"}
)
_CUT = frozenset({"max_tokens", "length", "max_output_tokens", "model_context_window_exceeded", "model_length"})
_CONTINUES = frozenset({"tool_use", "tool_calls", "tool_call", "function_call", "pause_turn"})


def is_complete(stop_reason: str | None) -> bool:
    """Whether the model ended the reply of its own accord."""
    return stop_reason is not None and stop_reason.lower() in _COMPLETE


def is_cut(stop_reason: str | None) -> bool:
    """Whether the reply reached a ceiling or filled the context."""
    return stop_reason is not None and stop_reason.lower() in _CUT


def continues(stop_reason: str | None) -> bool:
    """Whether the reply asks for another request of the same execution: a tool was called, or the turn is paused."""
    return stop_reason is not None and stop_reason.lower() in _CONTINUES
