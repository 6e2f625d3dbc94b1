"""One event as the read side hands it out: the host system's export record, and what autopack adds to it.

Values come from a database that may hold anything (SQLite stores text in an integer column), so a record is
what was found, not a promise of types; what cannot be written as JSON at all becomes None and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
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
_UNREADABLE: Any = object()
_INSTANT_LENGTH = 26
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


def records_of(rows: Sequence[Sequence[Any]], unreadable: Unreadable) -> list[EventRecord]:
    """The records of database rows, at least one, whose values are those of `COLUMNS`, as the driver gave them.

    Column by column, which takes half the time of one row after another: each text of JSON is decoded once a block, so
    that records share its value.
    """
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    problems = set[int]()
    for position in _FLAGS:
        columns[position] = [bool(value) if type(value) is int else value for value in columns[position]]
    for position in _JSON:
        columns[position] = _all_decoded(columns[position], problems)
    columns[_TIMESTAMP] = list(map(utc_text, columns[_TIMESTAMP]))
    columns[_WASTE] = [waste / 100.0 if type(waste) in _NUMBER else None for waste in columns[_WASTE]]
    problems.update(number for number, text in enumerate(columns[_TIMESTAMP]) if text is None)
    unreadable.rows += len(problems)
    return list(map(EventRecord, *columns))


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
        if type(value) is str and _is_written_by_autopack(value):
            return f"{value[:10]}T{value[11:]}+00:00"
        return f"{instant.isoformat()}+00:00"  # stored UTC; a tenth of the time of an aware isoformat()
    return instant.astimezone(UTC).isoformat()


def _is_written_by_autopack(instant: str) -> bool:
    """Whether a readable instant without a zone has the form `2025-12-29 19:40:01.123456`; no week, no comma."""
    return len(instant) == _INSTANT_LENGTH and instant[7] == "-" and instant[19] == "." and instant[20:] != "000000"


def _all_decoded(column: Sequence[Any], problems: set[int]) -> list[Any]:
    """The values that the JSON in a column stands for; `problems` gets the places of what cannot be read."""
    known = {text: _UNREADABLE if text is not None else None for text in set(column)}
    for text in known:
        if text is not None:
            with suppress(msgspec.MsgspecError, TypeError, RecursionError):
                known[text] = _decode(text)
    values = list(map(known.__getitem__, column))
    if _UNREADABLE in known.values():
        unread = [number for number, value in enumerate(values) if value is _UNREADABLE]
        problems.update(unread)
        for number in unread:
            values[number] = None
    return values
