"""What a ceiling leaves unused and costs, and what to send after a cut: by hand, and through the command."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.read_side import autopack

import autopack as package
from autopack.coefficients import shipped_coefficients
from autopack.commands._prices import listed_price
from autopack.commands.calibrate import encoded
from autopack.estimation.coefficients import Coefficients, Factored, Learned, Lengths, ModelBudgets, Promise, Remembered
from autopack.estimation.outlook import Price, Scaled, lengths_for, retry_after
from autopack.estimation.phases import phase_key
from autopack.estimation.suggesting import suggest_max_tokens

SHIPPED = shipped_coefficients()
KEPT = Promise(alpha_percent=1, bound_percent=3)
DOLLARS = Price(3.0, 15.0, "test")
HIGH = ModelBudgets(
    model="m",
    reasoning_level="high",
    replies=500,
    strata={"testing/low": Factored(factor=4.0, promise=KEPT, lengths=Lengths(exact=[3.0], input_tokens=10.0))},
    pooled=Factored(factor=5.0, promise=KEPT),
    reasoning_percent=62.5,
)


def points(*exact: float, cut: tuple[float, ...] = ()) -> Scaled:
    every = [(tokens, False, 1.0) for tokens in exact] + [(tokens, True, 1.0) for tokens in cut]
    return Scaled(tuple(sorted(every)), 2000.0)


def learned(**changes: Any) -> Coefficients:
    values: dict[str, Any] = {
        "pooled_factor": 3.0,
        "pooled_promise": KEPT,
        "pooled_lengths": Lengths(exact=[0.5, 1.0, 2.0], cut=[4.0], cut_share=0.25, input_tokens=1000.0),
        "models": [
            msgspec.structs.replace(HIGH, reasoning_level=None, strata={}, pooled=None, reasoning_percent=0),
            HIGH,
        ],
    }
    return msgspec.structs.replace(SHIPPED, learned=Learned(**{**values, **changes}))


def test_what_is_unused_and_what_it_costs_are_those_of_the_formula() -> None:
    """C(B) = mean[c_in I + c_out min(A, B) + 1(A > B)(c_in I + c_out A)], for 1,000 calls."""
    lengths = np.array([100.0, 400.0, 900.0, 3000.0])
    request = 3e-6 * 2000
    for ceiling in (50, 400, 1000, 5000):
        found = points(*lengths).outlook(ceiling, 8000, DOLLARS, None)
        above = lengths > ceiling
        expected = request + 15e-6 * np.minimum(lengths, ceiling) + above * (request + 15e-6 * lengths)
        assert found.least_dollars == pytest.approx(1000 * expected.mean())
        assert found.most_dollars == found.least_dollars
        left = (ceiling - lengths)[~above]
        assert found.unused_tokens == (pytest.approx(left.mean()) if left.size else None)


def test_replies_that_were_cut_leave_two_figures() -> None:
    """At least what came, at most the largest ceiling; one that was cut at the ceiling itself was longer."""
    found = points(100.0, cut=(1000.0,)).outlook(2000, 8000, DOLLARS, 0)
    assert found.least_dollars == pytest.approx(15e-3 * (100 + 1000) / 2)
    assert found.most_dollars == pytest.approx(15e-3 * (100 + 2000 + 8000) / 2)
    at_it = points(100.0, cut=(1000.0,)).outlook(1000, 1000, DOLLARS, 0)
    assert at_it.least_dollars == pytest.approx(15e-3 * (100 + 1000 + 1000) / 2)
    assert points(100.0).outlook(2000, 8000, None, 0).least_dollars is None


def test_a_retry_gets_what_replies_that_were_longer_needed() -> None:
    """Of 50 that were longer than 50, at most five may exceed it; one that was cut counts as long as it was seen."""
    every = points(*map(float, range(1, 101)))
    assert every.longer_than(50, 0.1) == 95
    assert points(10.0, 20.0, 30.0, 40.0, cut=(25.0,)).longer_than(15, 0.35) == 40  # S: 3/4 at 20, 3/8 at 30
    assert points(10.0, 20.0, cut=(30.0,)).longer_than(15, 0.1) is None
    retry = retry_after(50, iter([points(10.0), every]), 8000)
    assert (retry.max_tokens, retry.basis) == (95, "lengths")
    assert retry_after(200, iter([every]), 8000).basis == "maximum"
    assert retry_after(50, iter([every]), 90).max_tokens == 90


def test_a_model_at_a_reasoning_level_has_its_own_factor() -> None:
    asked: Any = {"model": "m", "reasoning_level": "high"}
    own = suggest_max_tokens(["a.py"], "testing", "low", learned(), **asked)
    assert (own.basis, own.max_tokens) == ("stratum", 4 * own.predicted_output_tokens)
    pooled = suggest_max_tokens(["a.py"], "novel", "low", learned(), **asked)
    assert (pooled.basis, pooled.max_tokens) == ("pooled", 5 * pooled.predicted_output_tokens)
    plain = suggest_max_tokens(["a.py"], "testing", "low", learned(), model="m")
    assert (plain.basis, plain.max_tokens) == ("pooled", 3 * plain.predicted_output_tokens)
    (first, *_) = lengths_for(own, "testing", "low", learned(), reasoning_level="high")
    assert first.points == ((3.0 * own.predicted_output_tokens, False, 1.0),)


def test_lengths_of_a_remembered_phase_are_multiples_of_its_largest() -> None:
    memory = {"m": {phase_key("p", "testing", "low", ["a.py"]): Remembered(replies=3, largest=1000)}}
    figures = learned(memory=memory, memory_factor=1.5, memory_promise=KEPT, memory_lengths=Lengths(exact=[0.5, 1.2]))
    found = suggest_max_tokens(["a.py"], "testing", "low", figures, phase_id="p", model="m")
    (first, *others) = lengths_for(found, "testing", "low", figures)
    assert [tokens for tokens, *_ in first.points] == [500, 1200]
    assert first.input_tokens == 1000
    assert others


def test_the_known_maximum_of_a_model_is_the_most() -> None:
    found = suggest_max_tokens(["a.py"] * 60, "testing", "high", SHIPPED, model="claude-3-haiku-20240307")
    assert (found.max_tokens, found.basis, found.most_tokens) == (4096, "maximum", 4096)
    assert suggest_max_tokens(["a.py"], "testing", "low", SHIPPED, model="new", maximum=900).most_tokens == 900


def test_the_list_has_prices_by_every_name_of_a_model() -> None:
    pytest.importorskip("genai_prices")
    names = ("claude-sonnet-4-5", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic/claude-sonnet-4-5")
    for name in names:
        found = listed_price(name)
        assert found is not None
        assert (found.input, found.output) == pytest.approx((3, 15))
    assert listed_price("a model of my own") is None


def budget(tmp_path: Path, *arguments: str) -> tuple[str, Any]:
    file = tmp_path / "c.json"
    if not file.exists():
        file.write_bytes(encoded(learned()))
    shape: list[str | Path] = [
        "budget",
        "a.py",
        "--category",
        "testing",
        "--complexity",
        "low",
        "--coefficients",
        file,
        *arguments,
    ]
    done, parsed = autopack(*shape), autopack(*shape, "--json")
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(parsed.stdout)


def test_the_command_says_money_reasoning_and_the_retry(tmp_path: Path) -> None:
    said, found = budget(
        tmp_path,
        "--model",
        "m",
        "--reasoning-level",
        "high",
        "--price",
        "3,15",
        "--cut-at",
        "3000",
        "--maximum",
        "50000",
    )
    assert "62.5 % of the output" in said
    assert "by --price" in said
    assert found["reasoning_percent"] == 62.5
    assert found["price"] == {"input": 3.0, "output": 15.0, "source": "--price"}
    assert found["retry"]["basis"] == "lengths"
    assert re.search(rf"after a cut +{found['retry']['max_tokens']}: one in ten", said)
    pooled, two = budget(tmp_path, "--model", "m", "--price", "3,15", "--input-tokens", "500")
    assert " to $" in pooled
    assert two["outlook"]["least_dollars"] < two["outlook"]["most_dollars"]
    assert two["retry"] is None


def test_the_command_takes_list_prices_of_the_model(tmp_path: Path) -> None:
    pytest.importorskip("genai_prices")
    said, found = budget(tmp_path, "--model", "claude-sonnet-4-5-20250929")
    assert found["price"]["source"].startswith("genai-prices ")
    assert (found["price"]["input"], found["price"]["output"]) == pytest.approx((3, 15))
    assert "1,000 calls" in said
    assert budget(tmp_path, "--model", "a model of my own")[1]["price"] is None


def test_the_command_warns_of_what_the_model_cannot_do(tmp_path: Path) -> None:
    said, _ = budget(tmp_path, "--model", "gpt-4o", "--input-tokens", "127000")
    assert "exceed the context of 128000" in said
    assert "no reply of this model was learned from" in said
    at_most, _ = budget(tmp_path, "--model", "gpt-4o", "--cut-at", "16384")
    assert "had the most that there is" in at_most
    many = ("--files", "60", "--maximum", "60000")
    assert "needs streaming" in budget(tmp_path, *many)[0]
    assert "needs streaming" not in budget(tmp_path, *many, "--stream")[0]


@pytest.mark.parametrize("price", ["3", "3,x", "-1,2", "nan,1", "1,2,3"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    done = autopack("budget", "--category", "c", "--complexity", "low", "--price", price)
    assert done.returncode == 2
    assert "--price" in done.stderr


def test_the_public_retry_reads_the_file_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(encoded(learned(pooled_lengths=Lengths(exact=[1.0, 2.0, 5.0]))))
    monkeypatch.setenv("AUTOPACK_ESTIMATOR_COEFFICIENTS", str(file))
    predicted = package.suggest_max_tokens(["a.py"], category="testing", complexity="low").predicted_output_tokens
    found = package.retry_max_tokens(3 * predicted, ["a.py"], category="testing", complexity="low")
    assert (found.max_tokens, found.basis) == (5 * predicted, "lengths")
