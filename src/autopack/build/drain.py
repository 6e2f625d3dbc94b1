"""The end of a run's telemetry: the wait for its events, longer than that of a library, and announced.

A library must not hold up the program that it serves, so `Telemetry.close()` waits for `shutdown_timeout_s`, and only
where the writer is still importing its libraries for up to 30 s. A program that exists to record can wait longer, and
also for a slow write: nothing would be lost, but not all would be in the database either.

- Up to the usual time (5 s): wait, and say nothing. Then announce the wait, once.
- Up to the longest time (60 s): wait on while only the machine is slow, which means that the database has given no
  error, or that events were settled in the last window of 5 s.
- A signal that stops the run ends the wait after the usual time at the latest.
- `TELEMETRY_SHUTDOWN_TIMEOUT_S` is the user's own decision: where it is set, it is the whole wait.

Events that are not written at the end stay in the journal, as after any other close.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autopack.telemetry import Telemetry, TelemetryStats

_SLICE_S = 0.25  # of a wait; a signal is noticed at its end
_WINDOW_S = 5.0
_LAST_TRY_S = 0.5  # for the close after a wait in vain: the writer makes one more try


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a program waits for its events: silently for `usual_s`, at most `longest_s` in all."""

    usual_s: float = 5.0
    longest_s: float = 60.0


def patience_of(environ: Mapping[str, str] | None = None) -> Patience | None:
    """Return the patience of a program; None where `TELEMETRY_SHUTDOWN_TIMEOUT_S` sets the wait."""
    environ = os.environ if environ is None else environ
    return None if environ.get("TELEMETRY_SHUTDOWN_TIMEOUT_S", "").strip() else Patience()


def drain(
    telemetry: Telemetry, patience: Patience | None, *, say: Callable[[str], object], is_stopped: Callable[[], bool]
) -> None:
    """Wait until all events are settled, or `patience` ends; then close `telemetry`.

    `patience` None: the shutdown timeout of `telemetry` is the whole wait. `say` gets the line that announces a long
    wait; `is_stopped` tells whether a signal has stopped the run.
    """
    if patience is None or _settle(telemetry, patience, say, is_stopped):
        telemetry.close()
    else:  # without a worker, close() writes by itself, and needs its time
        telemetry.close(_LAST_TRY_S if telemetry.stats().worker_alive else None)


def _settle(
    telemetry: Telemetry, patience: Patience, say: Callable[[str], object], is_stopped: Callable[[], bool]
) -> bool:
    """Wait in windows, the usual time first; between them decide whether to go on. Returns whether all is settled."""
    before = telemetry.stats()
    if telemetry.flush(patience.usual_s):
        return True
    left_s = patience.longest_s - patience.usual_s
    announced = False
    while left_s > 0 and not is_stopped():
        now = telemetry.stats()
        if not now.worker_alive or not only_slow(before, now):
            break
        if not announced:
            say(announcement(now, left_s))
            announced = True
        if _flush_until(telemetry, min(_WINDOW_S, left_s), is_stopped):
            return True
        before, left_s = now, left_s - _WINDOW_S
    return False


def _flush_until(telemetry: Telemetry, timeout_s: float, is_stopped: Callable[[], bool]) -> bool:
    """Flush, at most so long; a stop ends the wait. Returns whether all is settled."""
    end_s = time.monotonic() + timeout_s
    while not is_stopped() and (left_s := end_s - time.monotonic()) > 0:
        if telemetry.flush(min(_SLICE_S, left_s)):
            return True
        if not telemetry.stats().worker_alive:
            break
    return False


def only_slow(before: TelemetryStats, now: TelemetryStats) -> bool:
    """Whether nothing but the machine keeps events waiting: no error of the database, or some progress all the same."""
    return now.last_error is None or _settled(now) > _settled(before)


def announcement(stats: TelemetryStats, left_s: float) -> str:
    """Return the line that says for what the program waits: in the words in which a close says it."""
    from autopack.telemetry.engine import waiting_text

    return waiting_text(stats.pending, left_s, stats.journal_dir)


def _settled(stats: TelemetryStats) -> int:
    return stats.written + stats.duplicates + stats.dead_lettered
