"""The imports of the package point one way: from what a user calls down to what knows of nothing else.

Each check takes the sources of the modules by name, so that a test can plant a violation and see that it is found.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import pytest
from tests.sources import SOURCES

# Lowest first; `|` separates the levels. A module imports from its own level and from those below it. The longest name
# that fits is its room; the `__init__` of telemetry stands above all that lies in telemetry.
ROOMS = """
_util errors | estimation | coefficients
| telemetry.counters telemetry.log telemetry.lifecycle | telemetry.event | models database
| telemetry.journal telemetry.stores | telemetry.engine | telemetry.collector | telemetry.recorder | telemetry.default
| telemetry | budgets | instrumentation | analysis | maintenance reporting | build loopback | commands
| anthropic_clients cli | autonomous_executor
"""
LIGHT = r"telemetry(\.(counters|log|lifecycle|recorder|default))?$"  # what lies directly in telemetry
PURE = r"telemetry\.event|telemetry\.journal\.format|estimation|analysis\.(replaying|sampling|validating|calibrating)"
IMPURE = (
    "time|threading|os|asyncio|anyio|sqlalchemy|sqlite3|random|logging|socket|mmap|fcntl|subprocess|io|_thread|concurrent"
    "|secrets|uuid|tempfile|shutil|select|selectors|signal|multiprocessing|urllib|http"
)
IMPURE_ROOMS = (
    r"_util\.(files|input_files|os_threads|forks|terminal|signals)|database|models"
    r"|telemetry\.(engine|stores|lifecycle)|maintenance"
)
IMPURE_METHODS = r"now|today|utcnow|read_text|read_bytes|write_\w+"
DRIVERS = "sqlalchemy|alembic|sqlite3|aiosqlite|asyncpg|psycopg"

Sources = Mapping[str, str]
Edges = set[tuple[str, str]]


@cache
def imports_in(source: str) -> frozenset[tuple[str, str, bool]]:
    """Module, name taken from it, and whether that happens inside a function; not what is there for types only."""
    return frozenset(_imports(ast.parse(source), inside=False))


def _imports(node: ast.AST, *, inside: bool) -> Iterator[tuple[str, str, bool]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, "", inside) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from ((node.module or ".", alias.name, inside) for alias in node.names)
    inside |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for_types = isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
    for child in node.orelse if isinstance(node, ast.If) and for_types else ast.iter_child_nodes(node):
        yield from _imports(child, inside=inside)


def edges(sources: Sources, *, at_once: bool = False) -> Edges:
    """Who imports what; with `at_once` only what the import of a module itself brings with it."""
    return {
        (importer, submodule if (submodule := f"{module}.{name}") in sources else module)
        for importer, source in sources.items()
        for module, name, inside in imports_in(source)
        if not (at_once and inside)
    }


def level(module: str) -> int:
    levels = {room: number for number, rooms in enumerate(ROOMS.split("|")) for room in rooms.split()}
    name = module.removeprefix("autopack.")
    while name not in levels:
        assert "." in name, f"{module} is in no room"
        name = name.rpartition(".")[0]
    return levels[name]


def lies_in(module: str, rooms: str) -> bool:
    return re.match(rf"({rooms})(\.|$)", module.removeprefix("autopack.")) is not None


def upward(sources: Sources) -> Edges:
    return {(user, used) for user, used in edges(sources) if used in sources and level(used) > level(user)}


def in_cycles(sources: Sources) -> Edges:
    """What is left when imports by modules that nothing imports, and of modules that import nothing, are taken away."""
    left, before = {(user, used) for user, used in edges(sources) if user != used}, None
    while left != before:
        before, users, used_ones = left, {user for user, _ in left}, {used for _, used in left}
        left = {(user, used) for user, used in left if user in used_ones and used in users}
    return left


def users_of_the_terminal(sources: Sources) -> Edges:
    users = {(user, used) for user, used in edges(sources) if lies_in(used, "click|rich")}
    return {edge for edge in users if not lies_in(edge[0], "commands|cli|autonomous_executor")}


def impure(sources: Sources) -> Edges:
    """What pure modules import, or call, that knows of a clock, a thread, a file or a database."""
    pure = {name: source for name, source in sources.items() if lies_in(name, PURE)}
    rooms = {(user, used) for user, used in edges(sources) if user in pure and used.startswith("autopack.")}
    return (
        {(user, used) for user, used in edges(pure) if lies_in(used, IMPURE) and not used.startswith("autopack.")}
        | {(user, used) for user, used in rooms if lies_in(used, IMPURE_ROOMS)}
        | {(user, called) for user, source in pure.items() for called in impure_calls(source)}
    )


@cache
def impure_calls(source: str) -> frozenset[str]:
    called = {node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    names = {ast.unparse(func) for func in called if isinstance(func, ast.Name) and func.id == "open"}
    methods = {func.attr for func in called if isinstance(func, ast.Attribute)}
    return frozenset(names | {f".{name}" for name in methods if re.fullmatch(IMPURE_METHODS, name)})


def relative(sources: Sources) -> Edges:
    """Relative imports, which the other checks do not follow."""
    return {
        (user, "." * node.level + (node.module or ""))
        for user, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.level
    }


def expect_none(found: Edges) -> None:
    assert not found, "\n".join(sorted(f"{user} imports {used}" for user, used in found))


def test_every_module_imports_its_own_level_and_lower_ones() -> None:
    expect_none(upward(SOURCES))


def test_no_imports_form_a_cycle() -> None:
    """Neither at the top of modules nor by way of imports inside functions."""
    expect_none(in_cycles(SOURCES))


def test_five_doors_at_most_lead_into_telemetry() -> None:
    """A door is a module of telemetry that a module outside telemetry imports."""
    doors = {used for user, used in edges(SOURCES) if lies_in(used, "telemetry") and not lies_in(user, "telemetry")}
    assert len(doors) <= 5, "\n".join(sorted(doors))


def test_pure_rooms_know_no_clock_thread_file_or_database() -> None:
    expect_none(impure(SOURCES))


def test_no_import_is_relative() -> None:
    expect_none(relative(SOURCES))


def test_only_rooms_of_the_database_import_its_drivers() -> None:
    """`database/__init__`, which a program that records nothing imports too, does so only inside functions."""
    users = {edge for edge in edges(SOURCES) if lies_in(edge[1], DRIVERS)}
    rooms = r"database|models|telemetry\.stores|analysis\.reading|maintenance"
    at_once = {edge for edge in edges(SOURCES, at_once=True) & users if edge[0] == "autopack.database"}
    expect_none(at_once | {edge for edge in users if not lies_in(edge[0], rooms)})


def test_only_commands_know_the_terminal() -> None:
    expect_none(users_of_the_terminal(SOURCES))


def test_what_lies_directly_in_telemetry_is_light() -> None:
    """When telemetry is off only these modules are loaded; the sub-packages come with the first live instance."""
    light = {edge for edge in edges(SOURCES, at_once=True) if lies_in(edge[0], LIGHT)}
    of_python = "|".join(sys.stdlib_module_names)
    expect_none({edge for edge in light if not lies_in(edge[1], rf"{of_python}|_util|errors|{LIGHT}")})


@pytest.mark.parametrize(
    ("check", "user", "planted", "used"),
    [
        (upward, "autopack.errors", "def f(): from autopack.analysis import accuracy", "autopack.analysis.accuracy"),
        (in_cycles, "autopack.errors", "import autopack._util.input_files", "autopack._util.input_files"),
        (users_of_the_terminal, "autopack.estimation.metrics", "import click.testing", "click.testing"),
        (impure, "autopack.estimation.metrics", "from secrets import token_hex", "secrets"),
        (impure, "autopack.estimation.metrics", "def f(): import concurrent.futures", "concurrent.futures"),
        (impure, "autopack.estimation.metrics", "from autopack._util import files", "autopack._util.files"),
        (impure, "autopack.estimation.metrics", "from autopack.database import SessionLocal", "autopack.database"),
        (impure, "autopack.telemetry.event.wire", "def f(): return open('x')", "open"),
        (impure, "autopack.telemetry.event.wire", "def f(path): return path.read_text()", ".read_text"),
        (impure, "autopack.telemetry.event.wire", "def f(clock): return clock.now()", ".now"),
        (relative, "autopack.estimation.metrics", "from .estimator import estimate", ".estimator"),
    ],
)
def test_a_planted_violation_is_found(check: Callable[[Sources], Edges], user: str, planted: str, used: str) -> None:
    assert (user, used) not in check(SOURCES)
    assert (user, used) in check({**SOURCES, user: f"{SOURCES[user]}\n{planted}\n"})
