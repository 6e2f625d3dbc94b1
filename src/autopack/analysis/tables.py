"""Small tables as aligned text. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice

Part = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""A table: its title, its header, its rows. The first column is text, the others are figures."""

Section = tuple[str, list[tuple[str, ...]]]
"""A part of a table whose parts share one header: its title and its rows."""


def plain_tables(parts: Iterable[Part]) -> str:
    """The tables one below the other, with no trailing blanks."""
    return "\n\n".join("\n".join([title, *aligned([header, *rows])]) for title, header, rows in parts)


def plain_sections(header: tuple[str, ...], sections: Sequence[Section]) -> str:
    """One table of several sections, with no trailing blanks: each column is as wide in all of them."""
    lines = aligned([header, *(row for _, rows in sections for row in rows)])
    shown = [next(lines)]
    for title, rows in sections:
        shown += ["", title, *islice(lines, len(rows))]
    return "\n".join(shown)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows as lines: the first column to the left, the others to the right, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    figures = range(1, len(widths))
    for row in rows:
        yield padded(row, widths, figures).rstrip()


def padded(cells: Sequence[str], widths: Sequence[int], figures: Container[int]) -> str:
    """One row. A cell is at least as wide as its column; columns with the numbers `figures` are set to the right."""
    return "  ".join(
        cell.rjust(width) if column in figures else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
