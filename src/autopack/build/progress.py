"""What a run tells its user: each phase as it ends, and a summary."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import click

from autopack.build.phase import PhaseResult
from autopack._util.text import truncate_for_display
from autopack._util.terminal import is_terminal

if TYPE_CHECKING:
    from rich.console import Console

    from autopack.telemetry import TelemetryStats

_LOG_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A phase that ended, and how."""

    phase_id: str
    result: PhaseResult


class Report(Protocol):
    """Is told of each phase that ends."""

    def finished(self, outcome: Outcome) -> None:
        """Takes note of a phase that ended."""


@contextmanager
def open_report(phase_count: int) -> Iterator[Report]:
    """A progress bar where stderr is a terminal and rich is installed, plain lines and the log elsewhere."""
    console = _terminal()
    with _plain(phase_count) if console is None else _bar(console, phase_count) as report:
        yield report


def _terminal() -> Console | None:
    if not is_terminal(sys.stderr) or find_spec("rich") is None:
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return None if console.is_dumb_terminal else console


def outcome_line(outcome: Outcome) -> str:
    """One phase that ended, on one line."""
    result = outcome.result
    name = truncate_for_display(outcome.phase_id)
    again = " in 2 attempts" if result.attempts > 1 else ""
    if result.success:
        return _untagged(f"ok      {name}: {result.tokens_used:,} tokens{again}")
    return _untagged(f"FAILED  {name}{again}: {result.error}")


def _untagged(line: str) -> str:
    """A name must not make its line look like one of the log's, which `autopack replay --source log` reads."""
    return line.replace("[TokenEstimationV2]", "[TokenEstimationV2 ]")


def summary_lines(
    run_id: str, outcomes: Sequence[Outcome], phase_count: int, stats: TelemetryStats | None, signum: int | None
) -> list[str]:
    """What there is to say at the end. `stats` None: telemetry was off. `signum` None: nobody stopped the run."""
    ok = sum(outcome.result.success for outcome in outcomes)
    tokens = sum(outcome.result.tokens_used for outcome in outcomes)
    lines = [
        f"run {truncate_for_display(run_id)}: {phase_count} phases, {ok} ok, {len(outcomes) - ok} failed",
        f"tokens used: {tokens:,}",
        f"telemetry: {_stats_text(stats)}",
    ]
    if signum is not None:
        left = phase_count - len(outcomes)
        lines.insert(1, f"stopped by {signal.Signals(signum).name}: {left} phases were not finished")
    return lines


def _stats_text(stats: TelemetryStats | None) -> str:
    if stats is None:
        return "off, nothing was recorded"
    dropped = sum(stats.dropped.values())
    reasons = "".join(f" {reason}={count}" for reason, count in stats.dropped.items() if count)
    counts = ("accepted", "written", "duplicates", "dead_lettered", "pending")
    text = " ".join(f"{name}={getattr(stats, name)}" for name in counts)
    earlier = f" (recovered={stats.recovered} of earlier runs)" if stats.recovered else ""
    trouble = f" last_error={truncate_for_display(stats.last_error)}" if stats.last_error else ""
    return f"{text}{_fate(stats)}{earlier} dropped={dropped}{reasons}{trouble}"


def _fate(stats: TelemetryStats) -> str:
    """What becomes of the events that are pending when telemetry is closed."""
    if not stats.pending:
        return ""
    if stats.journal_dir is None:
        return " (LOST: there was no journal to keep them)"
    return f" (kept in {truncate_for_display(stats.journal_dir, 1000)}; the next run on this database writes them)"


class _PlainReport:
    def __init__(self, phase_count: int) -> None:
        self._phase_count = phase_count
        self._finished = 0

    def finished(self, outcome: Outcome) -> None:
        self._finished += 1
        click.echo(f"[{self._finished}/{self._phase_count}] {outcome_line(outcome)}", err=True)


@contextmanager
def _plain(phase_count: int) -> Iterator[Report]:
    handler = logging.StreamHandler(sys.stderr)
    with _logging_to(handler, logging.INFO):
        yield _PlainReport(phase_count)


@contextmanager
def _bar(console: Console, phase_count: int) -> Iterator[Report]:
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
