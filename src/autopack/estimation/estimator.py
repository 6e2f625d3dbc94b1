"""How many output tokens a phase will need, predicted from its deliverables. Pure.

    predicted = int((overhead + Σ marginal(deliverable)) · safety_margin)
    budget    = min(budget_cap, max(budget_floor, int(predicted · budget_buffer)))
              = min(budget_cap, ⌈predicted · budget_factor⌉) where category and complexity have such a factor

`overhead` belongs to category and complexity; the marginal of a deliverable depends on its kind and on whether it
is written anew or exists already. The figures come from `autopack.estimation.coefficients`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from autopack.estimation.coefficients import FALLBACK_COMPLEXITY, Coefficients
from autopack.estimation.deliverables import flatten_deliverables

Kind = Literal["backend", "frontend", "test", "doc", "config"]

_TEST_NAME = re.compile(r"(test_.*|.*_test|.*[.-](test|spec)|conftest)\.[^.]+")
_TEST_DIRECTORIES = frozenset({"test", "tests", "__tests__", "spec", "specs", "e2e"})
_FRONTEND_DIRECTORIES = frozenset({"frontend", "client", "components", "pages", "ui", "web"})
_DOC_NAMES = frozenset({"readme", "changelog", "contributing", "license", "notice", "authors"})
_DOC_SUFFIXES = frozenset({"md", "mdx", "rst", "txt", "adoc"})
_CONFIG_NAMES = frozenset({"dockerfile", "makefile", "procfile", "justfile", "jenkinsfile", "requirements.txt"})
_CONFIG_SUFFIXES = frozenset({"json", "yaml", "yml", "toml", "ini", "cfg", "conf", "env", "properties", "lock", "tf"})
_FRONTEND_SUFFIXES = frozenset({"tsx", "jsx", "vue", "svelte", "css", "scss", "less", "html"})
_SCRIPT_SUFFIXES = frozenset({"js", "ts", "mjs"})  # the directory tells a browser's from a server's


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the estimator expects of one phase.

    `predicted_output_tokens` is the expectation with the safety margin, `selected_budget` what may be asked for,
    `deliverable_count` the number of deliverables after flattening.
    """

    predicted_output_tokens: int
    selected_budget: int
    deliverable_count: int


def estimate(
    deliverables: object,
    category: str,
    complexity: str,
    coefficients: Coefficients,
    existing: Collection[str] = (),
) -> Estimate:
    """Estimate a phase; the formula stands at the top of this module.

    Deliverables of any nesting are flattened; those that are in `existing` are modifications, the others are new.
    A category and complexity without an overhead of their own get `default_overhead`; a complexity without a
    budget floor gets that of `medium`. Without deliverables the prediction is the overhead with its margin, and the
    budget is exactly the floor.
    """
    names = flatten_deliverables(deliverables)
    overhead = coefficients.overhead.get(f"{category}/{complexity}", coefficients.default_overhead)
    present = frozenset(existing)
    marginals = [_marginal(name, name in present, coefficients) for name in names]
    predicted = int(math.fsum([overhead, *marginals]) * coefficients.safety_margin)
    budget = (
        budget_of(predicted, category, complexity, coefficients) if names else _budget_floor(complexity, coefficients)
    )
    return Estimate(predicted, min(coefficients.budget_cap, budget), len(names))


def budget_of(predicted: int, category: str, complexity: str, coefficients: Coefficients) -> int:
    """Return the budget of a prediction for at least one deliverable; the caller cuts it to the cap."""
    factor = coefficients.budget_factor.get(f"{category}/{complexity}")
    if factor is not None:
        return max(1, math.ceil(coefficients.budget_base(predicted) * factor))
    return max(_budget_floor(complexity, coefficients), int(predicted * coefficients.budget_buffer))


def kind_of(path: str) -> Kind:
    """Return what kind of file a path names, by the conventions of its name, suffix and directories.

    Both slashes separate, case does not matter. A test is known by its name (`test_x.py`, `x.spec.ts`) or, unless
    it is a document or configuration, by its directory. Everything else is backend.
    """
    *directories, name = path.lower().replace("\\", "/").split("/")
    _, _, suffix = name.rpartition(".")
    if _TEST_NAME.fullmatch(name):
        return "test"
    if name in _CONFIG_NAMES or suffix in _CONFIG_SUFFIXES:
        return "config"
    if suffix in _DOC_SUFFIXES or name in _DOC_NAMES:
        return "doc"
    if not _TEST_DIRECTORIES.isdisjoint(directories):
        return "test"
    return "frontend" if _is_frontend(suffix, directories) else "backend"


def _is_frontend(suffix: str, directories: list[str]) -> bool:
    in_frontend = not _FRONTEND_DIRECTORIES.isdisjoint(directories)
    return suffix in _FRONTEND_SUFFIXES or (suffix in _SCRIPT_SUFFIXES and in_frontend)


def _marginal(path: str, exists: bool, coefficients: Coefficients) -> float:
    table = coefficients.marginal.modified if exists else coefficients.marginal.new
    tokens: float = getattr(table, kind_of(path))
    return tokens


def _budget_floor(complexity: str, coefficients: Coefficients) -> int:
    return coefficients.budget_floor.get(complexity, coefficients.budget_floor[FALLBACK_COMPLEXITY])
