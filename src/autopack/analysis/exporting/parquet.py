"""Event records as Parquet: typed columns that DuckDB, Spark, Ray or a warehouse read without being told anything.

`timestamp` is an instant in UTC to the microsecond, counts are 64-bit integers, `waste_ratio` is a factor, the paths
are lists of text. `attributes` is a map of text to text, since a column has one type: a number or a truth in it is the
JSON for it (`2`, `true`). A database may hold anything; what is not of its column's type becomes null, and is counted.

Records are taken in small blocks, which the library holds in a tenth of the memory, until they are a row group of a
size that readers like. So memory does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from typing import Any, BinaryIO, Self

import msgspec

from autopack.analysis.reading.records import KINDS, RECORD_FIELDS, EventRecord
from autopack.errors import require
from autopack.telemetry.event import Kind

BLOCK_ROWS = 1_000
GROUP_ROWS = 20_000

_encode = msgspec.json.Encoder().encode


class ParquetFile:
    """One Parquet file that is written to a stream; `misfits` counts the values that became null. Use in a `with`.

    Raises:
        MissingExtraError: pyarrow is not installed.

    """

    def __init__(self, stream: BinaryIO) -> None:
        self.misfits = 0
        self._pyarrow = pyarrow_or_explain()
        self._schema = self._pyarrow.schema([(name, column.arrow(self._pyarrow)) for name, column in COLUMNS.items()])
        self._opened = ExitStack()
        self._writer = self._opened.enter_context(
            self._pyarrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")
        )

    def write_all(self, records: Iterable[EventRecord]) -> None:
        """Add the records."""
        batches = map(self._batch, _blocks_of(records))
        while group := list(islice(batches, GROUP_ROWS // BLOCK_ROWS)):
            self._writer.write_table(self._pyarrow.Table.from_batches(group))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def _batch(self, block: Sequence[EventRecord]) -> Any:
        columns = [self._column(name, list(map(attrgetter(name), block))) for name in COLUMNS]
        return self._pyarrow.record_batch(columns, schema=self._schema)

    def _column(self, name: str, values: list[Any]) -> Any:
        column = COLUMNS[name]
        if not column.all_fit(values):
            fitting = [value if column.all_fit([value]) else None for value in values]
            self.misfits += sum(kept is not value for kept, value in zip(fitting, values, strict=True))
            values = fitting
        prepared = values if column.prepare is None else list(map(column.prepare, values))
        if column.text_of_instant:
            return self._pyarrow.array(prepared, self._pyarrow.string()).cast(column.arrow(self._pyarrow))
        return self._pyarrow.array(prepared, column.arrow(self._pyarrow))


def _blocks_of(records: Iterable[EventRecord]) -> Iterator[list[EventRecord]]:
    remaining = iter(records)
    while block := list(islice(remaining, BLOCK_ROWS)):
        yield block


def pyarrow_or_explain() -> Any:
    """The library. Raises `MissingExtraError` where it is not installed."""
    require("pyarrow", "parquet", "Parquet")
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    return pa


def _of(*kinds: type) -> Callable[[Sequence[Any]], bool]:
    """Whether all values are of these types, or None. By the exact type: pyarrow would cut 1.5 to 1."""
    allowed = {*kinds, type(None)}
    return lambda values: set(map(type, values)) <= allowed


_is_text = _of(str)


def _are_lists_of_text(values: Sequence[Any]) -> bool:
    lists = [value for value in values if value is not None]
    return set(map(type, lists)) <= {list} and set(map(type, chain.from_iterable(lists))) <= {str}


def _are_flat_mappings(values: Sequence[Any]) -> bool:
    mappings = [value for value in values if value is not None]
    return set(map(type, mappings)) <= {dict} and set(
        map(type, chain.from_iterable(mapping.values() for mapping in mappings))
    ) <= {str, int, float, bool, type(None)}


def _as_text(mapping: dict[str, Any] | None) -> list[tuple[str, str | None]] | None:
    if mapping is None:
        return None
    return [
        (name, value if value is None or type(value) is str else _encode(value).decode())
        for name, value in mapping.items()
    ]


@dataclass(frozen=True, slots=True)
class _Column:
    """`arrow` makes its type, given the library; `prepare` turns a value into what the library takes."""

    arrow: Callable[[Any], Any]
    all_fit: Callable[[Sequence[Any]], bool]
    prepare: Callable[[Any], Any] | None = None
    text_of_instant: bool = False


_TEXT = _Column(lambda pa: pa.string(), _is_text)
_COUNT = _Column(lambda pa: pa.int64(), _of(int))
_TRUTH = _Column(lambda pa: pa.bool_(), _of(bool))
_FACTOR = _Column(lambda pa: pa.float64(), _of(float))
_PATHS = _Column(lambda pa: pa.list_(pa.string()), _are_lists_of_text)
_TAGS = _Column(lambda pa: pa.map_(pa.string(), pa.string()), _are_flat_mappings, _as_text)
_INSTANT = _Column(lambda pa: pa.timestamp("us", tz="UTC"), _is_text, text_of_instant=True)

_OF_KIND: dict[Kind, _Column] = {
    "text": _TEXT,
    "count": _COUNT,
    "truth": _TRUTH,
    "paths": _PATHS,
    "tags": _TAGS,
    "instant": _INSTANT,
}
COLUMNS = {name: _OF_KIND[KINDS[name]] for name in RECORD_FIELDS} | {"waste_ratio": _FACTOR}
