"""Where, when and on what a benchmark ran."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = (
    "aiosqlite",
    "anthropic",
    "anyio",
    "logfire",
    "loguru",
    "msgspec",
    "openinference-instrumentation-anthropic",
    "opentelemetry-instrumentation-anthropic",
    "opentelemetry-sdk",
    "posthog",
    "sqlalchemy",
    "structlog",
)


def describe() -> dict[str, Any]:
    """The machine, the versions, the commit and the time; nothing that names a person or a path."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "changed_since_commit": [line[3:] for line in _git("status", "--porcelain", "--", "src").splitlines()],
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.rstrip()
    except (OSError, subprocess.CalledProcessError):
        return ""  # an unpacked archive has no history


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
