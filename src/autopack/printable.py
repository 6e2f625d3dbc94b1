"""Text from outside, made fit for one line: of an error message, of a log.

`autopack.text` makes text safe to show; here it is also cut to a length, kept from ending a log field, and
relieved of secrets.
"""

from __future__ import annotations

import re

from autopack.text import for_terminal

_SECRET = re.compile(r"\bsk-[A-Za-z0-9_\-]{6,}")
_BLANK = re.compile(r"\s")


def printable(text: str, limit: int = 200) -> str:
    """The text on one line, without anything that a terminal would act on, cut to `limit` characters and `...`."""
    return for_terminal(text if len(text) <= limit else text[: limit - 3] + "...")


def log_field(text: str, limit: int = 200) -> str:
    """The text as the value of a `name=value` field: printable, and without the blank that would end it.

    Without a blank nothing in a value can be read as the next field. Empty text becomes `-`.
    """
    return _BLANK.sub(_escaped, printable(text, limit)) or "-"


def without_secrets(text: str) -> str:
    """The text with API keys and the passwords of URLs replaced by `***`."""
    from autopack.database import mask

    return mask(_SECRET.sub("sk-***", text))


def _escaped(blank: re.Match[str]) -> str:
    code = ord(blank[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 (two hex digits)
