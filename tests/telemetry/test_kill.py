"""Processes that die while they record: every event that `record()` accepted is in the database exactly once."""

import random
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.journals import RECORD_UNTIL_KILLED, accepted_by, child, folder_of, recover_into, segments_in
from tests.write_side import phases_of, run_python, url_of

from autopack.telemetry.journal.status import journal_status

pytestmark = pytest.mark.slow

AT_ONCE = 3
MANY = "1000000"


@dataclass(frozen=True, slots=True)
class Deaths:
    """What one database went through: how many died, how many of them left something, and what became of it."""

    rounds: int
    left_something: int
    accepted: int
    lost: list[str]
    doubled: int


def live_and_die(database: Path, name: str, how: int, after_s: float, append: str = "auto") -> list[str]:
    """One child that records until a signal ends it; returns what it had said that it accepted."""
    env = {"TELEMETRY_JOURNAL_APPEND": append}
    with child(RECORD_UNTIL_KILLED, url_of(database), name, MANY, env=env) as process:
        return accepted_by(process, after_s, how)


def deaths_of(database: Path, rounds: int, seed: int) -> Deaths:
    """One life and death after the other on one database, each but the first during the recovery of the one before.

    Their journals are mapped and written in turn, and all of them grow from a small first segment.
    """
    chance = random.Random(seed)  # noqa: S311 (moments to die)
    accepted: list[str] = []
    left_something = 0
    for life in range(rounds):
        # Some die before they have imported what they write with, some while they recover, some while they write.
        after_s = chance.choice([0.05, 0.5, 1.5]) * chance.random()
        append = ("mapped", "written")[life % 2]
        accepted += live_and_die(database, f"life{life}", signal.SIGKILL, after_s, append)
        left_something += any(file.events for file in journal_status(folder_of(database), bytes(32)).orphaned)
    stats = recover_into(database)
    assert (stats.pending, stats.dead_lettered, stats.worker_restarts) == (0, 0, 0)
    assert stats.journal_damaged <= rounds, "a death may tear one event that was not accepted yet, no more"
    assert segments_in(folder_of(database)) == []
    rows = Counter(phases_of(database))
    return Deaths(
        rounds=rounds,
        left_something=left_something,
        accepted=len(accepted),
        lost=[phase for phase in accepted if not rows[phase]],
        doubled=sum(count > 1 for count in rows.values()),
    )


def test_whatever_was_accepted_before_a_sigkill_is_there_once(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    count = request.config.getoption("--kill-rounds")
    shares = [len(range(n, count, AT_ONCE)) for n in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        every = list(pool.map(lambda n: deaths_of(tmp_path / f"{n}.db", shares[n], n), range(AT_ONCE)))
    lost = [phase for deaths in every for phase in deaths.lost]
    left_something = sum(deaths.left_something for deaths in every)
    with capsys.disabled():
        print(  # noqa: T201 (the figures are what it is run for)
            f"\nkill loop: {sum(deaths.rounds for deaths in every)} rounds, {left_something} of which left something, "
            f"{sum(deaths.accepted for deaths in every)} events accepted, {len(lost)} lost, "
            f"{sum(deaths.doubled for deaths in every)} doubled"
        )
    assert not lost
    assert not any(deaths.doubled for deaths in every)
    assert left_something >= count / 5, "too little was ever left to recover: this proved nothing"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_same_with_other_signals(tmp_path: Path, how: int) -> None:
    """SIGTERM ends Python at once, without atexit; SIGINT is an exception anywhere in the middle of a `record()`."""
    lives = [f"life{n}" for n in range(3)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        accepted = list(pool.map(lambda name: live_and_die(tmp_path / "x.db", name, how, 0.1), lives))
    assert recover_into(tmp_path / "x.db").pending == 0
    rows = Counter(phases_of(tmp_path / "x.db"))
    for phases in accepted:
        assert phases
        assert all(rows[phase] == 1 for phase in phases)


ENDS = {
    "os._exit": ("os._exit(3)", 3),
    "sys.exit": ("sys.exit(3)", 3),
    "an unhandled exception": ("raise RuntimeError('the build failed')", 1),
    "an unhandled exception in a thread, then the end": (
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); sys.exit(3)",
        3,
    ),
    "abort": ("os.abort()", -signal.SIGABRT),
    "out of memory, as the kernel ends it": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_way_to_end_keeps_what_was_accepted(database: Path, end: str) -> None:
    code, exit_code = ENDS[end]
    program = f"""
        import signal
        from autopack.telemetry import Telemetry
        telemetry = Telemetry(sys.argv[1], flush_interval_s=60)
        for n in range(300):
            assert telemetry.record(**event(phase_id=f"p{{n}}"))
        {code}
    """
    run_python(program, url_of(database), exit_code=exit_code)
    orderly = "sys.exit" in code or end == "an unhandled exception"
    assert bool(segments_in(folder_of(database))) is not orderly
    recovered = recover_into(database).recovered
    assert recovered == (0 if orderly else 300)
    assert Counter(phases_of(database)) == Counter([f"p{n}" for n in range(300)] + ["later"])
