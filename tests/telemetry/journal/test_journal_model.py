"""Any order of recording, failing, healing, flushing, dying, forking and closing, against a model of three sets."""

import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.journals import segments_in
from tests.write_side import event

from autopack.errors import TransientStoreError
from autopack.telemetry import Telemetry, TelemetryStats
from autopack.telemetry.engine.journal_queue import JournalQueue
from autopack.telemetry.event.schema import Row
from autopack.telemetry.stores import MemoryStore


class Database(MemoryStore):
    """A database that outlives the process that writes to it, and can be away."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.away = False
        self.identity = "model"
        self.telemetry_dir = folder

    async def write(self, rows: Sequence[Row]) -> int:
        if self.away:
            raise TransientStoreError("away")
        return await super().write(rows)


class JournalMachine(RuleBasedStateMachine):
    """`accepted`: every phase for which `record()` said True; `bad`: those of them that no database takes.

    A process that dies gives its locks up and leaves the rest as it is. Its thread cannot be killed here: it is asked
    to end while the database is away, so that it changes nothing any more.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.database = Database(self.folder)
        self.accepted: list[str] = []
        self.bad: set[str] = set()
        self.number = 0
        self.start()

    def start(self) -> None:
        self.telemetry = Telemetry(self.database, batch_size=5, flush_interval_s=0.002)
        assert isinstance(self.telemetry.writer.queue, JournalQueue)

    def record(self, telemetry: Telemetry, *, good: bool = True) -> bool:
        self.number += 1
        phase = f"p{self.number}"
        taken = telemetry.record(**event(phase_id=phase, predicted_output_tokens=100 if good else -1))
        if taken:
            self.accepted.append(phase)
            if not good:
                self.bad.add(phase)
        return taken

    @rule(count=st.integers(1, 12), good=st.booleans())
    def record_some(self, count: int, good: bool) -> None:
        for _ in range(count):
            assert self.record(self.telemetry, good=good)

    @precondition(lambda self: not self.database.away)
    @rule()
    def flush(self) -> None:
        assert self.telemetry.flush(30)
        assert self.telemetry.stats().pending == 0

    @rule()
    def go_away(self) -> None:
        self.database.away = True

    @rule()
    def come_back(self) -> None:
        self.database.away = False

    @rule()
    def close_and_start_again(self) -> None:
        self.telemetry.close(0.05 if self.database.away else 30)
        assert not self.telemetry.record(**event())
        left = self.telemetry.stats().pending
        assert not left or segments_in(self.folder)
        self.start()

    @rule()
    def die_and_start_again(self) -> None:
        was_away, self.database.away = self.database.away, True
        self.telemetry.close(0)
        self.database.away = was_away
        self.start()

    @rule()
    def be_spoiled_while_dead(self) -> None:
        """The acknowledged mark of every file is lost: what was written already is sent again."""
        self.die_and_start_again_with(lambda path: overwrite(path, 192, bytes(12)))

    @rule()
    def be_copied_while_dead(self) -> None:
        self.die_and_start_again_with(lambda path: shutil.copy(path, path.with_name(f"copy-{path.name}")))

    def die_and_start_again_with(self, spoil: Callable[[Path], object]) -> None:
        was_away, self.database.away = self.database.away, True
        self.telemetry.close(0)
        for path in segments_in(self.folder):
            spoil(path)
        self.database.away = was_away
        self.start()

    @rule()
    def fork(self) -> None:
        """The child has nothing of the parent's, and can record and leave on its own; here it leaves at once."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, because there are threads
            child = os.fork()
        if child == 0:
            stats = self.telemetry.stats()
            empty = stats == TelemetryStats(
                journal_dir=stats.journal_dir, not_recorded=stats.not_recorded, unattributed=stats.unattributed
            )
            taken = self.telemetry.record(**event(phase_id="of the child"))
            os._exit(0 if empty and taken else 1)
        assert os.waitpid(child, 0)[1] == 0

    @invariant()
    def the_account_is_whole(self) -> None:
        stats = self.telemetry.stats()
        assert stats.accepted == stats.written + stats.duplicates + stats.dead_lettered + stats.pending
        assert stats.dropped == {}
        assert stats.worker_restarts == 0
        assert stats.journal_damaged == 0

    @invariant()
    def nothing_is_there_twice_or_of_nowhere(self) -> None:
        rows = Counter(row.phase_id for row in list(self.database.rows) if row.phase_id != "of the child")
        assert all(count == 1 for count in rows.values())
        assert set(rows) <= set(self.accepted) - self.bad

    def teardown(self) -> None:
        """When all is well again, what was accepted is in the database once, or in the dead letters."""
        if not hasattr(self, "telemetry"):
            return
        self.database.away = False
        self.telemetry.close(30)
        with Telemetry(self.database) as last:
            last.record(**event(phase_id="last"))
        assert last.stats().pending == 0
        rows = Counter(row.phase_id for row in self.database.rows if row.phase_id not in {"of the child", "last"})
        assert rows == Counter(set(self.accepted) - self.bad)
        letters = (self.folder / "dead-letters.ndjson").read_text() if self.bad else ""
        assert all(f'"{phase}"' in letters for phase in self.bad)
        assert segments_in(self.folder) == []
        shutil.rmtree(self.folder)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
