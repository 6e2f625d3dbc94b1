"""A recorded run and a log: the real ones, where they lie beside the checkout, and one of the same shape made here.

A test that takes the fixture `recorded` runs on both, so that it runs in a fresh clone too.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tests.write_side import DATA

from autopack.build.plan import Phase, load_plan
from autopack.coefficients import shipped_coefficients
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.estimator import estimate
from autopack.loopback.replies import Reply, ReplyRequest
from autopack.loopback.simulation import SimulatedReplies

REAL = DATA.is_dir()
CEILING, LARGER_CEILING = 16_384, 20_480
_MODEL = "claude-sonnet-4-5"


class RecordedRun(NamedTuple):
    """25 phases of which the last was never run and the one before it was cut and called again; a log of 31 lines."""

    plan: Path
    replies: Path
    log: Path
    never_run: str
    failing: tuple[str, ...]  # the rules of the host system that it does not keep
    predicted_by_others: str  # the phase whose recorded prediction does not follow from the shipped coefficients

    def joined(self) -> list[dict[str, Any]]:
        """The replies with what the plan says of their phases."""
        phases = {phase["phase_id"]: phase for phase in json.loads(self.plan.read_text())["phases"]}
        return [reply | phases[reply["phase_id"]] for reply in json.loads(self.replies.read_text())]

    def logged(self) -> list[dict[str, str]]:
        """The fields of each line of the log."""
        return [
            dict(word.split("=") for word in line.split() if "=" in word) for line in self.log.read_text().splitlines()
        ]


def real_run() -> RecordedRun:
    """The run that was recorded in December 2025."""
    return RecordedRun(
        DATA / "plan_v5.json",
        DATA / "recording_v5.json",
        DATA / "token_estimation_2025-12-23.log",
        never_run="telemetry-v5-d3-design-notes",
        failing=("underestimation", "waste P90", "SMAPE median"),
        predicted_by_others="telemetry-v5-p15-cli-demo",
    )


def made_run(folder: Path) -> RecordedRun:
    """A run of the shipped plan's first phases, with the lengths of the simulation, under a real model's name."""
    phases = [phase for phase in load_plan(None).phases if phase.complexity != "high"][:25]
    made = RecordedRun(
        folder / "plan.json",
        folder / "recording.json",
        folder / "build.log",
        never_run=phases[-1].phase_id,
        failing=("waste P90", "SMAPE median"),
        predicted_by_others=phases[0].phase_id,
    )
    plan = [
        {
            "phase_id": phase.phase_id,
            "category": phase.category,
            "complexity": phase.complexity,
            "description": phase.description,
            "deliverables": flatten_deliverables(phase.deliverables),
        }
        for phase in phases
    ]
    made.plan.write_text(json.dumps({"run_id": "made", "phases": plan}))
    replies = [_reply(phases, number) for number in range(24)]
    again = _reply(phases, 23, attempt=2) | {"output_tokens": LARGER_CEILING - 300, "max_tokens": LARGER_CEILING}
    replies[-1] |= {"output_tokens": CEILING, "stop_reason": "max_tokens", "success": False}
    replies[0]["predicted_output_tokens"] += 500
    made.replies.write_text(json.dumps([*replies, again]))
    made.log.write_text("".join(_log_lines(31)))
    return made


def _reply(phases: list[Phase], number: int, attempt: int = 1) -> dict[str, Any]:
    phase, tokens, predicted, budget = _simulated(phases[number])
    return {
        "phase_id": phase.phase_id,
        "at": (datetime(2025, 12, 29, 19, 40, tzinfo=UTC) + timedelta(minutes=number + attempt)).isoformat(),
        "model": _MODEL,
        "max_tokens": max(CEILING, budget),
        "input_tokens": 1_000 + 37 * number,
        "output_tokens": tokens,
        "stop_reason": "end_turn",
        "predicted_output_tokens": predicted,
        "selected_budget": budget,
        "success": True,
    }


def _log_lines(count: int) -> Iterator[str]:
    phases = load_plan(None).phases
    for number in range(count):
        phase, tokens, predicted, budget = _simulated(phases[number])
        failed = number % 3 == 0
        actual = 110 + number if failed else tokens
        smape = abs(actual - predicted) / ((actual + predicted) / 2) * 100
        at = datetime(2025, 12, 23, 19, 47, 57, tzinfo=UTC) + timedelta(minutes=number)
        yield (
            f"[{at:%Y-%m-%d %H:%M:%S}] INFO: [TokenEstimationV2] predicted_output={predicted} actual_output={actual} "
            f"smape={smape:.1f}% selected_budget={budget} category={phase.category} complexity={phase.complexity} "
            f"deliverables={len(flatten_deliverables(phase.deliverables))} success={not failed} stop_reason=end_turn "
            f"truncated=False model={_MODEL}\n"
        )


def _simulated(phase: Phase) -> tuple[Phase, int, int, int]:
    """A phase, the tokens that its reply takes, and what today's estimator says of it."""
    reply = SimulatedReplies(2, [phase]).reply(ReplyRequest(phase.phase_id, 1, 0, _MODEL, CEILING - 1, 0))
    assert isinstance(reply, Reply)
    estimated = estimate(phase.deliverables, phase.category or "", phase.complexity, shipped_coefficients())
    return phase, reply.output_tokens, estimated.predicted_output_tokens, estimated.selected_budget
