"""What an event is: its fields, its bytes, and its way from bytes to a row or a rejection. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopack._util.lazy import lazy_names

if TYPE_CHECKING:
    from autopack.telemetry.event.decode import Decoder, encode_given
    from autopack.telemetry.event.schema import (
        FIELD_NAMES,
        FIELDS,
        HOST_COLUMNS,
        MAX_COUNT,
        OPTIONAL,
        ROW_TYPES,
        TABLE,
        Column,
        EventFields,
        Kind,
        Rejected,
        Row,
        Table,
        as_read,
        named,
        positions,
        replaced,
    )
    from autopack.telemetry.event.wire import encode

__all__ = [
    "FIELDS",
    "FIELD_NAMES",
    "HOST_COLUMNS",
    "MAX_COUNT",
    "OPTIONAL",
    "ROW_TYPES",
    "TABLE",
    "Column",
    "Decoder",
    "EventFields",
    "Kind",
    "Rejected",
    "Row",
    "Table",
    "as_read",
    "encode",
    "encode_given",
    "named",
    "positions",
    "replaced",
]

if not TYPE_CHECKING:  # a type checker that sees it accepts every name
    __getattr__ = lazy_names(
        __name__,
        {
            "Column": "schema",
            "Decoder": "decode",
            "EventFields": "schema",
            "FIELDS": "schema",
            "FIELD_NAMES": "schema",
            "HOST_COLUMNS": "schema",
            "Kind": "schema",
            "MAX_COUNT": "schema",
            "OPTIONAL": "schema",
            "ROW_TYPES": "schema",
            "Rejected": "schema",
            "Row": "schema",
            "TABLE": "schema",
            "Table": "schema",
            "as_read": "schema",
            "encode": "wire",
            "encode_given": "decode",
            "named": "schema",
            "positions": "schema",
            "replaced": "schema",
        },
    )
