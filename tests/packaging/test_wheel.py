"""The wheel: what is in it, what it brings with it, and what it does without any extra and with each."""

import sqlite3
import tomllib
import zipfile
from contextlib import closing
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from tests.packaging.installed import Installed, install, uv
from tests.write_side import ROOT

pytestmark = pytest.mark.slow

CORE = {"aiosqlite", "alembic", "anyio", "click", "greenlet", "idna", "mako", "markupsafe", "msgspec", "sqlalchemy"}
# Only on Pythons whose standard library lacks them.
BACKPORTS = {"typing-extensions"}
# What the user of an extra imports, and what of autopack needs it.
EXTRAS = {
    "anthropic": ["anthropic", "httpx2", "autopack.instrumentation.anthropic_spans"],
    "simulate": ["starlette", "uvicorn", "autopack.loopback.server"],
    "rich": ["rich.console"],
    "postgres": ["asyncpg", "psycopg", "autopack.telemetry.stores.postgres.connection"],
    "parquet": ["pyarrow.parquet", "autopack.analysis.exporting.parquet"],
    "report": ["plotly"],
    "otel": ["opentelemetry.sdk.trace", "autopack.instrumentation.span_processor"],
    "openai": ["openai"],
    "litellm": ["autopack.instrumentation.litellm_callback"],
    "prices": ["genai_prices"],
}
# Modules that a user names only with the extra that they are for.
NEEDS_EXTRA = {
    "autopack.instrumentation.anthropic_spans": "opentelemetry",
    "autopack.instrumentation.litellm_callback": "litellm",
    "autopack.instrumentation.span_processor": "opentelemetry",
    "autopack.telemetry.stores.postgres.connection": "asyncpg",
}
HOST_CALL = """
from autopack.anthropic_clients import AnthropicBuilderClient, _write_token_estimation_v2_telemetry
import sys
assert "anthropic" not in sys.modules
_write_token_estimation_v2_telemetry(
    run_id="r", phase_id="p1", category="implementation", complexity="medium", deliverables=["a.py"],
    predicted_output_tokens=5200, actual_output_tokens=1218, selected_budget=8192, success=True, truncated=False,
    stop_reason="end_turn", model="claude-sonnet-4-5",
)
"""


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        said = Parser().parsestr(archive.read(metadata).decode())
    source = ROOT / "src"
    files = {path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {path.relative_to(source).as_posix() for path in files}
    assert {"autopack/py.typed", "autopack/data/estimator_coefficients.json"} <= names
    assert set(said.get_all("Provides-Extra") or []) == set(project()["optional-dependencies"]) == {*EXTRAS, "all"}
    assert said["Requires-Python"] == ">=3.11"


def test_the_core_brings_ten_packages_and_they_fit_together(bare: Installed) -> None:
    assert bare.packages().keys() - {"autopack-telemetry"} - BACKPORTS == CORE
    uv("pip", "check", "--python", bare.python)


def test_an_event_lands_with_the_core_alone(bare: Installed, tmp_path: Path) -> None:
    """Through the entry point of the host system, which must not need the SDK."""
    database = tmp_path / "events.db"
    url = f"sqlite:///{database}"
    done = bare.run("python", "-W", "error", "-c", HOST_CALL, DATABASE_URL=url, TELEMETRY_DB_ENABLED="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT phase_id, waste_ratio FROM token_estimation_v2_events").fetchall()
    assert rows == [("p1", 426)]


def test_each_module_imports_with_the_core_alone(bare: Installed) -> None:
    """But for those that are an extra's own."""
    done = bare.run(
        "python",
        "-c",
        """
import importlib, pkgutil, autopack
for module in pkgutil.walk_packages(autopack.__path__, "autopack."):
    if not module.name.endswith(".env") and ".versions." not in module.name:
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as exc:
            print(module.name, exc.name)
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert dict(line.split() for line in done.stdout.splitlines()) == NEEDS_EXTRA


@pytest.mark.parametrize(
    ("command", "extra", "url"),
    [
        ("autopack export --format parquet --output out/", "parquet", ""),
        ("autopack report --output report.html", "report", ""),
        ("autopack status", "postgres", "postgresql://h/d"),
        ("autopack db upgrade", "postgres", "postgresql://h/d"),
        ("python -m autopack.autonomous_executor --run-id r --provider anthropic", "anthropic", ""),
        ("python -m autopack.autonomous_executor --run-id r --provider simulated", "simulate", ""),
        ("python -m autopack.autonomous_executor --run-id r", "simulate", ""),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(
    bare: Installed, tmp_path: Path, command: str, extra: str, url: str
) -> None:
    done = bare.run(*command.split(), DATABASE_URL=url or f"sqlite:///{tmp_path / 'events.db'}")
    said = [line for line in done.stderr.splitlines() if not line.startswith("#")]  # `# Database: …` may come first
    assert (done.returncode, len(said), done.stdout) == (1, 1, ""), done.stderr
    assert said[0].startswith("Error: ")
    assert said[0].endswith(f"pip install 'autopack-telemetry[{extra}]'")


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_alone_is_enough_for_what_it_is_for(wheel: Path, tmp_path: Path, extra: str) -> None:
    installed = install(wheel, tmp_path, extra)
    uv("pip", "check", "--python", installed.python)
    done = installed.run(
        "python", "-c", "".join(f"import {module}\n" for module in EXTRAS[extra]), LITELLM_LOCAL_MODEL_COST_MAP="True"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_all_is_what_autopack_itself_can_do(wheel: Path, tmp_path: Path) -> None:
    """A run, its report and its Parquet files, from one command each."""
    installed = install(wheel, tmp_path, "all")
    database = f"sqlite:///{tmp_path / 'events.db'}"
    for command in (
        "python -m autopack.autonomous_executor --run-id r --provider simulated",
        "autopack export --format parquet --output out/",
        "autopack report --include-simulated --output report.html",
    ):
        done = installed.run(*command.split(), DATABASE_URL=database, TELEMETRY_DB_ENABLED="1")
        assert done.returncode == 0, done.stderr
    assert "<html" in (installed.folder / "empty" / "report.html").read_text()
    assert list((installed.folder / "empty" / "out").rglob("*.parquet"))
