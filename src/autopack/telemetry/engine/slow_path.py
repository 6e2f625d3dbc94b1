"""What becomes of an event that the common path of `record()` could not take, and why it was dropped if it was.

A full queue, a closed instance, a value that cannot be encoded, an unknown keyword, an event larger than its share of
the queue, paths that the user wants to see redacted first: all of it is sorted out here, without raising.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autopack.errors import QueueRejected
from autopack.telemetry.counters import AtomicCounter
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.engine.writer import Writer
from autopack.telemetry.event.schema import FIELD_NAMES, FIELDS
from autopack.telemetry.event.wire import encode, encode_hostile

Redact = Callable[[Any], Any]

_FIRST_FIELD = 2  # behind the instant and the sequence
# Where the paths of an event stand among its fields.
_PATHS = {number: field for number, field in enumerate(FIELDS) if field.kind == "paths"}


class SlowPath:
    """The way of such an event into the queue of one writer."""

    def __init__(self, writer: Writer, settings: Settings, redact: Redact | None) -> None:
        self.redaction_failures = AtomicCounter()
        self._writer = writer
        self._max_event_bytes = settings.max_event_bytes
        self._redact = redact

    def record(
        self, event: tuple[Any, ...], payload: bytes | None, args: tuple[Any, ...], others: dict[str, Any]
    ) -> bool:
        """Accept the event after all, or count why not.

        event: its instant and sequence, then the values of `schema.FIELDS` in their order, as far as `record()` has a
        parameter for them. payload: what it encodes to, None where that failed or must not be used. others: what else
        `record()` was given by name, later fields and unknown ones; args: what it was given without a name.
        """
        try:
            reason = self._reason_to_drop(event, payload, args, others)
        except Exception:  # noqa: BLE001 (a list that another thread changes meanwhile, memory that is gone)
            reason = "unencodable"
        if reason is not None:
            self._writer.drops.add(reason)
        return reason is None

    def _reason_to_drop(
        self, event: tuple[Any, ...], payload: bytes | None, args: tuple[Any, ...], others: dict[str, Any]
    ) -> str | None:
        """Accept the event and return None, or the reason why not."""
        if self._writer.closing:
            return "closed"
        redacted = True
        if payload is None or args or others:
            event, unknown = _completed(event, others)
            payload, redacted = self._encode(event, {**unknown, "args": args} if args else unknown)
        if len(payload) > self._max_event_bytes:
            return "too_large"
        try:
            wake = self._writer.queue.append_any(payload)
        except QueueRejected as exc:
            self._writer.ensure_thread()  # where none could be started, a full queue would stay full
            return "closed" if self._writer.closing else exc.reason
        if not redacted:
            self.redaction_failures.add()
        if wake:
            self._writer.wake()
        return None

    def _encode(self, event: tuple[Any, ...], unknown: dict[str, Any]) -> tuple[bytes, bool]:
        """The payload, with its paths redacted where the user wants that; and whether redacting did not raise."""
        if self._redact is None:
            return _encoded(event, unknown), True
        identity, values = event[:_FIRST_FIELD], event[_FIRST_FIELD:]
        values, redacted = _redacted(self._redact, values)
        # Under a misspelt keyword there may be anything.
        unknown = {name: f"<redacted {type(value).__name__}>" for name, value in unknown.items()}
        return _encoded((*identity, *values), unknown), redacted


def _completed(event: tuple[Any, ...], others: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The event with the values of all fields, and those of `others` that are none."""
    later = FIELD_NAMES[len(event) - _FIRST_FIELD :]
    unknown = {name: value for name, value in others.items() if name not in later}
    return (*event, *map(others.get, later)), unknown


def _encoded(event: tuple[Any, ...], unknown: dict[str, Any]) -> bytes:
    """The payload: by the common way where that can write it."""
    try:
        return encode((*event, unknown) if unknown else event)
    except Exception:  # noqa: BLE001 (whatever it was: the careful way describes it)
        return encode_hostile(event, unknown)


def _redacted(redact: Redact, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool]:
    """The values with their paths as `redact` leaves them, or without paths; and whether it did not raise."""
    given = {number: values[number] for number in _PATHS}
    try:
        paths = {k: v if v is ... or v is None else redact(v) for k, v in given.items()}
        succeeded = True
    except Exception:  # noqa: BLE001 (the user's own callable: its failure costs the paths, not the event)
        paths = {number: None if field.nullable else [] for number, field in _PATHS.items()}
        succeeded = False
    return tuple(paths.get(number, value) for number, value in enumerate(values)), succeeded
