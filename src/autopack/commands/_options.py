"""What commands share of their command lines: kinds of values, the selection of events, FILE and `--source`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autopack._util.text import escape_terminal
from autopack.analysis.reading.selection import EVERYTHING, Selection, Source, parse_instant

if TYPE_CHECKING:
    ParamType = click.ParamType
else:

    class ParamType(click.ParamType):
        """Click's own, which may be told at run time what it converts to only from 8.4 on."""

        def __class_getitem__(cls, _converted: object) -> type:
            return cls


_MOST_ROWS = 2**63 - 1  # what SQLite takes


class FiniteRange(click.FloatRange):
    """A number in a range. Click's own range lets `nan` through, which is in every range and passes every limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or fail with a message about the option."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class Instant(ParamType[datetime]):
    """An ISO date or time on the command line."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it, or fail with a message about the option."""
        try:
            return value if isinstance(value, datetime) else parse_instant(value)
        except ValueError as exc:
            self.fail(escape_terminal(str(exc)), param, ctx)


class StoredText(ParamType[str]):
    """Text to compare with stored text, which is always valid Unicode."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse bytes that are no text: no event can have them."""
        text = str(value)
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(f"{escape_terminal(text)} is not valid text", param, ctx)
        return text


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select events; the command gets them as one `selection`."""

    @functools.wraps(command)
    def with_selection(
        *args: Any,
        run_id: tuple[str, ...],
        category: tuple[str, ...],
        model: tuple[str, ...],
        since: datetime | None,
        until: datetime | None,
        limit: int | None,
        **others: Any,
    ) -> Any:
        selection = Selection(run_id, category, model, since, until, limit)
        return command(*args, selection=selection, **others)

    options = [
        click.option("--run-id", type=StoredText(), multiple=True, metavar="ID", help="Only this run; repeatable."),
        click.option(
            "--category", type=StoredText(), multiple=True, metavar="NAME", help="Only this category; repeatable."
        ),
        click.option("--model", type=StoredText(), multiple=True, metavar="NAME", help="Only this model; repeatable."),
        click.option(
            "--since",
            type=Instant(),
            metavar="TIME",
            help="Only events at or after this ISO date or time; UTC where it names no zone.",
        ),
        click.option(
            "--until",
            type=Instant(),
            metavar="TIME",
            help="Only events before this ISO date (its first moment) or time.",
        ),
        click.option("--limit", type=click.IntRange(1, _MOST_ROWS), metavar="N", help="At most this many, the newest."),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), with_selection)


def source_options(*, logs: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `FILE` and `--source`; without `logs` a file can only be an export."""
    log = "[TokenEstimationV2] lines of a log FILE, " if logs else ""
    why_not = "" if logs else " A log does not name deliverables."
    option = click.option(
        "--source",
        type=click.Choice(["db", *_kinds_of_files(logs=logs)]),
        default="db",
        show_default=True,
        help=f"The database, {log}or an export FILE (- is standard input).{why_not}",
    )
    argument = click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
    return lambda command: argument(option(command))


def check_source(file: Path | None, source: Source, selection: Selection, *, logs: bool) -> None:
    """Raises `UsageError` where these do not go together: a file is read whole, and `db` needs none."""
    if source == "db" and file is not None:
        known = " or ".join(_kinds_of_files(logs=logs))
        raise click.UsageError(f"--source db reads the database of DATABASE_URL; for a FILE use --source {known}")
    if source != "db" and file is None:
        raise click.UsageError(f"--source {source} needs a FILE (- is standard input)")
    if source != "db" and selection != EVERYTHING:
        raise click.UsageError("the options that select events are for --source db")


def _kinds_of_files(*, logs: bool) -> list[Source]:
    return ["log", "ndjson"] if logs else ["ndjson"]
