"""Which max_tokens to send: what it rests on, in its order, and what it says of the risk."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from tests.read_side import autopack

from autopack.analysis.calibrating.history import Reply, Shape
from autopack.analysis.calibrating.memory import memory_of
from autopack.coefficients import shipped_coefficients
from autopack.commands.calibrate import encoded
from autopack.estimation.coefficients import Coefficients, Learned, Promise, Remembered, estimator_fingerprint
from autopack.estimation.estimator import estimate
from autopack.estimation.phases import phase_key
from autopack.estimation.suggesting import suggest_max_tokens

SHIPPED = shipped_coefficients()
FILES = ["src/a.py", "src/b.py"]
KEY = phase_key("p", "testing", "low", FILES)
OWN, ALL = Promise(alpha_percent=1, bound_percent=3), Promise(alpha_percent=2, bound_percent=4)


def learned(*, replies: int = 2, truncated: bool = False, factor: float | None = 1.5) -> Coefficients:
    return msgspec.structs.replace(
        SHIPPED,
        budget_factor={"testing/low": 2.0},
        learned=Learned(
            memory={"m": {KEY: Remembered(replies=replies, largest=1000, truncated=truncated)}},
            memory_factor=factor,
            memory_promise=ALL,
            strata={"testing/low": OWN},
            pooled_factor=3.0,
            pooled_promise=ALL,
        ),
    )


def test_a_remembered_phase_gets_its_largest_reply_times_the_factor() -> None:
    """A phase that is remembered gets its largest reply times the factor."""
    found = suggest_max_tokens(FILES, "testing", "low", phase_id="p", model="m", coefficients=learned())
    assert (found.max_tokens, found.basis, found.alpha_percent, found.bound_percent) == (1500, "memory", 2, 4)


@pytest.mark.parametrize("figures", [learned(replies=1), learned(truncated=True), learned(factor=None)])
def test_what_the_memory_does_not_carry_is_the_stratums(figures: Coefficients) -> None:
    found = suggest_max_tokens(FILES, "testing", "low", phase_id="p", model="m", coefficients=figures)
    assert (found.basis, found.alpha_percent) == ("stratum", 1)
    assert found.max_tokens == 2 * found.predicted_output_tokens


def test_another_model_and_another_phase_remember_nothing() -> None:
    for phase_id, model in (("p", "other"), ("q", "m"), (None, "m")):
        found = suggest_max_tokens(FILES, "testing", "low", phase_id=phase_id, model=model, coefficients=learned())
        assert (found.basis, found.remembered) == ("stratum", None)


def test_a_stratum_that_was_not_there_gets_the_pooled_factor() -> None:
    found = suggest_max_tokens(FILES, "novel", "low", coefficients=learned())
    assert (found.basis, found.max_tokens) == ("pooled", 3 * found.predicted_output_tokens)


def test_with_nothing_learned_the_estimators_budget_is_suggested() -> None:
    """Without anything learned the budget of the estimator is suggested, and nothing is promised."""
    found = suggest_max_tokens(FILES, "testing", "low", coefficients=SHIPPED)
    assert (found.basis, found.alpha_percent) == ("coefficients", None)
    assert found.max_tokens == estimate(FILES, "testing", "low", SHIPPED).selected_budget


def test_the_models_maximum_is_the_most_and_breaks_the_promise() -> None:
    found = suggest_max_tokens(FILES, "testing", "low", phase_id="p", model="m", maximum=1200, coefficients=learned())
    assert (found.max_tokens, found.basis, found.alpha_percent) == (1200, "maximum", None)


def test_what_is_learned_changes_no_prediction_and_no_fingerprint() -> None:
    with_memory = msgspec.structs.replace(SHIPPED, learned=learned().learned)
    assert estimator_fingerprint(with_memory) == estimator_fingerprint(SHIPPED)
    assert estimate(FILES, "testing", "low", with_memory) == estimate(FILES, "testing", "low", SHIPPED)


def executions(phase: int, *actual: int, truncated: bool = False) -> list[Reply]:
    shape = Shape("testing", "low", (1, 0, 0, 0, 0), (0,) * 5)
    return [
        Reply(f"r{n}", shape, tokens, success=True, truncated=truncated, phase=f"p{phase}", model="m", at_s=float(n))
        for n, tokens in enumerate(actual)
    ]


def test_the_memory_factor_is_the_last_over_the_largest_before() -> None:
    """Of 99 phases at 1 %, the largest score; their order in time decides, and not the order of rows."""
    replies = [reply for phase in range(98) for reply in executions(phase, 1000, 500, 1100)]
    replies += reversed(executions(98, 800, 1000, 1300))
    memory, factor, promise = memory_of(replies, Fraction(1, 100))
    assert factor == 1.3
    assert promise is not None
    assert promise.alpha_percent == 1
    assert memory["m"]["p98"] == Remembered(replies=3, largest=1300)
    assert memory_of(executions(1, 5, 5, 5, truncated=True), Fraction(1, 100))[1:] == (None, None)


def test_replies_that_failed_are_not_remembered() -> None:
    """Two refusals of five tokens would make a ceiling of a few."""
    refused = [dataclasses.replace(reply, success=False) for reply in executions(1, 5, 6)]
    assert memory_of(refused, Fraction(1, 100))[0] == {}
    memory = memory_of([*refused, *executions(1, 900)], Fraction(1, 100))[0]
    assert list(memory["m"].values()) == [Remembered(replies=1, largest=900)]


def test_the_command_says_what_to_send_and_warns(tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    file.write_bytes(encoded(learned()))
    shape = ("--category", "testing", "--complexity", "low")
    done = autopack("budget", *shape, "--phase-id", "p", "--model", "m", "--coefficients", file, *FILES)
    assert done.returncode == 0, done.stderr
    assert "1500" in done.stdout
    assert "at most 2 % on average, 4 % in one history" in done.stdout
    long = autopack("budget", *shape, "--files", "40", "--input-tokens", "199000", "--coefficients", file)
    assert "needs streaming" in long.stdout
    assert "exceed the context" in long.stdout
    parsed = msgspec.json.decode(autopack("budget", *shape, "--json", "--files", "2").stdout)
    assert parsed["suggestion"]["basis"] == "coefficients"
