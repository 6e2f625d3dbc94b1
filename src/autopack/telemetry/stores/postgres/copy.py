"""Rows in the text format of PostgreSQL's COPY. Pure.

Text and not binary: the driver's own way to the binary format names a prepared statement, which a pooler in transaction
mode may hand to another server; and text leaves it to the server which types the columns of an older table have.
Source of the format: PostgreSQL's manual, COPY, "Text Format": tab and line break end a field and a row, a backslash
escapes them, and a backslash with N is NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from operator import itemgetter
from typing import Any

from autopack.telemetry.event.schema import Row, Table

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"
_UTC = "+00"  # an instant of a row is the wall clock of UTC without its zone; the session's zone may be another


def copy_text(rows: Iterable[Row], table: Table) -> bytes:
    """The rows, their fields in the order of the table's columns."""
    return "".join(map(_line_maker(table), rows)).encode()


@cache
def _line_maker(table: Table) -> Callable[[Row], str]:
    """What makes the line of a row. It runs for every row under the GIL, hence the common case first."""
    # What may hold a character that has to be escaped: texts, and JSON, whose escapes begin with a backslash.
    texts = [number for number, column in enumerate(table.columns) if column.kind in {"text", "paths", "tags"}]
    instants = frozenset(number for number, column in enumerate(table.columns) if column.kind == "instant")
    texts_of, all_texts = itemgetter(*texts), "%s" * len(texts)
    zones = ["%s" + _UTC if number in instants else "%s" for number in range(len(table.columns))]
    line = "\t".join(zones) + "\n"

    def line_of(row: Row) -> str:
        said = all_texts % texts_of(row)
        if "\\" in said or not said.isprintable():
            row = tuple([_escaped(value) for value in row])
        elif None in row:
            row = tuple([_NULL if value is None else value for value in row])
        return line % row

    return line_of


def _escaped(value: Any) -> str:
    return _NULL if value is None else str(value).translate(_ESCAPES)
