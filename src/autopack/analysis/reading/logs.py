"""`[TokenEstimationV2]` lines of a build log, read back. Pure.

    [2025-12-23 22:07:12] INFO: [TokenEstimationV2] predicted_output=822 actual_output=3137 smape=116.9% …
    2025-12-23 19:47:57,427 - autopack.anthropic_clients - INFO - [TokenEstimationV2] predicted_output=822 …

What stands before the tag is only searched for a time. After it come `name=value` fields without blanks in them,
in any order; unknown ones are passed over. A reply without usage has `actual_total` instead of `actual_output`, the
tokens of the whole call, and then neither `stop_reason` nor `truncated`. A line that names a field twice is not
believed: text in one of its values may have forged it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

TAG = "[TokenEstimationV2]"

_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?")
_COUNT = re.compile(r"[0-9]{1,15}")
_TRUTHS = {"True": True, "False": False}


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line. `at` is the wall clock of the machine that wrote it, without a zone; None where there is none.

    `actual_tokens` are output tokens, or those of the whole call where `actual_is_total`.
    """

    at: datetime | None
    predicted_output_tokens: int
    actual_tokens: int
    actual_is_total: bool
    selected_budget: int
    category: str
    complexity: str
    deliverable_count: int
    success: bool
    truncated: bool
    stop_reason: str | None
    model: str


def parse_line(line: str) -> LogRecord | None:
    """The record of a line; None where it has no tag, lacks a field or holds one that cannot be read."""
    before, tag, after = line.partition(TAG)
    fields = _fields(after)
    if not tag or fields is None:
        return None
    try:
        return _record(_time(before), fields)
    except (KeyError, ValueError):
        return None


def logged(lines: Iterable[bytes]) -> Iterator[LogRecord | None]:
    """The records in a log; None is a line with the tag that cannot be read. Lines without it are no records."""
    tag = TAG.encode()
    for line in lines:
        if tag in line:
            yield parse_line(line.decode("utf-8", "replace"))


def _fields(text: str) -> dict[str, str] | None:
    parts = [part.partition("=") for part in text.split()]
    fields = {name: value for name, _, value in parts}
    well_formed = all(equals and name for name, equals, _ in parts) and len(fields) == len(parts)
    return fields if well_formed else None


def _record(at: datetime | None, fields: dict[str, str]) -> LogRecord:
    is_total = "actual_output" not in fields
    stop_reason = fields.get("stop_reason", "None") if is_total else fields["stop_reason"]
    return LogRecord(
        at=at,
        predicted_output_tokens=_count(fields["predicted_output"]),
        actual_tokens=_count(fields["actual_total" if is_total else "actual_output"]),
        actual_is_total=is_total,
        selected_budget=_count(fields["selected_budget"]),
        category=fields["category"],
        complexity=fields["complexity"],
        deliverable_count=_count(fields["deliverables"]),
        success=_TRUTHS[fields["success"]],
        truncated=_TRUTHS[fields.get("truncated", "False") if is_total else fields["truncated"]],
        stop_reason=None if stop_reason == "None" else stop_reason,
        model=fields["model"],
    )


def _count(text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _time(text: str) -> datetime | None:
    found = _TIME.search(text)
    try:
        return datetime.fromisoformat(found[0].replace(",", ".")) if found else None
    except ValueError:
        return None
