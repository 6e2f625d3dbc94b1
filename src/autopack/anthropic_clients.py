"""The client of the model: `AnthropicBuilderClient` calls it for each phase of a plan and records each reply.

A call: estimate, choose the budget, stream the reply, decide success, log the `[TokenEstimationV2]` line, record
the event. The ceiling sent as `max_tokens` is the larger of the budget and a floor, because a budget that is a
little too small costs a whole second call. A reply that was cut off is asked for once more with 1.25 times the
ceiling. Each reply is one event, so such a phase has two, told apart by `attempt`.

Which replies become events:

- one that came to its end: with its output count; where it gives none, with the total tokens used in that place,
  `truncated` False and `stop_reason` None, as in the host system, and the attribute `usage` is `total`;
- a call that failed without a reply, or a reply that broke off in the middle: none. There is no final output
  count then, and a made-up one would spoil what the estimator is measured against. The result says what happened.

`_write_token_estimation_v2_telemetry` is the entry point of the host system, see `docs/origin.md`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from autopack.build.phase import PhaseCall, describe_call, phase_headers, prompt_of
from autopack.build.reply import Attempt, PhaseResult, event_fields, log_line, phase_result
from autopack.build.sdk import describe_call_error, open_loopback_sdk, open_sdk
from autopack.coefficients import load_coefficients
from autopack.estimation.coefficients import Coefficients
from autopack.estimation.deliverables import flatten_deliverables
from autopack.instrumentation.replies import MessagesReader, ModelReply

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

    from autopack.telemetry import Telemetry

DEFAULT_MODEL = "claude-sonnet-5-5"  # claude-sonnet-4-5, on which the figures were measured, ends in November 2026
CEILING_FLOOR_TOKENS = 16_384

logger = logging.getLogger(__name__)


class AnthropicBuilderClient:
    """Calls the model through the official SDK, for any number of phases at a time.

    `telemetry` None means the process-wide instance, as the environment has it at each call. Open one with
    `open_client` or `open_loopback_client`.
    """

    def __init__(
        self,
        sdk: AsyncAnthropic,
        *,
        provider: str = "anthropic",
        model: str = DEFAULT_MODEL,
        telemetry: Telemetry | None = None,
        coefficients: Coefficients | None = None,
        ceiling_floor_tokens: int = CEILING_FLOOR_TOKENS,
        names_phases: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sdk = sdk
        self._provider = provider
        self._model = model
        self._telemetry = telemetry
        self._coefficients = coefficients or load_coefficients(os.environ)
        self._ceiling_floor_tokens = ceiling_floor_tokens
        self._names_phases = names_phases
        self._clock = clock

    async def execute_phase(
        self, phase_spec: Mapping[str, Any], *, existing: Collection[str] | None = None
    ) -> PhaseResult:
        """Call the model for one phase of a plan, with the run's `run_id` in the mapping.

        `existing` names the deliverables that are there already, None where that is unknown. What goes wrong, at the
        API (after the SDK's own retries) or on the way, is a result that says so; only cancellation and
        interruption pass through.
        """
        call = describe_call(phase_spec, self._coefficients, existing)
        ceiling = max(call.selected_budget, self._ceiling_floor_tokens)
        attempts = [await self._attempt(call, 1, ceiling)]
        if attempts[0].reply is not None and attempts[0].reply.truncated:
            attempts.append(await self._attempt(call, 2, ceiling * 5 // 4))
        return phase_result(attempts)

    async def _attempt(self, call: PhaseCall, number: int, max_tokens: int) -> Attempt:
        started_s = self._clock()
        reply, error = None, None
        try:
            reply = await self._stream(call, number, max_tokens)
            error = None if reply else "the reply broke off before its end"
        except Exception as exc:  # noqa: BLE001 (whatever the SDK or the network raises, the call has failed)
            error = describe_call_error(exc)
        attempt = Attempt(number, max_tokens, reply, error, round((self._clock() - started_s) * 1000))
        if reply is not None:
            logger.info("%s", log_line(call, reply))
            _record_safely(self._sink, event_fields(call, attempt, reply, self._provider))
        return attempt

    async def _stream(self, call: PhaseCall, number: int, max_tokens: int) -> ModelReply | None:
        """Return the whole reply; None where the stream ended early without an error."""
        reader = MessagesReader(self._model, keeps_text=True)
        stream = await self._sdk.messages.create(
            model=self._model,
            max_tokens=max_tokens,
            messages=[{"role": "user", "content": prompt_of(call)}],
            stream=True,
            extra_headers=phase_headers(call.phase_id, number) if self._names_phases else None,
        )
        async with stream:
            async for event in stream:
                reader.feed(event)
        return reader.finish()

    def _sink(self) -> Telemetry:
        return _process_wide_telemetry() if self._telemetry is None else self._telemetry


@asynccontextmanager
async def open_client(**options: Any) -> AsyncIterator[AnthropicBuilderClient]:
    """Open a client of the real API, with the credentials that the SDK finds in the environment.

    Options are those of `AnthropicBuilderClient`. Without credentials every call is a failed result.
    """
    async with open_sdk() as sdk:
        yield AnthropicBuilderClient(sdk, **options)


@asynccontextmanager
async def open_loopback_client(base_url: str, **options: Any) -> AsyncIterator[AnthropicBuilderClient]:
    """Open a client of a server that `serve_messages` runs. It tells the server which phase each request is for."""
    async with open_loopback_sdk(base_url) as sdk:
        yield AnthropicBuilderClient(sdk, names_phases=True, **options)


def _write_token_estimation_v2_telemetry(  # noqa: PLR0917 (the host system's interface)
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
    """Record one event through the process-wide telemetry; the host system's interface.

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


def _process_wide_telemetry() -> Telemetry:
    from autopack.telemetry import get_telemetry

    return get_telemetry()


def _record_safely(sink: Callable[[], Telemetry], fields: dict[str, Any]) -> None:
    """Record an event; telemetry that is broken in any way costs a warning and nothing else."""
    try:
        sink().record(**fields)
    except Exception as exc:  # noqa: BLE001 (a build does not fail for its telemetry)
        logger.warning("[TokenEstimationV2] Failed to write DB telemetry: %s", type(exc).__name__)
