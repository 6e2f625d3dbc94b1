"""Foreign text, made safe to show: on a terminal, in JSON, in one line of a log, and without its secrets.

Names, paths and models come from plans, replies and foreign databases. Printed as they are, they can
move the cursor, rewrite what was shown before, turn the reading order round, or end the program with an
encoding error. URLs hold passwords. Nothing here changes data at rest. Pure.
"""

from __future__ import annotations

import re

# Characters without a width of their own: all of the category Cf, and what else Unicode calls ignorable by default, but
# for the variation selectors, which ordinary emoji are written with.
_INVISIBLE = (
    "\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e00ff"
)
# C0 and DEL, C1, line and paragraph separators, and surrogates, which no encoder accepts.
_UNSAFE = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_INVISIBLE}]")
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
    return _UNSAFE_IN_JSON.sub(_escape_in_json, encoded)


_UNSAFE_IN_JSON = re.compile(f"[\x7f-\x9f\u2028\u2029{_INVISIBLE}]")


def _escape_in_json(match: re.Match[str]) -> str:
    """JSON knows UTF-16 units only: what lies beyond the first 65,536 characters is two of them."""
    digits = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{digits[at : at + 4]}" for at in range(0, len(digits), 4))


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or _hexadecimal(match[0])


def _hexadecimal(character: str) -> str:
    code = ord(character)
    if code <= _LAST_OF_TWO_DIGITS:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LAST_OF_FOUR_DIGITS else f"\\U{code:08x}"


_LAST_OF_TWO_DIGITS, _LAST_OF_FOUR_DIGITS = 0xFF, 0xFFFF

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
    return _hexadecimal(blank[0])
