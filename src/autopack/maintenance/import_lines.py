"""The lines of a file, each classified: a row, no event and why, or a line that claims nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from autopack.analysis.reading.lines import LONGEST_LINE_BYTES
from autopack.analysis.reading.log_wrappers import is_json_of_a_logger
from autopack.analysis.reading.logs import TAG, claims_a_record, parse_line
from autopack.maintenance.import_rows import NoEvent, RowMaker
from autopack.telemetry.event import Row

ImportFormat = Literal["auto", "log", "ndjson"]


@dataclass(frozen=True, slots=True)
class ReadLine:
    """A line that claims to be an event: `row` is what it stands for, or `reason` says why it is none.

    `number` counts from 1, `text` is the line as it was, cut to 2 MiB.
    """

    number: int
    text: bytes
    row: Row | None
    reason: str = ""


class FileReader:
    """Reads the lines of one file, and counts them.

    `format` is the one that was asked for; for "auto", that of the first line that is neither blank nor a header (`#`):
    it begins with `{` in an export, and is no object with a message in it, as loggers write them. `passed_over` counts
    lines that claim nothing: headers, and what else is in a log.
    """

    def __init__(self, wanted: ImportFormat = "auto", assumed_time: datetime | None = None) -> None:
        self.format = wanted
        self.lines = 0
        self.passed_over = 0
        self._maker = RowMaker(assumed_time)

    def read(self, lines: Iterable[bytes]) -> Iterator[ReadLine]:
        """The lines that claim to be events; `lines` are as `bounded_lines` gives them."""
        for number, line in enumerate(lines, 1):
            self.lines = number
            text = line.strip()
            if text and self.format == "auto" and not text.startswith(b"#"):
                self.format = "ndjson" if text.startswith(b"{") and not is_json_of_a_logger(text) else "log"
            if self._claims_to_be_an_event(text):
                yield self._read_line(number, line)
            else:
                self.passed_over += bool(text)

    def _claims_to_be_an_event(self, text: bytes) -> bool:
        if self.format == "log":
            return claims_a_record(text)
        return bool(text) and not text.startswith(b"#")

    def _read_line(self, number: int, line: bytes) -> ReadLine:
        try:
            return ReadLine(number, line, self._row(line))
        except NoEvent as exc:
            return ReadLine(number, line, None, str(exc))

    def _row(self, line: bytes) -> Row:
        if len(line) >= LONGEST_LINE_BYTES:
            raise NoEvent(f"longer than {LONGEST_LINE_BYTES >> 20} MiB")
        if self.format != "log":
            return self._maker.from_export(line)
        record = parse_line(_text(line))
        if record is None:
            raise NoEvent(f"no record of {TAG}: a field is missing, there twice, or has a value that it cannot have")
        return self._maker.from_log(record)


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as exc:
        raise NoEvent(f"not UTF-8: byte {line[exc.start]:#04x} at position {exc.start}") from exc
