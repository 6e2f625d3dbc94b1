"""Rows in the binary format of PostgreSQL's COPY, by psycopg's C code where it is installed. Pure.

It takes a third of the CPU of the text format, which is put together in Python. No connection of psycopg's is made: its
encoder gives the bytes, and asyncpg sends them.

The format says nothing of types, and the server takes eight bytes of a number for eight bytes of anything. So the
statement itself is bound to the types that the table has when it runs: its WHERE is `true OR …`, which the planner
makes `true` of, after the parser has looked for the functions behind it. They exist for columns whose values have the
bytes that are sent. For other columns the statement fails, nothing is written, and the text format leaves it to the
server what becomes of each value.
Source of the format: PostgreSQL's manual, COPY, "Binary Format".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from autopack.telemetry.event.schema import Kind, Row, Table

if TYPE_CHECKING:
    FormatRow = Callable[[Any, Any, bytearray], None]

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_TRUTHS = {True, False, None}
_UTC = "+00:00"  # an instant of a row is the wall clock of UTC without its zone

# Of each kind: the OID of the type that is sent, one of PostgreSQL's own, and the function that gives its bytes.
_TEXT = (25, "textsend")
_SENT: dict[Kind, tuple[int, str]] = {
    "text": _TEXT,
    "paths": _TEXT,
    "tags": _TEXT,
    "count": (20, "int8send"),
    "truth": (16, "boolsend"),
    "instant": (1184, "timestamptz_send"),
}
# What the encoder must make of a bigint, a text, a truth and a NULL, or it is not used.
_PROBE = ((20, 25, 16, 25), (7, "é", True, None))
_PROBE_BYTES = b"\0\4\0\0\0\x08\0\0\0\0\0\0\0\7\0\0\0\2\xc3\xa9\0\0\0\1\1\xff\xff\xff\xff"


@cache
def copy_statement(table: Table) -> str:
    """COPY from the client, which fails where a column has a type that does not take the bytes of its kind."""
    names = ", ".join(f'"{name}"' for name in table.names)
    sent = ", ".join(f'{_SENT[column.kind][1]}("{column.name}")' for column in table.columns)
    return f"COPY {table.name} ({names}) FROM STDIN (FORMAT binary) WHERE true OR num_nulls({sent}) = 0"


def encoder(table: Table) -> Callable[[Sequence[Row]], bytes] | None:
    """What makes the bytes of rows; None where psycopg's C code is not installed, or is another than is known here.

    The function raises ValueError, or what psycopg raises, for a value that has not the type of its column.
    """
    try:
        probe = bytearray()
        format_row, transformer = _format_of(_PROBE[0])
        format_row(_PROBE[1], transformer, probe)
        format_row, transformer = _format_of(_SENT[column.kind][0] for column in table.columns)
    except Exception:  # noqa: BLE001 (not installed, or without the function, or it takes something else: text, then)
        return None
    if probe != _PROBE_BYTES:
        return None
    instants = [number for number, column in enumerate(table.columns) if column.kind == "instant"]
    truths_of = itemgetter(*[number for number, column in enumerate(table.columns) if column.kind == "truth"])

    def encode(rows: Sequence[Row]) -> bytes:
        if not {*chain.from_iterable(map(truths_of, rows))} <= _TRUTHS:
            raise ValueError("a truth that is none, which psycopg would take for one")
        data = bytearray(_SIGNATURE)
        for row in rows:
            values = list(row)
            for instant in instants:
                values[instant] = datetime.fromisoformat(values[instant] + _UTC)
            format_row(values, transformer, data)
        data += _TRAILER
        return bytes(data)

    return encode


def _format_of(oids: Iterable[int]) -> tuple[FormatRow, Any]:
    """What appends a row to bytes, and what tells it the types. It is psycopg's own affair: hence the probe."""
    from psycopg import pq
    from psycopg._cmodule import _psycopg
    from psycopg.adapt import Transformer

    transformer = Transformer()
    transformer.set_dumper_types([*oids], pq.Format.BINARY)
    return _psycopg.format_row_binary, transformer
