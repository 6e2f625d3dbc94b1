"""The write-ahead journal: accepted events in memory-mapped files that outlive the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopack._util.lazy import lazy_names

if TYPE_CHECKING:
    from autopack.telemetry.journal.journal import fingerprint_of
    from autopack.telemetry.journal.status import JournalStatus, SegmentFile, journal_status

__all__ = ["JournalStatus", "SegmentFile", "fingerprint_of", "journal_status"]

__getattr__ = lazy_names(
    __name__,
    {
        "JournalStatus": "status",
        "SegmentFile": "status",
        "fingerprint_of": "journal",
        "journal_status": "status",
    },
)
