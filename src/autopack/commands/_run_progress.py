"""What `autopack run` shows of its phases while they run: a bar on a terminal, plain lines and the log elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from autopack._util.text import truncate_for_display
from autopack.build.progress import Outcome, outcome_line
from autopack.commands._output import rich_console

if TYPE_CHECKING:
    from rich.console import Console

_LOG_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class RunReport(Protocol):
    """Is told of each phase that ends."""

    def finished(self, outcome: Outcome) -> None:
        """Takes note of a phase that ended."""


@contextmanager
def open_run_report(phase_count: int) -> Iterator[RunReport]:
    """A progress bar where standard error is a terminal and rich is installed, else plain lines and the log."""
    console = rich_console(stderr=True)
    with _plain(phase_count) if console is None or console.is_dumb_terminal else _bar(console, phase_count) as report:
        yield report


class _PlainReport:
    def __init__(self, phase_count: int) -> None:
        self._phase_count = phase_count
        self._finished = 0

    def finished(self, outcome: Outcome) -> None:
        self._finished += 1
        click.echo(f"[{self._finished}/{self._phase_count}] {outcome_line(outcome)}", err=True)


@contextmanager
def _plain(phase_count: int) -> Iterator[RunReport]:
    handler = logging.StreamHandler(sys.stderr)
    with _logging_to(handler, logging.INFO):
        yield _PlainReport(phase_count)


@contextmanager
def _bar(console: Console, phase_count: int) -> Iterator[RunReport]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    columns = (TextColumn("phases"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("phases", total=phase_count)

        def say(line: str) -> None:
            progress.console.print(Text(line), soft_wrap=True)

        class BarReport:
            def finished(self, outcome: Outcome) -> None:
                say(outcome_line(outcome))
                progress.advance(task)

        class BarLog(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                say(truncate_for_display(record.getMessage(), 1000))

        with _logging_to(BarLog(), logging.WARNING):
            yield BarReport()


@contextmanager
def _logging_to(handler: logging.Handler, level: int) -> Iterator[None]:
    """Sends autopack's own log to `handler`; afterwards it is as before."""
    log = logging.getLogger("autopack")
    before = log.level
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    handler.setLevel(level)
    log.addHandler(handler)
    log.setLevel(min(level, before or level))
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
