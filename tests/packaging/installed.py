"""Environments with the wheel of this tree, built and installed by the tools that the tests are pinned to."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.write_side import ROOT

_NOT_INHERITED = ("PYTHONPATH", "MYPYPATH", "VIRTUAL_ENV", "DATABASE_URL", "ANTHROPIC_API_KEY")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what leads to the source tree, and without our settings."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return {name: value for name, value in kept.items() if not name.startswith("TELEMETRY_")} | changes


def run(command: Sequence[str | Path], folder: Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run a program outside the source tree."""
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment(**changes), capture_output=True, text=True, check=False
    )


def uv(*arguments: str | Path) -> str:
    """Run the installer; returns what it prints."""
    import uv as tool

    done = run([tool.find_uv_bin(), *arguments], ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """The wheel of this tree."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = run(command, ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


class Installed(NamedTuple):
    """A virtual environment of this interpreter with the wheel in it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    def run(self, *command: str | Path, **changes: str) -> "subprocess.CompletedProcess[str]":
        """Run one of its programs, from an empty folder."""
        return run([self.python.with_name(str(command[0])), *command[1:]], self.folder / "empty", **changes)

    def packages(self) -> dict[str, str]:
        """The installed distributions and their versions."""
        listed = uv("pip", "freeze", "--python", self.python).splitlines()
        return dict(line.split("==") for line in listed if "==" in line)


def install(wheel: Path, folder: Path, extra: str = "") -> Installed:
    """The wheel with one extra or none, in the versions that the tests are pinned to."""
    installed = Installed(folder)
    (folder / "empty").mkdir(parents=True)
    uv("venv", "--no-python-downloads", "--python", sys.executable, folder / "venv")
    wanted = f"autopack-telemetry[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    constraints = ROOT / "requirements" / "dev.txt"
    uv("pip", "install", "--no-verify-hashes", "--python", installed.python, "--constraint", constraints, wanted)
    return installed
