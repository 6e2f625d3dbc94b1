"""The event: encoded at the call site, decoded, validated and sanitised in the worker. Pure.

On the wire an event is one MessagePack array: instant, sequence, the fields of `record()` in the order of `FIELDS`,
and, only where a caller gave something that `record()` does not know, a mapping of that. The array is made by C code
from built-in values; what is neither a built-in value nor a path is replaced by its type's name, since calling the
caller's own `__str__` or `__iter__` on the hot path could wait, raise or deadlock. Such a value, and a missing one,
travels as an extension type, so that the worker recognises it and dead-letters the event with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.msgpack import Ext

from autopack.deliverables import flatten_deliverables
from autopack.identifiers import event_uid
from autopack.telemetry.metrics import accuracy

MAX_DELIVERABLES = 20
MAX_DELIVERABLE_LENGTH = 200
MAX_TEXT_LENGTH = 500
MAX_COUNT = 2**53 - 1
_MAX_DEPTH = 8
_MAX_NODES = 500
_MAX_DIGITS = 4300

_EXT_UNRECORDABLE = 1
_EXT_MISSING = 2
_PATHS = frozenset({PosixPath, PurePosixPath, PureWindowsPath, WindowsPath})

# 500 characters: an index entry of PostgreSQL holds 2,704 bytes, and (run_id, event_uid) must fit.
Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
# 2**53 - 1: exact in JSON and in a double, and the stored percentage of the largest ratio still fits 64 bits.
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Attributes = dict[str, str | int | float | bool | None]


class Missing:
    """The default of a required field of `record()`: not given, which is not the same as None."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final[Any] = Missing()


