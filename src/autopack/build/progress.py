"""What a run tells its user in words: each phase that ended, and a summary."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopack._util.text import truncate_for_display
from autopack.build.reply import PhaseResult

if TYPE_CHECKING:
    from autopack.telemetry import TelemetryStats


@dataclass(frozen=True, slots=True)
class Outcome:
    """A phase that ended, and how."""

    phase_id: str
    result: PhaseResult


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
    """What there is to say at the end. `stats` None: telemetry was off. `signum` None: no signal stopped the run."""
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
