"""`autopack budget --plan`, and the public name."""

import json
from pathlib import Path

import pytest
from tests.read_side import autopack

import autopack as package
from autopack.coefficients import shipped_coefficients
from autopack.estimation.suggesting import suggest_max_tokens


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    phases = [
        {"phase_id": "p1", "category": "testing", "complexity": "low", "deliverables": ["a.py"]},
        {"phase_id": "p2\x1b[2J", "complexity": "high", "deliverables": {"docs": ["d.md"] * 90}},
    ]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"phases": phases}))
    return file


def test_each_phase_of_a_plan_has_its_ceiling(plan: Path) -> None:
    done = autopack("budget", "--plan", plan, "--json")
    found = json.loads(done.stdout)["phases"]
    expected = suggest_max_tokens(["a.py"], "testing", "low", shipped_coefficients(), phase_id="p1")
    assert [each["phase_id"] for each in found] == ["p1", "p2\x1b[2J"]
    assert found[0]["suggestion"]["max_tokens"] == expected.max_tokens
    assert found[1]["stratum"] == "implementation/high"
    printed = autopack("budget", "--plan", plan).stdout
    assert "\x1b" not in printed
    assert "which needs streaming" in printed


def test_a_plan_and_a_shape_exclude_each_other(plan: Path) -> None:
    for arguments in (["--plan", plan, "--category", "docs"], ["a.py"], ["--category", "docs"]):
        assert autopack("budget", *arguments).returncode == 2


def test_the_public_name_reads_the_file_in_force_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(package_data().replace(b'"testing/low": ', b'"testing/low": 1'))
    monkeypatch.setenv("AUTOPACK_ESTIMATOR_COEFFICIENTS", str(file))
    found = package.suggest_max_tokens(["a.py"], category="testing", complexity="low")
    file.unlink()
    assert package.suggest_max_tokens(["a.py"], category="testing", complexity="low") == found
    monkeypatch.delenv("AUTOPACK_ESTIMATOR_COEFFICIENTS")
    shipped = package.suggest_max_tokens(["a.py"], category="testing", complexity="low")
    assert shipped.predicted_output_tokens < found.predicted_output_tokens


def package_data() -> bytes:
    return (Path(package.__file__).parent / "data" / "estimator_coefficients.json").read_bytes()
