"""Runs the phases of a plan: `python -m autopack.autonomous_executor --run-id ID`, and the same as `autopack run`.

The order: read and check everything that is named; only then open telemetry, server and client; run the phases,
`--concurrency` at a time; close the client, the server, and telemetry last, within its deadline. SIGINT and SIGTERM
cancel the phases and leave the rest of that order as it is, so every call that was finished is recorded. Before that,
while files are read and libraries loaded, they end the program at once. How long telemetry may take at the end stands
in `autopack.build.drain`.

Exit code: 0 all phases succeeded, 1 some failed, or a library is missing that an extra installs, 2 nothing was started
for another reason, 130 and 143 stopped by a signal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import anyio
import click

from autopack._util.input_files import read_input
from autopack._util.signals import StopSignals
from autopack._util.text import truncate_for_display
from autopack.anthropic_clients import DEFAULT_MODEL, AnthropicBuilderClient, open_client, open_loopback_client
from autopack.build.drain import drain, patience_of
from autopack.build.plan import Phase, Plan, load_plan
from autopack.build.progress import Outcome, summary_lines
from autopack.build.reply import PhaseResult
from autopack.build.run import exit_code, find_existing, run_phases
from autopack.build.sdk import check_setup, require_sdk
from autopack.coefficients import load_coefficients
from autopack.commands._output import note
from autopack.commands._run_progress import RunReport, open_run_report
from autopack.database import migrations
from autopack.database.destination import current_destination, database_url, describe_database
from autopack.database.preflight import database_problem
from autopack.errors import ClientSetupError, ConfigError, DatabaseUrlError, InputFileError
from autopack.estimation.coefficients import Coefficients
from autopack.loopback.replies import RecordedReplies, ReplySource, parse_recording
from autopack.loopback.server import require_server, serve_messages
from autopack.loopback.simulation import DEFAULT_SEED, Faults, SimulatedReplies, parse_faults
from autopack.telemetry import Telemetry, is_enabled

Provider = Literal["anthropic", "recorded", "simulated"]

_LONGEST_RUN_ID = 200
_MOST_CALLS_AT_A_TIME = 256


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is ready to start. `source` None: the real API answers."""

    run_id: str
    plan: Plan
    provider: Provider
    source: ReplySource | None
    model: str
    coefficients: Coefficients
    workspace: Path
    concurrency: int


class _NothingStarted(click.ClickException):
    exit_code = 2


def choose_provider(asked: Provider | None, environ: Mapping[str, str]) -> tuple[Provider, str]:
    """Return the provider of a run, and why it is that one."""
    if asked is not None:
        return asked, "as asked"
    if environ.get("ANTHROPIC_API_KEY"):
        return "anthropic", "ANTHROPIC_API_KEY is set"
    return "simulated", "ANTHROPIC_API_KEY is not set"


def _checked_run_id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip() or len(value) > _LONGEST_RUN_ID:
        raise click.BadParameter(f"give between 1 and {_LONGEST_RUN_ID} characters, not all of them blank")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise click.BadParameter(f"{truncate_for_display(value)} is not valid text")
    return value


def _checked_faults(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Faults | None:
    try:
        return parse_faults(values) if values else None
    except ValueError as exc:
        raise click.BadParameter(truncate_for_display(str(exc))) from exc


@click.command(
    "run",
    short_help="Run the phases of a plan and record each reply.",
    epilog="\b\nExample:\n  TELEMETRY_DB_ENABLED=1 autopack run --run-id nightly --concurrency 8",
)
@click.option("--run-id", required=True, callback=_checked_run_id, help="Name of this run in the database.")
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Plan to run.  [default: the shipped one]")
@click.option(
    "--provider",
    type=click.Choice(["anthropic", "recorded", "simulated"]),
    help="Who answers.  [default: anthropic where ANTHROPIC_API_KEY is set, else simulated]",
)
@click.option("--recording", type=click.Path(path_type=Path), help="Recorded replies, for --provider recorded.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, _MOST_CALLS_AT_A_TIME),
    default=4,
    show_default=True,
    help="Calls at a time.",
)
@click.option("--seed", type=int, default=DEFAULT_SEED, show_default=True, help="Of the simulated replies.")
@click.option(
    "--workspace",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Where deliverables that exist already are looked for.  [default: the working directory]",
)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Asked for with --provider anthropic.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=PROBABILITY",
    callback=_checked_faults,
    help="Let simulated replies go wrong: rate-limit, overload, drop, truncate, no-usage or stall.  [repeatable]",
)
def run_command(**options: Any) -> None:
    """Run the phases of a plan: call the model for each, and record predicted against actual output tokens.

    Progress and diagnostics go to stderr, the summary to stdout. A failed phase does not stop the others; the exit
    code is 1 then. Set TELEMETRY_DB_ENABLED=1 to record, DATABASE_URL to say where.
    """
    try:
        job = _prepare(**options)
        telemetry = _open_telemetry()
    except (InputFileError, ClientSetupError, ConfigError) as exc:
        raise _NothingStarted(truncate_for_display(str(exc), 1000)) from exc
    _load_libraries(job, recorded=telemetry.enabled)
    with StopSignals() as stop:
        code = _execute(job, telemetry, stop)
    sys.exit(code)


