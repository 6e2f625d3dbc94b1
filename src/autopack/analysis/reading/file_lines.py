"""A log or an export that a user names: its lines, and a plain word where none of them is what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from autopack.analysis.reading.lines import bounded_lines, is_claim
from autopack.commands._source_options import Source
from autopack.commands._standard_error import tracked
from autopack.errors import ReadError

_EXPECTED = {"log": "[TokenEstimationV2] lines of a log", "ndjson": "an export, one JSON object a line"}


class FileLines:
    """The lines of a file, to be taken once. `claims` counts those taken that are neither blank nor a header (`#`)."""

    def __init__(self, lines: Iterable[bytes], name: str, source: Source) -> None:
        self.claims = 0
        self._lines = lines
        self._name = name
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.claims += is_claim(line)
            yield line

    def check(self, events: int) -> None:
        """Raises `ReadError` where the file holds something and no event was read: it is not what it was taken for.

        One without a line, or with headers only, is in order: there was nothing to export.
        """
        if self.claims and not events:
            raise ReadError(
                f"{self._name}: none of its {self.claims} line(s) can be read as an event; "
                f"--source {self._source} takes {_EXPECTED[self._source]}"
            )


@contextmanager
def opened_lines(file: Path, source: Source) -> Iterator[FileLines]:
    """The lines of a file, or of standard input (`-`), with a progress bar where somebody looks. Raises `OSError`."""
    with click.open_file(str(file), "rb") as stream:
        name = "standard input" if str(file) == "-" else str(file)
        yield FileLines(tracked(bounded_lines(stream.readline), "Reading", None), name, source)
