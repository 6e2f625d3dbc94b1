"""Whether telemetry is on. On its own, since where it is off nothing else of it is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ENABLED_VARIABLE = "TELEMETRY_DB_ENABLED"
_ON = frozenset({"1", "true", "yes"})


def is_enabled(environ: Mapping[str, str] | None = None) -> bool:
    """Whether `TELEMETRY_DB_ENABLED` is `1`, `true` or `yes`, in any case; everything else is off."""
    environ = os.environ if environ is None else environ
    return environ.get(ENABLED_VARIABLE, "").strip().lower() in _ON
