"""What a reader of one kind of database offers; rows from a cursor in blocks, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from sqlalchemy import ColumnElement, Connection, Select

from autopack.database.destination import Destination

BLOCK_ROWS = 1_000
Block: TypeAlias = Sequence[Sequence[Any]]


class Reader(Protocol):
    """What differs between kinds of databases when they are read."""

    def connected(self, destination: Destination, /) -> AbstractContextManager[Connection]:
        """A connection that reads one snapshot. Raises `ReadError`, also for what goes wrong in it."""

    def column_names(self, connection: Connection, table: str, /) -> frozenset[str]:
        """The columns of a table; none where there is no such table."""

    def as_stored(self, column: ColumnElement[Any], /) -> ColumnElement[Any]:
        """The column as a record takes it: an instant as the text of its UTC wall clock, nothing else converted."""

    def blocks(
        self, connection: Connection, query: Select[*tuple[Any, ...]], limit: int | None, /
    ) -> Generator[Block, None, None]:
        """The rows in blocks."""

    def estimated_rows(self, connection: Connection, table: str, /) -> int:
        """About how many rows a table has, for the same price whatever their number."""


def streamed(connection: Connection, query: Select[*tuple[Any, ...]]) -> Generator[Block, None, None]:
    """The rows of a query, a block at a time; on PostgreSQL by way of a cursor on the server.

    To be closed before the connection is: a cursor that is forgotten warns.
    """
    with connection.execution_options(yield_per=BLOCK_ROWS).execute(query) as result:
        yield from result.partitions()
