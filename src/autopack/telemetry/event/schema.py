"""What an event is. Its fields stand here once; everything else follows from this declaration. Pure.

`EventFields` declares them, in the order of the wire: what type checkers see of `Telemetry.record()`, which fields are
required, and of which kind each is. From it follow `Event` (how a payload is decoded and validated), `TABLE` (the
columns that are written: statements, COPY lines, the model), and, on the read side, the fields of a record and of an
export. To add an optional field: one line at the end of `EventFields`, a migration (`add_missing`) with
`migrations.HEAD`, and its line in the documentation.
`Telemetry.record()` has parameters for the first fields only; those after them take its slow path.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    NotRequired,
    TypeAlias,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

MAX_TEXT_LENGTH = 500
MAX_COUNT = 2**53 - 1

Kind = Literal["text", "count", "truth", "paths", "tags", "instant"]
"""text: at most 500 characters. count: 0 … 2^53 - 1. truth: a bool. paths: what was produced, stored as JSON. tags: a
flat mapping, stored as JSON. instant: aware UTC, in a row as the text of its wall clock.
"""


class _Is(NamedTuple):
    """Stands in an annotation, for what reads it at run time: the kind of the field, and what decodes it."""

    kind: Kind
    decoded: Any


# 500 characters: an index entry of PostgreSQL holds 2,704 bytes, and (run_id, event_uid) must fit.
Text: TypeAlias = Annotated[str, _Is("text", Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)])]
# 2**53 - 1: exact in JSON and in a double, and the stored percentage of the largest ratio still fits 64 bits.
Count: TypeAlias = Annotated[int, _Is("count", Annotated[int, Meta(ge=0, le=MAX_COUNT)])]
Truth: TypeAlias = Annotated[bool, _Is("truth", bool)]

PathsIn: TypeAlias = "str | PurePath | Sequence[PathsIn] | Mapping[str, PathsIn] | None"
Paths: TypeAlias = Annotated[Sequence[PathsIn] | Mapping[str, PathsIn], _Is("paths", list[Any] | dict[Any, Any])]
Tags: TypeAlias = Annotated[
    Mapping[str, str | float | bool | None], _Is("tags", dict[str, str | int | float | bool | None])
]


class EventFields(TypedDict):
    """The fields of one model call, in the order of the wire. `Telemetry.record()` says what each means."""

    run_id: Text
    phase_id: Text
    category: Text
    complexity: Text
    deliverables: Paths
    predicted_output_tokens: Count
    actual_output_tokens: Count
    selected_budget: Count
    success: Truth
    truncated: Truth
    stop_reason: Text | None
    model: Text
    actual_max_tokens: NotRequired[Count | None]
    input_tokens: NotRequired[Count | None]
    duration_ms: NotRequired[Count | None]
    existing: NotRequired[Paths | None]
    attributes: NotRequired[Tags | None]
    provider: NotRequired[Text | None]
    call_id: NotRequired[Text | None]
    attempt: NotRequired[Count | None]
    turn: NotRequired[Count | None]
    reasoning_tokens: NotRequired[Count | None]
    reasoning_level: NotRequired[Text | None]
    cache_read_tokens: NotRequired[Count | None]
    cache_write_tokens: NotRequired[Count | None]
    estimator: NotRequired[Text | None]


class Field(NamedTuple):
    """One field: its name for callers, its kind, and whether it may be None. An optional one need not be given."""

    name: str
    kind: Kind
    nullable: bool
    optional: bool
    decoded: Any

    @property
    def column(self) -> str:
        """The name of its column: what is stored as JSON says so."""
        return f"{self.name}_json" if self.kind in {"paths", "tags"} else self.name


class Column(NamedTuple):
    """One column that is written."""

    name: str
    kind: Kind
    nullable: bool


class Table(NamedTuple):
    """What the stores know of the table: its name, the columns of a row in their order, and what identifies a row."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in the order of a row."""
        return tuple(column.name for column in self.columns)


Row: TypeAlias = tuple[Any, ...]
"""The values of one row, in the order of `TABLE.columns`. An instant is text: UTC, `2026-11-23 12:10:31.892794`."""