class Event(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """An event as it travels, with the types that make it acceptable.

    `timestamp_ns`: when it happened, ns since 1970, UTC. `sequence`: counts up from a random start in each writer.
    The other fields are those of `Telemetry.record`. `unknown` holds arguments that `record()` does not have.
    """

    timestamp_ns: Annotated[int, Meta(ge=0)]
    sequence: Annotated[int, Meta(ge=0)]
    run_id: Text
    phase_id: Text
    category: Text
    complexity: Text
    deliverables: list[Any] | dict[Any, Any]
    predicted_output_tokens: Count
    actual_output_tokens: Count
    selected_budget: Count
    success: bool
    truncated: bool
    stop_reason: Text | None
    model: Text
    actual_max_tokens: Count | None = None
    input_tokens: Count | None = None
    duration_ms: Count | None = None
    existing: list[Any] | dict[Any, Any] | None = None
    attributes: Attributes | None = None
    unknown: dict[str, Any] | None = None


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of the table: the columns that we write, by the names that `models` gives them."""

    event_uid: str
    run_id: str
    phase_id: str
    timestamp: datetime
    category: str
    complexity: str
    deliverable_count: int
    deliverables_json: str
    predicted_output_tokens: int
    actual_output_tokens: int
    selected_budget: int
    actual_max_tokens: int | None
    success: bool
    truncated: bool
    stop_reason: str | None
    model: str
    smape_percent: int | None
    waste_ratio: int | None
    underestimated: bool | None
    input_tokens: int | None
    duration_ms: int | None
    existing_json: str | None
    attributes_json: str | None


class Rejected(NamedTuple):
    """Why an event cannot become a row, and what it was, as far as that can be written as JSON."""

    reason: str
    fields: dict[str, Any]
    timestamp_ns: int
    sequence: int


FIELDS: Final = Event.__struct_fields__[2:-1]
_OPTIONAL: Final = frozenset(Event.__struct_fields__[-len(Event.__struct_defaults__) :])


def _replace(value: Any) -> Any:
    """What stands on the wire for a value that MessagePack does not have. Calls no method of the caller's."""
    if value is MISSING:
        return Ext(_EXT_MISSING, b"")
    if type(value) in _PATHS:
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return _unrecordable(type(value).__name__)


def _unrecordable(description: str) -> Ext:
    return Ext(_EXT_UNRECORDABLE, description.encode("utf-8", "backslashreplace"))


# Encodes the array of a whole event, to bytes; raises what `encode_hostile` then copes with.
encode: Final = msgspec.msgpack.Encoder(enc_hook=_replace).encode


def encode_hostile(values: tuple[Any, ...], unknown: Mapping[str, Any]) -> bytes:
    """Like `encode`, for values that it raised at: each that cannot be written is replaced by a description.

    Bounded in time for a built-in value, however large, deep, cyclic or malformed.
    """
    parts = (*values, unknown) if unknown else values
    return encode([_Describer().writable(part, _MAX_DEPTH) for part in parts])


def encode_given(timestamp_ns: int, sequence: int, given: Mapping[str, Any]) -> bytes:
    """The payload of an event whose fields are at hand as `Rejected.fields`, such as a dead letter's."""
    fields = {name: _from_json(value) for name, value in given.items()}
    values = tuple(fields.get(name, None if name in _OPTIONAL else MISSING) for name in FIELDS)
    unknown = {name: value for name, value in fields.items() if name not in FIELDS}
    return encode_hostile((timestamp_ns, sequence, *values), unknown)


class _Describer:
    """Replaces what cannot be written, from the outside in, within a budget: a list may hold itself, twice."""

    def __init__(self) -> None:
        self._nodes_left = _MAX_NODES

    def writable(self, value: Any, depth: int) -> Any:
        self._nodes_left -= 1
        try:
            encode(value)
        except Exception:  # noqa: BLE001 (whatever it was: the description stands for the value and is dead-lettered)
            return self._description(value, depth)
        return value

    def _description(self, value: Any, depth: int) -> Any:
        if depth > 0 and self._nodes_left > 0:
            if isinstance(value, dict):
                items = list(dict.items(value))[: self._nodes_left]
                return {_key(key): self.writable(item, depth - 1) for key, item in items}
            if isinstance(value, list | tuple):
                return [self.writable(item, depth - 1) for item in tuple(value)[: self._nodes_left]]
        if isinstance(value, str):
            return _unrecordable("text that is not Unicode: " + str.__str__(value))
        if isinstance(value, int):
            return _unrecordable(_describe_integer(int.__int__(value)))
        return _unrecordable(type(value).__name__)


def _key(key: Any) -> str:
    if type(key) is str:
        return key.encode("utf-8", "backslashreplace").decode()
    return type(key).__name__


def _describe_integer(value: int) -> str:
    bits = value.bit_length()
    return f"integer of {bits} bits" + (f": {value}" if bits < _MAX_DIGITS * 3 else "")


class _Unrecordable(NamedTuple):
    unrecordable: str


class _MissingValue(NamedTuple):
    pass


class Decoder:
    """Turns payloads into rows. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._replaced = False
        self._typed = msgspec.msgpack.Decoder(Event, ext_hook=self._extension)
        self._plain = msgspec.msgpack.Decoder(ext_hook=self._extension, strict=False)

    def __call__(self, payload: bytes) -> Row | Rejected:
        """The row of a payload, or why there is none. Raises `msgspec.DecodeError` only for bytes not of ours."""
        self._replaced = False
        try:
            event = self._typed.decode(payload)
            if self._replaced:
                return self.rejected(payload)
            return _to_row(event)
        except (msgspec.ValidationError, ValueError, OverflowError) as exc:
            return self.rejected(payload, _reason_by_type(exc))

    def _extension(self, code: int, data: memoryview) -> Any:
        self._replaced = True
        if code == _EXT_MISSING:
            return _MissingValue()
        return _Unrecordable(bytes(data).decode("utf-8", "backslashreplace"))

    def rejected(self, payload: bytes, reason: str = "") -> Rejected:
        """The event of a payload as it was given, with the reason, unless a value of its own is a better one."""
        timestamp_ns, sequence, *values = self._plain.decode(payload)
        unknown = values[len(FIELDS)] if len(values) > len(FIELDS) else {}
        fields = {name: value for name, value in zip(FIELDS, values, strict=False) if value != _MissingValue()}
        # What was optional and left out says nothing about the event as it was given.
        given = {name: value for name, value in fields.items() if value is not None or name not in _OPTIONAL}
        return Rejected(
            reason=_reason_by_value(values, unknown) or reason,
            fields={**_as_json(given), **_as_json(unknown)},
            timestamp_ns=timestamp_ns,
            sequence=sequence,
        )


def _reason_by_value(values: list[Any], unknown: Mapping[str, Any]) -> str | None:
    for name, value in zip(FIELDS, values, strict=False):
        if isinstance(value, _MissingValue):
            return f"{name} is missing"
        if found := _first_unrecordable(value):
            return f"{name} cannot be recorded: {found.unrecordable}"
    return f"unknown field {next(iter(unknown))!r}" if unknown else None


def _first_unrecordable(value: Any) -> _Unrecordable | None:
    if isinstance(value, _Unrecordable):
        return value
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in items if (found := _first_unrecordable(item))), None)


def _reason_by_type(exc: Exception) -> str:
    """Msgspec names a field of an array by its position, `$[7]`; people know it by its name."""
    text = str(exc)
    for position, name in enumerate(Event.__struct_fields__):
        text = text.replace(f"`$[{position}]", f"`{name}")
    return text


def _as_json(value: Any) -> Any:
    """The value with everything that JSON does not have replaced by a description."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, _Unrecordable | _MissingValue):
        return value._asdict()
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes):
        return {"unrecordable": f"{len(value)} bytes"}
    if isinstance(value, float) and not math.isfinite(value):
        return {"unrecordable": f"float {value}"}
    return value


