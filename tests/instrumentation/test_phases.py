import asyncio
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import autopack
from autopack.instrumentation.phase_ids import process_run_id
from autopack.instrumentation.phases import flat_attributes, phase_of_fields


def name_of_phase() -> str | None:
    found = autopack.current_phase()
    return None if found is None else found.phase_id


def test_there_is_no_phase_outside_one() -> None:
    assert autopack.current_phase() is None
    with autopack.phase("p1") as entered:
        assert autopack.current_phase() is entered
    assert autopack.current_phase() is None


def test_a_nested_phase_inherits_what_it_does_not_say() -> None:
    """Run, kind and files come from outside, the id does not; attributes are joined."""
    with (
        autopack.phase("outer", run_id="r", category="testing", deliverables=["a.py"], attributes={"git": "1"}),
        autopack.phase("inner", complexity="high", attributes={"step": 2}) as inner,
    ):
        said = (inner.run_id, inner.phase_id, inner.category, inner.complexity, inner.deliverables)
        assert said == ("r", "inner", "testing", "high", ("a.py",))
        assert inner.attributes == {"git": "1", "step": 2}


def test_a_given_prediction_is_inherited_only_with_its_kind() -> None:
    with autopack.phase("outer", category="x", predicted_output_tokens=700, selected_budget=900):
        with autopack.phase("same") as same:
            assert (same.predicted_output_tokens, same.selected_budget) == (700, 900)
        with autopack.phase("other", category="y") as other:
            assert (other.predicted_output_tokens, other.selected_budget) == (0, 0)


def test_what_the_coefficients_know_is_predicted_and_offered() -> None:
    with autopack.phase("p", category="refactoring", complexity="medium", deliverables=["a.py"]) as entered:
        assert entered.predicted_output_tokens == int((3500 + 2000) * 1.3)
        assert (entered.selected_budget, entered.max_tokens, entered.basis) == (12288, 12288, "coefficients")
        assert entered.estimator is not None
        assert len(entered.estimator) == 8
    with autopack.phase("p", category="refactoring", complexity="medium") as without_files:
        assert without_files.predicted_output_tokens == int(3500 * 1.3)


@pytest.mark.parametrize(
    ("said", "max_tokens", "basis"),
    [
        ({"category": "poetry"}, 16_384, "default"),
        ({}, 16_384, "default"),
        ({"category": "poetry", "model": "claude-opus-4-1-20250805"}, 32_000, "model"),
        ({"category": "poetry", "selected_budget": 77}, 77, "given"),
        ({"category": "refactoring", "model": "claude-3-opus"}, 4_096, "maximum"),
        ({"category": "poetry", "selected_budget": 0}, 16_384, "default"),
    ],
)
def test_an_offer_is_made_also_for_a_kind_that_is_not_known(said: Any, max_tokens: int, basis: str) -> None:
    """Nothing is predicted for it: 0, never a made-up figure."""
    with autopack.phase("p", **said) as entered:
        assert (entered.max_tokens, entered.basis) == (max_tokens, basis)
        if basis != "maximum":
            assert (entered.predicted_output_tokens, entered.estimator) == (0, None)


def test_a_run_is_the_environments_or_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    with autopack.phase() as entered:
        assert entered.run_id == process_run_id()
    monkeypatch.setenv("AUTOPACK_RUN_ID", "from-outside")
    with autopack.phase() as entered:
        assert entered.run_id == "from-outside"


def test_generated_phases_of_one_kind_are_one_for_statistics() -> None:
    """Function, category, complexity and files in any order make the kind; the ids differ all the same."""
    made = []
    for said in (["a.py", "b.py"], ["b.py", "a.py"], ["c.py"]):
        with autopack.phase(category="x", deliverables=said) as entered:
            made.append(entered)
    assert all(entered.phase_id.startswith("auto-") for entered in made)
    assert len({entered.phase_id for entered in made}) == 3
    assert made[0].key == made[1].key != made[2].key


