"""What a model takes and gives in one call, for the models whose documentation says so. Pure.

The figures are those of the makers' own lists in December 2025, for standard requests without beta headers:

    Anthropic   docs.claude.com, "Models overview"
    OpenAI      platform.openai.com/docs/models, the page of each model

An id counts as known with a provider's prefix (`anthropic/`, `us.anthropic.`, `openai/`) and with a date or version
behind it (`-20250929`, `@20250929`, `-v1:0`, `-latest`); a model that is not listed has no limits here.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Limits(NamedTuple):
    """The most output tokens of one reply, and the most tokens of a request and its reply together."""

    output_tokens: int
    context_tokens: int


_LIMITS = {
    "claude-3-haiku": Limits(4_096, 200_000),
    "claude-3-opus": Limits(4_096, 200_000),
    "claude-3-5-haiku": Limits(8_192, 200_000),
    "claude-3-5-sonnet": Limits(8_192, 200_000),
    "claude-3-7-sonnet": Limits(64_000, 200_000),
    "claude-opus-4": Limits(32_000, 200_000),
    "claude-opus-4-0": Limits(32_000, 200_000),
    "claude-opus-4-1": Limits(32_000, 200_000),
    "claude-opus-4-5": Limits(64_000, 200_000),
    "claude-sonnet-4": Limits(64_000, 200_000),
    "claude-sonnet-4-0": Limits(64_000, 200_000),
    "claude-sonnet-4-5": Limits(64_000, 200_000),
    "claude-haiku-4-5": Limits(64_000, 200_000),
    "gpt-4o": Limits(16_384, 128_000),
    "gpt-4o-mini": Limits(16_384, 128_000),
    "gpt-4.1": Limits(32_768, 1_047_576),
    "gpt-4.1-mini": Limits(32_768, 1_047_576),
    "gpt-4.1-nano": Limits(32_768, 1_047_576),
    "gpt-5": Limits(128_000, 400_000),
    "gpt-5-mini": Limits(128_000, 400_000),
    "gpt-5-nano": Limits(128_000, 400_000),
    "o1": Limits(100_000, 200_000),
    "o3": Limits(100_000, 200_000),
    "o3-mini": Limits(100_000, 200_000),
    "o4-mini": Limits(100_000, 200_000),
}
_PREFIX = re.compile(r"^(?:[\w.-]+/)*(?:(?:[a-z]{2,6}\.)?anthropic\.)?")
_VERSION = re.compile(r"(?:[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest))?(?:-v\d+(?::\d+)?)?$")


def bare_names(model: str) -> tuple[str, str]:
    """The model without the prefix of a provider, and also without its date and version."""
    name = _PREFIX.sub("", model.lower(), count=1)
    return name, _VERSION.sub("", name, count=1)


def limits_of(model: str | None) -> Limits | None:
    """The model's limits; None where they are not known."""
    if not model:
        return None
    name, without_version = bare_names(model)
    return _LIMITS.get(name) or _LIMITS.get(without_version)


def maximum_output_tokens(model: str | None) -> int | None:
    """The most output tokens of one reply of the model; None where it is not known."""
    limits = limits_of(model)
    return None if limits is None else limits.output_tokens
