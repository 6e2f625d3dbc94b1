"""Ids of events: UUIDs of version 7, made without a server or a lock."""

from __future__ import annotations

import os
import time
from functools import lru_cache

SEQUENCE_BITS = 62
_SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1


def event_uid(timestamp_ns: int, sequence: int) -> str:
    """Return the id of an event from its instant (ns since 1970, UTC) and its sequence number.

    Layout after RFC 9562, 6.2 method 3: 48 bits of milliseconds, 12 bits of the fraction of the millisecond,
    62 bits of `sequence`. Ids sort by time. Two writers are told apart by the random start of their sequences.
    """
    milliseconds, rest_ns = divmod(timestamp_ns, 1_000_000)
    fraction = 0x7000 | rest_ns * 4096 // 1_000_000
    # Byte by byte, and what changes rarely is kept: formatting integers takes half as long again, for every row.
    return (
        f"{_minute(milliseconds >> 16)}-{_HEX[milliseconds >> 8 & 255]}{_HEX[milliseconds & 255]}"
        f"-{_HEX[fraction >> 8]}{_HEX[fraction & 255]}-{_tail(sequence >> 8)}{_HEX[sequence & 255]}"
    )


_HEX = tuple(f"{byte:02x}" for byte in range(256))


@lru_cache(maxsize=16)
def _minute(count: int) -> str:
    """The first eight digits: so many times 65.536 s."""
    return f"{count & 0xFFFF_FFFF:08x}"


@lru_cache(maxsize=16)
def _tail(sequence: int) -> str:
    """The last two groups but for two digits, from a sequence number without its last byte."""
    text = f"{(1 << SEQUENCE_BITS + 1 | sequence << 8 & _SEQUENCE_MASK) >> 8:014x}"
    return f"{text[:4]}-{text[4:]}"


def random_sequence_start() -> int:
    """Return where a writer's sequence begins: far from every other writer's, with room to count up."""
    return int.from_bytes(os.urandom(8), "big") & (_SEQUENCE_MASK >> 1)


def new_event_uid() -> str:
    """Return a fresh id for a row that did not come through `record()`."""
    return event_uid(time.time_ns(), random_sequence_start())
