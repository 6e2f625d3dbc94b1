"""Each option of a verdict or a budget that has to be understood says how it is written."""

import pytest
from tests.read_side import autopack

OPTIONS = {
    "validate": (
        "--rules plan",
        "--one-look --until",
        "--rules plan --one-look --assume-independent is the former",
        "--population plan",
        "--estimator current",
        "--stratum docs/low",
        "--coefficients coefficients.json",
    ),
    "calibrate": ("--alpha-percent 0.5",),
    "budget": ("--reasoning-level high", "--price 3,15", "--cut-at 8192"),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_the_help_has_an_example_of_each(command: str) -> None:
    said = " ".join(autopack(command, "--help").stdout.split())
    for example in OPTIONS[command]:
        assert f"Example: {example}" in said
