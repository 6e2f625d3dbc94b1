"""`autopack budget`: parse, look up, print."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from autopack._util.input_files import read_input
from autopack._util.text import escape_terminal, truncate_for_display
from autopack.build.plan import load_plan
from autopack.coefficients import load_coefficients
from autopack.commands._output import print_json, print_tables
from autopack.commands._prices import PriceOption, listed_price
from autopack.estimation.coefficients import Coefficients, parse_coefficients
from autopack.estimation.model_limits import limits_of
from autopack.estimation.outlook import Outlook, Price, Retry, lengths_for, retry_after
from autopack.estimation.suggesting import MOST_WITHOUT_STREAMING, Suggestion, suggest_max_tokens

_USUAL_CONTEXT = 200_000
_NAMES_WIDTH = 18


class Suggested(msgspec.Struct, frozen=True, kw_only=True):
    """A suggestion for a phase; `phase_id` is None where only its shape is known.

    outlook             what is to be expected of it, by the recorded replies; None where there are none
    price               what its money was computed with
    reasoning_percent   how much of the output was reasoning, of this model at this level
    retry               the ceiling after a reply was cut at `--cut-at`
    """

    phase_id: str | None
    stratum: str
    model: str
    reasoning_level: str | None
    suggestion: Suggestion
    outlook: Outlook | None
    price: Price | None
    reasoning_percent: float | None
    retry: Retry | None
    warnings: list[str]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every phase that is asked about."""

    model: str
    reasoning_level: str | None
    maximum: int | None
    input_tokens: int | None
    context: int | None
    price: Price | None
    stream: bool
    cut_at: int | None


