"""`autopack validate`: parse, wire, print."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from autopack._util.input_files import read_input
from autopack._util.text import escape_terminal
from autopack.analysis.calibrating.history import Recorded
from autopack.analysis.calibrating.proposal import newer_as_predicted
from autopack.analysis.reading.lines import exported
from autopack.analysis.reading.records import converted
from autopack.analysis.reading.rows import open_events
from autopack.analysis.reading.selection import Selection, Source
from autopack.analysis.sampling.collector import SampleCollector
from autopack.analysis.sampling.samples import Samples
from autopack.analysis.sampling.sources import blocks_of, from_log, from_ndjson
from autopack.analysis.validating.clusters import Population
from autopack.analysis.validating.rules import Rules, RuleSet
from autopack.analysis.validating.table import after_tables, before_tables, parts
from autopack.analysis.validating.validation import Validation, Verdict, validate
from autopack.coefficients import load_coefficients
from autopack.commands._options import (
    FiniteRange,
    Instant,
    ParamType,
    StoredText,
    check_source,
    selection_options,
    source_options,
)
from autopack.commands._output import print_json, print_tables, tracked
from autopack.commands._reading import database_to_read, opened_lines
from autopack.commands._verdicts import collect_database
from autopack.errors import AnalysisError, DatabaseUrlError, InputFileError, MissingExtraError, describe_error
from autopack.estimation.coefficients import estimator_fingerprint, parse_coefficients

EXIT_CODES: dict[Verdict, int] = {"validated": 0, "not validated": 1, "insufficient data": 2}
WRONG_COMMAND_LINE = 64  # sysexits' EX_USAGE: click's 2 is a verdict here
NOTHING_TO_READ = 66  # sysexits' EX_NOINPUT: 1 is a verdict too

_DEFAULTS = Rules()


class WrongCommandLine(click.UsageError):
    """A usage error that does not look like a verdict."""

    exit_code = WRONG_COMMAND_LINE


class NothingToRead(click.ClickException):
    """A failure to read that does not look like a verdict."""

    exit_code = NOTHING_TO_READ


class VerdictCommand(click.Command):
    """A command whose exit codes 0, 1 and 2 are verdicts: what prevents one ends with others."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As every command does, but a wrong command line does not look like a verdict."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as exc:
            raise WrongCommandLine(exc.format_message(), exc.ctx) from exc

    def invoke(self, ctx: click.Context) -> Any:
        """As every command does, but what cannot be read does not look like a verdict."""
        try:
            return super().invoke(ctx)
        except click.UsageError as exc:
            raise WrongCommandLine(exc.format_message(), ctx) from exc
        except BrokenPipeError:
            raise
        except (AnalysisError, DatabaseUrlError, InputFileError, MissingExtraError, OSError) as exc:
            raise NothingToRead(describe_error(exc)) from exc


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each rule; the command gets them as one `rules`."""

    @functools.wraps(command)
    def with_rules(*args: Any, stratum: tuple[str, ...], level_percent: float, estimator: str, **others: Any) -> Any:
        given = {name: others.pop(name) for name in Rules.__struct_fields__ if name in others}
        only = _fingerprint(estimator)
        return command(*args, rules=Rules(level=level_percent / 100, strata=stratum, estimator=only, **given), **others)

    percent, counted = FiniteRange(0, 100), click.IntRange(0)
    options: list[Callable[..., Any]] = [
        click.option(
            "--rules",
            type=click.Choice(get_args(RuleSet)),
            default=_DEFAULTS.rules,
            show_default=True,
            help="Judge the budget (truncation, overruns), or the host system's five limits. Example: --rules plan",
        ),
        click.option(
            "--one-look",
            is_flag=True,
            help="The verdict is asked for once, at a time that was fixed before. Without it, it holds however often "
            "it is asked for. Example: --one-look --until 2026-01-01",
        ),
        click.option(
            "--assume-independent",
            is_flag=True,
            help="Take each sample for independent, whatever its phase and run; says so. "
            "Example: --rules plan --one-look --assume-independent is the former verdict",
        ),
        click.option(
            "--population",
            type=click.Choice(get_args(Population)),
            default=_DEFAULTS.population,
            show_default=True,
            help="Speak of phases like these, also new ones, or of future runs of this plan's phases only; says so. "
            "Example: --population plan, for the same plan every night",
        ),
        click.option(
            "--estimator",
            type=Estimator(),
            default="any",
            show_default=True,
            metavar="current|FINGERPRINT|any",
            help="Judge the predictions of one estimator: of the coefficients in force, or by their 8 hex digits. "
            "Example: --estimator current",
        ),
        _rule("--min-samples", counted, "Samples there must be."),
        _rule("--min-categories", counted, "Categories there must be. [default: as many as there are; plan: 3]"),
        _rule("--min-complexities", counted, "Complexities there must be. [default: as many as there are; plan: 2]"),
        _rule("--min-per-stratum", counted, "Samples there must be of each stratum that is judged."),
        click.option(
            "--stratum",
            type=Stratum(),
            multiple=True,
            metavar="CATEGORY/COMPLEXITY",
            help="A stratum that is judged; repeatable. Example: --stratum docs/low [default: each that occurs]",
        ),
        _rule(
            "--underestimation-factor",
            FiniteRange(0, min_open=True),
            "More than this times what was predicted is an underestimation.",
        ),
        _rule("--max-underestimation-percent", percent, "Underestimated replies."),
        _rule("--max-truncation-percent", percent, "Truncated replies."),
        _rule("--max-budget-overrun-percent", percent, "Replies above the selected budget."),
        _rule("--max-waste-p90", FiniteRange(0), "The P90 of predicted / actual must be below."),
        _rule("--max-smape-median-percent", FiniteRange(0, 200), "The median SMAPE."),
        _rule("--drift-days", FiniteRange(0, min_open=True), "The last days, compared with all before."),
        click.option(
            "--level-percent",
            type=FiniteRange(50, 99.99),
            default=_DEFAULTS.level * 100,
            show_default=True,
            help="Level of the intervals.",
        ),
        click.option("--provisional", is_flag=True, help="Judge by the points, not by the intervals; says so."),
        click.option(
            "--imported/--no-imported",
            default=_DEFAULTS.imported,
            show_default=True,
            help="Log lines, which do not name their deliverables, are samples.",
        ),
        click.option(
            "--include-simulated",
            "simulated",
            is_flag=True,
            help="Also replies of a model whose name begins with 'simulated'.",
        ),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), with_rules)


class Estimator(ParamType[str]):
    """`current`, `any`, or the fingerprint of an estimator."""

    name = "estimator"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what no fingerprint can be."""
        text = str(value)
        if text not in ("current", "any") and not re.fullmatch("[0-9a-f]{8}", text):
            self.fail(f"{escape_terminal(text)} is neither current, nor any, nor 8 hexadecimal digits", param, ctx)
        return text


