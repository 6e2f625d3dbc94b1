"""Ids of events: UUIDs of version 7, made without a server or a lock."""

from __future__ import annotations

import os
import time

SEQUENCE_BITS = 62
_SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1


def event_uid(timestamp_ns: int, sequence: int) -> str:
    """Return the id of an event from its instant (ns since 1970, UTC) and its sequence number.

    Layout after RFC 9562, 6.2 method 3: 48 bits of milliseconds, 12 bits of the fraction of the millisecond,
    62 bits of `sequence`. Ids sort by time. Two writers are told apart by the random start of their sequences.
    """
    milliseconds, rest_ns = divmod(timestamp_ns, 1_000_000)
    high = (milliseconds & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | rest_ns * 4096 // 1_000_000
    # In bytes and their hex: formatting two integers costs half as much again.
    text = (high << 64 | 0x8000_0000_0000_0000 | sequence & _SEQUENCE_MASK).to_bytes(16, "big").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def random_sequence_start() -> int:
    """Return where a writer's sequence begins: far from every other writer's, with room to count up."""
    return int.from_bytes(os.urandom(8), "big") & (_SEQUENCE_MASK >> 1)


def new_event_uid() -> str:
    """Return a fresh id for a row that did not come through `record()`."""
    return event_uid(time.time_ns(), random_sequence_start())
