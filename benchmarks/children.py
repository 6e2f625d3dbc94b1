"""Child processes: run to their end and measured."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child did; `cpu_s` is of user and system, `peak_mib` its largest resident set."""

    wall_s: float
    peak_mib: float
    cpu_s: float = 0.0


def run_module(module: str, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> Ended:
    """Run a module in a new interpreter with its standard output in a file. Raises CalledProcessError when it fails."""
    peak = output.with_suffix(".peak")
    command = [sys.executable, "-m", "benchmarks.measured", str(peak), module, *arguments]
    with output.open("wb") as stream:
        begin, before_s = time.perf_counter(), cpu_of_children_s()
        subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, stdout=stream, stderr=subprocess.DEVNULL, check=True
        )
        wall_s, cpu_s = time.perf_counter() - begin, cpu_of_children_s() - before_s
    return Ended(wall_s, int(peak.read_text()) / 1024, cpu_s)


def cpu_of(code: str, environment: Mapping[str, str], *arguments: str) -> float:
    """The CPU seconds of a new interpreter that runs a piece of Python. Raises CalledProcessError when it fails."""
    before_s = cpu_of_children_s()
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, env=os.environ | environment, stderr=subprocess.DEVNULL, check=True, cwd=ROOT)
    return cpu_of_children_s() - before_s


def cpu_of_children_s() -> float:
    """Of those that have ended, to the microsecond."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def versions() -> dict[str, Path]:
    """The sources to be measured, by what is added to a title: this one, and what `FORMER_SRC` names, if anything."""
    former = os.environ.get("FORMER_SRC")
    return {"": ROOT / "src"} | ({", former version": Path(former)} if former else {})


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a new interpreter; whatever way it ends, what it printed is there."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False, cwd=ROOT)


def answer_of(code: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What such a piece prints as its last line, one JSON object. Raises RuntimeError when it fails."""
    ended = python(code, *arguments, **environment)
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
