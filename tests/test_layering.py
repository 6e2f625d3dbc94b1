"""The imports of the package point one way: from what a user calls down to what knows nothing of anything."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.write_side import ROOT

PACKAGE = ROOT / "src" / "autopack"

# Lowest first. A module may import what stands in a line above its own, and what stands in its own line as long as that
# makes no cycle.
LAYERS = """
text deliverables identifiers
printable postgres_urls
database
models
migrations
telemetry.counters telemetry.log telemetry.errors telemetry.metrics telemetry.events telemetry.missing telemetry.switch
telemetry.wire telemetry.settings
telemetry.rows telemetry.decoding telemetry.backoff telemetry.ledger telemetry.private_files
telemetry.process telemetry.wakeup telemetry.control
telemetry.buffer telemetry.segment telemetry.appender telemetry.segment_maker telemetry.recovery telemetry.dead_letters
telemetry.journal telemetry.inspection
telemetry.stores.base telemetry.stores.memory telemetry.stores telemetry.stores.sqlite telemetry.stores.postgres_errors
telemetry.stores.postgres_copy
telemetry.stores.postgres_connection
telemetry.stores.postgres
telemetry.stores.by_url
telemetry.worker telemetry.resend telemetry.bulk
telemetry.writer telemetry.recover
telemetry.stats telemetry.uncommon
telemetry.recorder
telemetry.disabled
telemetry.shared
telemetry
telemetry.dead_letters_cli telemetry.recover_cli
"""

# What would be a cycle, and why it is none in practice: the import stands in a function, or is there for types only.
UPWARD = {
    ("telemetry.recorder", "telemetry.disabled"): "from_env answers with a disabled one, which is a Telemetry",
    ("printable", "database"): "without_secrets masks URLs, which database knows how to",
}

READ_SIDE_MAY_USE = {"telemetry.metrics", "telemetry.errors", "telemetry.settings"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py") if "versions" not in path.parts}


def imports_of(name: str) -> Iterator[str]:
    """The modules of ours that a module imports, at its top or inside a function, for types or to run."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule.removeprefix("autopack.") in MODULES else node.module


def ours(name: str) -> set[str]:
    found = {imported.removeprefix("autopack.") for imported in imports_of(name) if imported.startswith("autopack.")}
    return {imported for imported in found if imported in MODULES} - {name}


def rank() -> dict[str, int]:
    return {name: number for number, line in enumerate(LAYERS.split("\n")) for name in line.split()}


def test_every_module_of_the_write_side_has_a_layer() -> None:
    write_side = {name for name in MODULES if name.split(".")[0] == "telemetry"}
    assert write_side - rank().keys() == set()
    assert rank().keys() - MODULES.keys() == set()


@pytest.mark.parametrize("name", sorted(rank().keys() & MODULES.keys()))
def test_a_module_imports_only_what_lies_below_it(name: str) -> None:
    ranks = rank()
    upward = {
        imported
        for imported in ours(name)
        if ranks.get(imported, 1_000) > ranks[name] and (name, imported) not in UPWARD
    }
    assert upward == set()


def test_every_exception_is_still_needed() -> None:
    assert {pair for pair in UPWARD if pair[1] not in ours(pair[0])} == set()


def test_the_modules_of_the_write_side_have_no_cycle_but_the_listed_ones() -> None:
    graph = {
        name: {imported for imported in ours(name) if (name, imported) not in UPWARD}
        for name in MODULES
        if name in rank()
    }
    while leaves := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


def test_telemetry_never_imports_the_read_side_nor_a_program() -> None:
    above = {"analysis", "importing", "reporting", "cli", "anthropic_clients", "autonomous_executor", "messages_server"}
    core = rank().keys() & MODULES.keys()
    assert {(name, needed) for name in core for needed in ours(name) if needed.split(".")[0] in above} == set()


def test_the_read_side_meets_telemetry_in_data_at_rest_only() -> None:
    read_side = {name for name in MODULES if name.split(".")[0] == "analysis"}
    used = {(name, needed) for name in read_side for needed in ours(name) if needed.split(".")[0] == "telemetry"}
    assert {needed for _, needed in used} <= READ_SIDE_MAY_USE, used


# Lowest first, too. A package of the read side may import those in the lines above its own.
READ_LAYERS = """
reading
exporting replaying sampling
tailing validating
calibrating summarizing
"""


def test_the_packages_of_the_read_side_import_what_lies_below_them() -> None:
    ranks = {name: number for number, line in enumerate(READ_LAYERS.split("\n")) for name in line.split()}
    packages = {name: name.split(".")[1] for name in MODULES if re.fullmatch(r"analysis\.\w+\.\w+", name)}
    assert set(packages.values()) == ranks.keys()
    assert {
        (name, needed)
        for name, package in packages.items()
        for needed in ours(name) & packages.keys()
        if packages[needed] != package and ranks[packages[needed]] >= ranks[package]
    } == set()


def test_neither_side_imports_what_brings_them_together() -> None:
    """`autopack import` and `autopack report` read with one side, and write or look with the other."""
    sides = {name for name in MODULES if name.split(".")[0] in {"telemetry", "analysis"}}
    assert {
        name for name in sides for needed in ours(name) if needed.split(".")[0] in {"importing", "reporting"}
    } == set()


def test_nothing_imports_the_command_line_but_the_program_that_is_one_of_its_commands() -> None:
    assert {name for name in MODULES if "cli" in ours(name)} <= {"autonomous_executor"}


PURE_PACKAGES = {f"analysis.{name}" for name in ("replaying", "sampling", "validating", "calibrating")}

PURE = [
    "text",
    "printable",
    "deliverables",
    "telemetry.errors",
    "telemetry.metrics",
    "telemetry.events",
    "telemetry.wire",
    "telemetry.rows",
    "telemetry.decoding",
    "telemetry.backoff",
    "telemetry.ledger",
    "analysis.accuracy",
    "analysis.aligned",
    "analysis.reading.lines",
    *sorted(name for name in MODULES if name.rpartition(".")[0] in PURE_PACKAGES and not name.endswith(".command")),
]


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_knows_no_clock_thread_file_or_database(name: str) -> None:
    impure = {"time", "threading", "os", "asyncio", "anyio", "sqlalchemy", "sqlite3", "random", "logging", "socket"}
    assert {imported.split(".")[0] for imported in imports_of(name)} & impure == set()


def test_only_the_stores_and_migrations_know_sqlalchemy_alembic_and_the_drivers() -> None:
    heavy = {"sqlalchemy", "alembic", "aiosqlite", "asyncpg", "psycopg"}
    users = {name for name in MODULES if heavy & {imported.split(".")[0] for imported in imports_of(name)}}
    stores = {f"telemetry.stores.{name}" for name in ("sqlite", "postgres", "postgres_connection")}
    upkeep = {f"upkeep.{name}" for name in ("explained", "pruning")}
    allowed = {
        "database",
        "models",
        *stores,
        *upkeep,
        *(name for name in MODULES if name.split(".")[0] == "migrations"),
    }
    assert {name for name in users if name.split(".")[0] != "analysis"} <= allowed