@click.command("budget", short_help="Say which max_tokens to send, and what that risks.")
@click.argument("deliverables", nargs=-1)
@click.option("--category", metavar="NAME", help="Of the phase; required without --plan.")
@click.option("--complexity", metavar="NAME", help="Of the phase; required without --plan.")
@click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="Each phase of a plan, instead of one.")
@click.option("--files", type=click.IntRange(0, 10_000), default=0, metavar="N", help="So many source files, unnamed.")
@click.option("--phase-id", metavar="ID", help="Of the phase, for what it took before.")
@click.option(
    "--model", default="", metavar="NAME", help="That is asked: what it took before, its limits and its price."
)
@click.option(
    "--reasoning-level",
    metavar="LEVEL",
    help="At which it is asked, as it was recorded: high, or a number of tokens. Example: --reasoning-level high",
)
@click.option(
    "--maximum", type=click.IntRange(1), metavar="N", help="The model's maximum. [default: the model's, budget_cap]"
)
@click.option("--input-tokens", type=click.IntRange(0), metavar="N", help="Of the request. [default: as recorded]")
@click.option(
    "--context",
    type=click.IntRange(1),
    metavar="N",
    help="The model's context, in tokens. [default: the model's, 200000]",
)
@click.option(
    "--price",
    type=PriceOption(),
    metavar="IN,OUT",
    help="Dollars for a million tokens. Example: --price 3,15 [default: the list of the extra `prices`]",
)
@click.option("--stream", is_flag=True, help="Replies are streamed: no warning that this number of tokens needs it.")
@click.option(
    "--cut-at",
    type=click.IntRange(1),
    metavar="N",
    help="A reply was cut at so many tokens: also say what to send for the retry. Example: --cut-at 8192",
)
@click.option("--coefficients", type=click.Path(path_type=Path), metavar="FILE", help="As calibrate wrote it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
def budget_command(
    *,
    deliverables: tuple[str, ...],
    category: str | None,
    complexity: str | None,
    plan: Path | None,
    files: int,
    phase_id: str | None,
    coefficients: Path | None,
    as_json: bool,
    model: str,
    price: Price | None,
    **asked: Any,
) -> None:
    """Say which max_tokens to send for a phase that makes DELIVERABLES, what that rests on, the share of replies that
    exceeds it, and what a thousand calls cost.

    Tokens that a reply leaves of max_tokens are free: they count against rate limits only. A truncated reply is paid
    for and has to be asked for again.

    Example: autopack budget --files 3 --category docs --complexity low
    """
    figures = _figures(coefficients)
    every = Asked(model=model, price=price or (listed_price(model) if model else None), **asked)
    if plan is not None:
        if deliverables or files or category or complexity or phase_id:
            raise click.UsageError("--plan names the phases, their kinds and their deliverables")
        found = [
            _suggested(
                figures,
                every,
                phase.phase_id,
                (phase.task_category or phase.category or "implementation", phase.complexity),
                phase.deliverables,
            )
            for phase in load_plan(plan).phases
        ]
        _show_plan(found, as_json=as_json)
        return
    if category is None or complexity is None:
        raise click.UsageError("--category and --complexity say what kind of phase it is; a --plan names them")
    paths = [*deliverables, *(f"src/file{number}.py" for number in range(files))]
    one = _suggested(figures, every, phase_id, (category, complexity), paths)
    if as_json:
        print_json(one)
        return
    for name, text in _lines(one):
        click.echo(f"{name:<{_NAMES_WIDTH}}{text}")
    for text in one.warnings:
        click.echo(f"warning: {text}")


def _suggested(
    figures: Coefficients, asked: Asked, phase_id: str | None, shape: tuple[str, str], paths: object
) -> Suggested:
    level = asked.reasoning_level
    suggestion = suggest_max_tokens(
        paths,
        *shape,
        figures,
        phase_id=phase_id,
        model=asked.model,
        maximum=asked.maximum,
        reasoning_level=level,
    )
    lengths = list(lengths_for(suggestion, *shape, figures, reasoning_level=level))
    most = suggestion.most_tokens
    of_model = figures.learned and figures.learned.of_model(asked.model, level)
    return Suggested(
        phase_id=phase_id,
        stratum="/".join(shape),
        model=asked.model,
        reasoning_level=level,
        suggestion=suggestion,
        outlook=lengths[0].outlook(suggestion.max_tokens, most, asked.price, asked.input_tokens) if lengths else None,
        price=asked.price,
        reasoning_percent=of_model.reasoning_percent if of_model else None,
        retry=None if asked.cut_at is None else retry_after(asked.cut_at, iter(lengths), most),
        warnings=list(_warnings(suggestion, asked, figures)),
    )


def _show_plan(every: Sequence[Suggested], *, as_json: bool) -> None:
    if as_json:
        print_json({"phases": every})
        return
    header = ("", "max_tokens", "basis", "above it, at most", "in one history, 95 %", "unused", "1,000 calls")
    print_tables([("max_tokens to send", header, [_row(found) for found in every])])
    for found in every:
        for text in found.warnings:
            click.echo(f"warning: {escape_terminal(found.phase_id or '')}: {text}")


def _row(found: Suggested) -> tuple[str, ...]:
    said, outlook = found.suggestion, found.outlook
    shares = (said.alpha_percent, said.bound_percent)
    return (
        truncate_for_display(found.phase_id or ""),
        str(said.max_tokens),
        said.basis,
        *("-" if share is None else f"{share:.2g} %" for share in shares),
        "-" if outlook is None or outlook.unused_tokens is None else f"{outlook.unused_tokens:,.0f}",
        "-" if outlook is None else _dollars(outlook) or "-",
    )


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
    yield from _outlook_lines(found)


def _outlook_lines(found: Suggested) -> Iterator[tuple[str, ...]]:
    outlook, retry = found.outlook, found.retry
    unused = None if outlook is None else outlook.unused_tokens
    tokens = "" if unused is None else f"{unused:,.0f} tokens on average: "
    yield "left unused", f"{tokens}free; it counts against rate limits that reserve max_tokens"
    if found.reasoning_percent is not None:
        yield (
            "reasoning",
            f"{found.reasoning_percent:g} % of the output of this model at this level; it is part of max_tokens",
        )
    if outlook is not None and found.price is not None and (dollars := _dollars(outlook)):
        by = f"${found.price.input:g} and ${found.price.output:g} a million tokens, by {found.price.source}"
        yield "1,000 calls", f"{dollars}, cut replies paid twice ({by})"
    if retry is not None:
        what = "one in ten of the longer replies exceeds it" if retry.basis == "lengths" else "the most that there is"
        yield "after a cut", f"{retry.max_tokens}: {what}"


def _dollars(outlook: Outlook) -> str:
    """One figure, or two where replies that were cut leave it open."""
    if outlook.least_dollars is None or outlook.most_dollars is None:
        return ""
    least, most = (f"${dollars:,.2f}" for dollars in (outlook.least_dollars, outlook.most_dollars))
    return least if least == most else f"{least} to {most}"


def _warnings(suggestion: Suggestion, asked: Asked, figures: Coefficients) -> Iterator[str]:
    tokens, limits = suggestion.max_tokens, limits_of(asked.model)
    context = asked.context or (limits.context_tokens if limits else _USUAL_CONTEXT)
    models = figures.learned.models if figures.learned else []
    if tokens > MOST_WITHOUT_STREAMING and not asked.stream:
        yield f"{tokens} is above {MOST_WITHOUT_STREAMING}, which needs streaming"
    if asked.input_tokens is not None and asked.input_tokens + tokens > context:
        yield f"{asked.input_tokens} input tokens and {tokens} exceed the context of {context}"
    if suggestion.remembered is not None and suggestion.remembered.truncated:
        yield "an earlier reply of this phase was truncated: what it needed is not known"
    if suggestion.alpha_percent is not None and asked.model and all(each.model != asked.model for each in models):
        yield "no reply of this model was learned from: the share above it is that of other models"
    if asked.cut_at is not None and asked.cut_at >= suggestion.most_tokens:
        yield f"a reply that was cut at {asked.cut_at} had the most that there is: ask for less work at once"
