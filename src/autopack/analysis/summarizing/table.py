"""A summary for people: the verdict, every figure with its course, and every stratum, in a few small tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autopack._util.text import truncate_for_display
from autopack.analysis.sampling.samples import Samples
from autopack.analysis.summarizing.periods import Grid, Period, by_stratum, periods_of
from autopack.analysis.tables import Part
from autopack.analysis.validating.estimate_text import interval_text, point_text
from autopack.analysis.validating.measures import Estimate, Measures
from autopack.analysis.validating.rules import FIGURES, Figure
from autopack.analysis.validating.validation import FIGURES_BY_NAME, RuleResult, StratumResult, Validation

MOST_STRATA = 25
MOST_PERIODS = 24
NARROW = 80
_LONGEST_NAMES = (24, 12)
_BARS = "▁▂▃▄▅▆▇█"
_GAP = "·"
OUTCOME_MARKS = {"pass": "✓ pass", "fail": "✗ fail", "unclear": "? unclear"}


def sparkline(values: Sequence[float | None]) -> str:
    """A bar for each value, from 0 to the largest; `·` where there is none."""
    top = max((value for value in values if value is not None), default=0) or 1
    return "".join(_GAP if value is None else _BARS[round(value / top * (len(_BARS) - 1))] for value in values)


def about_periods(periods: Sequence[Period]) -> str:
    """What a bar of a sparkline stands for."""
    if not periods:
        return "No sample says when it was."
    length = "a day" if periods[0].days == 1 else f"{periods[0].days} days"
    samples = sparkline([period.measures.n for period in periods])
    return f"samples from {periods[0].begin} on, a bar for {length} (UTC): {samples}"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What summary and report are made of."""

    validation: Validation
    samples: Samples
    grid: Grid
    periods: list[Period]


def largest_first(strata: Iterable[StratumResult]) -> list[StratumResult]:
    """The strata, those with the most samples first."""
    return sorted(strata, key=lambda stratum: (-stratum.measures.n, stratum.name))


def stratum_name(stratum: StratumResult, longest_category: int, longest_complexity: int) -> str:
    """Both names of a stratum. Each is cut by itself, so that a long category does not take the complexity away."""
    category = truncate_for_display(stratum.category, longest_category)
    return f"{category}/{truncate_for_display(stratum.complexity, longest_complexity)}"


def parts(gathered: Gathered, *, narrow: bool) -> Iterator[Part]:
    """The tables; `narrow` leaves out what a small terminal has no room for."""
    yield "figures", *_figures(gathered.validation, gathered.periods, narrow=narrow)
    yield "by category/complexity", *_strata(gathered, narrow=narrow)


def _figures(
    validation: Validation, periods: Sequence[Period], *, narrow: bool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("", "figure", "outcome") if narrow else ("", "figure", "interval", "limit", "outcome", "over time")
    return header, [_figure(result, periods, narrow=narrow) for result in validation.results]


def _figure(result: RuleResult, periods: Sequence[Period], *, narrow: bool) -> tuple[str, ...]:
    figure = FIGURES_BY_NAME[result.name]
    point, outcome = point_text(result.estimate, figure), OUTCOME_MARKS[result.outcome]
    if narrow:
        return result.title, point, outcome
    course = sparkline([_estimate(period.measures, figure).point for period in periods])
    return result.title, point, interval_text(result.estimate), figure.demand(result.limit), outcome, course


def _strata(gathered: Gathered, *, narrow: bool) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    figures = [figure for figure in FIGURES if not narrow or figure.name in {"waste_p90", "smape_median_percent"}]
    ordered = largest_first(gathered.validation.strata)
    shown, rest = ordered[:MOST_STRATA], ordered[MOST_STRATA:]
    rows = [_stratum(stratum, figures) for stratum in shown]
    header: tuple[str, ...] = ("", "n", *(figure.title for figure in figures))
    if not narrow:
        members = by_stratum(gathered.samples)
        rows = [(*row, _course(stratum, members, gathered)) for row, stratum in zip(rows, shown, strict=True)]
        header = (*header, "SMAPE over time")
    if rest:
        samples = str(sum(stratum.measures.n for stratum in rest))
        rows.append((f"({len(rest)} more)", samples, *[""] * (len(header) - 2)))
    return header, rows


def _stratum(stratum: StratumResult, figures: Sequence[Figure]) -> tuple[str, ...]:
    more = f" (+{stratum.more_needed})" if stratum.more_needed else ""
    points = [point_text(_estimate(stratum.measures, figure), figure) for figure in figures]
    return stratum_name(stratum, *_LONGEST_NAMES), f"{stratum.measures.n}{more}", *points


def _course(stratum: StratumResult, members: Mapping[tuple[str, str], Samples], gathered: Gathered) -> str:
    samples = members.get((stratum.category, stratum.complexity))
    if samples is None:
        return ""
    periods = periods_of(samples, gathered.validation.rules, gathered.grid)
    return sparkline([period.measures.smape_median_percent.point for period in periods])


def _estimate(measures: Measures, figure: Figure) -> Estimate:
    estimate: Estimate = getattr(measures, figure.name)
    return estimate
