"""How an event is written down at the call site: by C code, without calling anything of the caller's. Pure.

On the wire an event is one MessagePack array: instant, sequence, the fields of `record()` in their order, and, only
where a caller gave something that `record()` does not know, a mapping of that. What is neither a built-in value nor a
path is replaced by its type's name, since calling the caller's own `__str__`, `__iter__` or `__class__` on the hot path
could wait, raise or deadlock. Such a value, and a missing one, travels as an extension type, so that the worker
recognises it and dead-letters the event with the reason. (Dataclasses and msgspec's structs are written as the mappings
of their fields; a number of one of numpy's own types, whose code is C as well, as the number.)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final

import msgspec
from msgspec.msgpack import Ext

EXT_UNRECORDABLE = 1
EXT_MISSING = 2

_PATHS = (PosixPath, PurePosixPath, PurePath, PureWindowsPath, WindowsPath)
_NUMPY_NUMBERS = frozenset(
    {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"float16", "float32", "bool", "bool_"}
)
_MAX_DEPTH = 8
_MAX_NODES = 500
_MAX_PRINTED_BITS = 4096  # Python refuses to print integers of more than 4,300 digits
_name_of = type.__dict__["__name__"].__get__  # a metaclass may have a `__name__` of its own


def _replace(value: Any) -> Any:
    """What stands on the wire for a value that MessagePack does not have."""
    if value is ...:  # what `record()` has as the default of a required field
        return Ext(EXT_MISSING, b"")
    kind = type(value)
    if any(kind is path for path in _PATHS):
        return str(value)
    # By type, not by isinstance, which would ask the value's own `__class__`.
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    number = _number_of_numpy(kind, value)
    return unrecordable(_name_of(kind)) if number is None else number


def _number_of_numpy(kind: type, value: Any) -> int | float | None:
    """The value of a scalar such as `numpy.int64`, which is no `int`; None for what is not exactly of such a type."""
    numpy = sys.modules.get("numpy")
    name = _name_of(kind)
    if numpy is None or name not in _NUMPY_NUMBERS or vars(numpy).get(name) is not kind:
        return None
    number: int | float = vars(numpy)["generic"].item(value)
    return number


def unrecordable(description: str) -> Ext:
    """What stands on the wire for a value that cannot be written; the event becomes a dead letter."""
    return Ext(EXT_UNRECORDABLE, description.encode("utf-8", "backslashreplace"))


# Encodes the array of a whole event, to bytes; raises what `encode_hostile` then copes with.
encode: Final = msgspec.msgpack.Encoder(enc_hook=_replace).encode


def encode_hostile(values: tuple[Any, ...], unknown: Mapping[str, Any]) -> bytes:
    """Like `encode`, for values that it raised at: each that cannot be written is replaced by a description.

    Its own work is bounded, however large, deep, cyclic or malformed a built-in value is.
    """
    parts = (*values, unknown) if unknown else values
    return encode([_Describer().writable(part, _MAX_DEPTH) for part in parts])


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
        kind = type(value)
        if depth > 0 and self._nodes_left > 0:
            if issubclass(kind, dict):
                return self._mapping(list(dict.items(value)), depth)
            if issubclass(kind, list):
                return self._sequence(list(list.__iter__(value)), depth)
            if issubclass(kind, tuple):
                return self._sequence(list(tuple.__iter__(value)), depth)
        if issubclass(kind, str):
            return unrecordable("text that is not Unicode: " + str.__str__(value))
        if issubclass(kind, int):
            return unrecordable(_describe_integer(int.__int__(value)))
        return unrecordable(_name_of(kind))

    def _mapping(self, items: list[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        described: dict[str, Any] = {}
        for key, item in items[: self._nodes_left]:
            good = type(key) is str and _is_unicode(key)
            described[key if good else _describe_key(key)] = (
                self.writable(item, depth - 1) if good else unrecordable("its name cannot be written")
            )
        if len(described) < len(items):
            described["..."] = unrecordable(f"{len(items) - len(described)} more")
        return described

    def _sequence(self, items: list[Any], depth: int) -> list[Any]:
        described = [self.writable(item, depth - 1) for item in items[: self._nodes_left]]
        # Left out is not the same as not given: what is cut off must not land as if it had been all.
        return described if len(described) == len(items) else [*described, unrecordable(f"{len(items)} items")]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe_key(key: Any) -> str:
    if type(key) is str:
        return key.encode("utf-8", "backslashreplace").decode()
    return str(_name_of(type(key)))


def _describe_integer(value: int) -> str:
    bits = value.bit_length()
    return f"integer of {bits} bits" + (f": {value}" if bits <= _MAX_PRINTED_BITS else "")
