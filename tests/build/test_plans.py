from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.recorded import RecordedRun

from autopack.build.plan import SHIPPED_PLAN, load_plan, parse_plan
from autopack.coefficients import shipped_coefficients
from autopack.errors import InputFileError
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.estimator import estimate
from autopack.loopback.replies import Reply, ReplyRequest
from autopack.loopback.simulation import DEFAULT_SEED, SimulatedReplies


def plan_text(*phases: Any) -> bytes:
    return json.dumps({"run_id": "r", "phases": phases}).encode()


def test_a_recorded_plan_is_read_whole(recorded: RecordedRun) -> None:
    plan = load_plan(recorded.plan)
    theirs = json.loads(recorded.plan.read_bytes())["phases"]
    assert [(phase.phase_id, phase.deliverables) for phase in plan.phases] == [
        (phase["phase_id"], phase["deliverables"]) for phase in theirs
    ]


def test_the_shipped_plan_has_the_variety_that_replay_needs() -> None:
    plan = load_plan(None)
    counts = [len(flatten_deliverables(phase.deliverables)) for phase in plan.phases]
    assert len(plan.phases) >= 40
    assert len(Counter(phase.category for phase in plan.phases)) >= 4
    assert {phase.complexity for phase in plan.phases} == {"low", "medium", "high"}
    assert (min(counts), max(counts)) == (1, 12)
    assert sum(isinstance(phase.deliverables, dict) for phase in plan.phases) >= 3
    assert plan.source == SHIPPED_PLAN


def test_no_file_of_the_shipped_plan_is_taken_for_a_users_file() -> None:
    """No file of the shipped plan is taken for one of the user's own."""
    for phase in load_plan(None).phases:
        assert all(path.startswith("tidewater/") for path in flatten_deliverables(phase.deliverables))


def test_a_simulated_run_over_and_underestimates_categories() -> None:
    """A simulated run of the shipped plan has categories that are overestimated and others that are underestimated."""
    coefficients, plan = shipped_coefficients(), load_plan(None)
    source = SimulatedReplies(DEFAULT_SEED, plan.phases)
    under: Counter[str | None] = Counter()
    for phase in plan.phases:
        estimated = estimate(phase.deliverables, phase.category or "", phase.complexity, coefficients)
        reply = source.reply(ReplyRequest(phase.phase_id, 1, 0, "m", 70_000, 400))
        assert isinstance(reply, Reply)
        under[phase.category] += 1 if reply.output_tokens > estimated.predicted_output_tokens else -1
    assert under["documentation"] > 0
    assert under["configuration"] < 0
    assert under["implementation"] < 0


def test_a_phase_becomes_a_mapping_that_names_its_run() -> None:
    plan = parse_plan(plan_text({"phase_id": "p1", "metadata": {"a": 1}, "deliverables": {"code": ["a.py"]}}), "x")
    assert plan.phases[0].spec("nightly") == {
        "run_id": "nightly",
        "phase_id": "p1",
        "description": "",
        "complexity": "medium",
        "category": None,
        "task_category": None,
        "deliverables": {"code": ["a.py"]},
        "metadata": {"a": 1},
    }


def test_a_byte_order_mark_is_no_fault() -> None:
    assert len(parse_plan(b"\xef\xbb\xbf" + plan_text({"phase_id": "p1"}), "x").phases) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"not valid JSON"),
        (b"phases: []", r"not valid JSON"),
        (b"\xff\xfe", r"not valid JSON"),
        (b'{"phases": ' + b"[" * 100_000, r"nested too deeply"),
        (b"[]", r"Expected `object`"),
        (b"{}", r"missing required field `phases`"),
        (plan_text(), r"length >= 1 - at `\$\.phases`"),
        (plan_text({"phase_id": "p1"}, 7), r"phase 2: Expected `object`"),
        (plan_text({}), r"phase 1: .*`phase_id`"),
        (plan_text({"phase_id": ""}), r"phase 1 \(''\): .*\$\.phase_id"),
        (plan_text({"phase_id": "x" * 201}), r"phase 1 \('x+\.\.\.\): .*\$\.phase_id"),
        (plan_text({"phase_id": "p1", "complexity": 3}), r"phase 1 \('p1'\): .*\$\.complexity"),
        (plan_text({"phase_id": "p1", "deliverables": "a.py"}), r"phase 1 \('p1'\): .*\$\.deliverables"),
        (plan_text({"phase_id": "p1"}, {"phase_id": "p1"}), r"phase 2 \('p1'\): phase 1 has the same phase_id"),
        (plan_text({"phase_id": "\x1b[2J", "complexity": 3}), r"phase 1 \('\\x1b\[2J'\): "),
    ],
)
def test_a_bad_plan_is_refused_in_one_line_that_names_file_and_phase(content: bytes, complaint: str) -> None:
    with pytest.raises(InputFileError, match=rf"^plans/bad\.json: .*{complaint}") as refused:
        parse_plan(content, "plans/bad.json")
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(("name", "reason"), [("gone.json", "No such file"), (".", "Is a directory")])
def test_a_plan_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputFileError, match=reason):
        load_plan(tmp_path / name)
