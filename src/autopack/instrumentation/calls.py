"""One model call, from its start to the one event that it becomes, or to the one reason why it becomes none.

`begin` reads the phase and the call's place in it; `finish` records, `fail` counts. Whatever comes first counts, the
rest is nothing. None of this ever raises into the caller's call.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, Unpack

from autopack.instrumentation.executions import Turn
from autopack.instrumentation.phase_ids import auto_phase_id, process_run_id
from autopack.instrumentation.phases import Phase, current_phase
from autopack.instrumentation.replies import ModelReply, count, word
from autopack.telemetry import get_telemetry, not_recorded, unattributed_calls, warn_once

if TYPE_CHECKING:
    from autopack.telemetry.event import EventFields

P = ParamSpec("P")

UNATTRIBUTED = "unattributed"
Unattributed = Literal["record", "drop"]


class EventSink(Protocol):
    """Takes events; `autopack.telemetry.Telemetry` is one."""

    def record(self, **fields: Unpack[EventFields]) -> bool:
        """Takes one event; whether it was accepted."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Where calls are recorded, None standing for the process-wide telemetry; and what of those outside a phase."""

    telemetry: EventSink | None = None
    unattributed: Unattributed = "record"

    def __post_init__(self) -> None:
        if self.unattributed not in ("record", "drop"):
            raise ValueError(f"unattributed is {self.unattributed!r}; say 'record' or 'drop'")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; None where it does not say. `max_tokens` is its ceiling."""

    provider: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    reasoning_level: str | None = None


class Call:
    """One call of a model. Made when the call starts: that is when its phase is read, unless it is handed over."""

    __slots__ = ("_ends", "_phase", "_recording", "_started_s", "_turn", "asked")

    def __init__(self, asked: Asked, recording: Recording, *read_before: Phase | None) -> None:
        self.asked = asked
        self._recording = recording
        self._phase = read_before[0] if read_before else current_phase()
        self._turn = Turn(1, 1) if self._phase is None else self._phase.executions.begin()
        self._ends = itertools.count()
        self._started_s = time.monotonic()

    def finish(self, reply: ModelReply, duration_s: float | None = None) -> None:
        """The reply has come to its end. Without an output count it is counted, not guessed."""
        if next(self._ends):
            return
        if self._phase is not None:
            self._phase.executions.end(self._turn, reply.stop_reason)
        if reply.output_tokens is None:
            not_recorded.add("without_usage")
            return
        if self._phase is None:
            unattributed_calls.add()
            if self._recording.unattributed == "drop":
                not_recorded.add(UNATTRIBUTED)
                return
        duration_s = time.monotonic() - self._started_s if duration_s is None else duration_s
        sink = self._recording.telemetry or get_telemetry()
        sink.record(**self._fields(reply), duration_ms=max(0, round(duration_s * 1000)))

    def fail(self, reason: str) -> None:
        """There is no whole reply: no event, and one more for that reason."""
        if next(self._ends):
            return
        if self._phase is not None:
            self._phase.executions.fail(self._turn)
        not_recorded.add(reason)

    def forget(self) -> None:
        """This was no call of a model, or another hook sees it: neither an event nor a reason."""
        if not next(self._ends) and self._phase is not None:
            self._phase.executions.fail(self._turn)

    def _fields(self, reply: ModelReply) -> dict[str, Any]:
        entered = self._phase
        fields = dict(_OUTSIDE) if entered is None else _phase_fields(entered)
        if entered is None:
            fields |= {"run_id": process_run_id(), "phase_id": auto_phase_id()}
        return {
            **fields,
            "actual_output_tokens": reply.output_tokens,
            "success": reply.success,
            "truncated": reply.truncated,
            "stop_reason": reply.stop_reason,
            "model": reply.model or self.asked.model or "unknown",
            "actual_max_tokens": self.asked.max_tokens,
            "input_tokens": reply.input_tokens,
            "provider": self.asked.provider,
            "call_id": reply.call_id,
            "attempt": None if entered is None else self._turn.attempt,
            "turn": None if entered is None else self._turn.turn,
            "reasoning_tokens": reply.reasoning_tokens,
            "reasoning_level": self.asked.reasoning_level or (None if entered is None else entered.reasoning_level),
            "cache_read_tokens": reply.cache_read_tokens,
            "cache_write_tokens": reply.cache_write_tokens,
            "estimator": None if entered is None else entered.estimator,
        }


_OUTSIDE: Mapping[str, Any] = {
    "category": UNATTRIBUTED,
    "complexity": "unknown",
    "deliverables": [],
    "predicted_output_tokens": 0,
    "selected_budget": 0,
    "existing": None,
    "attributes": None,
}


def _phase_fields(entered: Phase) -> dict[str, Any]:
    return {
        "run_id": entered.run_id,
        "phase_id": entered.phase_id,
        "category": entered.category,
        "complexity": entered.complexity,
        "deliverables": list(entered.deliverables),
        "predicted_output_tokens": entered.predicted_output_tokens,
        "selected_budget": entered.selected_budget,
        "existing": None if entered.existing is None else list(entered.existing),
        "attributes": entered.attributes,
    }


def asked_of(body: Any, provider: str | None) -> Asked:
    """What the body of a request asks for, of any of the three APIs."""
    body = body if isinstance(body, Mapping) else {}
    reasoning = body.get("reasoning")
    output_config = body.get("output_config")
    thinking = body.get("thinking")
    return Asked(
        provider=provider,
        model=word(body.get("model")),
        max_tokens=first_count(body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")),
        reasoning_level=word(body.get("reasoning_effort"))
        or word(reasoning.get("effort") if isinstance(reasoning, Mapping) else None)
        or word(output_config.get("effort") if isinstance(output_config, Mapping) else None)
        or word(thinking.get("type") if isinstance(thinking, Mapping) else None),
    )


def first_count(values: Any) -> int | None:
    """The first of the values that is a count of tokens."""
    return next((value for value in values if count(value) is not None), None)


def quietly(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Any:
    """What the function returns; None where it raises, which is counted and warned of once: a call never fails for it.

    The exception's message may quote the call, so only its class is said.
    """
    try:
        return function(*args, **kwargs)
    except Exception as exc:  # noqa: BLE001 (a fault of autopack, and the call is the caller's)
        not_recorded.add("hook_failed")
        warn_once(f"A call could not be recorded: {type(exc).__name__} in autopack.instrumentation")
        return None


def failure_reason(exc: BaseException) -> str:
    """The reason that stands for an exception of a call: its kind, and the HTTP status where there is one."""
    if not isinstance(exc, Exception):
        return "cancelled"
    status = getattr(exc, "status_code", None)
    if type(status) is int and 400 <= status < 600:  # noqa: PLR2004 (HTTP's errors)
        return f"error_{status}"
    names = {kind.__name__ for kind in type(exc).__mro__}
    if names & {"APITimeoutError", "TimeoutException", "TimeoutError"}:
        return "error_timeout"
    return "error_connection" if names & {"APIConnectionError", "TransportError", "OSError"} else "error_other"
