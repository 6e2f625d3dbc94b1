"""The estimator's figures: shipped with the package, which a file of the user's may replace."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from autopack._util.input_files import read_input
from autopack.estimation.coefficients import Coefficients, parse_coefficients

ENVIRONMENT_NAME = "AUTOPACK_ESTIMATOR_COEFFICIENTS"


def load_coefficients(environ: Mapping[str, str]) -> Coefficients:
    """Return the coefficients in the file that `AUTOPACK_ESTIMATOR_COEFFICIENTS` names, else the shipped ones.

    Raises:
        InputFileError: the named file cannot be read or is not of the form of the shipped one.

    """
    name = environ.get(ENVIRONMENT_NAME, "").strip()
    if not name:
        return shipped_coefficients()
    source = f"{ENVIRONMENT_NAME}: {name}"
    return parse_coefficients(read_input(Path(name), source), source)


def shipped_coefficients() -> Coefficients:
    """Return the coefficients that come with the package."""
    data = resources.files("autopack").joinpath("data/estimator_coefficients.json").read_bytes()
    return parse_coefficients(data, "estimator_coefficients.json")
