"""The write-ahead journal: accepted events in files, mapped or written, that outlive the process.

# Theory of operation

`Journal.append` puts an encoded event into the current segment, without a lock, and then the event is accepted. Where
the file system keeps its promise that is a copy into a shared map, without a system call; elsewhere one `pwrite`
(`medium`). The kernel holds the pages: SIGKILL, OOM or a crash of the process do not touch them; a power loss of the
machine may. The worker reads the same segments in order, so the journal is the queue. While the database is away events
stay in it, as many as fit, and memory stays flat. After a commit the worker moves the acknowledged mark forward, and
deletes a segment that is settled to its end, wherever it stands: an event that cannot be settled keeps its own segment
and no other. Recovery needs no segment of another, and no number without a gap.

| module | holds |
|---|---|
| `format` | the bytes below: packed, and read back. Pure |
| `segment` | one file: made, opened, owned, acknowledged, removed |
| `medium` | how a process appends to its own segment and reads it: mapped, or written |
| `file_systems` | on which of them a segment may be mapped |
| `segment_maker` | makes the files of one writer, within the bounds |
| `appender` | the writing end of a segment, and the chain of them |
| `journal` | the chain as a whole: append, read, acknowledge, maintain, close |
| `recovery` | what dead writers left: taken over, read, removed |
| `status` | a look at a folder that changes nothing |

# Invariants

1. What is in a segment is the truth about what was accepted. It is counted by stepping from record to record; there is
   no counter beside it that could differ.
2. A record takes its place in one step that neither a thread nor a signal handler can interrupt, or not at all. Where
   it is written and not mapped, a place that was taken and not written whole is void, and every reader passes it.
3. A sealed segment takes nothing more. Only a sealed segment has a next one, and from then on it always has one.
4. Hence no event of a segment comes after one of the next, and to read the chain in order is to read the events in
   order.
5. The mark of a segment never lies past an event that is not settled. Behind such an event it waits in that segment,
   and only there.
6. A file is deleted only when every event in it is settled: it is read to its end, has a next one, and its count of
   unsettled events is 0. They are counted before they are in flight, so the count is never too low. A damaged one is
   renamed to `*.corrupt` instead.
7. An event is sent again rather than left out: its id is in it, and the database takes it once.
8. A process writes to and deletes only segments whose lock it holds. A child that is forked in C inherits the lock, and
   notices before it writes (`autopack._util.forks`).

# The bytes of a segment

All sizes are in bytes. Header and mark are little-endian; a record is MessagePack, hence big-endian.

| offset | size | what |
|---|---|---|
| 0 | 96 | the header |
| 96 | 96 | the header again: no single damaged byte makes the segment unreadable |
| 192 | 12 | the acknowledged mark |
| 204 | 52 | zeros |
| 256 | 36 | the process that made it |
| 292 | 28 | zeros |
| 320 | 64 | kept for what a collector tells the writer, with a checksum of its own; zeros |
| 384 | 64 | kept for what the writer tells a collector, with a checksum of its own; zeros |
| 448 | 64 | zeros |
| 512 | to the end | records, one behind the other; zeros where none was written yet |

The header:

| offset | size | what |
|---|---|---|
| 0 | 8 | `AUTOPACK` |
| 8 | 2 | version of the format, 3 |
| 10 | 1 | who acknowledges while the writer lives: 0 a worker, 1 a collector |
| 11 | 1 | how it is appended to: 0 through a shared map, 1 by `pwrite` |
| 12 | 4 | offset of the first record, 512 |
| 16 | 8 | size of the file |
| 24 | 8 | when it was made, ns since 1970, UTC |
| 32 | 8 | the least sequence of its records: random, 31 bits, not 0 |
| 40 | 16 | the writer: random |
| 56 | 32 | fingerprint of the destination: SHA-256 of its identity, which holds no credentials |
| 88 | 4 | CRC-32 of the 88 bytes before |
| 92 | 4 | zeros |

The process, all zeros where the system does not tell:

| offset | size | what |
|---|---|---|
| 0 | 4 | its number |
| 4 | 4 | zeros |
| 8 | 8 | when it began, in clock ticks since the machine did |
| 16 | 16 | the random number of that run of the machine |
| 32 | 4 | CRC-32 of the 32 bytes before |

The acknowledged mark:

| offset | size | what |
|---|---|---|
| 0 | 8 | offset of the first record that is not settled |
| 8 | 4 | CRC-32 of those 8 bytes and of 4 zeros |

A record:

| offset | size | what |
|---|---|---|
| 0 | 1 | `92`: an array of two |
| 1 | 1 | `cf`: a uint64 |
| 2 | 4 | the sequence |
| 6 | 4 | Adler-32 of the payload, begun with the sequence |
| 10 | 1 | `c4`, `c5` or `c6`: a payload whose length has 1, 2 or 4 bytes |
| 11 | 1, 2 or 4 | the length of the payload |
| then | the length | the payload: one event (`autopack.telemetry.event.wire`) |

That the head is MessagePack and the checksum Adler-32 has one reason: the call site, between two events, has lost its
caches, and each further piece of C costs it a microsecond or two. The encoder has just run, and Adler-32, unlike
CRC-32, needs no tables. Where a record is damaged, the next good one is looked for behind it, and recognised by a
sequence that this segment can hold and by its checksum.

# Versions

The first 92 bytes of a header keep their meaning in every version, so that each program can tell what a segment is and
whom it is for. Version 2 has no process, zeros at 10 and 11, and its records begin at 256; it is read like version 3.
What is newer than the program is left alone, and said once. So a former program and this one may share a folder: each
recovers what it can read, and the events of the newer one wait for a newer one.

# Ownership

A segment belongs to the process that holds its `flock`. The kernel gives the lock up when the process is gone, and
another writer with the same destination takes the segment over: one that begins, or one that lives and looks once a
minute, and at once when the folder is more than half full or refuses a segment. Two may try; one gets the lock. After
it has the lock it checks that the path still leads to the file it opened, since the former owner may have removed it in
between.

# Growth

The first segment of a process is small (64 KiB), and each further one four times as large, up to 8 MiB; an event that
needs more gets a segment of its size. So a process that records one event leaves little behind, in the bound and on the
disk. Where folder or disk have no room for a segment so large, it is as large as there is room for, and 64 KiB at
least: the end of a bound or a disk is used, too.

# Cuts

A program that truncates a mapped segment takes its pages away. The next touch of one is a SIGBUS. The worker looks at
the size of the current segment between batches. One that was cut is sealed and made as long as it was, so that its
pages are there again: what was cut off is lost, what comes later goes elsewhere. Between the cut and that look a touch
ends the process.

# Fork

The child closes file and map of every segment and touches nothing in them. It never unlocks: the lock is the parent's,
and a child that kept the file open would keep the lock alive when the parent is dead. While a fork happens no segment
is made (`prepare_fork`).

# Re-entrancy

A signal handler or `__del__` may record anywhere inside `append`. A caller that finds no room goes on in the next
segment, and makes it if the worker has not in time; that is I/O, and counted (`inline_segments`). Another thread that
needs it waits at most 50 ms; if it does not come in that time the thread makes one too, and all use the first that is
in place. A signal handler that finds no room while its own thread looks for the next segment defers its event, in
memory; the call that it interrupted appends it (tried without: events were lost in a storm of signals).

# Bounds

The segments of all writers in a folder together hold at most `journal_bytes`. Beyond that the newest event is refused
as `journal_full`, and for 0.25 s no further segment is tried. What is deferred is at most as much as a new segment has
room for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopack._util.lazy import lazy_names

if TYPE_CHECKING:
    from autopack.telemetry.journal.journal import fingerprint_of
    from autopack.telemetry.journal.status import JournalStatus, SegmentFile, journal_status

__all__ = ["JournalStatus", "SegmentFile", "fingerprint_of", "journal_status"]

if not TYPE_CHECKING:  # a type checker that sees it accepts every name
    __getattr__ = lazy_names(
        __name__,
        {
            "JournalStatus": "status",
            "SegmentFile": "status",
            "fingerprint_of": "journal",
            "journal_status": "status",
        },
    )
