r"""`[TokenEstimationV2]` lines of a build log, read back. Pure.

    [2025-12-23 22:07:12] INFO: [TokenEstimationV2] predicted_output=822 actual_output=3137 smape=116.9% …
    2025-12-23 19:47:57,427 - autopack.anthropic_clients - INFO - [TokenEstimationV2] predicted_output=822 …
    2025-12-23T22:07:12+0900 host build[7]: \x1b[32mINFO\x1b[0m [TokenEstimationV2] predicted_output=822 …
    time=2025-12-23T22:07:12Z level=info msg="[TokenEstimationV2] predicted_output=822 …" logger=autopack
    {"time": "2025-12-23T22:07:12Z", "message": "[TokenEstimationV2] predicted_output=822 …"}

What stands before the tag is only searched for a time. After it come `name=value` fields without blanks in them,
in any order; unknown ones are passed over. A reply without usage has `actual_total` instead of `actual_output`, the
tokens of the whole call, and then neither `stop_reason` nor `truncated`. A line that names a field twice is not
believed: text in one of its values may have forged it.

What a logger or a terminal put around the message is no part of it; `log_wrappers` takes it off. A time is UTC where
the line states its zone, and else the wall clock of the machine that wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from autopack.analysis.reading.log_wrappers import unwrapped

TAG = "[TokenEstimationV2]"

_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
    r"(?: ?(?P<zone>(?:Z|UTC|GMT)\b|[+-]\d\d:?\d\d\b)|(?P<hours>[+-]\d\d)\b)?"
)
_NAMES_OF_UTC = frozenset({"Z", "UTC", "GMT"})
_COUNT = re.compile(r"[0-9]{1,15}")
_TRUTHS = {"True": True, "False": False}
_TAG_BYTES = TAG.encode()
# What the client logs where it could not record a reply.
_OWN_MESSAGE = re.compile(re.escape(_TAG_BYTES) + rb"\s*Failed to write ")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line. `at` is without a zone: UTC where the line states one (a number, Z, UTC or GMT), else the wall clock of
    the machine that wrote it; None where there is no time.

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


def claims_a_record(line: bytes) -> bool:
    """Whether a line of a log claims to be a record: it has the tag, and is not what the client logs where it could not
    write one.
    """
    return _TAG_BYTES in line and not _OWN_MESSAGE.search(line)


def parse_line(line: str) -> LogRecord | None:
    """The record of a line; None where it has no tag, lacks a field or holds one that cannot be read."""
    before, after = unwrapped(line, TAG)
    fields = _fields(after)
    if fields is None:
        return None
    try:
        return _record(_time(before), fields)
    except (KeyError, ValueError):
        return None


def logged(lines: Iterable[bytes]) -> Iterator[LogRecord | None]:
    """The records in a log; None is a line with the tag that cannot be read. Lines without it are no records."""
    for line in lines:
        if claims_a_record(line):
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
    """The first time in the text that states its zone, as UTC without it; else the first time."""
    found = list(_TIME.finditer(text))
    chosen = next((match for match in found if match["zone"] or match["hours"]), found[0] if found else None)
    try:
        return None if chosen is None else _instant(chosen)
    except (ValueError, OverflowError):
        return None


def _instant(match: re.Match[str]) -> datetime:
    fraction = f".{match['fraction'][:6]}" if match["fraction"] else ""
    zone = match["zone"] or match["hours"] or ""
    instant = datetime.fromisoformat(
        f"{match['date']}T{match['time']}{fraction}{'' if zone in _NAMES_OF_UTC else zone}"
    )
    return instant if instant.tzinfo is None else instant.astimezone(UTC).replace(tzinfo=None)
