"""`autopack calibrate`: parse, wire, print."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from autopack._util.files import atomic_write
from autopack._util.text import escape_terminal
from autopack.analysis.calibrating.calibration import Calibration, CalibrationSettings, calibrate
from autopack.analysis.calibrating.history import History, Recorded, history_of
from autopack.analysis.calibrating.table import before_tables, parts
from autopack.analysis.reading.lines import exported
from autopack.analysis.reading.records import converted
from autopack.analysis.reading.rows import open_events
from autopack.analysis.reading.selection import Selection, Source
from autopack.coefficients import ENVIRONMENT_NAME, load_coefficients
from autopack.commands._options import FiniteRange, check_source, selection_options, source_options
from autopack.commands._output import note, print_json, print_tables, tracked
from autopack.commands._reading import database_to_read, opened_lines
from autopack.estimation.coefficients import Coefficients

_DEFAULTS = CalibrationSettings()


@click.command("calibrate", short_help="Propose coefficients and budgets from what was recorded.")
@source_options(logs=False)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the proposed coefficients to this file, whole or not at all.",
)
@click.option("--force", is_flag=True, help="Replace the file of --output where there is one.")
@click.option(
    "--alpha-percent",
    type=FiniteRange(0, 50, min_open=True),
    default=_DEFAULTS.alpha_percent,
    show_default=True,
    metavar="N",
    help="Share of future replies that a promised budget may cut, at most. Example: --alpha-percent 0.5",
)
@click.option(
    "--prior-weight",
    type=FiniteRange(0.01),
    default=_DEFAULTS.prior_weight,
    show_default=True,
    metavar="N",
    help="How many replies the coefficients in force weigh.",
)
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    default=_DEFAULTS.folds,
    show_default=True,
    metavar="N",
    help="Parts of the cross-validation; each run is in one of them.",
)
@click.option(
    "--min-replies",
    type=click.IntRange(1),
    default=_DEFAULTS.min_replies,
    show_default=True,
    metavar="N",
    help="Replies that a fit takes.",
)
@click.option(
    "--min-runs",
    type=click.IntRange(2),
    default=_DEFAULTS.min_runs,
    show_default=True,
    metavar="N",
    help="Runs that they must come from.",
)
@click.option("--keep-coefficients", is_flag=True, help="Promise budgets for the coefficients in force.")
@click.option("--no-budgets", is_flag=True, help="Fit coefficients only.")
@click.option("--include-simulated", is_flag=True, help="Also replies of a model whose name begins with 'simulated'.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for programs.")
@selection_options
def calibrate_command(
    *,
    file: Path | None,
    source: Source,
    output: Path | None,
    force: bool,
    keep_coefficients: bool,
    no_budgets: bool,
    include_simulated: bool,
    as_json: bool,
    selection: Selection,
    **numbers: float,
) -> None:
    """Propose coefficients and budgets from recorded replies.

    Coefficients are fitted, shrunk towards those in force, and taken only when they are certainly better on runs that
    the fit has not seen. Budgets are such that at most 1 % of future replies of new phases exceed them, by category
    and complexity: half of what validate allows. Where the data carry no such promise, the least they carry is said.

    Nothing is applied: AUTOPACK_ESTIMATOR_COEFFICIENTS=FILE does that.

    The exit code is 0 where there is an answer, also that the coefficients in force should stay, and 1 where the data
    carry neither coefficients nor budgets.

    Example: autopack calibrate --since 2025-12-01 --output coefficients.json
    """
    check_source(file, source, selection, logs=False)
    _check_output(output, force=force)
    settings = msgspec.convert(
        {**numbers, "coefficients": not keep_coefficients, "budgets": not no_budgets, "simulated": include_simulated},
        CalibrationSettings,
    )
    history, read_from = _read(file, selection, settings)
    in_force = os.environ.get(ENVIRONMENT_NAME) or "shipped coefficients"
    calibration = calibrate(history, load_coefficients(os.environ), settings, source=read_from, estimator=in_force)
    _show(calibration, as_json=as_json)
    _write(calibration, output)
    if calibration.coefficients is None and calibration.fit.outcome != "unchanged":
        raise click.ClickException("the data carry neither coefficients nor budgets; record other phases")


def _check_output(output: Path | None, *, force: bool) -> None:
    if output is not None and not force and os.path.lexists(output):
        raise click.ClickException(f"{escape_terminal(str(output))} exists; --force replaces it")


def _read(file: Path | None, selection: Selection, settings: CalibrationSettings) -> tuple[History, str]:
    if file is not None:
        with opened_lines(file, "ndjson") as lines:
            history = history_of(exported(lines, Recorded), include_simulated=settings.simulated)
        lines.check(events=history.counts.read - history.counts.unreadable)
        return history, str(file)
    destination = database_to_read()
    with open_events(destination, selection) as events:
        records = tracked(events.records, "Reading", events.total)
        return history_of(converted(records, Recorded), include_simulated=settings.simulated), str(destination)


def _show(calibration: Calibration, *, as_json: bool) -> None:
    if as_json:
        print_json(calibration)
        return
    click.echo("\n".join(before_tables(calibration)))
    tables = list(parts(calibration))
    if tables:
        click.echo()
        print_tables(tables)


def _write(calibration: Calibration, output: Path | None) -> None:
    if calibration.coefficients is None:
        if calibration.fit.outcome == "unchanged":
            note("Nothing to change: the coefficients in force stay" + (", no file was written" if output else ""))
    elif output is None:
        note("Nothing was written; --output FILE writes the proposed coefficients")
    else:
        with atomic_write(output) as file:
            file.write(encoded(calibration.coefficients))
        note(f"Wrote {output}; {ENVIRONMENT_NAME}={output} applies it")


def encoded(coefficients: Coefficients) -> bytes:
    """Coefficients in the form of the shipped file."""
    return msgspec.json.format(msgspec.json.encode(coefficients), indent=1) + b"\n"
