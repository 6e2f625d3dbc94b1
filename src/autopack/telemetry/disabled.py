"""Telemetry that is off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autopack.telemetry.counters import Drops
from autopack.telemetry.recorder import Telemetry

if TYPE_CHECKING:
    from autopack.telemetry.dead_letters import DeadLetterOffice
    from autopack.telemetry.stats import TelemetryStats


class DisabledTelemetry(Telemetry):
    """Telemetry that is off: accepts nothing, costs next to nothing, counts the calls as dropped, `disabled`."""

    def __init__(self) -> None:
        self._drops = Drops()
        self._refusals = self._drops.counter("disabled").ticks

    @property
    def enabled(self) -> bool:
        """False."""
        return False

    def record(
        self,
        /,
        *_args: Any,
        run_id: Any = None,
        phase_id: Any = None,
        category: Any = None,
        complexity: Any = None,
        deliverables: Any = None,
        predicted_output_tokens: Any = None,
        actual_output_tokens: Any = None,
        selected_budget: Any = None,
        success: Any = None,
        truncated: Any = None,
        stop_reason: Any = None,
        model: Any = None,
        actual_max_tokens: Any = None,
        input_tokens: Any = None,
        duration_ms: Any = None,
        existing: Any = None,
        attributes: Any = None,
        **_unknown: Any,
    ) -> bool:
        """False. The keywords stand here one by one since collecting them into a mapping costs twice as much."""
        next(self._refusals)
        return False

    def flush(self, timeout_s: float | None = None) -> bool:
        """True: nothing was accepted."""
        return True

    async def aflush(self, timeout_s: float | None = None) -> bool:
        """True."""
        return True

    def close(self, timeout_s: float | None = None) -> None:
        """There is nothing to close."""

    async def aclose(self, timeout_s: float | None = None) -> None:
        """There is nothing to close."""

    def begin_close(self) -> None:
        """There is nothing to close."""

    @property
    def closed(self) -> bool:
        """False: it was never open."""
        return False

    @property
    def dead_letters(self) -> DeadLetterOffice:
        """None are kept."""
        from autopack.telemetry.dead_letters import MemoryDeadLetters

        return MemoryDeadLetters(0)

    def stats(self) -> TelemetryStats:
        """All zero but `dropped["disabled"]`."""
        from autopack.telemetry.stats import TelemetryStats

        return TelemetryStats(dropped=self._drops.snapshot())