class Stratum(StoredText):
    """A category and a complexity on the command line."""

    name = "stratum"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what names only one of them."""
        text = super().convert(value, param, ctx)
        if "/" not in text.strip("/"):
            self.fail(f"{escape_terminal(text)} is not of the form category/complexity", param, ctx)
        return text


def _rule(option: str, kind: click.ParamType[Any], text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    default = getattr(_DEFAULTS, option.removeprefix("--").replace("-", "_"))
    return click.option(option, type=kind, default=default, show_default=default is not None, metavar="N", help=text)


def _fingerprint(estimator: str) -> str | None:
    """What `--estimator` names."""
    if estimator == "any":
        return None
    return estimator_fingerprint(load_coefficients(os.environ)) if estimator == "current" else estimator


@click.command("validate", cls=VerdictCommand, short_help="Say whether the estimator is validated on real data.")
@source_options(logs=True)
@click.option("--as-of", type=Instant(), metavar="TIME", help="What counts as now, for the drift. [default: now]")
@click.option(
    "--coefficients",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Judge what this file of autopack calibrate would have predicted, on runs that are newer than it. "
    "Example: --coefficients coefficients.json",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
@rule_options
@selection_options
def validate_command(
    *,
    file: Path | None,
    source: Source,
    as_of: datetime | None,
    coefficients: Path | None,
    as_json: bool,
    rules: Rules,
    selection: Selection,
) -> None:
    """Say whether the recorded predictions hold on real data: validated, not validated (with the reasons), or
    insufficient data (with what is missing).

    A sample is one execution of a real phase; samples of one phase, or of one run, count for less than others. By
    default the budget is judged, and the verdict holds however often it is asked for. When only the point keeps its
    limit, there are too few samples. The former verdict: --rules plan --one-look --assume-independent

    Exit codes: 0 validated, 1 not validated, 2 insufficient data; 64 the command line is wrong, 66 there is nothing
    that can be read.

    Example: autopack validate --since 2025-12-01 --json
    """
    check_source(file, source, selection, logs=True)
    if coefficients is not None:
        if source == "log":
            raise click.UsageError("--coefficients predicts from deliverables, which a log does not name")
        rules = msgspec.structs.replace(rules, proposal=str(coefficients))
    samples, read_from = _samples(file, source, rules, selection)
    now = as_of or datetime.now(UTC)
    validation = validate(samples, rules, as_of_s=now.timestamp(), source=read_from)
    _show(validation, as_json=as_json)
    sys.exit(EXIT_CODES[validation.verdict])


def _samples(file: Path | None, source: Source, rules: Rules, selection: Selection) -> tuple[Samples, str]:
    """The samples, and where they are from; what it took to collect them, a third of all memory, ends here."""
    collector = SampleCollector(
        include_simulated=rules.simulated, include_imported=rules.imported, estimator=rules.estimator
    )
    if rules.proposal is not None:
        read_from = _collect_proposal(collector, file, selection, Path(rules.proposal))
    else:
        read_from = collect_database(collector, selection) if file is None else _collect_file(collector, file, source)
    return collector.samples(), read_from


def _collect_proposal(collector: SampleCollector, file: Path | None, selection: Selection, proposal: Path) -> str:
    figures = parse_coefficients(read_input(proposal, str(proposal)), str(proposal))
    until_s = figures.learned.until if figures.learned else None
    newer_than_s = proposal.stat().st_mtime if until_s is None else until_s

    def collect(observations: Iterable[Recorded | None]) -> None:
        events = newer_as_predicted(observations, figures, newer_than_s)
        collector.add_all(blocks_of(events, collector.unreadable))

    if file is not None:
        with opened_lines(file, "ndjson") as lines:
            collect(exported(lines, Recorded))
        return str(file)
    destination = database_to_read()
    with open_events(destination, selection) as events:
        collect(converted(tracked(events.records, "Reading", events.total), Recorded))
    return str(destination)


def _collect_file(collector: SampleCollector, file: Path, source: Source) -> str:
    with opened_lines(file, source) as lines:
        blocks = from_log if source == "log" else from_ndjson
        collector.add_all(blocks(lines, collector.unreadable))
    lines.check(events=collector.taken)
    return str(file)


def _show(validation: Validation, *, as_json: bool) -> None:
    if as_json:
        print_json(validation)
        return
    click.echo("\n".join(before_tables(validation)) + "\n")
    print_tables(parts(validation))
    click.echo("\n" + "\n".join(after_tables(validation)))
