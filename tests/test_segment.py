"""The bytes of a segment: whatever happens to them, reading never raises and loses no record that is whole."""

import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack.telemetry.recovery import Orphan, orphans_in
from autopack.telemetry.segment import (
    FIRST_RECORD,
    FORMAT_VERSION,
    RECORD,
    RECORD_BYTES,
    Header,
    Segment,
    SegmentError,
    aligned,
)

FINGERPRINT = bytes(range(32))
PAYLOADS = [b"the first", b"second", b"third, which is longer than the others", b"4"]
SIZE = 4096


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
    at = FIRST_RECORD
    for sequence, payload in enumerate(payloads, first.first_sequence):
        RECORD.pack_into(data, at, len(payload), crc32(payload, sequence), sequence)
        data[at + RECORD_BYTES : at + RECORD_BYTES + len(payload)] = payload
        at = aligned(at + RECORD_BYTES + len(payload))
    return bytes(data)


IMAGE = image()
# The bytes of each record, the zeros that fill it up to a multiple of 8 left out: nothing is in them.
EXTENTS: list[range] = []
_at = FIRST_RECORD
for _payload in PAYLOADS:
    EXTENTS.append(range(_at, _at + RECORD_BYTES + len(_payload)))
    _at = aligned(EXTENTS[-1].stop)
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


def test_a_byte_that_is_flipped_loses_at_most_the_record_that_it_is_in(tmp_path: Path) -> None:
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


def test_zeros_over_any_range_lose_only_the_records_that_they_touch(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    for start in range(FIRST_RECORD, END, 3):
        for length in (1, 7, 16, 64):
            data = bytearray(IMAGE)
            data[start : start + length] = bytes(len(data[start : start + length]))
            path.write_bytes(data)
            changed = [data[e.start : e.stop] != IMAGE[e.start : e.stop] for e in EXTENTS]
            found = read_back(path)
            assert found is not None
            assert found[0] == [p for p, c in zip(PAYLOADS, changed, strict=True) if not c], (start, length)


def test_a_torn_last_record_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    """The payload is written first: a crash before the 16 bytes in front of it leaves a length of 0."""
    path = tmp_path / "a.seg"
    data = bytearray(IMAGE)
    data[EXTENTS[-1].start : EXTENTS[-1].start + RECORD_BYTES] = bytes(RECORD_BYTES)
    path.write_bytes(data)
    assert read_back(path) == (PAYLOADS[:-1], 1)


def test_the_second_copy_of_the_header_stands_in_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(bytes(96) + IMAGE[96:])
    assert read_back(path) == (PAYLOADS, 0)
    path.write_bytes(bytes(192) + IMAGE[192:])
    assert read_back(path) is None


def test_what_lies_before_the_mark_is_not_read_again_and_a_broken_mark_leaves_nothing_out(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(IMAGE)
    segment = Segment.open(path)
    assert segment is not None
    segment.acknowledge(EXTENTS[2].start)
    segment.release()
    assert read_back(path) == (PAYLOADS[2:], 0)
    data = bytearray(path.read_bytes())
    data[195] ^= 1
    path.write_bytes(data)
    assert read_back(path) == (PAYLOADS, 0)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 65535])
def test_a_newer_format_is_refused_in_words(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(header(version=version).pack() * 2 + IMAGE[192:])
    with pytest.raises(SegmentError, match=f"format {version} is newer than this program's {FORMAT_VERSION}"):
        Segment.open(path)
    assert read_back(path) is None
    assert path.exists()


def test_a_record_of_another_segment_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    """A block that a file system hands out with somebody else's old bytes in it."""
    path = tmp_path / "a.seg"
    other = bytearray(SIZE)
    RECORD.pack_into(other, 0, 5, crc32(b"other", 1 << 30), 1 << 30)
    other[RECORD_BYTES : RECORD_BYTES + 5] = b"other"
    at = aligned(END)
    path.write_bytes(IMAGE[:at] + bytes(other[: SIZE - at]))
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
        assert Segment.open(path) is None, "it has an owner"
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.seg"]
    finally:
        segment.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_segment_is_never_made_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        Segment.create(tmp_path / "a.seg", header())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tmp"]
