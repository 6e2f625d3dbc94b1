"""Stores that misbehave, each around a real one. They are what the tests use in place of mocks."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from autopack.errors import DataRejectedError, StoreError, TransientStoreError
from autopack.telemetry.event.schema import Row, as_read
from autopack.telemetry.stores import MemoryStore, Store


class WrappedStore:
    """A store around another one that lets everything through, and counts."""

    def __init__(self, inner: Store | None = None) -> None:
        self.inner = MemoryStore() if inner is None else inner
        self.writes = 0
        self.closes = 0

    @property
    def rows(self) -> list[Any]:
        assert isinstance(self.inner, MemoryStore)
        return self.inner.rows

    @property
    def max_batch_rows(self) -> int:
        return self.inner.max_batch_rows

    @property
    def is_remote(self) -> bool:
        return self.inner.is_remote

    @property
    def telemetry_dir(self) -> Path | None:
        return self.inner.telemetry_dir

    @property
    def identity(self) -> str | None:
        return self.inner.identity

    def load(self) -> None:
        self.inner.load()

    async def absent(self, rows: Sequence[Row]) -> list[int]:
        return await self.inner.absent(rows)

    async def refusal(self, row: Row) -> str | None:
        return await self.inner.refusal(row)

    async def write(self, rows: Sequence[Row]) -> int:
        self.writes += 1
        return await self.inner.write(rows)

    async def close(self, *, final: bool = True) -> None:
        self.closes += 1
        await self.inner.close(final=final)

    def reset_in_child(self) -> Store:
        return self.inner.reset_in_child()


class FlakyStore(WrappedStore):
    """Fails its first writes; with `after_write` each is done and then fails: the answer to a commit is lost."""

    def __init__(
        self,
        inner: Store | None = None,
        *,
        failures: float,
        after_write: bool = False,
        error: Callable[[], Exception] = lambda: TransientStoreError("flaky"),
    ) -> None:
        super().__init__(inner)
        self.failures_left = failures
        self.failed = threading.Event()
        self._after_write = after_write
        self._error = error

    async def write(self, rows: Sequence[Row]) -> int:
        failing = self.failures_left > 0
        if failing:
            self.failures_left -= 1
            self.failed.set()
        if failing and not self._after_write:
            self.writes += 1
            raise self._error()
        new = await super().write(rows)
        if failing:
            raise self._error()
        return new


class FaultStore(WrappedStore):
    """Fails one write, the `nth`, before or after it is done."""

    def __init__(self, inner: Store | None = None, *, nth: int, after_write: bool, error: StoreError) -> None:
        super().__init__(inner)
        self.faults = 0
        self._nth = nth
        self._after_write = after_write
        self._error = error

    async def write(self, rows: Sequence[Row]) -> int:
        fault = self.writes + 1 == self._nth
        self.faults += fault
        if fault and not self._after_write:
            self.writes += 1
            raise self._error
        new = await super().write(rows)
        if fault:
            raise self._error
        return new


class HangingStore(WrappedStore):
    """Blocks the worker's thread in every write, as a dead network mount does, until it is released."""

    def __init__(self, inner: Store | None = None) -> None:
        super().__init__(inner)
        self.entered = threading.Event()
        self.released = threading.Event()

    async def write(self, rows: Sequence[Row]) -> int:
        self.entered.set()
        self.released.wait()
        return await super().write(rows)


class SlowStore(WrappedStore):
    """Takes ten rows at a time, and waits in every write, as for a server's answer, until it is released; the worker's
    loop goes on meanwhile. The worker begins when it is let in.
    """

    max_batch_rows = 10
    is_remote = True

    def __init__(self, inner: Store | None = None, *, error: Exception | None = None) -> None:
        super().__init__(inner)
        self.let_in = threading.Event()
        self.released = threading.Event()
        self._error = error

    def load(self) -> None:
        self.let_in.wait()

    async def write(self, rows: Sequence[Row]) -> int:
        await anyio.to_thread.run_sync(self.released.wait)
        error, self._error = self._error, None
        if error is not None:
            raise error
        return await super().write(rows)


class RefusingStore(WrappedStore):
    """Refuses a batch that holds a bad row, like a constraint that our own validation does not know of."""

    def __init__(self, inner: Store | None = None, *, bad: Callable[[Any], bool]) -> None:
        super().__init__(inner)
        self._bad = bad

    async def write(self, rows: Sequence[Row]) -> int:
        if any(map(self._bad, map(as_read, rows))):
            self.writes += 1
            raise DataRejectedError("CHECK")
        return await super().write(rows)
