"""A bar on standard error that is told how far one is, where somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from autopack._util.terminal import is_terminal


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """While open, the bar; what it gives is called with how much more is done."""
    if not is_terminal(sys.stderr):
        yield int
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield partial(bar.advance, bar.add_task(what, total=total))
