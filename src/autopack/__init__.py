"""Telemetry for LLM builds: predicted against actual output tokens, recorded without waiting.

    client = autopack.instrument(AsyncAnthropic())
    with autopack.phase("p3", run_id="nightly-42", category="refactoring", deliverables=paths) as phase:
        reply = await client.messages.create(max_tokens=phase.max_tokens, model=..., messages=...)

`autopack.telemetry` writes, `autopack.analysis` reads, and `suggest_max_tokens` says which ceiling to send. Importing
this package imports nothing else: each of its names is loaded when it is asked for. `docs/instrumentation.md` says more
of the calls that come in by themselves.
"""

from typing import TYPE_CHECKING

from autopack._util.lazy import lazy_names

if TYPE_CHECKING:
    from autopack.budgets import retry_max_tokens, suggest_max_tokens
    from autopack.instrumentation.instrument import instrument
    from autopack.instrumentation.litellm_callback import LiteLLMCallback
    from autopack.instrumentation.phases import Phase, bind, current_phase, phase
    from autopack.instrumentation.span_processor import TelemetrySpanProcessor

__all__ = [
    "LiteLLMCallback",
    "Phase",
    "TelemetrySpanProcessor",
    "bind",
    "current_phase",
    "instrument",
    "phase",
    "retry_max_tokens",
    "suggest_max_tokens",
]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # a type checker that sees it accepts every name
    __getattr__ = lazy_names(
        __name__,
        {
            "LiteLLMCallback": "instrumentation.litellm_callback:LiteLLMCallback",
            "Phase": "instrumentation.phases:Phase",
            "TelemetrySpanProcessor": "instrumentation.span_processor:TelemetrySpanProcessor",
            "bind": "instrumentation.phases:bind",
            "current_phase": "instrumentation.phases:current_phase",
            "instrument": "instrumentation.instrument:instrument",
            "phase": "instrumentation.phases:phase",
            "retry_max_tokens": "budgets:retry_max_tokens",
            "suggest_max_tokens": "budgets:suggest_max_tokens",
        },
    )
