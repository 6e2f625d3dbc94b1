"""From one record of a file to the row that it stands for, or to the reason why it is none. Pure.

A record goes the way of an event that is being recorded: onto the wire, and through the same validation. What it has of
its own (id, instant, the number of its deliverables) is put back afterwards.

A record without an id gets one that is derived from its content and from its occurrence: the same record twice in a
file is two events, the same file twice is nothing new. What counts as content is a part of that promise, so it is
written out here: a field that is None is none, and derived figures do not count.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, TypeGuard

import msgspec

from autopack._util.ids import event_uid
from autopack.analysis.reading.logs import LogRecord
from autopack.analysis.reading.selection import parse_instant
from autopack.errors import AutopackError
from autopack.estimation.metrics import WHOLE_CALL
from autopack.telemetry.engine import Settings
from autopack.telemetry.event import (
    FIELD_NAMES,
    MAX_COUNT,
    OPTIONAL,
    TABLE,
    Decoder,
    Rejected,
    Row,
    encode,
    encode_given,
    replaced,
)

RUN_PREFIX = "imported"

_FIELD_NAMES = frozenset(FIELD_NAMES)
_DELIVERABLE_COUNT = TABLE.names.index("deliverable_count")
_DEFAULTS = [None if name in OPTIONAL else ... for name in FIELD_NAMES]
_DERIVED = ("smape_percent", "waste_ratio", "underestimated")
_MAX_UID_LENGTH = 36
_MAX_NS = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode_content = msgspec.json.Encoder(order="deterministic").encode
_decode_json = msgspec.json.Decoder().decode


class NoEvent(AutopackError, ValueError):  # noqa: N818 (what it says of a line, not what went wrong here)
    """A line stands for no event; the message says why."""


class RowMaker:
    """Makes the rows of one file. Keeps 8 bytes of a hash, and a count, for each different record without an id.

    assumed_time  when log lines happened that do not say it; None: such a line is no event
    """

    def __init__(self, assumed_time: datetime | None = None) -> None:
        self._assumed_time = assumed_time
        self._occurrences: Counter[bytes] = Counter()
        self._decode = Decoder()

    def from_log(self, record: LogRecord) -> Row:
        """The row of a log line, whose clock is taken to be UTC unless it states a zone. Raises `NoEvent`.

        Lines of a day are one run, and each line is a phase of its own. The paths of its deliverables are not in the
        log, only how many there were.
        """
        at = record.at.replace(tzinfo=UTC) if record.at else self._assumed_time
        if at is None:
            raise NoEvent("no time stands before the tag; --assume-time says when it was")
        digest = self._digest(_log_content(record))
        given = {
            "run_id": f"{RUN_PREFIX}-log" + (f"-{record.at:%Y-%m-%d}" if record.at else ""),
            "phase_id": f"line-{digest.hex()}",
            "category": record.category,
            "complexity": record.complexity,
            "deliverables": [],
            "predicted_output_tokens": record.predicted_output_tokens,
            "actual_output_tokens": record.actual_tokens,
            "selected_budget": record.selected_budget,
            "success": record.success,
            "truncated": record.truncated,
            "stop_reason": record.stop_reason,
            "model": record.model,
            "attributes": dict(WHOLE_CALL) if record.actual_is_total else None,
        }
        row = self._row(_nanoseconds(at), given)
        # An assumed time is the user's, and may be another one the next time: the id must not depend on it.
        uid = event_uid(_nanoseconds(at) if record.at else 0, int.from_bytes(digest))
        return replaced(row, event_uid=uid, deliverable_count=record.deliverable_count)

    def from_export(self, line: bytes) -> Row:
        """The row of a line of NDJSON, autopack's or the host system's: with its own ids. Raises `NoEvent`."""
        record = _json_object(line)
        for name in _DERIVED:
            record.pop(name, None)
        uid = record.pop("event_uid", None)
        content = {name: value for name, value in record.items() if value is not None} if uid is None else {}
        timestamp_ns, count = (
            _nanoseconds(_instant(record.pop("timestamp", None))),
            record.pop("deliverable_count", None),
        )
        if record.get("deliverables") is None:
            record["deliverables"] = []
        row = self._row(timestamp_ns, record)
        listed = row[_DELIVERABLE_COUNT]
        return replaced(
            row,
            event_uid=self._made_uid(timestamp_ns, content) if uid is None else _checked_uid(uid),
            deliverable_count=listed if count is None else _checked_count(count, listed),
        )

    def _row(self, timestamp_ns: int, given: dict[str, Any]) -> Row:
        payload = _payload(timestamp_ns, given)
        if len(payload) > Settings().max_event_bytes:
            raise NoEvent(f"larger than {Settings().max_event_bytes >> 10} KiB")
        decoded = self._decode(payload)
        if isinstance(decoded, Rejected):
            raise NoEvent(decoded.reason)
        return decoded

    def _made_uid(self, timestamp_ns: int, content: dict[str, Any]) -> str:
        return event_uid(timestamp_ns, int.from_bytes(self._digest(_encode_content(content))))

    def _digest(self, content: bytes) -> bytes:
        key = blake2b(content, digest_size=8).digest()
        self._occurrences[key] += 1
        return blake2b(content, digest_size=8, salt=self._occurrences[key].to_bytes(16)).digest()


def _payload(timestamp_ns: int, given: dict[str, Any]) -> bytes:
    """The record on the wire; the careful way, for what the plain one cannot write, takes five times as long."""
    if given.keys() <= _FIELD_NAMES:
        with suppress(OverflowError, UnicodeEncodeError, RecursionError):
            return encode((timestamp_ns, 0, *map(given.get, FIELD_NAMES, _DEFAULTS)))
    return encode_given(timestamp_ns, 0, given)


def _log_content(record: LogRecord) -> bytes:
    return _encode_content(
        [
            None if record.at is None else record.at.isoformat(),
            record.predicted_output_tokens,
            record.actual_tokens,
            record.actual_is_total,
            record.selected_budget,
            record.category,
            record.complexity,
            record.deliverable_count,
            record.success,
            record.truncated,
            record.stop_reason,
            record.model,
        ]
    )


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = _decode_json(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise NoEvent(f"not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise NoEvent("no JSON object")
    return value


def _instant(value: Any) -> datetime:
    if not isinstance(value, str):
        raise NoEvent("timestamp is missing" if value is None else "timestamp is no text")
    try:
        return parse_instant(value)
    except ValueError as exc:
        raise NoEvent(f"timestamp: {exc}") from exc


def _nanoseconds(instant: datetime) -> int:
    nanoseconds = (instant - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= nanoseconds <= _MAX_NS:
        raise NoEvent(f"timestamp: {instant.isoformat()} lies outside the years 1970 to 2262")
    return nanoseconds


def _checked_uid(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_UID_LENGTH or "\0" in value:
        raise NoEvent(f"event_uid: not a text of 1 to {_MAX_UID_LENGTH} characters")
    return value


def _checked_count(value: Any, listed: int) -> int:
    """As many as are said to have been, which may be more than are stored."""
    if not _is_integer(value) or value > MAX_COUNT:
        raise NoEvent(f"deliverable_count: not an integer from 0 to {MAX_COUNT}")
    if value < listed:
        raise NoEvent(f"deliverable_count: {value}, and {listed} deliverables are listed")
    return value


def _is_integer(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0
