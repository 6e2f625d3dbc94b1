"""The event as the worker sees it: its types and limits, and the row that it becomes. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

MAX_TEXT_LENGTH = 500
MAX_COUNT = 2**53 - 1

# 500 characters: an index entry of PostgreSQL holds 2,704 bytes, and (run_id, event_uid) must fit.
Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
# 2**53 - 1: exact in JSON and in a double, and the stored percentage of the largest ratio still fits 64 bits.
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Attributes = dict[str, str | int | float | bool | None]


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


# The fields of `record()`, in the order of the wire.
FIELDS: Final = Event.__struct_fields__[2:-1]
OPTIONAL: Final = frozenset(Event.__struct_fields__[-len(Event.__struct_defaults__) :])
