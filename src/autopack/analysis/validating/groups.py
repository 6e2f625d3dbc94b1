"""The groups of samples that a verdict speaks of: all that are judged, each stratum, the periods. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from autopack.analysis.sampling.samples import Samples
from autopack.analysis.validating.cells import Cell, Period, cells_of
from autopack.analysis.validating.clusters import Sizes, Tallies, Tally
from autopack.analysis.validating.measures import Group, Measures, group_of
from autopack.analysis.validating.rules import Rules

_PERIODS: Mapping[Period, int] = {"earlier": 0, "recent": 1, "unknown": 2}


class Groups:
    """Samples, once looked at; a group is made of cells when it is asked for."""

    def __init__(self, samples: Samples, rules: Rules, *, recent_since_s: float) -> None:
        self._rules = rules
        self._cells = cells_of(
            samples, underestimation_factor=rules.underestimation_factor, recent_since_s=recent_since_s
        )
        self.judged = _judged(samples, rules)
        self._tallies: Tallies | None = None
        self._by_stratum: dict[int, Tally] = {}
        if not rules.assume_independent:
            self._tallies = Tallies(samples, rules, recent_since_s=recent_since_s)
            self._by_stratum = self._tallies.by_stratum()

    def whole(self, period: Period | None = None) -> Group:
        """All samples that are judged, or those of a period."""
        cells = [cell for (stratum, when), cell in self._cells.items() if self._counts(stratum, when, period)]
        if self._tallies is None:
            return group_of(cells)
        tally = self._tallies.of(self.judged, None if period is None else _PERIODS[period])
        return group_of(cells, tally.sizes(self._rules.level))

    def strata(self) -> dict[int, Group]:
        """Each stratum that occurs."""
        found: dict[int, list[Cell]] = {}
        for (stratum, _), cell in self._cells.items():
            found.setdefault(stratum, []).append(cell)
        return {stratum: group_of(cells, self.sizes(stratum, self._rules.level)) for stratum, cells in found.items()}

    def sizes(self, stratum: int, level: float) -> Sizes | None:
        """What a stratum is worth at a level; None where samples are taken to be independent."""
        return None if self._tallies is None else self._by_stratum[stratum].sizes(level)

    def _counts(self, stratum: int, when: Period, period: Period | None) -> bool:
        return (self.judged is None or stratum in self.judged) and period in (None, when)


def measures_of(samples: Samples, rules: Rules) -> Measures:
    """The figures of all these samples."""
    return Groups(samples, rules, recent_since_s=0).whole().measures(rules.level)


def _judged(samples: Samples, rules: Rules) -> frozenset[int] | None:
    """The strata that count as the whole; None is all."""
    if not rules.strata or rules.is_former:
        return None
    named = set(rules.named_strata())
    return frozenset(index for index, name in enumerate(samples.strata) if name in named)