def _from_json(value: Any) -> Any:
    """What `_as_json` described is as unrecordable as it was: a description must not land as a path."""
    if isinstance(value, dict):
        if value.keys() == {"unrecordable"}:
            return _unrecordable(str(value["unrecordable"]))
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


def _to_row(event: Event) -> Row:
    if event.unknown:
        raise ValueError(f"unknown field {next(iter(event.unknown))!r}")
    _refuse_nul(event)
    deliverables = _paths("deliverables", event.deliverables)
    seconds, rest_ns = divmod(event.timestamp_ns, 1_000_000_000)
    metrics = accuracy(event.predicted_output_tokens, event.actual_output_tokens)
    return Row(
        event_uid=event_uid(event.timestamp_ns, event.sequence),
        run_id=event.run_id,
        phase_id=event.phase_id,
        timestamp=datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // 1000),
        category=event.category,
        complexity=event.complexity,
        deliverable_count=len(deliverables),
        deliverables_json=_json(_shortened(deliverables)),
        predicted_output_tokens=event.predicted_output_tokens,
        actual_output_tokens=event.actual_output_tokens,
        selected_budget=event.selected_budget,
        actual_max_tokens=event.actual_max_tokens,
        success=event.success,
        truncated=event.truncated,
        stop_reason=event.stop_reason,
        model=event.model,
        smape_percent=metrics.smape_percent,
        waste_ratio=metrics.waste_ratio_percent,
        underestimated=metrics.underestimated,
        input_tokens=event.input_tokens,
        duration_ms=event.duration_ms,
        existing_json=None if event.existing is None else _json(_shortened(_paths("existing", event.existing))),
        attributes_json=_attributes_json(event.attributes),
    )


def _refuse_nul(event: Event) -> None:
    """PostgreSQL cannot store NUL in text and SQLite can: decided here, so that both end with the same rows."""
    texts = (event.run_id, event.phase_id, event.category, event.complexity, event.model, event.stop_reason or "")
    if "\0" in "".join(texts):
        names = ("run_id", "phase_id", "category", "complexity", "model", "stop_reason")
        raise ValueError(f"{next(n for n, t in zip(names, texts, strict=True) if chr(0) in t)}: a NUL character in it")


def _paths(field: str, value: Any) -> list[str]:
    paths = flatten_deliverables(value)
    for path in paths:
        if "\0" in path:
            raise ValueError(f"{field}: a NUL character in {path[:MAX_DELIVERABLE_LENGTH]!r}")
    return paths


def _shortened(paths: list[str]) -> list[str]:
    """The plan's limits: the first 20; over 200 characters the first 197 and `...`."""
    cut = MAX_DELIVERABLE_LENGTH - 3
    return [path if len(path) <= MAX_DELIVERABLE_LENGTH else path[:cut] + "..." for path in paths[:MAX_DELIVERABLES]]


def _attributes_json(attributes: Attributes | None) -> str | None:
    if attributes is None:
        return None
    for name, value in attributes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"attributes: {name!r} is {value}, which JSON does not have")
        if "\0" in name or (isinstance(value, str) and "\0" in value):
            raise ValueError(f"attributes: a NUL character in {name!r}")
    return _json(attributes)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
