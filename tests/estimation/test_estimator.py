from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.recorded import REAL, real_run
from tests.write_side import DATA, PACKAGE

from autopack.build.run import find_existing
from autopack.coefficients import load_coefficients, shipped_coefficients
from autopack.errors import InputFileError
from autopack.estimation.deliverables import MAX_DEPTH, MAX_NODES, flatten_deliverables
from autopack.estimation.estimator import estimate, kind_of

needs_shared_data = pytest.mark.skipif(
    not REAL, reason="the recorded data is not beside this checkout (../shared/data)"
)
COEFFICIENTS = shipped_coefficients()
PATHS = st.lists(
    st.sampled_from(["src/a.py", "tests/test_a.py", "README.md", "app.yaml", "ui/App.tsx", "src/b.py"]), max_size=30
)
CATEGORIES = st.sampled_from(["implementation", "docs", "tests", "database", "no such category"])
COMPLEXITIES = st.sampled_from(["low", "medium", "high", "no such complexity"])


@needs_shared_data
def test_the_shipped_figures_are_those_that_were_in_force() -> None:
    theirs = json.loads((DATA / "estimator_coefficients.json").read_bytes())
    read = load_coefficients({"AUTOPACK_ESTIMATOR_COEFFICIENTS": str(DATA / "estimator_coefficients.json")})
    assert theirs["safety_margin"] == 1.3
    assert read.overhead == COEFFICIENTS.overhead
    assert read.marginal == COEFFICIENTS.marginal
    assert read.budget_floor == COEFFICIENTS.budget_floor
    assert (read.safety_margin, read.budget_buffer, read.budget_cap, read.default_overhead) == (
        COEFFICIENTS.safety_margin,
        COEFFICIENTS.budget_buffer,
        COEFFICIENTS.budget_cap,
        COEFFICIENTS.default_overhead,
    )


@needs_shared_data
def test_all_recorded_predictions_but_one_follow_exactly() -> None:
    """All recorded predictions but one, and all recorded budgets, follow exactly from the shipped figures."""
    replies = real_run().joined()
    wrong = []
    for reply in replies:
        found = estimate(reply["deliverables"], reply["category"], reply["complexity"], COEFFICIENTS)
        assert found.selected_budget == reply["selected_budget"]
        if found.predicted_output_tokens != reply["predicted_output_tokens"]:
            wrong.append(reply["phase_id"])
    assert len(replies) == 25
    assert wrong == [real_run().predicted_by_others]


@pytest.mark.parametrize(
    ("deliverables", "category", "complexity", "predicted", "budget"),
    [
        (["utils/text.py"], "implementation", "low", 5200, 8192),  # (2000 + 2000) * 1.3
        (["utils/dates.py"], "implementation", "medium", 6500, 12288),  # (3000 + 2000) * 1.3
        (["tests/test_text.py"], "tests", "low", 4420, 8192),  # (2000 by default + 1400) * 1.3
        (["README.md"], "docs", "low", 2600, 8192),  # (1500 + 500) * 1.3
    ],
)
def test_predictions_are_those_computed_by_hand(
    deliverables: list[str], category: str, complexity: str, predicted: int, budget: int
) -> None:
    """The twin of the recorded predictions: one of each kind that the recorded run has."""
    found = estimate(deliverables, category, complexity, COEFFICIENTS)
    assert (found.predicted_output_tokens, found.selected_budget) == (predicted, budget)


def test_a_copy_of_the_shipped_figures_loads_as_what_is_shipped(tmp_path: Path) -> None:
    """The twin of the figures that were in force."""
    own = tmp_path / "own.json"
    own.write_text(json.dumps(_shipped_json()))
    assert load_coefficients({"AUTOPACK_ESTIMATOR_COEFFICIENTS": str(own)}) == COEFFICIENTS
    assert COEFFICIENTS.safety_margin == 1.3


@given(PATHS, st.permutations(range(30)), CATEGORIES, COMPLEXITIES)
def test_the_order_of_deliverables_does_not_matter(
    paths: list[str], order: list[int], category: str, complexity: str
) -> None:
    shuffled = [paths[index] for index in order if index < len(paths)]
    assert estimate(shuffled, category, complexity, COEFFICIENTS) == estimate(paths, category, complexity, COEFFICIENTS)