def _prepare(
    *,
    run_id: str,
    plan_path: Path | None,
    provider: Provider | None,
    recording: Path | None,
    concurrency: int,
    seed: int,
    workspace: Path,
    model: str,
    faults: Faults | None,
) -> Job:
    """Read and check everything; start nothing.

    Raises `InputFileError`, `ClientSetupError`, `MissingExtraError` or `click.UsageError`.
    """
    chosen, why = choose_provider(provider, os.environ)
    _require_libraries(chosen)
    if (chosen == "recorded") is not (recording is not None):
        raise click.UsageError("--provider recorded and --recording FILE go together")
    if faults is not None and chosen != "simulated":
        raise click.UsageError("--fault is for --provider simulated")
    plan = load_plan(plan_path)
    source = _source(plan, recording, seed, faults) if chosen != "anthropic" else None
    coefficients = load_coefficients(os.environ)
    at = f", at {check_setup()}" if chosen == "anthropic" else ""
    click.echo(f"provider: {chosen} ({why}){at}", err=True)
    click.echo(f"plan: {truncate_for_display(plan.source)}, {len(plan.phases)} phases", err=True)
    return Job(run_id, plan, chosen, source, model, coefficients, workspace, concurrency)


def _require_libraries(provider: Provider) -> None:
    """Check that what this provider needs is installed. Raises `MissingExtraError`."""
    require_sdk("anthropic" if provider == "anthropic" else "simulate", f"--provider {provider}")
    if provider != "anthropic":
        require_server()


def _source(plan: Plan, recording: Path | None, seed: int, faults: Faults | None) -> ReplySource:
    if recording is None:
        return SimulatedReplies(seed, plan.phases, faults)
    return RecordedReplies(parse_recording(read_input(recording), str(recording)))


def _open_telemetry() -> Telemetry:
    """Open what the environment asks for. Unlike a library, refuse to start where a run cannot be recorded as asked.

    Raises `ConfigError`, and `MissingExtraError` where the database's driver is not installed.
    """
    if not is_enabled():
        return Telemetry.from_env()
    try:
        problem = database_problem(current_destination())
    except DatabaseUrlError as exc:
        raise ConfigError(f"DATABASE_URL: {exc}") from exc
    if problem is not None:
        raise ConfigError(f"the database cannot be written: {problem}")
    return Telemetry(database_url())


def _load_libraries(job: Job, *, recorded: bool) -> None:
    """Import what takes seconds now, while a signal still ends the program at once.

    The writer's libraries too, where they are many: on a slow machine its own import of them would still go on when
    the run ends.
    """
    for name in ("anthropic",) if job.source is None else ("anthropic", "starlette.applications", "uvicorn"):
        import_module(name)
    if recorded and current_destination().server is not None:
        migrations.load()


def _execute(job: Job, telemetry: Telemetry, stop: StopSignals) -> int:
    """Run a job from its first line to its summary; return its exit code."""
    outcomes: list[Outcome] = []
    phase_count = len(job.plan.phases)
    with telemetry:
        click.echo(f"database: {truncate_for_display(describe_database(), 1000)}", err=True)
        state = "on" if telemetry.enabled else "off (TELEMETRY_DB_ENABLED=1 turns it on)"
        click.echo(f"telemetry: {state}", err=True)
        with open_run_report(phase_count) as report:
            anyio.run(_run, job, telemetry, report, stop, outcomes)
        if telemetry.enabled:
            drain(telemetry, patience_of(), say=note, is_stopped=lambda: stop.signum is not None)
    stats = telemetry.stats() if telemetry.enabled else None
    with suppress(BrokenPipeError):  # a reader that has enough of the summary does not change how the run ended
        for line in summary_lines(job.run_id, outcomes, phase_count, stats, stop.signum):
            click.echo(line)
    return exit_code(outcomes, stop.signum)


async def _run(job: Job, telemetry: Telemetry, report: RunReport, stop: StopSignals, outcomes: list[Outcome]) -> None:
    """Run all phases; add each that ends to `outcomes`, also when the run is stopped."""

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report.finished(outcome)

    async with _open_provider(job, telemetry) as client:

        async def call(phase: Phase) -> PhaseResult:
            existing = find_existing(job.workspace, phase.deliverables)
            return await client.execute_phase(phase.spec(job.run_id), existing=existing)

        await run_phases(job.plan.phases, call, concurrency=job.concurrency, stop=stop, ended=ended)


@asynccontextmanager
async def _open_provider(job: Job, telemetry: Telemetry) -> AsyncIterator[AnthropicBuilderClient]:
    options: dict[str, Any] = {
        "provider": job.provider,
        "model": job.model,
        "telemetry": telemetry,
        "coefficients": job.coefficients,
    }
    if job.source is None:
        async with open_client(**options) as client:
            yield client
        return
    with serve_messages(job.source) as base_url:
        async with open_loopback_client(base_url, **options) as client:
            yield client


if __name__ == "__main__":
    from autopack.cli import main

    main(["run", *sys.argv[1:]])
