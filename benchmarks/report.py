"""What a benchmark hands back: tables of figures, and targets with their verdicts. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["aim met", "must met", "missed"]


class Options(msgspec.Struct, frozen=True):
    """How much to measure; `quick` is for all of them in under two minutes."""

    quick: bool


class Line(msgspec.Struct, frozen=True):
    """One row of a table; None where there is no such figure."""

    label: str
    figures: list[float | int | str | None]


class Table(msgspec.Struct, frozen=True):
    """Figures under named columns (units in the names), with a sentence on how to read them."""

    title: str
    columns: list[str]
    lines: list[Line]
    note: str = ""


class Target(msgspec.Struct, frozen=True):
    """A figure with its limits. `low` and `high`: the middle 80 % over the repetitions, None where it is one figure."""

    name: str
    value: float
    low: float | None
    high: float | None
    sense: Literal["at least", "at most"]
    must: float
    aim: float
    unit: str = "×"

    @property
    def verdict(self) -> Verdict:
        """Which of the limits holds."""
        if self._meets(self.aim):
            return "aim met"
        return "must met" if self._meets(self.must) else "missed"

    def _meets(self, limit: float) -> bool:
        return self.value >= limit if self.sense == "at least" else self.value <= limit


class Section(msgspec.Struct, frozen=True):
    """All that one benchmark found. `chart`: which of its tables and which column is drawn, on a logarithmic scale."""

    title: str
    tables: list[Table]
    targets: list[Target] = []
    remarks: list[str] = []
    chart: tuple[int, int] | None = None
