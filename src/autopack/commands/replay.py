"""`autopack replay`: parse, wire, print."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import click

from autopack.analysis.reading.lines import exported
from autopack.analysis.reading.records import converted
from autopack.analysis.reading.rows import open_events
from autopack.analysis.reading.selection import Selection, Source
from autopack.analysis.replaying.observations import Exported, Observation, from_log
from autopack.analysis.replaying.replay import Predict, Replay, ReplayReport
from autopack.analysis.replaying.table import ABOUT, HEADER, notes, sections
from autopack.coefficients import ENVIRONMENT_NAME, load_coefficients
from autopack.commands._options import check_source, selection_options, source_options
from autopack.commands._output import note, print_json, print_sections
from autopack.commands._reading import database_to_read, opened_lines
from autopack.estimation.estimator import estimate


@click.command("replay", short_help="Compare today's estimator with what really came.")
@source_options(logs=True)
@click.option("--include-simulated", is_flag=True, help="Also replies of a model whose name begins with 'simulated'.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
@selection_options
def replay_command(
    file: Path | None, source: Source, include_simulated: bool, as_json: bool, selection: Selection
) -> None:
    """Run today's estimator on the recorded deliverables and compare it, and the prediction recorded then, with the
    output tokens that really came: overall, by category, by complexity and by number of deliverables.

    The options that select events are for the database.

    Example: autopack replay --source db --since 2025-12-01
    """
    check_source(file, source, selection, logs=True)
    replay = Replay(_predict(), include_simulated=include_simulated)
    read_from = _feed_from_database(replay, selection) if file is None else _feed_from_file(replay, file, source)
    report = replay.report(read_from, os.environ.get(ENVIRONMENT_NAME) or "shipped coefficients")
    if report.counts.synthetic:
        note(f"WARNING: no deliverables found for {report.counts.synthetic} events, using synthetic")
    _show(report, as_json=as_json)


def _predict() -> Predict:
    coefficients = load_coefficients(os.environ)

    def predict(deliverables: Sequence[str], category: str, complexity: str, existing: Collection[str]) -> int:
        return estimate(deliverables, category, complexity, coefficients, existing).predicted_output_tokens

    return predict


def _feed_from_database(replay: Replay, selection: Selection) -> str:
    destination = database_to_read()
    with open_events(destination, selection) as events:
        replay.add_all(converted(events.records, Observation))
    return str(destination)


def _feed_from_file(replay: Replay, file: Path, source: Source) -> str:
    with opened_lines(file, source) as lines:
        replay.add_all(from_log(lines) if source == "log" else exported(lines, Exported))
    lines.check(events=replay.counts.read - replay.counts.skipped)
    return str(file)


def _show(report: ReplayReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    click.echo("\n".join(notes(report)))
    if report.overall is None:
        return
    click.echo(f"\n{ABOUT}\n")
    print_sections(HEADER, list(sections(report)))
