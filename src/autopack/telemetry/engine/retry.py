"""How long to wait before the next try: exponential backoff with full jitter. Pure; chance is an argument."""

from __future__ import annotations

from collections.abc import Callable

from autopack.telemetry.engine.settings import Settings


class Retries:
    """The tries of one transaction.

    Delays are drawn from `uniform(0, min(cap, base * 2 ** n))`, as AWS's "Exponential Backoff and Jitter" describes it.
    When the attempts or the total time of `Settings` are used up it is an outage: from then on each delay is drawn from
    the upper half of `probe_interval_s`, so that the tries per minute are bounded.
    """

    def __init__(self, settings: Settings, *, started_s: float, uniform: Callable[[float, float], float]) -> None:
        self._settings = settings
        self._started_s = started_s
        self._uniform = uniform
        self.failures = 0

    def is_outage(self, now_s: float) -> bool:
        """Whether the bounds of a normal retry are used up."""
        settings = self._settings
        return self.failures >= settings.retry_attempts or now_s - self._started_s >= settings.retry_total_s

    def delay_s(self, now_s: float) -> float:
        """Seconds to wait after one more failure."""
        settings = self._settings
        outage = self.is_outage(now_s)
        exponent = min(self.failures, 32)
        self.failures += 1
        if outage:
            return self._uniform(settings.probe_interval_s / 2, settings.probe_interval_s)
        return self._uniform(0, min(settings.backoff_cap_s, settings.backoff_base_s * 2**exponent))
