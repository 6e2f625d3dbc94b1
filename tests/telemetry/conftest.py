"""Fixtures of the write side: each kind of destination in turn."""

from pathlib import Path

import pytest
from tests.telemetry.places import PLACES, Place


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of store in turn."""
    kind = PLACES[request.param]
    return kind(tmp_path, request.getfixturevalue("postgres") if kind.on_postgres else None)
