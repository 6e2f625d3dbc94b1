"""Event records as lines of NDJSON or CSV. Pure: what is written where is the caller's."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple

from autopack._util.text import escape_json, escape_terminal
from autopack.analysis.reading.records import RECORD_FIELDS, EventRecord

ExportFormat = Literal["ndjson", "csv"]
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_LINES_AT_ONCE = 1_000
_PLAIN = frozenset({int, float, type(None)})  # a number is no formula, also when it is negative


def encoded_lines(
    records: Iterable[EventRecord], output_format: ExportFormat, *, raw: bool, to_terminal: bool
) -> Iterator[bytes]:
    """The records as lines, each with its line break, of NDJSON a thousand at a time; CSV begins with a header row.

    `raw`: CSV text cells stay as they are; else one that a spreadsheet would take for a formula (it begins with
    `= + - @`, tab or return) gets a leading `'`. `to_terminal`: control characters in CSV are shown as escapes;
    NDJSON never holds them, it has escapes of its own.
    """
    if output_format == "csv":
        return _csv_lines(records, _cell_filter(raw=raw, to_terminal=to_terminal))
    return _ndjson_lines(records)


def _ndjson_lines(records: Iterable[EventRecord]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    coming = iter(records)
    while some := list(islice(coming, _LINES_AT_ONCE)):
        lines = encoder.encode_lines(some)
        if not lines.isascii() or b"\x7f" in lines:
            lines = escape_json(lines.decode()).encode()
        yield lines


def _csv_lines(records: Iterable[EventRecord], text_cell: Callable[[str], str]) -> Iterator[bytes]:
    """RFC 4180: quoted where needed, CRLF, UTF-8. Lists and mappings are JSON; None is an empty cell."""
    writer = csv.writer(_Echo())
    encoder = msgspec.json.Encoder()

    def cell(value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return text_cell(value)
        if kind is bool:
            return "true" if value else "false"
        return value if kind in _PLAIN else text_cell(encoder.encode(value).decode())

    yield writer.writerow(RECORD_FIELDS).encode()
    for record in records:
        yield writer.writerow(map(cell, astuple(record))).encode()


class _Echo:
    """Makes a csv.writer return its line instead of writing it."""

    def write(self, line: str) -> str:
        return line


def _cell_filter(*, raw: bool, to_terminal: bool) -> Callable[[str], str]:
    def as_text(text: str) -> str:
        return f"'{text}" if text.startswith(_FORMULA_STARTS) else text

    shielded = str if raw else as_text
    return (lambda text: escape_terminal(shielded(text))) if to_terminal else shielded
