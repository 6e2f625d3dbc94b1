"""`autopack.instrument`: a client whose calls are recorded by themselves."""

from __future__ import annotations

from typing import TypeVar

from autopack.instrumentation.calls import EventSink, Recording, Unattributed
from autopack.telemetry import is_enabled

C = TypeVar("C")

_SDKS = ("anthropic", "openai")


def instrument(
    client: C,
    *,
    telemetry: EventSink | None = None,
    unattributed: Unattributed = "record",
    stream_usage: bool = False,
) -> C:
    """A copy of the client, of the same type, that records each of its calls; the client itself stays as it is.

    For the clients of Anthropic's and OpenAI's SDKs, synchronous and asynchronous, Bedrock, Vertex and Azure included.
    Where telemetry is off (`TELEMETRY_DB_ENABLED`), and none is given, it is the client itself.

    telemetry: where to record; None: the process-wide one. unattributed: `record` (category `unattributed`, without a
    prediction) or `drop` calls outside a phase; both are counted. stream_usage: for OpenAI's Chat Completions, ask for
    the token counts of a stream whose request does not: the caller then gets one more chunk, without choices.

    Raises:
        TypeError: the client is of no SDK that this knows.

    """
    if telemetry is None and not is_enabled():
        return client
    recording = Recording(telemetry, unattributed)
    kind = type(client)
    if getattr(kind, "autopack_instrumented", False):
        return client
    sdk = next((name for base in kind.__mro__ for name in _SDKS if base.__module__.partition(".")[0] == name), None)
    if sdk is None or not hasattr(client, "copy"):
        raise TypeError(
            f"autopack.instrument knows the clients of the packages anthropic and openai, not {kind.__module__}."
            f"{kind.__qualname__}; what makes OpenTelemetry spans is recorded by autopack.TelemetrySpanProcessor()"
        )
    if sdk == "anthropic" and hasattr(client, "open_telemetry"):
        from autopack.instrumentation.anthropic_spans import instrument_anthropic

        return instrument_anthropic(client, recording)
    from autopack.instrumentation.sdk_requests import instrument_requests

    return instrument_requests(client, recording, sdk=sdk, stream_usage=stream_usage)
