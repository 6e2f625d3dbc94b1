"""The libraries that people would use instead, each as its own documentation shows, each with a writer that writes.

They are imported by name, so that without them the benchmark runs on what there is.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.call_site import KEYWORDS, MAPPING, Loops
from benchmarks.candidates import Candidate, Opener, count_lines
from benchmarks.machine import ROOT

OTEL_LOG = "OpenTelemetry, log batch"
OTEL_SPAN = "OpenTelemetry, span batch"
LOGURU = "loguru, enqueue=True"
POSTHOG = "PostHog"
STRUCTLOG = "structlog to a file"


class SqliteExporter:
    """An OpenTelemetry exporter that writes what it gets to SQLite, in one transaction per batch."""

    def __init__(self, path: Path, success: Any) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("CREATE TABLE records (at INTEGER, name TEXT, attributes TEXT)")
        self._success = success
        self._lock = threading.Lock()
        self.written = 0

    def export(self, batch: Any) -> Any:
        """Write a batch of spans or log records."""
        rows = [self._row(item) for item in batch]
        with self._lock, self._connection:
            self._connection.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
        self.written += len(rows)
        return self._success

    def shutdown(self) -> None:
        """Close the file."""
        self._connection.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 (the interface)
        """Nothing is held back."""
        return True

    @staticmethod
    def _row(item: Any) -> tuple[int, str, str]:
        record = getattr(item, "log_record", None)
        if record is not None:
            return record.timestamp, record.body, json.dumps(dict(record.attributes))
        return item.start_time, item.name, json.dumps(dict(item.attributes))


@contextmanager
def _otel_log(folder: Path) -> Iterator[Candidate]:
    logs, export = import_module("opentelemetry.sdk._logs"), import_module("opentelemetry.sdk._logs.export")
    exporter = SqliteExporter(folder / "otel_log.db", export.LogRecordExportResult.SUCCESS)
    provider = logs.LoggerProvider()
    provider.add_log_record_processor(export.BatchLogRecordProcessor(exporter))
    try:
        line = f'call(timestamp=time_ns(), body="token_estimation", attributes={MAPPING})'
        loops = Loops(line, {"call": provider.get_logger("benchmark").emit, "time_ns": time.time_ns})
        yield Candidate(loops, settle=provider.force_flush, delivered=lambda: exporter.written)
    finally:
        provider.shutdown()


@contextmanager
def _otel_span(folder: Path) -> Iterator[Candidate]:
    trace, export = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.export")
    exporter = SqliteExporter(folder / "otel_span.db", export.SpanExportResult.SUCCESS)
    provider = trace.TracerProvider()
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    try:
        line = f'call("token_estimation", attributes={MAPPING}).end()'
        loops = Loops(line, {"call": provider.get_tracer("benchmark").start_span})
        yield Candidate(loops, settle=provider.force_flush, delivered=lambda: exporter.written)
    finally:
        provider.shutdown()


@contextmanager
def _loguru(folder: Path) -> Iterator[Candidate]:
    logger = import_module("loguru").logger
    path = folder / "loguru.ndjson"
    logger.remove()
    sink = logger.add(path, enqueue=True, serialize=True)
    try:
        loops = Loops(f'call("token_estimation", {KEYWORDS})', {"call": logger.info})
        yield Candidate(loops, settle=logger.complete, delivered=lambda: count_lines(path), burst_calls=500)
    finally:
        logger.remove(sink)


@contextmanager
def _posthog(_folder: Path) -> Iterator[Candidate]:
    """Against an HTTP server on the loopback in a process of its own, which counts what arrives."""
    command = [sys.executable, "-m", "benchmarks.http_sink"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as sink:
        try:
            assert sink.stdout is not None
            url = sink.stdout.readline().strip()
            client = import_module("posthog").Posthog("benchmark", host=url)
            loops = Loops(f'call("token_estimation", distinct_id="b", properties={MAPPING})', {"call": client.capture})
            yield Candidate(loops, settle=client.flush, delivered=lambda: _arrived(url), burst_calls=500)
            client.shutdown()
        finally:
            sink.terminate()


def _arrived(url: str) -> int:
    with urlopen(f"{url}/arrived", timeout=10) as response:  # noqa: S310 (a server on the loopback)
        return int(response.read())


@contextmanager
def _structlog(folder: Path) -> Iterator[Candidate]:
    structlog = import_module("structlog")
    path = folder / "structlog.ndjson"
    with path.open("w") as stream:
        logger = structlog.wrap_logger(
            structlog.WriteLogger(stream),
            processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
            cache_logger_on_first_use=True,
        ).bind()
        yield Candidate(
            Loops(f'call("token_estimation", {KEYWORDS})', {"call": logger.info}), delivered=lambda: count_lines(path)
        )


_PEERS: Mapping[str, tuple[str, Opener]] = {
    STRUCTLOG: ("structlog", _structlog),
    OTEL_LOG: ("opentelemetry.sdk", _otel_log),
    OTEL_SPAN: ("opentelemetry.sdk", _otel_span),
    LOGURU: ("loguru", _loguru),
    POSTHOG: ("posthog", _posthog),
}


def installed() -> dict[str, Opener]:
    """The peers that are there."""
    return {name: opener for name, (module, opener) in _PEERS.items() if _is_there(module)}


def missing() -> list[str]:
    """The peers that are not."""
    return [name for name, (module, _) in _PEERS.items() if not _is_there(module)]


def _is_there(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None and find_spec(module) is not None
