"""What people are told on standard error: notes, and a progress bar where somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

import click

from autopack._util.terminal import is_terminal
from autopack._util.text import escape_terminal

T = TypeVar("T")


def note(line: str) -> None:
    """Print a line for people."""
    click.echo(escape_terminal(line), err=True)


def tracked(items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
    """The items, with a bar that says how far one is; `total` is None where nobody knows how many there are."""
    if not is_terminal(sys.stderr):
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total=total, console=Console(stderr=True), transient=True)
