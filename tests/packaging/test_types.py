"""What type checkers see of the installed wheel: right uses are accepted, and each wrong line is an error."""

import json
import sys
from pathlib import Path

import pytest
from tests.packaging.installed import Installed, run

pytestmark = pytest.mark.slow

HEAD = '''
import autopack
from pathlib import Path
from autopack.anthropic_clients import AnthropicBuilderClient
from autopack.database import SessionLocal
from autopack.errors import AutopackError
from autopack.models import TokenEstimationV2Event
from autopack.telemetry import ConfigError, Telemetry, TelemetryStats, get_telemetry
from autopack.telemetry.event import EventFields
from autopack.telemetry.stores import MemoryStore, Store

FIELDS: EventFields = {
    "run_id": "r", "phase_id": "p", "category": "c", "complexity": "low", "deliverables": ["a.py", Path("b.py")],
    "predicted_output_tokens": 1, "actual_output_tokens": 1, "selected_budget": 1, "success": True, "truncated": False,
    "stop_reason": None, "model": "m",
}


def main() -> TelemetryStats:
    store = MemoryStore()
    with Telemetry(store, queue_size=10, journal_dir=None) as telemetry:
        accepted: bool = telemetry.record(**FIELDS)
        telemetry.record(
            run_id="r", phase_id="p", category="c", complexity="low", deliverables={"code": ["a.py"]},
            predicted_output_tokens=1, actual_output_tokens=1, selected_budget=1, success=True, truncated=False,
            stop_reason="end_turn", model="m", duration_ms=5, attributes={"git": "3f2a91c"}, provider="anthropic",
        )
        get_telemetry().record(**FIELDS)
        settled: bool = telemetry.flush(1.0)
        if not (accepted and settled):
            raise ConfigError("none")
    with SessionLocal() as session:
        session.query(TokenEstimationV2Event).count()
    with autopack.phase("p3", run_id="r", deliverables=["a.py"]) as phase:
        print(phase.max_tokens + 1)
    return telemetry.stats()


class Mine(Telemetry):
    """Users subclass."""


def use(client: AnthropicBuilderClient, telemetry: Telemetry, error: AutopackError, store: Store) -> None:
'''
LAST = ', model="m"'
ALL = (
    'run_id="r", phase_id="p", category="c", complexity="low", deliverables=["a.py"], predicted_output_tokens=1, '
    "actual_output_tokens=1, selected_budget=1, success=True, truncated=False, stop_reason=None"
    f"{LAST}"
)
WRONG = {
    "an unknown keyword": f"    telemetry.record({ALL}, duration=5)",
    "a missing field": f"    telemetry.record({ALL.removesuffix(LAST)})",
    "a wrong type": f'    telemetry.record({ALL}, duration_ms="5")',
    "a wrong type in a mapping": f'    telemetry.record({ALL}, attributes={{"git": ["a"]}})',
    "an unknown option": '    Telemetry("sqlite://", batchsize=5)',
    "a wrong option": '    Telemetry("sqlite://", batch_size="5")',
    "no result": "    accepted: str = telemetry.record(**FIELDS)",
    "no attribute": "    telemetry.stats().writen",
    "a misspelt name": "    from autopack import instrumemt",
    "a misspelt name of telemetry": "    from autopack.telemetry import TelemetryStat",
    "a misspelt name of the stores": "    from autopack.telemetry.stores import MemorieStore",
    "a misspelt name of an event": "    from autopack.telemetry.event import EventField",
    "no such name": "    autopack.fase('p')",
    "no field of a phase": '    autopack.phase("p", catagory="x")',
}
PROGRAM = f"{HEAD}    print(client, error, store)\n" + "".join(f"{line}\n" for line in WRONG.values())
LINES = PROGRAM.splitlines()
AT_FAULT = {LINES.index(line) + 1 for line in WRONG.values()}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_mypy_strict_sees_each_wrong_line_and_no_other(bare: Installed, program: Path) -> None:
    options = ["--strict", "--config-file=", "--cache-dir=/dev/null", "--no-color-output", "--show-error-codes"]
    done = run([sys.executable, "-m", "mypy", *options, "--python-executable", bare.python, program], program.parent)
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert {int(line.split(":")[1]) for line in found} == AT_FAULT, done.stdout + done.stderr
    assert all(line.startswith((program.name, str(program))) for line in found)


def test_pyright_sees_each_wrong_line_and_no_other(bare: Installed, program: Path) -> None:
    """By basedpyright, which is installed as any other package, with pyright's own strict rules."""
    (program.parent / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    checker: list[str | Path] = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--pythonpath",
        bare.python,
        program,
    ]
    said = json.loads(run(checker, program.parent).stdout)["generalDiagnostics"]
    found = {each["range"]["start"]["line"] + 1 for each in said if each["severity"] == "error"}
    assert found == AT_FAULT, [each for each in said if each["range"]["start"]["line"] + 1 not in AT_FAULT]
