"""With the three options of the former verdict, every digit is what the code before samples had clusters gave."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.former_histories import former_histories
from tests.verdicts import verdict_on

from autopack.analysis.validating.rules import Rules

FORMER: dict[str, Any] = json.loads((Path(__file__).parent / "former_verdicts.json").read_text())


def only(found: Any, expected: Any) -> Any:
    """What was found, without fields that there were not."""
    if isinstance(expected, dict):
        return {name: only(found[name], value) for name, value in expected.items()}
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return [only(one, other) for one, other in zip(found, expected, strict=True)]
    return found


@pytest.mark.parametrize("name", FORMER)
def test_the_former_verdict_is_the_former_one(name: str) -> None:
    events, settings = former_histories()[name]
    rules = Rules(rules="plan", one_look=True, assume_independent=True, **settings)
    found = msgspec.to_builtins(verdict_on(events, rules))
    assert only(found, FORMER[name]) == FORMER[name]
