"""Runs a module as `python -m` does, and writes down the largest resident set of its process, in KiB.

    python -m benchmarks.measured FILE MODULE [ARGUMENT ...]

It is read from the process itself: what `wait4` tells of a child includes what its parent held before the exec.
"""

from __future__ import annotations

import runpy
import sys


def peak_kib() -> int:
    """The largest resident set of this process so far."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 (pathlib is not free either)
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    path, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        with open(path, "w", encoding="ascii") as found:  # noqa: PTH123 (the same)
            found.write(str(peak_kib()))
