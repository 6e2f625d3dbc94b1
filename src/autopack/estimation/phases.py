"""Which executions are of the same phase: one rule for verdict, learning and lookup. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

GENERATED_PREFIX = "auto-"
"""What the id of a phase begins with that nobody gave one: `auto-<unique>` or `auto-<function>-<unique>`."""


def phase_name(phase_id: str | None) -> str:
    """What an id says of its phase: itself; of a generated one the function that it names, or nothing."""
    if not phase_id or not phase_id.startswith(GENERATED_PREFIX):
        return phase_id or ""
    return phase_id.rpartition("-")[0][len(GENERATED_PREFIX) - 1 :].lstrip("-")


def phase_key(phase_id: str | None, category: str, complexity: str, deliverables: Iterable[str]) -> str:
    """16 hexadecimal digits that stand for a phase wherever it is executed; no name or path can be read from them."""
    parts = [phase_name(phase_id), category, complexity, sorted(deliverables)]
    return blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()
