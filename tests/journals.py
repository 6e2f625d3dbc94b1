"""What the tests of the journal share: children that record until they die, and segments that dead writers left."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.write_side import event, start_python, url_of

from autopack.database.destination import parse_database_url
from autopack.errors import QueueRejected
from autopack.telemetry import Telemetry
from autopack.telemetry.engine.journal_queue import JournalQueue
from autopack.telemetry.engine.settings import Settings
from autopack.telemetry.event.wire import encode
from autopack.telemetry.journal.journal import fingerprint_of
from autopack.telemetry.journal.recovery import Orphan, _taken_over
from autopack.telemetry.journal.segment import SUFFIX

SMALL = Settings(journal_first_segment_bytes=64 << 10, journal_segment_bytes=64 << 10, max_event_bytes=8 << 10)

# Records without end, and says each accepted event only after `record()` said so.
RECORD_UNTIL_KILLED = """
    import signal
    from autopack.telemetry import Telemetry

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it puts into the background without
    telemetry = Telemetry(sys.argv[1], flush_interval_s=0.02, batch_size=50)
    prefix = sys.argv[2]
    for n in range(int(sys.argv[3])):
        if telemetry.record(**event(phase_id=f"{prefix}-{n}")):
            os.write(1, f"{prefix}-{n}\\n".encode())
"""


def folder_of(database: Path) -> Path:
    """The journal folder of a database file."""
    return database.with_name(database.name + ".telemetry")


def segments_in(folder: Path) -> list[Path]:
    """The segment files, oldest name first."""
    return sorted(folder.glob("*.seg"))


def identity_of(database: Path) -> bytes:
    """The fingerprint of a database file."""
    return fingerprint_of(parse_database_url(url_of(database)).identity or "")


def payload(phase: str = "p", **changes: Any) -> bytes:
    """A valid event as it lies in the journal."""
    fields = event(phase_id=phase, **changes)
    rest = (None, None, None, None, None)
    return encode((time.time_ns(), int.from_bytes(os.urandom(5)), *fields.values(), *rest))


def make_journal(folder: Path, fingerprint: bytes, settings: Settings = SMALL) -> JournalQueue:
    """A journal without a worker."""
    return JournalQueue(folder, fingerprint, settings)


def abandon(journal: JournalQueue) -> None:
    """What death does to a journal: its locks are gone, and nothing is tidied up."""
    journal.reset_in_child()


def left_behind(folder: Path, fingerprint: bytes, phases: list[str], settings: Settings = SMALL) -> Path:
    """A segment of a writer that died after it had accepted these phases; returns the file."""
    journal = make_journal(folder, fingerprint, settings)
    before = set(segments_in(folder))
    for phase in phases:
        journal.append(payload(phase))
    abandon(journal)
    (made,) = set(segments_in(folder)) - before
    return made


def recover_into(database: Path, **options: Any) -> Any:
    """A later process: one event of its own starts the writer, which recovers. Returns its last counts."""
    telemetry = Telemetry(url_of(database), **options)
    telemetry.record(**event(phase_id="later"))
    telemetry.close(600)
    return telemetry.stats()


@contextlib.contextmanager
def child(code: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> "Iterator[subprocess.Popen[str]]":
    """A child interpreter that is certainly gone afterwards."""
    process = start_python(code, *arguments, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def accepted_by(process: "subprocess.Popen[str]", after_s: float, how: int = signal.SIGKILL) -> list[str]:
    """Let a child that prints what was accepted run for so long after its first event, then end it by a signal.

    Returns what it had said, each line of which is one `write`, so that none is cut off.
    """
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first, process.stderr.read() if process.stderr else ""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    process.send_signal(how)
    last_resort = threading.Timer(60, process.kill)
    last_resort.start()
    try:
        return (first + process.stdout.read()).splitlines()
    finally:
        last_resort.cancel()
        last_resort.join()


def drained(journal: JournalQueue) -> list[bytes]:
    """Everything that waits, as the worker takes and settles it."""
    payloads: list[bytes] = []
    while batch := journal.take(100):
        payloads += batch.values()
        journal.settle(batch, written=len(batch))
    return payloads


def fill(journal: JournalQueue) -> list[bytes]:
    """Append until it is refused; returns what was accepted."""
    kept: list[bytes] = []
    for n in range(10_000):
        item = b"%d:" % n + b"x" * 500
        try:
            journal.append(item)
        except QueueRejected:
            return kept
        kept.append(item)
    raise AssertionError("it is never full")


def orphans_in(folder: Path, fingerprint: bytes | None) -> list[Orphan]:
    """Take over what dead writers left for a destination, oldest first; None: for any destination.

    What belongs to a living writer or to another destination is left alone; so is what is no segment, with a warning.
    """
    segments = filter(None, (_taken_over(path, fingerprint) for path in sorted(folder.glob(f"*{SUFFIX}"))))
    return [Orphan(segment) for segment in sorted(segments, key=lambda segment: segment.header.created_ns)]
