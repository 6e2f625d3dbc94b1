"""Foreign text, made safe to show: on a terminal, in JSON, in one line of a log, and without its secrets.

Names, paths and models come from plans, replies and foreign databases. Printed as they are, they can
move the cursor, rewrite what was shown before, turn the reading order round, or end the program with an
encoding error. URLs hold passwords. Nothing here changes data at rest. Pure.
"""

from __future__ import annotations

import re

# C0 and DEL, C1, the Arabic letter mark, directional marks, line and paragraph separators, bidi embeddings,
# overrides and isolates, the byte order mark, and surrogates, which no encoder accepts.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_terminal(text: str) -> str:
    r"""Return the text on one line, with what a terminal or an encoder would act upon as an escape (`\x1b`, `\u202e`).

    Everything else stays as it is, also backslashes: this is for reading, not for reading back.
    """
    return _UNSAFE.sub(_escape, text)


def escape_json(encoded: str) -> str:
    r"""Return JSON text whose strings hold no character that a terminal acts upon: the same value, written as `\u009b`.

    JSON allows such characters raw inside strings only, and there the escape means the same; the line breaks
    and tabs between values are kept.
    """
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)


_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")  # noqa: PLR2004 (two hex digits)


# Secrets.

# To the last @, whatever is in between: real passwords hold `/`, `@` and blanks, and real users `@` (user@server).
_USERINFO = re.compile(r"(?P<user>://[^:]*):.*@", re.DOTALL)
_BROKEN_USERINFO = re.compile(r"(?P<user>[^\s:@]+):(?!//)[^\s@]+@")
_SECRET = r"[\w%.\-]*(?:pass|pwd|secret|token|key)[\w%.\-]*"  # noqa: S105 (a pattern)
_SECRET_OPTION = re.compile(rf"(?P<name>{_SECRET})=[^&\s#]*", re.IGNORECASE)
_ENCODED_OPTION = re.compile(r"(?P<name>[\w.\-]*%[\w%.\-]*)=[^&\s#]*")


def mask(text: str) -> str:
    """Return the text without the passwords of URLs in it, in the userinfo or the query, well-formed or not.

    It hides too much rather than too little: where a text holds several URLs, all between the first password and the
    last `@`.
    """
    masked = _USERINFO.sub(r"\g<user>:***@", text)
    if masked == text:
        masked = _BROKEN_USERINFO.sub(r"\g<user>:***@", text)
    return _ENCODED_OPTION.sub(_mask_encoded, _SECRET_OPTION.sub(r"\g<name>=***", masked))


def _mask_encoded(option: re.Match[str]) -> str:
    """Mask an option whose percent-encoded name decodes to that of a secret."""
    from urllib.parse import unquote

    secret = re.fullmatch(_SECRET, unquote(option["name"]), re.IGNORECASE)
    return f"{option['name']}=***" if secret else option[0]


_API_KEY = re.compile(r"\bsk-[A-Za-z0-9_\-]{6,}")
_BLANK = re.compile(r"\s")


def truncate_for_display(text: str, limit: int = 200) -> str:
    """Return the text on one line, with what a terminal would act on escaped, cut to `limit` characters and `...`."""
    return escape_terminal(text if len(text) <= limit else text[: limit - 3] + "...")


def log_field(text: str, limit: int = 200) -> str:
    """Return the text as the value of a `name=value` field: fit for display, and without blanks.

    A blank would end the value, and what follows it would be read as the next field. Empty text becomes `-`.
    """
    return _BLANK.sub(_escaped, truncate_for_display(text, limit)) or "-"


def without_secrets(text: str) -> str:
    """Return the text with API keys and the passwords of URLs replaced by `***`."""
    return mask(_API_KEY.sub("sk-***", text))


def _escaped(blank: re.Match[str]) -> str:
    code = ord(blank[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 (two hex digits)
