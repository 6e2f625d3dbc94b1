"""Segments of other versions: what a former program left is recovered, and a former program leaves ours alone."""

import io
import logging
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests.journals import folder_of, identity_of, left_behind, make_journal, orphans_in, payload, segments_in
from tests.write_side import PACKAGE, PRELUDE, ROOT, child_environment, event, phases_of, url_of

from autopack.telemetry import Telemetry
from autopack.telemetry.journal.format import FORMAT_VERSION, Acknowledger, Header, Medium, pack_head, read_header
from autopack.telemetry.journal.segment import LeftSegment, process_of
from autopack.telemetry.journal.status import journal_status
from autopack.telemetry.stores import MemoryStore

# Five events, `v2-0` to `v2-4`, made by the last program of version 2; the mark lies behind the second.
VERSION_2 = ROOT / "tests" / "data" / "journal-version-2.seg"
LAST_OF_VERSION_2 = "689daa5e641ea2a95c771fc22480fb148549bc44"


class NamedStore(MemoryStore):
    """What the events of the kept file are for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.identity = "version 2"
        self.telemetry_dir = folder


def test_what_a_program_of_version_2_left_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "journal-1.seg").write_bytes(VERSION_2.read_bytes())
    store = NamedStore(tmp_path)
    with Telemetry(store) as telemetry:
        telemetry.record(**event(phase_id="later"))
    assert [row.phase_id for row in store.rows] == ["v2-2", "v2-3", "v2-4", "later"]
    stats = telemetry.stats()
    assert (stats.recovered, stats.journal_damaged, stats.pending) == (3, 0, 0)
    assert segments_in(tmp_path) == []


def test_the_mark_of_version_2_is_moved_where_version_2_has_it(tmp_path: Path) -> None:
    (tmp_path / "journal-1.seg").write_bytes(VERSION_2.read_bytes())
    (orphan,) = orphans_in(tmp_path, None)
    (first, _) = orphan.next_records(2)
    orphan.segment.acknowledge_before(None)
    orphan.segment.release()
    (again,) = orphans_in(tmp_path, None)
    assert (again.events, again.damaged) == (1, 0)
    assert first[0].offset < again.segment.read_offset
    again.segment.release()


def test_a_segment_says_which_process_made_it_and_how(tmp_path: Path) -> None:
    header = Header(
        FORMAT_VERSION,
        64 << 10,
        1,
        77,
        bytes(16),
        bytes(32),
        acknowledger=Acknowledger.COLLECTOR,
        medium=Medium.WRITTEN,
    )
    assert read_header(pack_head(header, process_of(os.getpid()))) == header
    made = left_behind(tmp_path, bytes(32), ["p"])
    segment = LeftSegment.open(made)
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert (segment.process.pid, segment.process.start) == (os.getpid(), int(after_name[19]))
    assert segment.process.boot.hex() == Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    segment.release()
    assert [file.pid for file in journal_status(tmp_path, bytes(32)).files] == [os.getpid()]


def test_a_newer_segment_is_left_alone_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = Header(FORMAT_VERSION + 1, 4096, 1, 77, bytes(16), bytes(32))
    path = tmp_path / "newer.seg"
    path.write_bytes((newer.pack() * 2).ljust(4096, b"\1"))
    with caplog.at_level(logging.WARNING, "autopack.telemetry"):
        for _ in range(3):
            assert orphans_in(tmp_path, bytes(32)) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is left alone: format {FORMAT_VERSION + 1} is newer than this program's {FORMAT_VERSION}"
    ]
    assert path.exists()


@pytest.fixture(scope="module")
def former_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last program of version 2, out of this repository's own history."""
    found = subprocess.run(
        ["git", "archive", LAST_OF_VERSION_2, "src"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if found.returncode:
        pytest.skip("the history of this repository is not here")
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


RECORD = """
from autopack.telemetry import Telemetry
logging.basicConfig(format="%(message)s")
telemetry = Telemetry(sys.argv[1])
for n in range(20):
    assert telemetry.record(**event(phase_id=f"{sys.argv[2]}{n}"))
if sys.argv[3] == "dies":
    os._exit(0)
telemetry.close(30)
assert telemetry.stats().pending == 0, telemetry.stats()
"""


def records(source: Path, database: Path, name: str, end: str) -> str:
    """A writer of that program records 20 events, and closes or dies; returns what it said."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + RECORD, url_of(database), name, end],
        env=child_environment() | {"PYTHONPATH": os.pathsep.join([str(source), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_old_and_new_writers_share_a_database_through_an_upgrade(database: Path, former_source: Path) -> None:
    """Before: old ones alone, one dies. During: both write, a new one dies, an old one leaves its segment alone.
    After: new ones alone take what is left of both.
    """
    new_source, folder = PACKAGE.parent, folder_of(database)
    records(former_source, database, "old-before-", "dies")
    records(new_source, database, "new-during-", "closes")
    assert segments_in(folder) == [], "the old one's segment was recovered"
    records(new_source, database, "new-dead-", "dies")
    said = records(former_source, database, "old-during-", "closes")
    assert said.count("format 3 is newer than this program's 2") == 1
    left = segments_in(folder)
    assert left, "the old one left it alone"
    records(former_source, database, "old-dead-", "dies")
    said = records(new_source, database, "new-after-", "closes")
    assert "left alone" not in said
    assert segments_in(folder) == []
    names = ("old-before-", "new-during-", "new-dead-", "old-during-", "old-dead-", "new-after-")
    assert sorted(phases_of(database)) == sorted(f"{name}{n}" for name in names for n in range(20))


def test_an_old_journal_and_a_new_one_live_side_by_side(database: Path) -> None:
    """A living writer of either version keeps its segment; a dead one of version 2 beside it is recovered."""
    living = make_journal(folder_of(database), identity_of(database))
    living.append(payload("living"))
    kept = folder_of(database) / "kept.seg"
    kept.write_bytes(VERSION_2.read_bytes())
    orphans = orphans_in(folder_of(database), None)
    assert [orphan.segment.path for orphan in orphans] == [kept]
    orphans[0].segment.release()
    living.close()
