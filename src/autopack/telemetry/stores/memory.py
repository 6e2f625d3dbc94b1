"""A real store that keeps its rows in memory, for the tests of programs that record telemetry."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from autopack.telemetry.event.schema import TABLE, Row, as_read


class MemoryStore:
    """Rows in a list, unique by (`run_id`, `event_uid`), like the other stores and as fast as a dict.

    >>> store = MemoryStore()
    >>> with Telemetry(store) as telemetry:
    ...     telemetry.record(run_id="r", ...)
    >>> [row.phase_id for row in store.rows]
    """

    max_batch_rows = 10_000
    is_remote = False
    telemetry_dir: Path | None = None
    identity: str | None = None

    def __init__(self) -> None:
        self._rows: dict[Any, Row] = {}

    @property
    def rows(self) -> list[Any]:
        """A copy of what was written, in order. Complete after `flush()` or `close()`.

        Each has an attribute for each column of the table, by its name; `timestamp` is aware UTC.
        """
        return [as_read(row) for row in self._rows.values()]

    def load(self) -> None:
        """Nothing to import."""

    async def write(self, rows: Sequence[Row]) -> int:
        """All rows; returns how many were new."""
        before = len(self._rows)
        self._rows |= {key: row for row in rows if (key := _key_of(row)) not in self._rows}
        return len(self._rows) - before

    async def absent(self, rows: Sequence[Row]) -> list[int]:
        """None: nothing stands between a write and the dict."""
        return [number for number, row in enumerate(rows) if _key_of(row) not in self._rows]

    async def refusal(self, row: Row) -> str | None:  # noqa: ARG002 (it takes every row)
        """None."""
        return None

    async def close(self, *, final: bool = True) -> None:
        """The rows stay."""

    def reset_in_child(self) -> MemoryStore:
        """The child's copy of the memory: the parent never sees what is written to it."""
        return self


_key_of = itemgetter(*map(TABLE.names.index, TABLE.key))
