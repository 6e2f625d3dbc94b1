"""Rows from a cursor in blocks, so that memory does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, Select

BLOCK_ROWS = 1_000
Block: TypeAlias = Sequence[Row[*tuple[Any, ...]]]


def streamed(connection: Connection, query: Select[*tuple[Any, ...]]) -> Generator[Block, None, None]:
    """The rows of a query, a block at a time; on PostgreSQL by way of a cursor on the server.

    To be closed before the connection is: a cursor that is forgotten warns.
    """
    with connection.execution_options(yield_per=BLOCK_ROWS).execute(query) as result:
        yield from result.partitions()
