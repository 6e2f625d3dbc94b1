"""From the bytes of an event to its row, or to the reason why there is none. Pure; `Decoder` never raises.

The common case is one typed decode in C, and what the types alone cannot refuse, sanitise or compute (`row_of`). Only
when that refuses, or finds a value that was replaced on the wire, is the event read again, field by field, so that the
reason can name the field and the dead letter can hold the rest.

A row is made for every event while the caller's threads want the GIL, and costs about half of what SQLite does: hence
by position, without an object in between, and with the common case first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec.structs import astuple

from autopack._util.ids import event_uid
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.metrics import accuracy
from autopack.telemetry.event.schema import FIELD_NAMES, FIELDS, OPTIONAL, Event, Rejected, Row
from autopack.telemetry.event.wire import EXT_MISSING, encode_hostile, unrecordable

MAX_DELIVERABLES = 20
MAX_DELIVERABLE_LENGTH = 200

_MAX_DEPTH = 64
_MAX_PATH_DEPTH = 31  # of nesting that `flatten_deliverables` reads in full
_NO_TEXTS: Any = (None,)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (UTC, written without its zone)
_to_json = msgspec.json.Encoder().encode


class _Unrecordable(NamedTuple):
    """A value that was replaced by a description on the wire."""

    unrecordable: str


class _MissingValue(NamedTuple):
    """A required field that was not given."""


class Decoder:
    """Turns payloads into rows. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._replaced = False
        self._typed = msgspec.msgpack.Decoder(Event, ext_hook=self._extension).decode
        self._parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
        self._integer = msgspec.msgpack.Decoder(int)
        self._plain = msgspec.msgpack.Decoder(ext_hook=self._extension)

    def __call__(self, payload: bytes) -> Row | Rejected:
        """The row of a payload, or why there is none."""
        self._replaced = False
        try:
            event = self._typed(payload)
            if not self._replaced:
                return row_of(event)
        except Exception as exc:  # noqa: BLE001 (whatever is wrong with one event must not stop the others)
            return self.rejected(payload, _reason_by_type(exc))
        return self.rejected(payload)

    def rejected(self, payload: bytes, reason: str = "a value of it cannot be read") -> Rejected:
        """The event of a payload as it was given, with the reason, unless a value of its own is a better one."""
        try:
            stamp, sequence, *parts = self._parts.decode(payload)
            timestamp_ns, number = self._integer.decode(stamp), self._integer.decode(sequence)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return Rejected("its bytes cannot be read", {"payload_hex": payload.hex()}, 0, crc32(payload))
        values = [self._value(part) for part in parts]
        fields = dict(zip(FIELD_NAMES, values, strict=False))
        unknown = values[len(FIELDS)] if len(values) > len(FIELDS) else None
        if unknown is not None:
            fields |= unknown if isinstance(unknown, dict) else {"unknown": unknown}
        return Rejected(_reason_by_value(fields) or reason, _as_given(fields), timestamp_ns, number)

    def _value(self, part: msgspec.Raw) -> Any:
        try:
            value = self._plain.decode(part)
            return _Unrecordable("nested too deeply") if _is_deep(value, _MAX_DEPTH) else value
        except Exception as exc:  # noqa: BLE001 (the same: bytes that msgspec reads but Python cannot hold, and worse)
            return _Unrecordable(type(exc).__name__)

    def _extension(self, code: int, data: memoryview) -> Any:
        self._replaced = True
        if code == EXT_MISSING:
            return _MissingValue()
        return _Unrecordable(bytes(data).decode("utf-8", "backslashreplace"))


def encode_given(timestamp_ns: int, sequence: int, given: Mapping[str, Any]) -> bytes:
    """The payload of an event whose fields are at hand as `Rejected.fields`, such as a dead letter's."""
    fields = {name: _from_json(value) for name, value in given.items()}
    values = tuple(fields.get(name, None if name in OPTIONAL else ...) for name in FIELD_NAMES)
    unknown = {name: value for name, value in fields.items() if name not in FIELD_NAMES}
    return encode_hostile((timestamp_ns, sequence, *values), unknown)


