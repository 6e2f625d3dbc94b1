"""What else holds everywhere in the house: one root of errors, no interface for one class, names that can be read."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.needs import NEEDS
from tests.sources import SOURCES
from tests.write_side import ROOT

LONGEST_NAME = len("test_") + 60
EVERYWHERE = """
aiosqlite alembic anyio click greenlet msgspec sqlalchemy autopack
_pytest hypothesis pytest trio numpy scipy statsmodels tests
"""
FOLDERS = ("src", "tests", "scripts", "benchmarks")

CLASSES = {
    node.name: node
    for source in SOURCES.values()
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.ClassDef)
}


def bases_of(name: str) -> Iterator[str]:
    """The names of all classes that a class of the package derives from; those of others as they are written."""
    for base in CLASSES[name].bases if name in CLASSES else ():
        yield (text := ast.unparse(base).partition("[")[0])
        if (last := text.rpartition(".")[2]) != name:  # `class Group(click.Group)`
            yield from bases_of(last)


def members_of(name: str) -> set[str]:
    """What a class of the package offers: its own methods and fields, what it assigns to itself, what it inherits."""
    if name not in CLASSES:
        return set()
    nodes = list(ast.walk(CLASSES[name]))
    methods = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    fields = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assigned = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    return methods | fields | assigned | {member for base in bases_of(name) for member in members_of(base)}


PROTOCOLS = sorted(name for name in CLASSES if "Protocol" in map(ast.unparse, CLASSES[name].bases))
ERRORS = sorted(name for name in CLASSES if any(re.search(r"Error$|Exception$", base) for base in bases_of(name)))


def test_every_error_derives_from_one_root() -> None:
    """From `AutopackError`, or from click's where it ends a command."""
    assert len(ERRORS) > 10
    roots = {name: [base for base in bases_of(name) if re.match(r"AutopackError|click\.", base)] for name in ERRORS}
    assert [name for name, found in roots.items() if not found] == ["AutopackError"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_interface_has_two_implementations_at_least(protocol: str) -> None:
    """An implementation is a class, or a module with those functions."""
    wanted = members_of(protocol)
    modules = {
        name: {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for name, source in SOURCES.items()
    }
    offered = modules | {name: members_of(name) for name in CLASSES if name not in PROTOCOLS}
    found = [name for name, members in offered.items() if wanted <= members]
    assert len(found) >= 2, found


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_formatter_wins(folder: str) -> None:
    mark = "# fmt" + ": "
    assert [path for path in (ROOT / folder).rglob("*.py") if mark in path.read_text()] == []


def test_names_of_tests_are_short_sentences() -> None:
    """Of 60 characters at most; what is left to be said stands in the docstring."""
    names = [
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    ]
    assert len(names) > 500
    assert [name for name in names if len(name) > LONGEST_NAME] == []


@cache
def imported_by(path: Path) -> frozenset[str]:
    """The packages that a file of tests imports at its top, by itself or by what the tests share."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"tests.{alias.name}" for alias in node.names if node.module == "tests")]
        for module in modules:
            found.add(module.partition(".")[0])
            shared = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            if module.startswith("tests.") and shared.is_file():
                found |= imported_by(shared)
    return frozenset(found)


def test_what_tests_import_is_declared() -> None:
    """In `tests.needs`, or they could not be collected where it is not installed."""
    tests = ROOT / "tests"
    undeclared = {
        (path.relative_to(tests).as_posix(), package)
        for path in tests.rglob("test_*.py")
        for package in imported_by(path) - {*EVERYWHERE.split(), *sys.stdlib_module_names}
        if package not in declared_for(path.relative_to(tests))
    }
    assert undeclared == set()
    assert [path for path in NEEDS if not (tests / path).exists()] == []


def declared_for(path: Path) -> set[str]:
    modules = [module for part in (path, *path.parents) for module in NEEDS.get(part.as_posix(), ())]
    return {module.partition(".")[0] for module in modules}