@given(PATHS, st.sampled_from(["src/c.py", "docs/c.md", "c.toml"]), CATEGORIES, COMPLEXITIES)
def test_one_more_deliverable_never_lowers_prediction_or_budget(
    paths: list[str], more: str, category: str, complexity: str
) -> None:
    before = estimate(paths, category, complexity, COEFFICIENTS)
    after = estimate([*paths, more], category, complexity, COEFFICIENTS)
    assert after.predicted_output_tokens >= before.predicted_output_tokens
    assert after.selected_budget >= before.selected_budget
    assert after.deliverable_count == before.deliverable_count + 1


@given(PATHS.map(lambda paths: paths * 5), CATEGORIES, COMPLEXITIES)
def test_the_budget_lies_between_floor_and_cap(paths: list[str], category: str, complexity: str) -> None:
    floor = COEFFICIENTS.budget_floor.get(complexity, COEFFICIENTS.budget_floor["medium"])
    assert floor <= estimate(paths, category, complexity, COEFFICIENTS).selected_budget <= COEFFICIENTS.budget_cap


@given(PATHS, CATEGORIES, COMPLEXITIES)
def test_what_exists_already_costs_less_than_what_is_new(paths: list[str], category: str, complexity: str) -> None:
    new = estimate(paths, category, complexity, COEFFICIENTS)
    modified = estimate(paths, category, complexity, COEFFICIENTS, existing=paths)
    assert (modified.predicted_output_tokens < new.predicted_output_tokens) is bool(paths)


def test_only_existing_deliverables_get_the_marginal_of_a_change() -> None:
    """Only the deliverables that exist get the marginal of a modification."""
    both = estimate(["a.py", "b.py"], "implementation", "low", COEFFICIENTS, existing=["b.py", "other.py"])
    assert both.predicted_output_tokens == int((2000 + 2000 + 700) * 1.3)


@pytest.mark.parametrize(("complexity", "floor"), [("low", 8192), ("medium", 12288), ("high", 16384), ("odd", 12288)])
def test_without_deliverables_the_prediction_is_the_overhead(complexity: str, floor: int) -> None:
    """Without deliverables the budget is the floor, and the prediction is the overhead."""
    nothing = estimate([], "nothing known", complexity, COEFFICIENTS)
    assert nothing.selected_budget == floor
    assert nothing.predicted_output_tokens == 2600
    assert nothing.deliverable_count == 0


def test_without_deliverables_no_overhead_lifts_the_budget() -> None:
    """Without deliverables not even a large overhead lifts the budget above the floor."""
    heavy = msgspec.structs.replace(COEFFICIENTS, default_overhead=50_000.0)
    assert estimate([], "nothing known", "low", heavy).selected_budget == 8192
    assert estimate(["a.py"], "nothing known", "low", heavy).selected_budget == 64_000


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("src/app.py", "backend"),
        ("src\\pkg\\app.py", "backend"),
        ("cmd/main.go", "backend"),
        ("server/index.ts", "backend"),
        ("LICENSE", "doc"),
        ("docs/guide.md", "doc"),
        ("tests/README.md", "doc"),
        ("requirements.txt", "config"),
        ("Dockerfile", "config"),
        (".env", "config"),
        ("deploy/app.yaml", "config"),
        ("tests/test_app.py", "test"),
        ("src/app_test.go", "test"),
        ("src/App.test.tsx", "test"),
        ("web/app.spec.ts", "test"),
        ("conftest.py", "test"),
        ("tests/helpers.py", "test"),
        ("src/latest.py", "backend"),
        ("src/contest.py", "backend"),
        ("src/App.tsx", "frontend"),
        ("frontend/api.ts", "frontend"),
        ("styles/main.css", "frontend"),
        ("", "backend"),
    ],
)
def test_the_kind_of_a_deliverable_follows_from_its_path(path: str, kind: str) -> None:
    assert kind_of(path) == kind