def test_each_call_of_a_decorated_function_is_a_phase_of_its_own() -> None:
    @autopack.phase(category="extraction")
    def extract(item: str) -> tuple[str, str | None, str | None]:
        entered = autopack.current_phase()
        assert entered is not None
        return item, entered.phase_id, entered.key

    @autopack.phase(category="extraction")
    def other() -> str | None:
        entered = autopack.current_phase()
        return None if entered is None else entered.key

    first, second = extract("a"), extract("b")
    assert (first[0], second[0]) == ("a", "b")
    assert first[1] != second[1]
    assert first[2] == second[2] != other()
    assert extract.__name__ == "extract"
    assert autopack.current_phase() is None


async def test_coroutine_functions_are_decorated_too() -> None:
    @autopack.phase("fixed", run_id="coroutines")
    async def ask() -> tuple[str | None, int]:
        await asyncio.sleep(0)
        entered = autopack.current_phase()
        assert entered is not None
        return entered.phase_id, entered.attempt

    answers = await asyncio.gather(*(ask() for _ in range(3)))
    assert sorted(answers) == [("fixed", 1), ("fixed", 2), ("fixed", 3)]


def test_what_cannot_be_decorated_is_refused() -> None:
    def items() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for function in (items, later):
        with pytest.raises(TypeError, match="generator function"):
            autopack.phase("p")(function)
    with pytest.raises(TypeError, match=r"@autopack\.phase\(\)"):
        autopack.phase(items)  # type: ignore[arg-type]


def test_entries_of_one_phase_are_its_attempts() -> None:
    def attempts(**said: Any) -> int:
        with autopack.phase("counted", run_id="attempts", **said) as entered:
            return entered.attempt

    assert [attempts(), attempts(), attempts(attempt=9), attempts()] == [1, 2, 9, 3]


def test_threads_begin_without_a_phase_and_bind_gives_it() -> None:
    with autopack.phase("p"), ThreadPoolExecutor(2) as pool:
        assert pool.submit(name_of_phase).result() is None
        bound = autopack.bind(name_of_phase)
        assert [found.result() for found in [pool.submit(bound) for _ in range(8)]] == ["p"] * 8
        seen: list[str | None] = []
        thread = threading.Thread(target=autopack.bind(lambda: seen.append(name_of_phase())))
        thread.start()
        thread.join()
        assert seen == ["p"]
    assert bound() == "p"  # after the phase has ended, too
    assert autopack.bind(name_of_phase) is name_of_phase


async def test_bind_works_for_coroutine_functions() -> None:
    async def ask() -> str | None:
        await asyncio.sleep(0)
        return name_of_phase()

    with autopack.phase("p"):
        bound = autopack.bind(ask)
    assert inspect.iscoroutinefunction(bound)
    assert await bound() == "p"
    assert autopack.current_phase() is None


def test_a_bound_function_goes_to_another_process() -> None:
    with (
        autopack.phase("p", run_id="r", category="refactoring"),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        assert pool.submit(autopack.bind(name_of_phase)).result() == "p"


def test_a_foreign_exit_is_no_error_and_changes_nothing() -> None:
    """A generator that is begun in one context and closed in another leaves both as they were."""

    def generate() -> Generator[str | None, None, None]:
        with autopack.phase("inner"):
            yield name_of_phase()

    generator = generate()
    assert copy_context().run(next, generator) == "inner"
    with autopack.phase("outer"):
        generator.close()
        assert name_of_phase() == "outer"
    assert autopack.current_phase() is None


PRINT_PHASE = """
import json, autopack
p = autopack.current_phase()
with autopack.phase("inner") as inner:
    print(json.dumps([p.run_id, p.phase_id, p.category, p.deliverables, p.attempt, p.predicted_output_tokens,
                      p.max_tokens, p.basis, p.estimator, inner.run_id, inner.category]))
"""


def test_a_child_process_reads_its_parents_phase_at_start() -> None:
    """The whole of it, hostile text included; its own phases inherit it."""
    with autopack.phase(
        "p\x00\u2028", run_id="r", category="refactoring", complexity="medium", deliverables=["a.py", "é.md"], attempt=4
    ) as entered:
        environment = {**os.environ, **entered.to_env()}
        child = subprocess.run([sys.executable, "-c", PRINT_PHASE], env=environment, capture_output=True, check=True)
        assert json.loads(child.stdout) == [
            "r",
            "p\x00\u2028",
            "refactoring",
            ["a.py", "é.md"],
            4,
            entered.predicted_output_tokens,
            entered.max_tokens,
            "coefficients",
            entered.estimator,
            "r",
            "refactoring",
        ]


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"nonsense": 1}', '{"attributes": 3}', "[" * 5000])
def test_a_broken_phase_of_the_environment_is_none(text: str) -> None:
    """It is warned of once, without being quoted."""
    code = "import autopack; print(autopack.current_phase())"
    environment = {**os.environ, "AUTOPACK_PHASE": text}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert child.stdout == "None\n"
    assert "AUTOPACK_PHASE does not hold what Phase.to_env() writes" in child.stderr


