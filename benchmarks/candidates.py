"""The candidates that need no other package: autopack itself, the host system's write, the floors."""

from __future__ import annotations

import json
import logging
import os
import queue
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

from benchmarks.call_site import HOST_KEYWORDS, KEYWORDS, MAPPING, Loops
from benchmarks.host_write import host_sessions, host_write

from autopack.telemetry import Telemetry
from autopack.telemetry.recorder import DisabledTelemetry

SETTLE_TIMEOUT_S = 60.0

EMPTY = "an empty function, keywords by name"
EMPTY_MAPPING = "an empty function, keywords as a mapping"
APPEND = "deque.append"
OFF = "autopack, off"
MEMORY = "autopack, in memory"
JOURNAL = "autopack, with journal"
HOST = "the host system's synchronous write"
QUEUE_HANDLER = "logging.QueueHandler"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that records events.

    settle: waits until its writer has written all. delivered: how many events have arrived where they belong; None
    where there is no such place. burst_calls: at most so many at once, where it is slow or its queue is short.
    """

    loops: Loops
    settle: Callable[[], object] = field(default=lambda: None)
    delivered: Callable[[], int] | None = None
    burst_calls: int = 1_000


Opener = Callable[[Path], AbstractContextManager[Candidate]]


def empty_mapping(**_fields: Any) -> bool:
    """An empty call that takes any keywords."""
    return True


def empty_named(
    *,
    run_id: Any,
    phase_id: Any,
    category: Any,
    complexity: Any,
    deliverables: Any,
    predicted_output_tokens: Any,
    actual_output_tokens: Any,
    selected_budget: Any,
    success: Any,
    truncated: Any,
    stop_reason: Any,
    model: Any,
    actual_max_tokens: Any = None,
    input_tokens: Any = None,
    duration_ms: Any = None,
    existing: Any = None,
    attributes: Any = None,
) -> bool:
    """An empty call that names each keyword: the least that a typed function can cost."""
    return True


def _keywords(call: Callable[..., Any]) -> Loops:
    return Loops(f"call({KEYWORDS})", {"call": call})


@contextmanager
def _empty(_folder: Path) -> Iterator[Candidate]:
    yield Candidate(_keywords(empty_named))


@contextmanager
def _empty_mapping(_folder: Path) -> Iterator[Candidate]:
    yield Candidate(_keywords(empty_mapping))


@contextmanager
def _append(_folder: Path) -> Iterator[Candidate]:
    yield Candidate(Loops("call(DELIVERABLES)", {"call": deque[Any](maxlen=1000).append}))


@contextmanager
def _off(_folder: Path) -> Iterator[Candidate]:
    yield Candidate(_keywords(DisabledTelemetry().record))


@contextmanager
def _memory(folder: Path) -> Iterator[Candidate]:
    with Telemetry(f"sqlite:///{folder / 'memory.db'}", journal_dir=None) as telemetry:
        yield _autopack(telemetry)


@contextmanager
def _journal(folder: Path) -> Iterator[Candidate]:
    with Telemetry(f"sqlite:///{folder / 'journal.db'}") as telemetry:
        yield _autopack(telemetry)


def _autopack(telemetry: Telemetry) -> Candidate:
    telemetry.record(**_FIRST)  # starts the thread and makes the table
    return Candidate(
        _keywords(telemetry.record),
        settle=lambda: telemetry.flush(SETTLE_TIMEOUT_S),
        delivered=lambda: telemetry.stats().written - 1,
    )


@contextmanager
def _host(folder: Path) -> Iterator[Candidate]:
    path = folder / "host.db"
    before = os.environ.get("TELEMETRY_DB_ENABLED")
    os.environ["TELEMETRY_DB_ENABLED"] = "1"
    try:
        loops = Loops(f"call({HOST_KEYWORDS})", {"call": host_write(host_sessions(path))})
        yield Candidate(loops, delivered=lambda: count_rows(path, "token_estimation_v2_events"), burst_calls=20)
    finally:
        if before is None:
            del os.environ["TELEMETRY_DB_ENABLED"]
        else:
            os.environ["TELEMETRY_DB_ENABLED"] = before


@contextmanager
def _queue_handler(folder: Path) -> Iterator[Candidate]:
    """Python's own way to log without waiting, to a file of JSON lines."""
    path = folder / "queue_handler.ndjson"
    target = logging.FileHandler(path)
    target.setFormatter(_JsonLines())
    waiting: queue.Queue[Any] = queue.Queue(-1)
    listener = QueueListener(waiting, target)
    logger = logging.getLogger("autopack.benchmark")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(QueueHandler(waiting))
    listener.start()
    try:
        loops = Loops(f'call("token_estimation", extra={MAPPING})', {"call": logger.info})
        yield Candidate(loops, settle=waiting.join, delivered=lambda: count_lines(path))
    finally:
        listener.stop()
        target.close()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({name: getattr(record, name) for name in (*_FIRST, "message", "created")})


def count_rows(path: Path, table: str) -> int:
    """The rows of a table in a SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def count_lines(path: Path) -> int:
    """The lines of a file."""
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


_FIRST: Mapping[str, Any] = {
    "run_id": "first",
    "phase_id": "p0",
    "category": "tests",
    "complexity": "low",
    "deliverables": [],
    "predicted_output_tokens": 1,
    "actual_output_tokens": 1,
    "selected_budget": 1,
    "success": True,
    "truncated": False,
    "stop_reason": None,
    "model": "none",
}

OWN: Mapping[str, Opener] = {
    APPEND: _append,
    EMPTY: _empty,
    EMPTY_MAPPING: _empty_mapping,
    OFF: _off,
    MEMORY: _memory,
    JOURNAL: _journal,
    QUEUE_HANDLER: _queue_handler,
    HOST: _host,
}