def test_nested_deliverables_are_flattened_in_order() -> None:
    nested = {"code": ["a.py", ("b.py", {"deep": "c.py"})], "count": 3, "path": PurePosixPath("d/e.py"), "no": None}
    assert flatten_deliverables(nested) == ["a.py", "b.py", "c.py", "3", "d/e.py"]
    assert flatten_deliverables({"b", "a"}) == ["a", "b"]
    assert flatten_deliverables("a.py") == ["a.py"]
    assert flatten_deliverables(None) == []


def test_the_flat_list_is_a_new_one() -> None:
    original = ["a.py"]
    flat = flatten_deliverables(original)
    original.append("b.py")
    assert flat == ["a.py"]


def test_methods_of_the_callers_classes_are_never_called() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise AssertionError

        __repr__ = __iter__ = __str__

    class HostileList(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError

    class HostileText(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise AssertionError

    flat = flatten_deliverables([Hostile(), HostileList([HostileText("a.py")]), 10**5000, b"x"])
    assert flat == ["<Hostile>", "a.py", "<int>", "<bytes>"]
    assert type(flat[1]) is str


def test_cyclic_and_exploding_nesting_ends() -> None:
    cyclic: list[Any] = ["a.py"]
    cyclic.extend([cyclic, cyclic])
    flat = flatten_deliverables(cyclic)
    assert set(flat) == {"a.py"}
    assert MAX_DEPTH <= len(flat) <= MAX_NODES


@pytest.mark.slow
@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_flattening_keeps_every_text_and_is_idempotent(nested: Any) -> None:
    flat = flatten_deliverables(nested)
    assert flatten_deliverables(flat) == flat
    assert all(json.dumps(text) in json.dumps(nested) for text in flat)


def test_existing_files_are_found_only_inside_the_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "src").mkdir(parents=True)
    (workspace / "src" / "here.py").touch()
    (tmp_path / "outside.py").touch()
    (workspace / "link.py").symlink_to(tmp_path / "outside.py")
    (workspace / "loop.py").symlink_to(workspace / "loop.py")
    asked = [
        "src/here.py",
        ["src/../src/here.py", "src/gone.py", "../outside.py", str(tmp_path / "outside.py"), "link.py"],
        {"odd": ["loop.py", ".", "", "nul\0.py", "x" * 5000, "src"]},
    ]
    assert find_existing(workspace, asked) == ["src/here.py", "src/../src/here.py", "src"]
    assert os.listdir(workspace / "src") == ["here.py"]  # noqa: PTH208 (names, not paths)


def test_a_file_of_the_users_own_replaces_the_figures(tmp_path: Path) -> None:
    figures = _shipped_json()
    figures["safety_margin"] = 2
    own = tmp_path / "own.json"
    own.write_text(json.dumps(figures))
    coefficients = load_coefficients({"AUTOPACK_ESTIMATOR_COEFFICIENTS": str(own)})
    assert estimate(["a.py"], "implementation", "low", coefficients).predicted_output_tokens == 8000


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"safety_margin": "much"}, "safety_margin"),
        ({"safety_margin": 0}, "safety_margin"),
        ({"budget_cap": 100}, "above budget_cap"),
        ({"budget_floor": {"low": 1}}, "'medium'"),
        ({"marginal": {"new": {}}}, "marginal"),
        ({"saftey": 1}, "saftey"),
        ({"overhead": {"a/b": -1}}, "overhead"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_file_and_fault(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({**_shipped_json(), **change}))
    with pytest.raises(InputFileError) as refused:
        load_coefficients({"AUTOPACK_ESTIMATOR_COEFFICIENTS": str(own)})
    assert str(own) in str(refused.value)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"[]"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    own = tmp_path / "own.json"
    own.write_bytes(content)
    with pytest.raises(InputFileError, match=r"own\.json: "):
        load_coefficients({"AUTOPACK_ESTIMATOR_COEFFICIENTS": str(own)})


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(InputFileError, match=r"no/such/file: No such file or directory"):
        load_coefficients({"AUTOPACK_ESTIMATOR_COEFFICIENTS": "no/such/file"})


def _shipped_json() -> dict[str, Any]:
    path = PACKAGE / "data" / "estimator_coefficients.json"
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures
