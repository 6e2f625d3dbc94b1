"""`autopack …`: names the commands, loads the one that is called, and says what went wrong.

The commands live beside what they run and are imported when they are called: `autopack --help` loads neither
SQLAlchemy nor the SDK. Exit codes: 0 done, 1 something went wrong, 2 the command line is wrong. A command that only
reads has done its work when its reader has enough (`| head`); for one that acts, that is an error like any other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from autopack import __version__
from autopack._util.signals import exiting_at_signals
from autopack._util.terminal import redirect_to_devnull_if_broken, tolerate_stderr_errors
from autopack.errors import AnalysisError, DatabaseUrlError, InputFileError, MissingExtraError, describe_error


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command lives, and what the list of commands says of it without loading it."""

    module: str
    attribute: str
    short_help: str
    acts: bool = False


COMMANDS: Mapping[str, LazyCommand] = {
    "run": LazyCommand("autopack.autonomous_executor", "run_command", "Run the phases of a plan.", acts=True),
    "export": LazyCommand("autopack.commands.export", "export_command", "Write the recorded events, newest first."),
    "import": LazyCommand(
        "autopack.commands.import_", "import_command", "Bring logs and exports into the database.", acts=True
    ),
    "replay": LazyCommand(
        "autopack.commands.replay", "replay_command", "Compare today's estimator with what really came."
    ),
    "validate": LazyCommand(
        "autopack.commands.validate",
        "validate_command",
        "Say whether the estimator is validated on real data.",
    ),
    "summary": LazyCommand(
        "autopack.commands.summary", "summary_command", "Show the verdict and its figures at a glance."
    ),
    "report": LazyCommand(
        "autopack.commands.report", "report_command", "Write the verdict and its figures as one HTML page."
    ),
    "tail": LazyCommand("autopack.commands.tail", "tail_command", "Show new events as they land."),
    "calibrate": LazyCommand(
        "autopack.commands.calibrate",
        "calibrate_command",
        "Propose coefficients and budgets from what was recorded.",
    ),
    "budget": LazyCommand(
        "autopack.commands.budget", "budget_command", "Say which max_tokens to send, and what that risks."
    ),
    "status": LazyCommand("autopack.commands.status", "status_command", "Say whether everything accepted arrives."),
    "db": LazyCommand(
        "autopack.commands.db", "db_command", "Look at the schema, upgrade it, print its SQL.", acts=True
    ),
    "copy": LazyCommand("autopack.commands.copy", "copy_command", "Copy all events into another database.", acts=True),
    "prune": LazyCommand("autopack.commands.prune", "prune_command", "Delete old events.", acts=True),
    "recover": LazyCommand(
        "autopack.commands.recover",
        "recover_command",
        "Deliver what dead processes left in the journal.",
        acts=True,
    ),
    "dead-letters": LazyCommand(
        "autopack.commands.dead_letters", "dead_letters_command", "List or retry events that were refused."
    ),
}


class AutopackGroup(click.Group):
    """Loads commands when they are called, and turns what they raise into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's interface)
        """In the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's interface)
        """Import the command. None for an unknown name, which click reports."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command: click.Command = getattr(import_module(lazy.module), lazy.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's interface)
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.short_help) for name, lazy in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a reader that went away (`| head`) is no error for one that only reads."""
        try:
            return super().invoke(ctx)
        except (AnalysisError, DatabaseUrlError, InputFileError, MissingExtraError, OSError) as exc:
            redirect_to_devnull_if_broken(sys.stdout)
            if isinstance(exc, BrokenPipeError) and _only_reads(ctx.invoked_subcommand):
                ctx.exit(0)
            raise click.ClickException(describe_error(exc)) from exc


def _only_reads(name: str | None) -> bool:
    return name is not None and not COMMANDS[name].acts


@click.group(cls=AutopackGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="autopack")
def cli() -> None:
    """Telemetry for LLM builds: predicted against actual output tokens.

    The database is the one that DATABASE_URL names (default: sqlite:///autopack.db).

    Example: autopack status
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; `arguments` are those of the process unless given. SIGINT ends it with 130, SIGTERM 143."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with exiting_at_signals(), tolerate_stderr_errors():
        try:
            cli(arguments, prog_name="autopack")
        finally:
            redirect_to_devnull_if_broken(sys.stdout)


if __name__ == "__main__":
    main()
