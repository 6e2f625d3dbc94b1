"""`autopack budget`: parse, look up, print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from autopack._util.input_files import read_input
from autopack._util.text import escape_terminal
from autopack.commands._output import print_json, print_tables
from autopack.estimation.coefficients import Coefficients, load_coefficients, parse_coefficients
from autopack.estimation.suggesting import MOST_WITHOUT_STREAMING, Suggestion, suggest_max_tokens


class Suggested(msgspec.Struct, frozen=True, kw_only=True):
    """A suggestion for the deliverables of a shape."""

    stratum: str
    model: str
    suggestion: Suggestion
    warnings: list[str]


@click.command("budget", short_help="Say which max_tokens to send, and what that risks.")
@click.argument("deliverables", nargs=-1)
@click.option("--category", required=True, metavar="NAME", help="Of the phase.")
@click.option("--complexity", required=True, metavar="NAME", help="Of the phase.")
@click.option("--files", type=click.IntRange(0, 10_000), default=0, metavar="N", help="So many source files, unnamed.")
@click.option("--phase-id", metavar="ID", help="Of the phase, for what it took before.")
@click.option("--model", default="", metavar="NAME", help="That is asked, for what the phase took before.")
@click.option("--maximum", type=click.IntRange(1), metavar="N", help="The model's maximum. [default: budget_cap]")
@click.option("--input-tokens", type=click.IntRange(0), metavar="N", help="Of the request, for its context.")
@click.option("--context", type=click.IntRange(1), default=200_000, show_default=True, metavar="N", help="Tokens.")
@click.option("--coefficients", type=click.Path(path_type=Path), metavar="FILE", help="As calibrate wrote it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def budget_command(
    *,
    deliverables: tuple[str, ...],
    category: str,
    complexity: str,
    files: int,
    phase_id: str | None,
    model: str,
    maximum: int | None,
    input_tokens: int | None,
    context: int,
    coefficients: Path | None,
    as_json: bool,
) -> None:
    """Say which max_tokens to send for a phase that makes DELIVERABLES, what that rests on, and the share of replies
    that exceeds it.

    Tokens that a reply leaves of max_tokens are free: they count against rate limits only. A truncated reply is paid
    for and has to be asked for again.

    Example: autopack budget --files 3 --category docs --complexity low
    """
    paths = [*deliverables, *(f"src/file{number}.py" for number in range(files))]
    suggestion = suggest_max_tokens(
        paths,
        category,
        complexity,
        _figures(coefficients),
        phase_id=phase_id,
        model=model,
        maximum=maximum,
    )
    found = Suggested(
        stratum=f"{category}/{complexity}",
        model=model,
        suggestion=suggestion,
        warnings=list(_warnings(suggestion, input_tokens, context)),
    )
    if as_json:
        print_json(found)
        return
    print_tables([("max_tokens to send", ("", ""), list(_lines(found)))])
    for text in found.warnings:
        click.echo(f"warning: {text}")


def _figures(path: Path | None) -> Coefficients:
    return load_coefficients(os.environ) if path is None else parse_coefficients(read_input(path, str(path)), str(path))


def _lines(found: Suggested) -> Iterator[tuple[str, ...]]:
    suggestion = found.suggestion
    yield "max_tokens", str(suggestion.max_tokens)
    yield "for", escape_terminal(f"{found.stratum} {found.model}".strip())
    yield "basis", suggestion.basis
    yield "predicted", f"{suggestion.predicted_output_tokens} tokens, with the safety margin"
    if suggestion.remembered is not None:
        yield "earlier replies", f"{suggestion.remembered.replies}, at most {suggestion.remembered.largest:g} tokens"
    if suggestion.alpha_percent is None or suggestion.bound_percent is None:
        yield "above it", "nothing is promised; autopack calibrate learns from recorded replies"
    else:
        yield (
            "above it",
            f"at most {suggestion.alpha_percent:.2g} % on average, "
            f"{suggestion.bound_percent:.2g} % in one history with 95 %",
        )
    yield "left unused", "free; it counts against rate limits that reserve max_tokens"


def _warnings(suggestion: Suggestion, input_tokens: int | None, context: int) -> Iterator[str]:
    tokens = suggestion.max_tokens
    if tokens > MOST_WITHOUT_STREAMING:
        yield f"{tokens} is above {MOST_WITHOUT_STREAMING}, which needs streaming"
    if input_tokens is not None and input_tokens + tokens > context:
        yield f"{input_tokens} input tokens and {tokens} exceed the context of {context}"
    if suggestion.remembered is not None and suggestion.remembered.truncated:
        yield "an earlier reply of this phase was truncated: what it needed is not known"
