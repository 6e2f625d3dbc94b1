"""One program whose calls are recorded by one instrumentation, or by none; it calls when it is told to.

    python -m benchmarks.instrumented_child NAME URL FOLDER

Reads numbers from standard input, a line each: makes so many calls at once and prints their latencies in ms, and the
processor time of the whole process for each of them, as JSON. When the input ends, it prints how many records were
written. Each instrumentation patches what it will, so each
has a process of its own. All of them write to SQLite, in batches and in the background.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any

import httpx2
from anthropic import AsyncAnthropic
from benchmarks.peers import SqliteExporter

import autopack
from autopack.telemetry import Telemetry

BARE, OURS, LOGFIRE, OPENLLMETRY, OPENINFERENCE = "bare", "autopack", "Logfire", "OpenLLMetry", "OpenInference"
NAMES = (BARE, OURS, LOGFIRE, OPENLLMETRY, OPENINFERENCE)

Opened = tuple[AsyncAnthropic, Callable[[], int]]


@contextmanager
def _bare(client: AsyncAnthropic, _folder: Path) -> Iterator[Opened]:
    yield client, lambda: 0


@contextmanager
def _autopack(client: AsyncAnthropic, folder: Path) -> Iterator[Opened]:
    with Telemetry(f"sqlite:///{folder / 'autopack.db'}") as telemetry:

        def written() -> int:
            telemetry.flush(30)
            return telemetry.stats().written

        yield autopack.instrument(client, telemetry=telemetry), written


@contextmanager
def _spans(folder: Path) -> Iterator[tuple[Any, Any, Callable[[], int]]]:
    export = import_module("opentelemetry.sdk.trace.export")
    exporter = SqliteExporter(folder / "spans.db", export.SpanExportResult.SUCCESS)
    processor = export.BatchSpanProcessor(exporter)
    provider = import_module("opentelemetry.sdk.trace").TracerProvider()
    provider.add_span_processor(processor)

    def written() -> int:
        processor.force_flush()
        return exporter.written

    try:
        yield provider, processor, written
    finally:
        provider.shutdown()


@contextmanager
def _logfire(client: AsyncAnthropic, folder: Path) -> Iterator[Opened]:
    logfire = import_module("logfire")
    with _spans(folder) as (_, processor, written):
        logfire.configure(
            send_to_logfire=False, console=False, inspect_arguments=False, additional_span_processors=[processor]
        )
        logfire.instrument_anthropic(client)
        yield client, written


@contextmanager
def _openllmetry(client: AsyncAnthropic, folder: Path) -> Iterator[Opened]:
    with _spans(folder) as (provider, _, written):
        import_module("opentelemetry.instrumentation.anthropic").AnthropicInstrumentor().instrument(
            tracer_provider=provider
        )
        yield client, written


@contextmanager
def _openinference(client: AsyncAnthropic, folder: Path) -> Iterator[Opened]:
    with _spans(folder) as (provider, _, written):
        import_module("openinference.instrumentation.anthropic").AnthropicInstrumentor().instrument(
            tracer_provider=provider
        )
        yield client, written


_OPENERS = dict(zip(NAMES, (_bare, _autopack, _logfire, _openllmetry, _openinference), strict=True))


async def _call(client: AsyncAnthropic) -> float:
    begin = perf_counter_ns()
    reply = await client.messages.create(
        model="simulated-benchmark", max_tokens=2048, messages=[{"role": "user", "content": "Rename the function."}]
    )
    assert reply.usage.output_tokens == 1218
    return (perf_counter_ns() - begin) / 1e6


async def _wave(client: AsyncAnthropic, concurrent: int) -> tuple[list[float], float]:
    begin = process_time_ns()
    latencies_ms = await asyncio.gather(*(_call(client) for _ in range(concurrent)))
    return latencies_ms, (process_time_ns() - begin) / 1e6 / concurrent


async def _serve(name: str, url: str, folder: Path) -> None:
    limits = httpx2.Limits(max_connections=100, max_keepalive_connections=100)
    async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=60) as http_client:
        bare = AsyncAnthropic(base_url=url, api_key="none", http_client=http_client)
        with _OPENERS[name](bare, folder) as (client, written):
            while line := sys.stdin.readline():
                with autopack.phase("p3", run_id="bench", category="refactoring"):
                    print(json.dumps(await _wave(client, int(line))), flush=True)
            print(written(), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
