"""Calls the model for the phases of a plan and describes each reply as one telemetry event.

A call: estimate, choose the budget, stream the reply, decide success, log the `[TokenEstimationV2]` line, record
the event. The ceiling sent as `max_tokens` is the larger of the budget and a floor, because a budget that is a
little too small costs a whole second call. A reply that was cut off is asked for once more with 1.25 times the
ceiling. Each reply is one event, so such a phase has two, told apart by the attribute `attempt`.

Which replies become events:

- one that came to its end: with its output count; where it gives none, with the total tokens used in that place,
  `truncated` False and `stop_reason` None, as in the plan, and the attribute `usage` is `total`;
- a call that failed without a reply, or a reply that broke off in the middle: none. There is no final output
  count then, and a made-up one would spoil what the estimator is measured against. The result says what happened.

The SDK is imported when a client is opened, not with this module: it takes two seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from autopack._util.text import truncate_for_display
from autopack.build.call_failures import describe_call_error
from autopack.build.phase import ModelReply, PhaseCall, PhaseResult, describe_call, log_line, phase_headers, prompt_of
from autopack.build.streamed_reply import StreamedReply
from autopack.estimation.coefficients import Coefficients, load_coefficients
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.metrics import WHOLE_CALL

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

    from autopack.telemetry.event.schema import EventFields

DEFAULT_MODEL = "claude-sonnet-5-5"  # claude-sonnet-4-5, on which the figures were measured, ends in November 2026
CEILING_FLOOR_TOKENS = 16_384

logger = logging.getLogger(__name__)


class EventSink(Protocol):
    """Takes events; `autopack.telemetry.Telemetry` is one."""

    def record(self, **fields: Unpack[EventFields]) -> bool:
        """Takes one event; whether it was accepted."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One call: its reply, or why there is none."""

    reply: ModelReply | None
    error: str | None
    duration_ms: int


