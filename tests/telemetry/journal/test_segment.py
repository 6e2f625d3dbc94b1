"""The bytes of a segment: whatever happens to them, reading never raises and loses no record that is whole."""

import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import adler32, crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.journals import orphans_in

from autopack.errors import SegmentError
from autopack.telemetry.journal.format import FIRST_RECORD, FORMAT_VERSION, Header
from autopack.telemetry.journal.recovery import Orphan
from autopack.telemetry.journal.segment import LeftSegment, Segment

FINGERPRINT = bytes(range(32))
PAYLOADS = [b"the first", b"second", b"third, which is longer than the others" * 8, b"last"]
SIZE = 4096


def record_of(payload: bytes, sequence: int) -> bytes:
    """A record as it is documented, written out."""
    length = len(payload)
    head = b"\xc4" + struct.pack(">B", length) if length < 256 else b"\xc5" + struct.pack(">H", length)
    return b"\x92\xcf" + struct.pack(">II", sequence, adler32(payload, sequence)) + head + payload


def header(**changes: int) -> Header:
    fields = {"version": FORMAT_VERSION, "size_bytes": SIZE, "created_ns": 1, "first_sequence": 77} | changes
    return Header(**fields, writer=bytes(16), fingerprint=FINGERPRINT)


def image(payloads: list[bytes] = PAYLOADS) -> bytes:
    """A segment as it is on disk, made of the documented format and nothing else of the program's."""
    first = header()
    data = bytearray(SIZE)
    data[:192] = first.pack() * 2
    mark = struct.pack("<QI", FIRST_RECORD, 0)
    data[192:204] = struct.pack("<QI", FIRST_RECORD, crc32(mark))
    records = b"".join(record_of(payload, sequence) for sequence, payload in enumerate(payloads, first.first_sequence))
    data[FIRST_RECORD : FIRST_RECORD + len(records)] = records
    return bytes(data)


IMAGE = image()
EXTENTS: list[range] = []
_at = FIRST_RECORD
for _payload in PAYLOADS:
    EXTENTS.append(range(_at, _at + len(record_of(_payload, 77))))
    _at = EXTENTS[-1].stop
END = EXTENTS[-1].stop


def read_back(path: Path) -> tuple[list[bytes], int] | None:
    """What recovery reads of a file and how many damaged records it counts; None where the file is left alone."""
    for orphan in orphans_in(path.parent, FINGERPRINT):
        payloads = list(records(orphan))
        orphan.segment.release()
        return payloads, orphan.damaged
    return None


def records(orphan: Orphan) -> Iterator[bytes]:
    while (record := orphan.next_record()) is not None:
        yield record.payload


def test_a_whole_segment_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(IMAGE)
    assert read_back(path) == (PAYLOADS, 0)


@pytest.mark.slow
def test_a_file_that_is_cut_at_any_offset_loses_only_what_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    for size in range(END + 40):
        path.write_bytes(IMAGE[:size])
        found = read_back(path)
        if size < FIRST_RECORD:
            assert found is None
            continue
        whole = [p for p, extent in zip(PAYLOADS, EXTENTS, strict=True) if extent.stop <= size]
        assert found == (whole, 1), size


@pytest.mark.slow
def test_a_flipped_byte_loses_at_most_the_record_that_it_is_in(tmp_path: Path) -> None:
    """A byte that is flipped loses at most the record that it is in."""
    path = tmp_path / "a.seg"
    for offset in range(END + 200):
        for bit in (1 << offset % 8, 0xFF):
            data = bytearray(IMAGE)
            data[offset] ^= bit
            path.write_bytes(data)
            hit = [offset in extent for extent in EXTENTS]
            found = read_back(path)
            assert found is not None, offset
            payloads, damaged = found
            assert payloads == [p for p, h in zip(PAYLOADS, hit, strict=True) if not h], (offset, bit)
            assert damaged >= any(hit), (offset, bit)
            if offset < FIRST_RECORD:
                assert damaged == 0, "no record is in the header"