def _reason_by_value(fields: Mapping[str, Any]) -> str | None:
    for name, value in fields.items():
        if isinstance(value, _MissingValue):
            return f"{name} is missing"
        if found := _first_unrecordable(value):
            return f"{name} cannot be recorded: {found.unrecordable}"
    return next((f"unknown field {name!r}" for name in fields if name not in FIELD_NAMES), None)


def _first_unrecordable(value: Any) -> _Unrecordable | None:
    if isinstance(value, _MissingValue):
        return _Unrecordable("no value")
    if isinstance(value, _Unrecordable):
        return value
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((found for item in items if (found := _first_unrecordable(item))), None)


def _is_deep(value: Any, depth: int) -> bool:
    if not isinstance(value, list | tuple | dict):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deep(item, depth - 1) for item in items)


def _reason_by_type(exc: Exception) -> str:
    """Msgspec names a field of an array by its position, `$[7]`; people know it by its name."""
    if not isinstance(exc, ValueError | msgspec.ValidationError):  # before msgspec 0.21 the one is not the other
        return f"it cannot be read: {type(exc).__name__}"
    text = str(exc)
    for position, name in enumerate(Event.__struct_fields__):
        text = text.replace(f"`$[{position}]", f"`{name}")
    return text


def _as_given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as JSON, without those that were left out: an optional one that is None says nothing."""
    return {
        name: _as_json(value)
        for name, value in fields.items()
        if not isinstance(value, _MissingValue) and not (value is None and name in OPTIONAL)
    }


def _as_json(value: Any) -> Any:
    """The value with everything that JSON does not have replaced by a description."""
    if isinstance(value, dict):
        # As text such a key would be a good one when the event is sent again.
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None:
            return {"unrecordable": f"mapping with a key of type {type(odd).__name__}"}
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, _Unrecordable | _MissingValue):
        return {"unrecordable": value.unrecordable if isinstance(value, _Unrecordable) else "no value"}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return {"unrecordable": f"{type(value).__name__} {value}" if isinstance(value, float) else type(value).__name__}


def _from_json(value: Any) -> Any:
    """What `_as_json` described is as unrecordable as it was: a description must not land as a path."""
    if isinstance(value, dict):
        if value.keys() == {"unrecordable"}:
            return unrecordable(str(value["unrecordable"]))
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


def row_of(event: Any) -> Row:
    """The row of a decoded `Event`. Raises ValueError with the reason for what the types alone could not refuse."""
    timestamp_ns, sequence, *values, unknown = astuple(event)
    if unknown:
        raise ValueError(f"unknown field {next(iter(unknown))!r}")
    # PostgreSQL cannot store NUL in text and SQLite can: decided here, so that both end with the same rows.
    if "\0" in _GIVEN_TEXTS % _given_texts_of(values):
        raise ValueError(_reason_of_nul(values))
    count, values[_DELIVERABLES] = _count_and_json("deliverables", values[_DELIVERABLES])
    if _rarely_given_of(values) != _NONE_GIVEN:
        _prepare_rarely_given(values)
    smape_percent, waste_ratio, underestimated = accuracy(values[_PREDICTED], values[_ACTUAL])
    # In the order of `TABLE.columns`: what is derived first.
    return (
        event_uid(timestamp_ns, sequence),
        _instant(timestamp_ns),
        count,
        smape_percent,
        waste_ratio,
        underestimated,
        *values,
    )


def _prepare_rarely_given(values: list[Any]) -> None:
    """Refuse NUL in the optional texts, and make text of what is stored as JSON."""
    if any("\0" in (values[position] or "") for position in _TEXTS):
        raise ValueError(_reason_of_nul(values))
    for position, to_text in _STORED_AS_TEXT:
        if values[position] is not None:
            values[position] = to_text(values[position])


def _instant(timestamp_ns: int) -> str:
    """UTC to the microsecond, without the zone: SQLite's form."""
    second, rest_ns = divmod(timestamp_ns, 1_000_000_000)
    # The digits of the rest with a 1 before them: formatting it with leading zeros takes twice the time.
    return f"{_second(second)}.{str(1_000_000_000 + rest_ns)[1:7]}"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    """Kept, since most events share their second with the one before."""
    return (_EPOCH + timedelta(seconds=second)).isoformat(" ")


