"""Foreign text, made safe to show.

Names, paths and models come from plans, replies and other people's databases. Printed as they are, they can
move the cursor, rewrite what was shown before, turn the reading order round, or end the program with an
encoding error. Nothing here changes data at rest.
"""

from __future__ import annotations

import re

# C0 and DEL, C1, the Arabic letter mark, directional marks, line and paragraph separators, bidi embeddings,
# overrides and isolates, the byte order mark, and surrogates, which no encoder accepts.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def for_terminal(text: str) -> str:
    r"""The text on one line, with what a terminal or an encoder would act upon as an escape (`\x1b`, `\u202e`).

    Everything else stays as it is, also backslashes: this is for reading, not for reading back.
    """
    return _UNSAFE.sub(_escape, text)


def for_json(encoded: str) -> str:
    r"""JSON text whose strings hold no character that a terminal acts upon: the same value, written as `\u009b`.

    JSON allows such characters raw inside strings only, and there the escape means the same; the line breaks
    and tabs between values are kept.
    """
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)


_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")  # noqa: PLR2004 (two hex digits)
