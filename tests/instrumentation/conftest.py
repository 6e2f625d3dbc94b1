"""Fixtures of the instrumentation's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.instrumentation.recording import Events, Script


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_is_not_searched() -> Iterator[None]:
    """Each test collects what it left open. The SDKs bring a million objects that live as long as the process: to look
    at them every time took most of the time of these tests.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def script() -> Script:
    """What the server of `url` answers."""
    from tests.instrumentation.recording import Script

    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    """A loopback server that answers by `script`. It is imported where it is needed: it is an extra."""
    from autopack.loopback.server import serve_messages

    with serve_messages(script) as served:
        yield served


@pytest.fixture
def sink() -> Events:
    """Where the events of a test go."""
    from tests.instrumentation.recording import Events

    return Events()
