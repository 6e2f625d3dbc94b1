"""What a model takes and gives in one call, for standard requests without beta headers. Pure.

The output maximum is `max_output_tokens` of LiteLLM 1.110.2's price list (November 2026, which names the makers' pages:
`model_prices_and_context_window_backup.json`), and the context is its `max_input_tokens`. For OpenAI's reasoning models
that list has an input limit below the context; their context is the sum of both figures where genai-prices 0.2.3 says
the same (`context_window`). For `gpt-5.5` the two lists disagree: the smaller figure stands here. The Claude models up
to Opus 4.1 are no longer in LiteLLM's list: their output maximum is what Anthropic's "Models overview" said in 2025.

An id counts as known with a provider's prefix (`anthropic/`, `us.anthropic.`, `openai/`) and with a date or version
behind it (`-20250929`, `@20250929`, `-v1:0`, `-latest`); a dated id with limits of its own is listed with its date. A
model that is not listed has no limits here.
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
    "claude-opus-4-6": Limits(128_000, 1_000_000),
    "claude-opus-4-7": Limits(128_000, 1_000_000),
    "claude-opus-4-8": Limits(128_000, 1_000_000),
    "claude-opus-5": Limits(128_000, 1_000_000),
    "claude-opus-5-5": Limits(128_000, 1_000_000),
    "claude-sonnet-4-6": Limits(128_000, 1_000_000),
    "claude-sonnet-5": Limits(128_000, 1_000_000),
    "claude-sonnet-5-5": Limits(128_000, 1_000_000),
    "claude-haiku-5-5": Limits(128_000, 1_000_000),
    "claude-fable-5": Limits(128_000, 1_000_000),
    "claude-fable-5-1": Limits(128_000, 1_000_000),
    "claude-mythos-5": Limits(128_000, 1_000_000),
    "claude-mythos-5-1": Limits(128_000, 1_000_000),
    "gpt-4o": Limits(16_384, 128_000),
    "gpt-4o-2024-05-13": Limits(4_096, 128_000),
    "gpt-4o-mini": Limits(16_384, 128_000),
    "gpt-4.1": Limits(32_768, 1_047_576),
    "gpt-4.1-mini": Limits(32_768, 1_047_576),
    "gpt-4.1-nano": Limits(32_768, 1_047_576),
    "gpt-5": Limits(128_000, 400_000),
    "gpt-5-mini": Limits(128_000, 400_000),
    "gpt-5-nano": Limits(128_000, 400_000),
    "gpt-5-pro": Limits(272_000, 400_000),
    "gpt-5.1": Limits(128_000, 400_000),
    "gpt-5.2": Limits(128_000, 400_000),
    "gpt-5.2-pro": Limits(128_000, 400_000),
    "gpt-5.3-codex": Limits(128_000, 400_000),
    "gpt-5.4": Limits(128_000, 1_050_000),
    "gpt-5.4-pro": Limits(128_000, 1_050_000),
    "gpt-5.4-mini": Limits(128_000, 400_000),
    "gpt-5.4-nano": Limits(128_000, 400_000),
    "gpt-5.5": Limits(128_000, 1_000_000),
    "gpt-5.5-pro": Limits(128_000, 1_000_000),
    "gpt-5.6": Limits(128_000, 1_050_000),
    "gpt-5.6-luna": Limits(128_000, 1_050_000),
    "gpt-5.6-sol": Limits(128_000, 1_050_000),
    "gpt-5.6-terra": Limits(128_000, 1_050_000),
    "gpt-6-astra": Limits(128_000, 1_050_000),
    "gpt-6-luna": Limits(128_000, 1_050_000),
    "gpt-6-sol": Limits(128_000, 1_050_000),
    "gpt-6.1-sol": Limits(128_000, 1_050_000),
    "gpt-6.1-terra": Limits(128_000, 1_050_000),
    "o1": Limits(100_000, 200_000),
    "o1-pro": Limits(100_000, 200_000),
    "o3": Limits(100_000, 200_000),
    "o3-mini": Limits(100_000, 200_000),
    "o3-pro": Limits(100_000, 200_000),
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
