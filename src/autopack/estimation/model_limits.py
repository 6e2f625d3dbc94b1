"""The most output tokens that a model gives in one reply, for the models whose documentation says so. Pure.

An id counts as known with a provider's prefix (`anthropic/`, `us.anthropic.`, `openai/`) and with a date or version
behind it (`-20250929`, `@20250929`, `-v1:0`, `-latest`); a model that is not listed has no maximum here.
"""

from __future__ import annotations

import re

_MAXIMUM_OUTPUT_TOKENS = {
    "claude-3-haiku": 4_096,
    "claude-3-opus": 4_096,
    "claude-3-5-haiku": 8_192,
    "claude-3-5-sonnet": 8_192,
    "claude-3-7-sonnet": 64_000,
    "claude-opus-4": 32_000,
    "claude-opus-4-0": 32_000,
    "claude-opus-4-1": 32_000,
    "claude-opus-4-5": 64_000,
    "claude-sonnet-4": 64_000,
    "claude-sonnet-4-0": 64_000,
    "claude-sonnet-4-5": 64_000,
    "claude-haiku-4-5": 64_000,
    "gpt-4o": 16_384,
    "gpt-4o-mini": 16_384,
    "gpt-4.1": 32_768,
    "gpt-4.1-mini": 32_768,
    "gpt-4.1-nano": 32_768,
    "gpt-5": 128_000,
    "gpt-5-mini": 128_000,
    "gpt-5-nano": 128_000,
    "o1": 100_000,
    "o3": 100_000,
    "o3-mini": 100_000,
    "o4-mini": 100_000,
}
_PREFIX = re.compile(r"^(?:[\w.-]+/)*(?:(?:[a-z]{2,6}\.)?anthropic\.)?")
_VERSION = re.compile(r"(?:[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest))?(?:-v\d+(?::\d+)?)?$")


def maximum_output_tokens(model: str | None) -> int | None:
    """The model's maximum; None where it is not known."""
    if not model:
        return None
    name = _PREFIX.sub("", model.lower(), count=1)
    return _MAXIMUM_OUTPUT_TOKENS.get(name) or _MAXIMUM_OUTPUT_TOKENS.get(_VERSION.sub("", name, count=1))