@pytest.mark.slow
def test_zeros_over_any_range_lose_only_the_records_that_they_touch(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    for start in range(FIRST_RECORD, END, 3):
        for length in (1, 7, 16, 64, 400):
            data = bytearray(IMAGE)
            data[start : start + length] = bytes(len(data[start : start + length]))
            path.write_bytes(data)
            changed = [data[e.start : e.stop] != IMAGE[e.start : e.stop] for e in EXTENTS]
            found = read_back(path)
            assert found is not None
            assert found[0] == [p for p, c in zip(PAYLOADS, changed, strict=True) if not c], (start, length)


def test_a_torn_last_record_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    """A crash in the middle of the copy, whichever of its bytes came first."""
    path = tmp_path / "a.seg"
    extent = EXTENTS[-1]
    for torn in (slice(extent.start, extent.start + 12), slice(extent.stop - 3, extent.stop)):
        data = bytearray(IMAGE)
        data[torn] = bytes(len(data[torn]))
        path.write_bytes(data)
        assert read_back(path) == (PAYLOADS[:-1], 1)


def test_records_whose_threads_swapped_their_sequences_are_whole(tmp_path: Path) -> None:
    """A sequence is taken before the record is written, so the next thread may be faster; or it is never written."""
    path = tmp_path / "a.seg"
    data = bytearray(IMAGE)
    for extent, payload, sequence in zip(EXTENTS, PAYLOADS, (78, 77, 81, 80), strict=True):
        data[extent.start : extent.stop] = record_of(payload, sequence)
    path.write_bytes(data)
    assert read_back(path) == (PAYLOADS, 0)


def test_the_second_copy_of_the_header_stands_in_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(bytes(96) + IMAGE[96:])
    assert read_back(path) == (PAYLOADS, 0)
    path.write_bytes(bytes(192) + IMAGE[192:])
    assert read_back(path) is None


def test_what_lies_before_the_mark_is_not_read_again(tmp_path: Path) -> None:
    """What lies before the mark is not read again, and a broken mark leaves nothing out."""
    path = tmp_path / "a.seg"
    path.write_bytes(IMAGE)
    segment = LeftSegment.open(path)
    assert segment is not None
    segment.acknowledge(EXTENTS[2].start)
    segment.release()
    assert read_back(path) == (PAYLOADS[2:], 0)
    data = bytearray(path.read_bytes())
    data[195] ^= 1
    path.write_bytes(data)
    assert read_back(path) == (PAYLOADS, 0)


@pytest.mark.parametrize(("version", "age"), [(1, "older"), (FORMAT_VERSION + 1, "newer"), (65535, "newer")])
def test_another_format_is_refused_in_words(tmp_path: Path, version: int, age: str) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(header(version=version).pack() * 2 + IMAGE[192:])
    with pytest.raises(SegmentError, match=f"format {version} is {age} than this program's {FORMAT_VERSION}"):
        LeftSegment.open(path)
    assert read_back(path) is None
    assert path.exists()


def test_a_record_of_another_segment_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    """A block that a file system hands out with somebody else's old bytes in it."""
    path = tmp_path / "a.seg"
    other = record_of(b"other", 1 << 30)
    path.write_bytes(IMAGE[:END] + other + IMAGE[END + len(other) :])
    assert read_back(path) == (PAYLOADS, 1)


@given(noise=st.binary(max_size=600), at=st.integers(0, SIZE))
def test_noise_anywhere_never_raises_and_never_invents_a_record(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("noise") / "a.seg"
    path.write_bytes(IMAGE[:at] + noise + IMAGE[at + len(noise) :])
    found = read_back(path)
    assert found is None or set(found[0]) <= set(PAYLOADS)


def test_a_made_segment_is_as_large_as_it_says_locked_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    segment = Segment.create(path, header(size_bytes=1 << 20))
    try:
        status = path.stat()
        assert (status.st_size, status.st_mode & 0o7777) == (1 << 20, 0o600)
        assert status.st_blocks * 512 >= 1 << 20, "a full disk would be a SIGBUS later"
        seen = LeftSegment.open(path)
        assert not seen.take_over(), "it has an owner"
        seen.release()
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.seg"]
    finally:
        segment.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_segment_is_never_made_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        Segment.create(tmp_path / "a.seg", header())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tmp"]
