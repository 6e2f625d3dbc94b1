"""Small tables: by rich on a terminal, as aligned text elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

Part = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""A table: its title, its header, its rows. The first column is text, the others are figures."""


def plain_tables(parts: Iterable[Part]) -> str:
    """The tables as aligned text, with no trailing blanks."""
    return "\n\n".join("\n".join([title, *_aligned([header, *rows])]) for title, header, rows in parts)


def rich_tables(parts: Iterable[Part]) -> Iterator[Table]:
    """The tables for a terminal. Cells are given as text, never as markup."""
    from rich.table import Table
    from rich.text import Text

    for title, header, rows in parts:
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False
        )
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        yield table


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = row
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
