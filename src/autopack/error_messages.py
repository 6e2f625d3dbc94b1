"""What an error says, as one line for people."""

from __future__ import annotations

import os

from autopack.text import for_terminal


def message_of(exc: Exception) -> str:
    """The message, fit for a terminal: of an error of the system which file it is about, and what is wrong with it."""
    if isinstance(exc, OSError) and exc.strerror and exc.filename is not None:
        return for_terminal(f"{os.fsdecode(exc.filename)}: {exc.strerror}")
    return for_terminal(str(exc))
