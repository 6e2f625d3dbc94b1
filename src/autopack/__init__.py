"""Telemetry for LLM builds: predicted against actual output tokens, recorded without waiting.

`autopack.telemetry` writes, `autopack.analysis` reads. Importing this package imports nothing else.
"""

__version__ = "0.1.0"
