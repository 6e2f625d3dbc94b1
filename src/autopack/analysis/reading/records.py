"""One event as the read side hands it out: the host system's export record, and what autopack adds to it.

Values come from a database that may hold anything (SQLite stores text in an integer column), so a record is
what was found, not a promise of types; what cannot be written as JSON at all becomes None and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from autopack.estimation.metrics import UNKNOWN, accuracy
from autopack.telemetry.event import HOST_COLUMNS, TABLE, Kind

# The columns that a record is made of: the host system's in the order of its export, then all others. A table may lack
# those.
COLUMNS = (*HOST_COLUMNS, *(name for name in TABLE.names if name not in HOST_COLUMNS))

SIMULATED_PREFIX = "simulated"
"""What the name of a model begins with whose replies are none of a real one."""

T = TypeVar("T")

_NUMBER = frozenset({int, float})
_decode = msgspec.json.Decoder().decode


RECORD_FIELDS = tuple(name.removesuffix("_json") for name in COLUMNS)
KINDS: dict[str, Kind] = {column.name.removesuffix("_json"): column.kind for column in TABLE.columns}
"""Of each field of a record the kind."""

# An event in the host system's order and form: `timestamp` in ISO 8601 with its zone, `waste_ratio` as a factor (1.5),
# the JSON columns decoded under the name of their field; those are None where nothing readable is stored.
if TYPE_CHECKING:

    class EventRecord(msgspec.Struct):
        """An event as the read side hands it out: an attribute for each of `RECORD_FIELDS`, of any type."""

        def __init__(self, *values: Any) -> None:
            """The values in their order."""

        def __getattr__(self, name: str) -> Any:
            """The value of a field."""

else:
    EventRecord = msgspec.defstruct(
        "EventRecord", [(name, Any) for name in RECORD_FIELDS], frozen=True, gc=False, module=__name__
    )


class Unreadable:
    """Counts the rows that hold something unreadable; such a row is handed out with None in that place."""

    def __init__(self) -> None:
        self.rows = 0


def record_of(row: Sequence[Any], unreadable: Unreadable) -> EventRecord:
    """The record of a database row whose values are those of `COLUMNS`, as the driver gave them."""
    problems: list[str] = []
    values = list(row)
    for position in _FLAGS:
        if type(values[position]) is int:
            values[position] = bool(values[position])
    for position in _JSON:
        if values[position] is not None:
            values[position] = _decoded(values[position], problems)
    values[_TIMESTAMP] = utc_text(values[_TIMESTAMP])
    waste = values[_WASTE]
    values[_WASTE] = waste / 100.0 if type(waste) in _NUMBER else None
    unreadable.rows += bool(problems) or values[_TIMESTAMP] is None
    return EventRecord(*values)


_FLAGS = [number for number, name in enumerate(RECORD_FIELDS) if KINDS[name] == "truth"]
_JSON = [number for number, name in enumerate(RECORD_FIELDS) if KINDS[name] in {"paths", "tags"}]
_TIMESTAMP, _WASTE = COLUMNS.index("timestamp"), COLUMNS.index("waste_ratio")
_PREDICTED, _ACTUAL = COLUMNS.index("predicted_output_tokens"), COLUMNS.index("actual_output_tokens")
_METRICS = COLUMNS.index("smape_percent")  # the first of three that stand together


def with_metrics_recomputed(row: Sequence[Any]) -> tuple[Any, ...]:
    """The row with the three derived columns made anew from its counts, as autopack stores them.

    For tables from before autopack's migrations, where they may be floats and the ratio not in percent.
    """
    predicted, actual = row[_PREDICTED], row[_ACTUAL]
    whole = isinstance(predicted, int) and isinstance(actual, int)
    return (*row[:_METRICS], *(accuracy(predicted, actual) if whole else UNKNOWN), *row[_METRICS + 3 :])


def converted(records: Iterable[EventRecord], kind: type[T]) -> Iterator[T | None]:
    """The records as a `kind`; None is one whose values are not those of that kind."""
    for record in records:
        try:
            yield msgspec.convert(record, kind, from_attributes=True)
        except msgspec.ValidationError:
            yield None


def utc_text(value: Any) -> str | None:
    """A stored instant in ISO 8601 with its zone; None where it cannot be read."""
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    if instant.tzinfo is None:
        return f"{instant.isoformat()}+00:00"  # stored UTC; a tenth of the time of an aware isoformat()
    return instant.astimezone(UTC).isoformat()


def _decoded(value: Any, problems: list[str]) -> Any:
    try:
        return _decode(value)
    except (msgspec.MsgspecError, TypeError, RecursionError):
        problems.append("json")
        return None
