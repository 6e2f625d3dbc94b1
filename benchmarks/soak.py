"""Millions of events through one writer: flat memory, and the account true at every second; then a long kill loop.

    scripts/soak [--events N] [--kill-rounds N]

The events are recorded as fast as the journal takes them; where it is full, the caller waits a little and records the
event again, so that each is accepted in the end and must be a row in the end. Ends with 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

from autopack.telemetry import Telemetry

_FULL_PAUSE_S = 0.05
_SETTLE_TIMEOUT_S = 600.0
_FLAT_BYTES = 64 << 20


def record(telemetry: Telemetry, number: int) -> bool:
    """One event of the usual size."""
    return telemetry.record(
        run_id="soak",
        phase_id=f"p{number}",
        category="implementation",
        complexity="medium",
        deliverables=["src/app.py", "tests/test_app.py"],
        predicted_output_tokens=5200,
        actual_output_tokens=1218,
        selected_budget=8192,
        success=True,
        truncated=False,
        stop_reason="end_turn",
        model="simulated-soak",
    )


def own_memory_bytes() -> int:
    """What this process holds besides the pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


class Watch:
    """Prints once a second, and remembers the memory."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.begun_s = self._next_s = monotonic()
        self.memory_bytes: list[int] = []
        self._telemetry = telemetry

    def look(self) -> None:
        """Print if a second is over."""
        if monotonic() < self._next_s:
            return
        self._next_s += 1
        self.memory_bytes.append(own_memory_bytes())
        stats = self._telemetry.stats()
        total = stats.written + stats.duplicates + stats.dead_lettered + stats.pending
        assert stats.accepted == total, stats
        print(
            f"{monotonic() - self.begun_s:6.0f} s  accepted {stats.accepted:>9,} = written {stats.written:>9,} + "
            f"duplicates {stats.duplicates} + dead {stats.dead_lettered} + pending {stats.pending:>7,}  "
            f"dropped {dict(stats.dropped)}  memory {self.memory_bytes[-1] >> 20} MiB",
            flush=True,
        )


def soak(events: int, database: Path) -> bool:
    """Whether each event became one row, in flat memory."""
    with Telemetry(f"sqlite:///{database}") as telemetry:
        watch = Watch(telemetry)
        refused = 0
        for number in range(events):
            while not record(telemetry, number):
                refused += 1
                watch.look()
                sleep(_FULL_PAUSE_S)
            if not number % 100:
                watch.look()
        while not telemetry.flush(1) and monotonic() - watch.begun_s < _SETTLE_TIMEOUT_S + events / 1000:
            watch.look()
    stats = telemetry.stats()
    with closing(sqlite3.connect(database)) as connection:
        (rows, phases) = connection.execute(
            "SELECT count(*), count(DISTINCT phase_id) FROM token_estimation_v2_events"
        ).fetchone()
    # From the third second on: imports and first buffers are no leak.
    settled = watch.memory_bytes[3:] or watch.memory_bytes
    grown = max(settled) - settled[0]
    print(
        f"{events:,} events in {monotonic() - watch.begun_s:.0f} s: {rows:,} rows, {events - phases} lost, "
        f"{rows - phases} doubled, {refused} refused because the journal was full and recorded again, "
        f"memory +{grown >> 10} KiB (largest {max(watch.memory_bytes) >> 20} MiB)"
    )
    return rows == phases == events == stats.written and not stats.pending and grown < _FLAT_BYTES


def kill_loop(rounds: int) -> bool:
    """The kill loop of the tests, with so many rounds."""
    command = [sys.executable, "-m", "pytest", "-q", "--kill-rounds", str(rounds), "tests/telemetry/test_kill.py"]
    return subprocess.run(command, check=False).returncode == 0


def main() -> None:
    """Run both, each unless 0 is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--kill-rounds", type=int, default=200)
    arguments = parser.parse_args()
    good = True
    if arguments.events:
        with tempfile.TemporaryDirectory() as folder:
            good = soak(arguments.events, Path(folder) / "soak.db")
    if arguments.kill_rounds:
        good = kill_loop(arguments.kill_rounds) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
