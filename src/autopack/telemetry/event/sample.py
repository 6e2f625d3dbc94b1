"""A row to ask a table with: would it take this one? Pure."""

from __future__ import annotations

from typing import Any

from autopack._util.ids import event_uid
from autopack.telemetry.event.decode import Decoder
from autopack.telemetry.event.schema import FIELDS, Field, Rejected, Row, replaced
from autopack.telemetry.event.wire import encode

_VALUES: dict[str, Any] = {"text": "autopack-probe", "count": 1, "truth": True, "paths": []}


def sample_row(timestamp_ns: int, sequence: int, like: Row | None = None) -> Row:
    """A row of its own id that is like another one; without one, a plain one that our own validation takes."""
    if like is not None:
        return replaced(like, event_uid=event_uid(timestamp_ns, sequence))
    row = Decoder()(encode((timestamp_ns, sequence, *map(_value, FIELDS))))
    assert not isinstance(row, Rejected)  # noqa: S101 (a test holds it)
    return row


def _value(field: Field) -> Any:
    return None if field.nullable else _VALUES[field.kind]
