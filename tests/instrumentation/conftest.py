"""Fixtures of the instrumentation's tests."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_is_not_searched() -> Iterator[None]:
    """Each test collects what it left open. The SDKs bring a million objects that live as long as the process: to look
    at them every time took most of the time of these tests.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
