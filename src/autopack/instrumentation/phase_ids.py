"""Ids of runs and phases that the caller does not name.

A generated run is one process on one day, UTC: `process-2026-11-25-1f0c9a44`. A forked child is a process of its own.
A generated phase is `auto-<unique>`, or `auto-<function>-<unique>` with the decorated function's qualified name; what
counts as the same phase in statistics is the rule of `autopack.estimation.phases`.
"""

from __future__ import annotations

import os
import time

GENERATED_PREFIX = "auto-"  # as in autopack.estimation.phases, which imports more than telemetry that is off needs
_UNIQUE_BYTES = 8
_LONGEST_NAME = 200


def process_run_id() -> str:
    """The run of this process today."""
    return f"process-{time.strftime('%Y-%m-%d', time.gmtime())}-{_Process.token()}"


class _Process:
    """What tells this process from every other: random, made anew in a forked child."""

    pid = 0
    name = ""

    @classmethod
    def token(cls) -> str:
        if cls.pid != os.getpid():
            cls.name = os.urandom(4).hex()
            cls.pid = os.getpid()
        return cls.name


def auto_phase_id(function: str | None = None) -> str:
    """A fresh id, which names the function where there is one."""
    name = "" if function is None else f"{function[-_LONGEST_NAME:]}-"
    return f"{GENERATED_PREFIX}{name}{os.urandom(_UNIQUE_BYTES).hex()}"
