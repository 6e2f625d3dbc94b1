"""What the tests need beside the core of the product: `scripts/matrix` runs them where it is not installed, too."""

import importlib.util
from collections.abc import Iterable
from functools import cache

ANTHROPIC = ("anthropic", "httpx2")
SERVER = (*ANTHROPIC, "starlette", "uvicorn")
NEEDS = {  # what a file or folder of tests imports, or could not do its work without
    "analysis/test_verdicts_hold.py": ("benchmarks.verdicts_hold",),  # pyarrow 17 installs other `benchmarks`
    "commands/test_parquet.py": ("duckdb", "pyarrow"),
    "commands/test_reading_commands_on_postgres.py": ("duckdb", "psycopg", "pyarrow"),
    "instrumentation/test_anthropic.py": (*SERVER, "opentelemetry"),
    "instrumentation/test_examples.py": (*SERVER, "examples"),
    "instrumentation/test_off_and_private.py": SERVER,
    "instrumentation/test_openai.py": (*SERVER, "openai"),
    "instrumentation/test_spans.py": (*SERVER, "opentelemetry.sdk"),
    "loopback": SERVER,
    "reporting/test_report.py": ("playwright", "plotly"),
    "telemetry/stores/test_postgres_store.py": ("asyncpg", "psycopg"),
    "packaging": ("hatchling", "uv"),
    "test_anthropic_clients.py": SERVER,
    "test_autonomous_executor.py": SERVER,
    "test_readme.py": ("scripts",),
}


def missing_of(modules: Iterable[str]) -> str:
    """Those of the modules that are not installed."""
    return ", ".join(name for name in modules if not _is_installed(name))


@cache
def _is_installed(module: str) -> bool:
    parent = module.rpartition(".")[0]
    return (not parent or _is_installed(parent)) and importlib.util.find_spec(module) is not None
