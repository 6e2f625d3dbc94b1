"""What the read side raises to say that there is nothing it can read.

AnalysisError
└── ReadError     the database, table or file that was asked for cannot be read
"""

from __future__ import annotations


class AnalysisError(Exception):
    """The message says what happened, to what, and what to do; it holds no password."""


class ReadError(AnalysisError):
    """The events cannot be read."""
