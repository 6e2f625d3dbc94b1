"""The limits of models are those of the lists that others maintain, and belong to the names that clients send."""

from __future__ import annotations

import importlib
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from autopack.estimation.model_limits import Limits, limits_of

LISTED = [
    *("claude-sonnet-4-5", "claude-opus-4-1-20250805", "claude-opus-5-5", "claude-haiku-5-5", "claude-fable-5-1"),
    *("gpt-4o", "gpt-4o-2024-05-13", "gpt-5", "gpt-5-pro", "gpt-5.2-2025-12-11", "gpt-5.4", "gpt-5.4-mini"),
    *("gpt-5.5", "gpt-5.6", "gpt-6-sol", "o3-mini", "o3-pro"),
]
GONE = {"claude-opus-4-1-20250805"}  # from LiteLLM's list


@pytest.mark.needs("genai_prices")
@pytest.mark.parametrize("model", LISTED)
def test_contexts_are_those_of_the_maintained_list(model: str) -> None:
    snapshot = importlib.import_module("genai_prices.data_snapshot").get_snapshot()
    limits = limits_of(model)
    assert limits is not None
    _, listed = snapshot.find_provider_model(model, None, None, None)
    assert listed.context_window == limits.context_tokens


@pytest.mark.needs("litellm")
@pytest.mark.parametrize("model", sorted({*LISTED} - GONE))
def test_output_maxima_are_those_of_the_maintained_list(model: str) -> None:
    """LiteLLM's file is read, not the package: the import of that takes seconds."""
    found = find_spec("litellm")
    assert found is not None
    assert found.origin is not None
    listed = json.loads((Path(found.origin).parent / "model_prices_and_context_window_backup.json").read_bytes())
    limits = limits_of(model)
    assert limits is not None
    assert listed[model]["max_output_tokens"] == limits.output_tokens


def test_a_dated_version_with_its_own_limits_has_them() -> None:
    assert limits_of("openai/gpt-4o-2024-05-13") == Limits(4_096, 128_000)
    assert limits_of("openai/gpt-4o-2024-08-06") == Limits(16_384, 128_000)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("us.anthropic.claude-opus-4-6-v1:0", "claude-opus-4-6"),
        ("vertex_ai/claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("gpt-5.1-2025-11-13", "gpt-5.1"),
    ],
)
def test_prefix_date_and_version_do_not_matter(name: str, listed: str) -> None:
    assert limits_of(name) == limits_of(listed) is not None


def test_a_model_that_is_not_listed_has_no_limits() -> None:
    """Also where a listed name begins it: `gpt-5.1-codex` is another model than `gpt-5.1`."""
    assert [limits_of(name) for name in ("gpt-5.1-codex", "claude-9", "", None)] == [None] * 4
