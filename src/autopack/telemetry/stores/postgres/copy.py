"""Rows in the text format of PostgreSQL's COPY. Pure.

Text and not binary: the driver's own way to the binary format names a prepared statement, which a pooler in transaction
mode may hand to another server; and text leaves it to the server which types the columns of an older table have.
Source of the format: PostgreSQL's manual, COPY, "Text Format": tab and line break end a field and a row, a backslash
escapes them, and a backslash with N is NULL.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import astuple

from autopack.telemetry.event.schema import Row

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"


def copy_text(rows: Iterable[Row]) -> bytes:
    """The rows, their fields in the order of `Row`."""
    return "".join(map(_line, rows)).encode()


def _line(row: Row) -> str:
    """One row; runs for every row under the GIL, hence written out, and with the common case first."""
    # In the order of Row's fields.
    (
        event_uid,
        run_id,
        phase_id,
        timestamp,
        category,
        complexity,
        deliverable_count,
        deliverables_json,
        predicted,
        actual,
        budget,
        max_tokens,
        success,
        truncated,
        stop_reason,
        model,
        smape_percent,
        waste_ratio,
        underestimated,
        input_tokens,
        duration_ms,
        existing_json,
        attributes_json,
    ) = astuple(row)
    texts = f"{run_id}{phase_id}{category}{complexity}{deliverables_json}{stop_reason}{model}{existing_json}{attributes_json}"  # noqa: E501 (a line break in it would be one of the text)
    if "\\" in texts or not texts.isprintable():
        return "\t".join([_escaped(value) for value in astuple(row)]) + "\n"
    return (
        f"{event_uid}\t{run_id}\t{phase_id}\t{timestamp}\t{category}\t{complexity}\t{deliverable_count}\t"
        f"{deliverables_json}\t{predicted}\t{actual}\t{budget}\t{_NULL if max_tokens is None else max_tokens}\t"
        f"{success}\t{truncated}\t{_NULL if stop_reason is None else stop_reason}\t{model}\t"
        f"{_NULL if smape_percent is None else smape_percent}\t{_NULL if waste_ratio is None else waste_ratio}\t"
        f"{_NULL if underestimated is None else underestimated}\t{_NULL if input_tokens is None else input_tokens}\t"
        f"{_NULL if duration_ms is None else duration_ms}\t{_NULL if existing_json is None else existing_json}\t"
        f"{_NULL if attributes_json is None else attributes_json}\n"
    )


def _escaped(value: object) -> str:
    return _NULL if value is None else str(value).translate(_ESCAPES)
