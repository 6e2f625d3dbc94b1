"""From the bytes of an event to its row, or to the reason why there is none. Pure; nothing in it raises.

The common case is one typed decode in C. Only when that refuses, or finds a value that was replaced on the wire, is the
event read again, field by field, so that the reason can name the field and the dead letter can hold the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from autopack.telemetry.event.missing import MISSING
from autopack.telemetry.event.rows import to_row
from autopack.telemetry.event.schema import FIELDS, OPTIONAL, Event, Rejected, Row
from autopack.telemetry.event.wire import EXT_MISSING, encode_hostile, unrecordable

_MAX_DEPTH = 64


class _Unrecordable(NamedTuple):
    """A value that was replaced by a description on the wire."""

    unrecordable: str


class _MissingValue(NamedTuple):
    """A required field that was not given."""


class Decoder:
    """Turns payloads into rows. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._replaced = False
        self._typed = msgspec.msgpack.Decoder(Event, ext_hook=self._extension)
        self._parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
        self._integer = msgspec.msgpack.Decoder(int)
        self._plain = msgspec.msgpack.Decoder(ext_hook=self._extension)

    def __call__(self, payload: bytes) -> Row | Rejected:
        """The row of a payload, or why there is none."""
        self._replaced = False
        try:
            event = self._typed.decode(payload)
            if not self._replaced:
                return to_row(event)
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
        fields = dict(zip(FIELDS, values, strict=False))
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
    values = tuple(fields.get(name, None if name in OPTIONAL else MISSING) for name in FIELDS)
    unknown = {name: value for name, value in fields.items() if name not in FIELDS}
    return encode_hostile((timestamp_ns, sequence, *values), unknown)


def _reason_by_value(fields: Mapping[str, Any]) -> str | None:
    for name, value in fields.items():
        if isinstance(value, _MissingValue):
            return f"{name} is missing"
        if found := _first_unrecordable(value):
            return f"{name} cannot be recorded: {found.unrecordable}"
    return next((f"unknown field {name!r}" for name in fields if name not in FIELDS), None)


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
    if not isinstance(exc, ValueError):
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
