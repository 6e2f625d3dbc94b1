"""Every block of the README, and of CONTRIBUTING, does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# What the README shows of it is in the first test; running it here would run this file again.
NOT_RUN = ("scripts/test", "scripts/check")


class Block(NamedTuple):
    language: str
    text: str


def blocks(name: str) -> list[Block]:
    return [Block(**match.groupdict()) for match in FENCE.finditer((ROOT / name).read_text())]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that git would give a newcomer, in a folder of their own."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line of shell as a user's, with this environment's Python and without this process's telemetry settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TELEMETRY_", "DATABASE_", "ANTHROPIC_"))}
    environment["PATH"] = f"{sysconfig.get_path('scripts')}{os.pathsep}{environment['PATH']}"
    environment["AUTOPACK_VENV"] = sys.prefix  # as it is: installing would change it under the other tests
    environment["PYTHONPATH"] = str(folder / "src")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def transcript(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that it is said to print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *lines = part.rstrip("\n").split("\n")
        yield command, lines


def assert_printed(expected: list[str], printed: str) -> None:
    """Each expected line is printed, in this order; `...` stands for any number of lines."""
    lines = iter(printed.split("\n"))
    for line in expected:
        if line != "...":
            assert line in lines, f"not printed, or not in this order: {line!r}\n{printed}"


@pytest.mark.parametrize(
    "block", [b for b in blocks("README.md") if b.language == "console"], ids=lambda b: b.text[:20]
)
def test_each_command_of_the_readme_prints_what_the_readme_says(block: Block, clone: Path) -> None:
    """Each command that the README shows prints what the README says."""
    for command, expected in transcript(block.text):
        if command.startswith(NOT_RUN):
            assert os.access(ROOT / command, os.X_OK)
            continue
        done = run(command, clone)
        assert done.returncode == 0, done.stdout
        assert_printed(expected, done.stdout)


def test_the_lines_of_library_use_write_one_row(clone: Path) -> None:
    (program,) = [block.text for block in blocks("README.md") if block.language == "python"]
    done = subprocess.run([sys.executable, "-c", program], cwd=clone, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert (clone / "autopack.db").is_file()


def test_the_hosts_five_commands_work_as_printed(clone: Path) -> None:
    (commands,) = [block.text for block in blocks("README.md") if block.language == "bash"]
    done = run(commands, clone)
    assert done.returncode == 0, done.stdout
    assert_printed(["TokenEstimationV2 events in DB: 46"], done.stdout)
    assert len((clone / "telemetry_export.ndjson").read_text().splitlines()) == 46


def test_git_and_pytest_leave_no_module_out(pytestconfig: pytest.Config) -> None:
    """`build/` is a room of the package, and what many tools take for the output of a build."""
    ignored = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", "src/*.py", "tests/*.py"]
    assert subprocess.run(ignored, cwd=ROOT, capture_output=True, check=True, text=True).stdout == ""
    assert not [pattern for pattern in pytestconfig.getini("norecursedirs") if fnmatch("build", pattern)]


def test_the_commands_of_contributing_are_there() -> None:
    for command in blocks("CONTRIBUTING.md")[0].text.splitlines():
        assert os.access(ROOT / command.split()[0], os.X_OK)


def test_each_variable_that_the_readme_names_is_read_by_the_code() -> None:
    """`TELEMETRY_<NAME>` are the names of the settings, and the README names each of them."""
    from autopack.telemetry.engine.settings import Settings

    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]
    source = "\n".join(path.read_text() for path in [*(ROOT / "src").rglob("*.py"), *scripts])
    names = set(re.findall(r"`((?:TELEMETRY|DATABASE|AUTOPACK|ANTHROPIC)_[A-Z_]+)`", (ROOT / "README.md").read_text()))
    settings = {f"TELEMETRY_{name.upper()}" for name in Settings.__struct_fields__}
    assert len(names) > 5
    assert {name for name in names if name not in source and name not in settings} == set()
    assert settings - names == set()