def test_a_phase_of_very_many_files_fits_into_the_environment() -> None:
    with autopack.phase("p", deliverables=[f"src/{number:050}.py" for number in range(5000)]) as entered:
        variables = entered.to_env()
    assert max(map(len, variables.values())) < 100_000
    copy = pickle.loads(pickle.dumps(entered))  # noqa: S301 (its own bytes)
    assert copy.predicted_output_tokens == entered.predicted_output_tokens


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"run_id": 7}, "run_id is a text, not int"),
        ({"category": ["a"]}, "category is a text, not list"),
        ({"model": 5}, "model is a text"),
        ({"attempt": "2"}, "attempt is a whole number, not str"),
        ({"predicted_output_tokens": 1.5}, "predicted_output_tokens is a whole number"),
        ({"selected_budget": True}, "selected_budget is a whole number, not bool"),
        ({"attributes": 5}, "attributes is a mapping"),
    ],
)
def test_a_field_of_another_kind_is_refused_by_name(said: Any, message: str) -> None:
    """Where the phase is described, and in the metadata of a request, whose phase is then the one of the context."""
    with pytest.raises(TypeError, match=message):
        autopack.phase("p", **said)
    with pytest.raises(TypeError, match=message):
        phase_of_fields(said)


def test_the_offer_is_that_of_the_models_reasoning_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learned from a model at a level counts for that level only; a nested phase inherits the level."""
    shipped = json.loads((Path(autopack.__file__).parent / "data/estimator_coefficients.json").read_bytes())
    kept = {"alpha_percent": 1, "bound_percent": 3}
    of_high = {"model": "m", "reasoning_level": "high", "replies": 500, "pooled": {"factor": 5.0, "promise": kept}}
    learned = {"pooled_factor": 2.0, "pooled_promise": kept, "models": [of_high]}
    own = tmp_path / "own.json"
    own.write_text(json.dumps({**shipped, "learned": learned}))
    monkeypatch.setenv("AUTOPACK_ESTIMATOR_COEFFICIENTS", str(own))
    said: dict[str, Any] = {"category": "refactoring", "deliverables": ["a.py"], "model": "m"}
    with autopack.phase("p", **said) as without, autopack.phase("q", reasoning_level="high") as high:
        assert (without.max_tokens, without.basis) == (2 * without.predicted_output_tokens, "pooled")
        assert (high.max_tokens, high.basis) == (5 * high.predicted_output_tokens, "pooled")


def test_attributes_are_flat_and_short() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise AssertionError("is never called")

    flat = flat_attributes({"text": "x" * 500, "list": [1], "hostile": Hostile(), "n": 1.5, "none": None})
    assert flat == {"text": "x" * 200, "list": "<list>", "hostile": "<Hostile>", "n": 1.5, "none": None}
    assert len(flat_attributes({str(number): 1 for number in range(500)})) == 50


def test_unusable_coefficients_cost_the_prediction_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPACK_ESTIMATOR_COEFFICIENTS", str(tmp_path / "missing.json"))
    with autopack.phase("p", category="refactoring", deliverables=["a.py"]) as entered:
        assert (entered.predicted_output_tokens, entered.max_tokens, entered.basis) == (0, 16_384, "default")
