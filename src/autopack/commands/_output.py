"""What a command tells people: notes, progress and tables; by rich on a terminal where it is installed, else plainly.

Standard output is the result, standard error everything else. rich is imported when a terminal is there to draw on, and
only here: without it there is no progress bar, and tables are aligned text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click
import msgspec

from autopack._util.terminal import is_terminal
from autopack._util.text import escape_json, escape_terminal
from autopack.analysis.tables import Part, Section, plain_sections, plain_tables
from autopack.database.destination import Destination

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

T = TypeVar("T")


def note(line: str) -> None:
    """Print a line for people on standard error."""
    click.echo(escape_terminal(line), err=True)


def announce(destination: Destination) -> None:
    """Say which database it is, on standard error."""
    note(f"# Database: {destination}")


def print_json(value: Any) -> None:
    """Print one JSON object, for programs, on standard output."""
    click.echo(escape_json(msgspec.json.encode(value).decode()))


def rich_console(*, stderr: bool = False) -> Console | None:
    """The console of rich for standard output or error; None where it is no terminal or rich is not installed."""
    if not is_terminal(sys.stderr if stderr else sys.stdout):
        return None
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    return Console(stderr=stderr)


# Progress, on standard error.


def tracked(items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
    """The items, with a bar that says how many were taken; `total` None: their number is not known."""
    console = rich_console(stderr=True)
    if console is None:
        return items
    from rich.progress import track

    return track(items, what, total=total, console=console, transient=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar, as long as the context lasts. What it yields is to be called with how much more is done."""
    console = rich_console(stderr=True)
    if console is None:
        yield int
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        yield partial(bar.advance, bar.add_task(what, total=total))


@contextmanager
def tracked_file(stream: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """The open file, with a bar that says how much of it was read."""
    console = rich_console(stderr=True)
    if console is None:
        yield stream
        return
    from rich.markup import escape
    from rich.progress import wrap_file

    name = escape(escape_terminal(path.name))
    with wrap_file(stream, path.stat().st_size, description=name, console=console, transient=True) as watched:
        yield watched


# Tables, on standard output. Cells are given to rich as text, never as markup.


def print_tables(parts: Iterable[Part]) -> None:
    """Print tables one below the other."""
    console = rich_console()
    if console is None:
        click.echo(plain_tables(parts))
    else:
        console.print(*map(_rich_table, parts), sep="\n")


def print_sections(header: tuple[str, ...], sections: Sequence[Section]) -> None:
    """Print one table of several sections."""
    console = rich_console()
    if console is None:
        click.echo(plain_sections(header, sections))
    else:
        console.print(rich_sections(header, sections))


def _rich_table(part: Part) -> Table:
    from rich.table import Table
    from rich.text import Text

    title, header, rows = part
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def rich_sections(header: tuple[str, ...], sections: Iterable[Section]) -> Table:
    """The table of `print_sections`. Where it is narrow, names and headers are folded: half a figure is a wrong one."""
    from rich.table import Table
    from rich.text import Text

    first, *figures = header
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in figures:
        table.add_column("\n".join(name.rsplit(" ", 1)), justify="right", no_wrap=True)
    for title, rows in sections:
        table.add_row(Text(title, style="bold"))
        for row in rows:
            table.add_row(*map(Text, row))
        table.add_section()
        table.add_row()
    return table