class AnthropicBuilderClient:
    """Calls the model through the official SDK, for any number of phases at a time.

    `telemetry` None stands for the process-wide instance, as the environment has it at each call. Open one with
    `open_client` or `open_loopback_client`.
    """

    def __init__(
        self,
        sdk: AsyncAnthropic,
        *,
        provider: str = "anthropic",
        model: str = DEFAULT_MODEL,
        telemetry: EventSink | None = None,
        coefficients: Coefficients | None = None,
        ceiling_floor_tokens: int = CEILING_FLOOR_TOKENS,
        names_phases: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sdk = sdk
        self._provider = provider
        self._model = model
        self._telemetry = telemetry
        self._coefficients = coefficients or load_coefficients()
        self._ceiling_floor_tokens = ceiling_floor_tokens
        self._names_phases = names_phases
        self._clock = clock

    async def execute_phase(
        self, phase_spec: Mapping[str, Any], *, existing: Collection[str] | None = None
    ) -> PhaseResult:
        """Calls the model for one phase of a plan, with the run's `run_id` in the mapping.

        `existing` names the deliverables that are there already, None where nobody looked. What goes wrong, at the
        API (after the SDK's own retries) or on the way, is a result that says so; only cancellation and
        interruption pass through.
        """
        call = describe_call(phase_spec, self._coefficients, existing)
        ceiling = max(call.selected_budget, self._ceiling_floor_tokens)
        attempts = [await self._attempt(call, 1, ceiling)]
        if attempts[0].reply is not None and attempts[0].reply.truncated:
            attempts.append(await self._attempt(call, 2, ceiling * 5 // 4))
        return _result(attempts)

    async def _attempt(self, call: PhaseCall, number: int, max_tokens: int) -> _Attempt:
        started = self._clock()
        reply, error = None, None
        try:
            reply = await self._stream(call, number, max_tokens)
            error = None if reply else "the reply broke off before its end"
        except Exception as exc:  # noqa: BLE001 (whatever the SDK or the network raises, the call has failed)
            error = describe_call_error(exc)
        attempt = _Attempt(reply, error, round((self._clock() - started) * 1000))
        if reply is not None:
            logger.info("%s", log_line(call, reply))
            self._record(_event(call, reply, attempt.duration_ms, max_tokens, self._attributes(number, reply)))
        return attempt

    async def _stream(self, call: PhaseCall, number: int, max_tokens: int) -> ModelReply | None:
        """The whole reply; None where the stream ended early without an error."""
        streamed = StreamedReply(self._model)
        stream = await self._sdk.messages.create(
            model=self._model,
            max_tokens=max_tokens,
            messages=[{"role": "user", "content": prompt_of(call)}],
            stream=True,
            extra_headers=phase_headers(call.phase_id, number) if self._names_phases else None,
        )
        async with stream:
            async for event in stream:
                streamed.feed(event)
        return streamed.finish()

    def _attributes(self, number: int, reply: ModelReply) -> dict[str, Any]:
        attributes = {"attempt": number, "provider": self._provider}
        return attributes if reply.output_tokens is not None else {**attributes, **WHOLE_CALL}

    def _record(self, fields: dict[str, Any]) -> None:
        _record_safely(_process_wide_telemetry if self._telemetry is None else lambda: self._telemetry, fields)


@asynccontextmanager
async def open_client(**options: Any) -> AsyncIterator[AnthropicBuilderClient]:
    """A client of the real API, with the credentials that the SDK finds in the environment; closed at the end.

    Options are those of `AnthropicBuilderClient`. Without credentials every call is a failed result.
    """
    from anthropic import AsyncAnthropic

    async with AsyncAnthropic() as sdk:
        yield AnthropicBuilderClient(sdk, **options)


@asynccontextmanager
async def open_loopback_client(base_url: str, **options: Any) -> AsyncIterator[AnthropicBuilderClient]:
    """A client of a server that `serve_messages` runs; closed at the end.

    It tells the server which phase each request is for. Proxies of the environment are not used: they could not
    reach the server. The SDK's default HTTP client would use them even with `trust_env=False`, so it gets another.
    """
    import httpx2
    from anthropic import AsyncAnthropic

    http_client = httpx2.AsyncClient(trust_env=False, timeout=60)
    async with AsyncAnthropic(base_url=base_url, api_key="loopback", http_client=http_client) as sdk:
        yield AnthropicBuilderClient(sdk, names_phases=True, **options)


def _write_token_estimation_v2_telemetry(  # noqa: PLR0917 (the plan's interface)
    run_id: str,
    phase_id: str,
    category: str,
    complexity: str,
    deliverables: list[str],
    predicted_output_tokens: int,
    actual_output_tokens: int,
    selected_budget: int,
    success: bool,
    truncated: bool,
    stop_reason: str | None,
    model: str,
) -> None:
    """Records one event through the process-wide telemetry; the plan's interface.

    `TELEMETRY_DB_ENABLED` and `DATABASE_URL` are honoured as they are at the time of the call. Returns at once
    and never raises: the event is written in the background.
    """
    fields = {
        "run_id": run_id,
        "phase_id": phase_id,
        "category": category,
        "complexity": complexity,
        "deliverables": flatten_deliverables(deliverables),
        "predicted_output_tokens": predicted_output_tokens,
        "actual_output_tokens": actual_output_tokens,
        "selected_budget": selected_budget,
        "success": success,
        "truncated": truncated,
        "stop_reason": stop_reason,
        "model": model,
    }
    _record_safely(_process_wide_telemetry, fields)


def _process_wide_telemetry() -> EventSink:
    from autopack.telemetry import get_telemetry

    return get_telemetry()


def _record_safely(telemetry: Callable[[], EventSink | None], fields: dict[str, Any]) -> None:
    """Records an event; telemetry that is broken in any way costs a warning and nothing else."""
    try:
        sink = telemetry()
        if sink is not None:
            sink.record(**fields)
    except Exception as exc:  # noqa: BLE001 (a build does not fail for its telemetry)
        logger.warning("[TokenEstimationV2] Failed to write DB telemetry: %s", type(exc).__name__)


def _event(
    call: PhaseCall, reply: ModelReply, duration_ms: int, max_tokens: int, attributes: dict[str, Any]
) -> dict[str, Any]:
    """The fields of a reply's event; without an output count those of the plan's fallback."""
    counted = reply.output_tokens is not None
    return {
        "run_id": call.run_id,
        "phase_id": call.phase_id,
        "category": call.category,
        "complexity": call.complexity,
        "deliverables": list(call.deliverables),
        "predicted_output_tokens": call.predicted_output_tokens,
        "actual_output_tokens": reply.output_tokens if counted else reply.total_tokens,
        "selected_budget": call.selected_budget,
        "success": reply.success,
        "truncated": counted and reply.truncated,
        "stop_reason": reply.stop_reason if counted else None,
        "model": reply.model,
        "actual_max_tokens": max_tokens,
        "input_tokens": reply.input_tokens,
        "duration_ms": duration_ms,
        "existing": None if call.existing is None else list(call.existing),
        "attributes": attributes,
    }


def _result(attempts: list[_Attempt]) -> PhaseResult:
    last = attempts[-1]
    reply = last.reply
    return PhaseResult(
        success=reply is not None and reply.success,
        tokens_used=sum(attempt.reply.total_tokens for attempt in attempts if attempt.reply),
        text=reply.text if reply else "",
        stop_reason=reply.stop_reason if reply else None,
        error=last.error if reply is None else _complaint(reply),
        attempts=len(attempts),
    )


def _complaint(reply: ModelReply) -> str | None:
    if reply.success:
        return None
    if reply.truncated:
        return f"the reply was cut off at the ceiling, after {reply.output_tokens or 'an unknown number of'} tokens"
    return f"the reply stopped for the reason {truncate_for_display(str(reply.stop_reason))}"
