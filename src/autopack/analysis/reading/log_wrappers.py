"""What loggers, terminals and collectors put around a message, taken off. Pure.

- Colour codes are left out wherever they stand, so that a coloured copy of a line is the same event as the plain one.
- Where a quotation mark is open before the tag (`msg="…"`), the message ends at the mark that closes it, and its
  escapes are undone.
- Of a line that is a JSON object, the message is the text in it with the tag, and its time, unless the message states
  one with its zone, stands in a field of the object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

# CSI and OSC sequences of a terminal; and of programs that write the escape character out, the colours.
_COLOURS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|(?:#033|\^\[|\\x1b|\\033|\\e|\\u001b)\[[0-9;]*m",
    re.IGNORECASE,
)
_QUOTE = re.compile(r'(?P<escape>\\*)"')
_TIME_NAMES = ("time", "timestamp", "@timestamp", "ts", "asctime", "datetime")
_MESSAGE_NAMES = frozenset({"message", "msg", "event", "log", "text", "MESSAGE", "jsonPayload"})
_JOURNALD_TIME = "__REALTIME_TIMESTAMP"  # microseconds, as text
_FIRST_MS = 10**11  # a number from here on counts milliseconds: as seconds it would lie in the year 5138
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEEPEST = 4  # of the objects in a line that are searched
_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode


def unwrapped(line: str, tag: str) -> tuple[str, str]:
    """What stands before the tag, to be searched for a time, and the message after it; both empty without a tag."""
    plain = _COLOURS.sub("", line).strip()
    found = _in_json(plain, tag) if plain.startswith("{") else None
    return found or _in_text(plain, tag)


def is_json_of_a_logger(line: bytes) -> bool:
    """Whether a line is a JSON object with a message in it, and no exported record."""
    value = _object(line)
    return value is not None and "predicted_output_tokens" not in value and not _MESSAGE_NAMES.isdisjoint(value)


def _in_text(plain: str, tag: str) -> tuple[str, str]:
    before, _, after = plain.partition(tag)
    marks = [mark["escape"] for mark in _QUOTE.finditer(before)]
    opening = marks[-1] if marks else ""
    if marks.count(opening) % 2 == 0:  # those of text in text have backslashes of their own
        return before, after
    closing = next((mark for mark in _QUOTE.finditer(after) if mark["escape"] == opening), None)
    return before, after if closing is None else _unescaped(after[: closing.start()])


def _unescaped(text: str) -> str:
    """The text of a JSON or logfmt string; as it is where that cannot be told."""
    try:
        return _COLOURS.sub("", _decode_text(f'"{text}"'))
    except msgspec.MsgspecError:
        return text


def _in_json(plain: str, tag: str) -> tuple[str, str] | None:
    value = _object(plain)
    message = next(_texts_with(tag, value, _DEEPEST), None)
    if value is None or message is None:
        return None
    before, after = _in_text(_COLOURS.sub("", message).strip(), tag)
    return f"{before} {_time_of(value)}", after


def _object(text: str | bytes) -> dict[str, Any] | None:
    try:
        value = _decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _texts_with(tag: str, value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str) and tag in value:
        yield value
    elif isinstance(value, dict) and depth:
        for item in value.values():
            yield from _texts_with(tag, item, depth - 1)


def _time_of(value: dict[str, Any]) -> str:
    """When the logger says that it was, as text; empty where it does not."""
    stated = next((value[name] for name in _TIME_NAMES if value.get(name)), None)
    if isinstance(stated, str):
        return stated
    try:
        if stated is None:
            return (_EPOCH + timedelta(microseconds=int(value[_JOURNALD_TIME]))).isoformat()
        return (_EPOCH + timedelta(seconds=stated / (1000 if stated >= _FIRST_MS else 1))).isoformat()
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
