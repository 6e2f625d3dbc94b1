"""Ids of runs and phases that the caller does not name.

A generated run is one process on one day, UTC: `process-2026-11-25-1f0c9a44`. A forked child is a process of its own.

A generated phase is `auto-<kind>-<unique>`. The kind is a digest of the decorated function's qualified name (or none),
category, complexity and deliverables in sorted order. For statistics all phases of one kind are the same phase:
`auto_phase_kind` gives it, and the unique half says nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

AUTO_PREFIX = "auto-"
_KIND_DIGITS = 12
_UNIQUE_BYTES = 8


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


def auto_phase_id(kind: str) -> str:
    """A fresh id for a phase of that kind."""
    return f"{AUTO_PREFIX}{kind}-{os.urandom(_UNIQUE_BYTES).hex()}"


def phase_kind(function: str | None, category: str, complexity: str, deliverables: Sequence[str]) -> str:
    """What all generated phases of a kind have in common, as 12 hex digits."""
    import hashlib
    import json

    shape = json.dumps([function, category, complexity, sorted(deliverables)])
    return hashlib.sha256(shape.encode()).hexdigest()[:_KIND_DIGITS]


def auto_phase_kind(phase_id: str) -> str | None:
    """The kind of a generated phase, from its id; None for an id that the caller gave."""
    prefix, _, rest = phase_id.partition("-")
    kind, _, unique = rest.partition("-")
    generated = f"{prefix}-" == AUTO_PREFIX and len(kind) == _KIND_DIGITS and len(unique) == 2 * _UNIQUE_BYTES
    return kind if generated else None
