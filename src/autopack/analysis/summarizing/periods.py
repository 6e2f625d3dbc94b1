"""The same figures over time: samples cut into periods of equal length. Pure."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec

from autopack.analysis.sampling.samples import Samples
from autopack.analysis.validating.groups import measures_of
from autopack.analysis.validating.measures import Measures
from autopack.analysis.validating.rules import Rules

_DAY_S = 86_400
_LENGTHS_DAYS = (1, 7, 28, 91, 364)


class Period(msgspec.Struct, frozen=True):
    """The figures of the samples of `days` days from the first moment (UTC) of the date `begin` on."""

    begin: str
    days: int
    measures: Measures


@dataclass(frozen=True, slots=True)
class Grid:
    """`count` periods of `days` days without a gap; the first one begins on day `first` since 1970."""

    first: int
    days: int
    count: int


def grid_of(samples: Samples, *, most: int) -> Grid:
    """The periods from the first sample to the last, at most `most`: days, weeks, four weeks, quarters, years.

    Samples whose time cannot be read are in none.
    """
    known = [math.floor(at_s / _DAY_S) for at_s in samples.at_s if at_s < math.inf]
    if not known:
        return Grid(0, 1, 0)
    first, span = min(known), max(known) - min(known)
    days = next((days for days in _LENGTHS_DAYS if span // days < most), span // most + 1)
    return Grid(first, days, span // days + 1)


def periods_of(samples: Samples, rules: Rules, grid: Grid) -> list[Period]:
    """The figures of each period of the grid; they are None where it has no samples."""
    rows: list[list[int]] = [[] for _ in range(grid.count)]
    for row, at_s in enumerate(samples.at_s):
        if at_s < math.inf:
            rows[(math.floor(at_s / _DAY_S) - grid.first) // grid.days].append(row)
    return [
        Period(_date(grid.first + number * grid.days), grid.days, measures_of(only(samples, members), rules))
        for number, members in enumerate(rows)
    ]


def by_stratum(samples: Samples) -> dict[tuple[str, str], Samples]:
    """The samples of each category and complexity."""
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for row, stratum in enumerate(samples.stratum):
        rows[stratum].append(row)
    return {samples.strata[stratum]: only(samples, members) for stratum, members in rows.items()}


def only(samples: Samples, rows: Sequence[int]) -> Samples:
    """Those of the samples that stand in these rows. What is said of all events stays as it is."""
    return replace(
        samples,
        stratum=array("i", map(samples.stratum.__getitem__, rows)),
        at_s=array("d", map(samples.at_s.__getitem__, rows)),
        predicted=array("q", map(samples.predicted.__getitem__, rows)),
        actual=array("q", map(samples.actual.__getitem__, rows)),
        budget=array("q", map(samples.budget.__getitem__, rows)),
        nearest=array("q", map(samples.nearest.__getitem__, rows)),
        success=bytes(map(samples.success.__getitem__, rows)),
        truncated=bytes(map(samples.truncated.__getitem__, rows)),
        phase=array("i", map(samples.phase.__getitem__, rows)),
        run=array("i", map(samples.run.__getitem__, rows)),
    )


def _date(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()
