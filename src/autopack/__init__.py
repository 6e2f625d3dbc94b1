"""Telemetry for LLM builds: predicted against actual output tokens, recorded without waiting.

Importing this package imports nothing else; see `autopack.telemetry` for the write side,
`autopack.analysis` for the read side.
"""

__version__ = "0.1.0"