class Rejected(NamedTuple):
    """Why an event cannot become a row, and what it was, as far as that can be written as JSON."""

    reason: str
    fields: dict[str, Any]
    timestamp_ns: int
    sequence: int


def _declared() -> tuple[Field, ...]:
    hints = get_type_hints(EventFields, include_extras=True)
    return tuple(_field(name, hint) for name, hint in hints.items())


def _field(name: str, hint: Any) -> Field:
    """What an annotation says: `Kind`, `Kind | None` or either in `NotRequired`."""
    parts = [hint, *get_args(hint)]
    parts += [part for argument in parts[1:] for part in get_args(argument)]
    found = next(meta for part in parts for meta in getattr(part, "__metadata__", ()) if isinstance(meta, _Is))
    nullable = type(None) in parts
    decoded = found.decoded | None if nullable else found.decoded
    return Field(name, found.kind, nullable, get_origin(hint) is NotRequired, decoded)


FIELDS: Final = _declared()
FIELD_NAMES: Final = tuple(field.name for field in FIELDS)
OPTIONAL: Final = frozenset(field.name for field in FIELDS if field.optional)

# An event as it travels. `timestamp_ns`: when it happened, ns since 1970, UTC. `sequence`: counts up from a random
# start in each writer. `unknown` holds what `record()` was given and does not know.
Event: Final = msgspec.defstruct(
    "Event",
    [
        ("timestamp_ns", Annotated[int, Meta(ge=0)]),
        ("sequence", Annotated[int, Meta(ge=0)]),
        *((field.name, field.decoded, None) if field.optional else (field.name, field.decoded) for field in FIELDS),
        ("unknown", dict[str, Any] | None, None),
    ],
    frozen=True,
    gc=False,
    array_like=True,
    forbid_unknown_fields=True,
    module=__name__,
)

# What is made of an event beside its fields: its id, its instant, and what follows from its counts.
DERIVED: Final = (
    Column("event_uid", "text", nullable=False),
    Column("timestamp", "instant", nullable=False),
    Column("deliverable_count", "count", nullable=False),
    Column("smape_percent", "count", nullable=True),
    Column("waste_ratio", "count", nullable=True),
    Column("underestimated", "truth", nullable=True),
)

TABLE: Final = Table(
    name="token_estimation_v2_events",
    columns=DERIVED + tuple(Column(field.column, field.kind, field.nullable) for field in FIELDS),
    key=("run_id", "event_uid"),
)

# The columns of the host system's own table, in the order of its export; a table may lack all others.
HOST_COLUMNS: Final = (
    "run_id",
    "phase_id",
    "timestamp",
    "category",
    "complexity",
    "deliverable_count",
    "deliverables_json",
    "predicted_output_tokens",
    "actual_output_tokens",
    "selected_budget",
    "success",
    "truncated",
    "stop_reason",
    "model",
    "smape_percent",
    "waste_ratio",
    "underestimated",
)


# What each value of a row is, for those that read rows from elsewhere.
_OF_KIND: dict[Kind, Any] = {"count": int, "truth": bool}
ROW_TYPES: Final[Any] = tuple.__class_getitem__(
    tuple(
        _OF_KIND.get(column.kind, str) | None if column.nullable else _OF_KIND.get(column.kind, str)
        for column in TABLE.columns
    )
)


def positions(*kinds: Kind) -> tuple[int, ...]:
    """Where the columns of these kinds stand in a row."""
    return tuple(number for number, column in enumerate(TABLE.columns) if column.kind in kinds)


def named(row: Row) -> dict[str, Any]:
    """The values of a row under the names of their columns."""
    return dict(zip(TABLE.names, row, strict=True))


def replaced(row: Row, **values: Any) -> Row:
    """The row with other values in some columns."""
    return tuple((named(row) | values).values())


_StoredRow = namedtuple("StoredRow", TABLE.names)  # type: ignore[misc] # noqa: PYI024 (made from the declaration)


def as_read(row: Row) -> Any:
    """The row for people and tests: an attribute for each column, by its name; an instant is aware UTC."""
    return _StoredRow(
        *(
            datetime.fromisoformat(value).replace(tzinfo=UTC) if column.kind == "instant" else value
            for column, value in zip(TABLE.columns, row, strict=True)
        )
    )
