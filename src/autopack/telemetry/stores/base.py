"""What the worker needs of a database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from autopack.telemetry.event.schema import Row

LEFT_OUT = "left out in silence, by a trigger, a rule or a policy"
"""What `Store.refusal` says of a row that is not there behind an INSERT that failed with nothing."""


def refusal_text(code: str) -> str:
    """Why a row was rejected that the database refused, for a person."""
    return f"the database refused it: {code}"


class Store(Protocol):
    """A place for rows. One owner: all calls come from the worker's loop, one at a time."""

    @property
    def max_batch_rows(self) -> int:
        """How many rows one call of `write` may hold."""

    @property
    def is_remote(self) -> bool:
        """Whether `write` mostly waits for another process or machine: the next batch is decoded meanwhile. Beside a
        database in this process that would only take turns with it, and each turn waits for the GIL.
        """

    @property
    def telemetry_dir(self) -> Path | None:
        """Where dead letters for this store belong; None: in memory only."""

    @property
    def identity(self) -> str | None:
        """What tells this database from others, without credentials; None: it does not outlive the process, so events
        for it are not journalled.
        """

    def load(self) -> None:
        """Import what the store needs. Called in the worker's thread before anything else, under a lock that a fork
        waits for: a child forked in the middle of an import can never import that module again.
        """

    async def write(self, rows: Sequence[Row]) -> int:
        """Put all rows into the database in one transaction, or none.

        Connects, and makes or upgrades the schema, where that has not happened yet. Returns how many rows were new; the
        others were there already, under the same (`run_id`, `event_uid`).

        Raises:
            TransientStoreError, DataRejectedError, StoreUnusableError: nothing was written, or it is not known.

        """

    async def absent(self, rows: Sequence[Row]) -> list[int]:
        """Which of these rows, by their place, the table does not hold under their key after a `write` of them that
        raised nothing: a trigger, a rule or a policy of the user's has left them out in silence. Raises StoreError.
        """

    async def refusal(self, row: Row) -> str | None:
        """Whether the table would refuse this row, which it does not hold: the code, or `LEFT_OUT`; None where it would
        take it. Writes nothing.

        Raises:
            TransientStoreError, StoreUnusableError: it is not known.

        """

    async def close(self, *, final: bool = True) -> None:
        """Close every connection and thread. The next `write` connects again. Does not raise.

        final: no `write` will follow. Where it is False, what lives only as long as a connection must be kept.
        """

    def reset_in_child(self) -> Store:
        """In a forked child: a store for the same database that shares nothing with the parent's."""