def _reason_of_nul(values: list[Any]) -> str:
    names = (FIELD_NAMES[position] for position in _TEXTS if "\0" in (values[position] or ""))
    return f"{next(names)}: a NUL character in it"


def _count_and_json(field: str, value: Any) -> tuple[int, str]:
    """How many paths there are, and what is stored of them: the first 20, each with at most 200 characters."""
    try:
        # A list of texts, as nearly every event brings them; of a mapping this would be the keys.
        text = "".join(value if type(value) is list else _NO_TEXTS)
    except TypeError:
        _refuse_what_is_no_path(field, value, _MAX_PATH_DEPTH)
        value = flatten_deliverables(value)
        text = "".join(value)
    if "\0" in text:
        path = next(path for path in value if "\0" in path)
        raise ValueError(f"{field}: a NUL character in {path[:MAX_DELIVERABLE_LENGTH]!r}")
    if len(value) > MAX_DELIVERABLES or len(text) > MAX_DELIVERABLE_LENGTH:
        return len(value), _json([_shortened(path) for path in value[:MAX_DELIVERABLES]])
    return len(value), _to_json(value).decode()


def _shortened(path: str) -> str:
    return path if len(path) <= MAX_DELIVERABLE_LENGTH else path[: MAX_DELIVERABLE_LENGTH - 3] + "..."


def _refuse_what_is_no_path(field: str, value: Any, depth: int) -> None:
    if isinstance(value, list | tuple | dict):
        if depth == 0:
            raise ValueError(f"{field}: nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_what_is_no_path(field, item, depth - 1)
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{field}: {type(value).__name__} is no path")


def _attributes_json(attributes: Mapping[str, Any]) -> str:
    for name, value in attributes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"attributes: {name!r} is {value}, which JSON does not have")
        if "\0" in name or (isinstance(value, str) and "\0" in value):
            raise ValueError(f"attributes: a NUL character in {name!r}")
    return _json(attributes)


def _json(value: Any) -> str:
    return _to_json(value).decode()


_DELIVERABLES = FIELD_NAMES.index("deliverables")
_PREDICTED = FIELD_NAMES.index("predicted_output_tokens")
_ACTUAL = FIELD_NAMES.index("actual_output_tokens")
_TEXTS = tuple(number for number, field in enumerate(FIELDS) if field.kind == "text")
_GIVEN = tuple(number for number in _TEXTS if not FIELDS[number].optional)
_GIVEN_TEXTS = "%s" * len(_GIVEN)
_given_texts_of = itemgetter(*_GIVEN)


def _paths_of(name: str) -> Callable[[Any], str]:
    return lambda value: _count_and_json(name, value)[1]


# The optional fields that are stored as JSON: where they stand, and what makes text of them.
_STORED_AS_TEXT: tuple[tuple[int, Callable[[Any], str]], ...] = tuple(
    (number, _paths_of(field.name) if field.kind == "paths" else _attributes_json)
    for number, field in enumerate(FIELDS)
    if field.kind in {"paths", "tags"} and number != _DELIVERABLES
)

# What most events do not have, and what takes more than to be copied.
_RARELY_GIVEN = tuple(
    number for number, field in enumerate(FIELDS) if field.optional and field.kind in {"text", "paths", "tags"}
)
_rarely_given_of = itemgetter(*_RARELY_GIVEN)
_NONE_GIVEN = (None,) * len(_RARELY_GIVEN)
