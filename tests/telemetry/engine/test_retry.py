from autopack.telemetry.engine.retry import Retries
from autopack.telemetry.engine.settings import Settings


def upper_end(_low: float, high: float) -> float:
    return high


def lower_end(low: float, _high: float) -> float:
    return low


SETTINGS = Settings(
    retry_attempts=5, retry_total_s=30, backoff_base_s=0.1, backoff_cap_s=0.5, probe_interval_s=4, batch_size=1
)


def delays(uniform: object, clock_s: list[float]) -> list[float]:
    retries = Retries(SETTINGS, started_s=0, uniform=uniform)  # type: ignore[arg-type]
    return [retries.delay_s(now_s) for now_s in clock_s]


def test_delays_double_up_to_the_cap_then_probe_an_outage() -> None:
    """Delays double up to the cap, and then become the probe of an outage."""
    assert delays(upper_end, [0] * 8) == [0.1, 0.2, 0.4, 0.5, 0.5, 4, 4, 4]


def test_jitter_is_full_until_the_outage_and_half_in_it() -> None:
    """Jitter is full until the outage and half in it, so that the tries per minute are bounded."""
    assert delays(lower_end, [0] * 8) == [0, 0, 0, 0, 0, 2, 2, 2]


def test_the_total_time_alone_makes_an_outage() -> None:
    assert delays(upper_end, [0, 29.9, 30, 31]) == [0.1, 0.2, 4, 4]


def test_a_year_of_failures_does_not_overflow() -> None:
    settings = Settings(retry_attempts=100_000_000, retry_total_s=3600)
    retries = Retries(settings, started_s=0, uniform=upper_end)
    assert {retries.delay_s(0) for _ in range(5000)} <= {settings.backoff_base_s * 2**n for n in range(7)} | {2.0}
