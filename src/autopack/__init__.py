"""Telemetry for LLM builds: predicted against actual output tokens, recorded without waiting.

`autopack.telemetry` writes, `autopack.analysis` reads, and `suggest_max_tokens` says which ceiling to send. Importing
this package imports nothing else.
"""

from typing import TYPE_CHECKING

from autopack._util.lazy import lazy_names

if TYPE_CHECKING:
    from autopack.budgets import suggest_max_tokens

__all__ = ["__version__", "suggest_max_tokens"]

__version__ = "0.1.0"

__getattr__ = lazy_names(__name__, {"suggest_max_tokens": "budgets:"})
