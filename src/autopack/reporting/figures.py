"""The parts of the page that hold numbers, as tables. Each number carries its exact value in a `data` element. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from autopack.analysis.summarizing.periods import Period
from autopack.analysis.summarizing.table import OUTCOME_MARKS, largest_first, stratum_name
from autopack.analysis.tailing.line import outcome_text
from autopack.analysis.validating.estimate_text import digits, interval_text, point_text
from autopack.analysis.validating.measures import Estimate, Measures
from autopack.analysis.validating.rules import FIGURES, Figure
from autopack.analysis.validating.validation import FIGURES_BY_NAME, RuleResult, StratumResult, Validation
from autopack.reporting.calls import Call, Names
from autopack.reporting.markup import Markup, joined, tag

WORST_SHOWN = 20
_LONGEST_NAMES = (36, 20)


def table(identifier: str, caption: str, header: Sequence[str], rows: Iterable[Markup], *, labels: int = 1) -> Markup:
    """A table that can be scrolled on its own, also with the keyboard; its first `labels` columns, and an outcome, are
    text.
    """
    heads = (
        tag("th", name, scope="col", class_=None if place < labels or name == "outcome" else "number")
        for place, name in enumerate(header)
    )
    inner = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *rows),
        id=identifier,
    )
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def row(label: str, *cells: Markup, **attributes: str | bool | None) -> Markup:
    """A row whose first cell names it."""
    return tag("tr", tag("th", label, scope="row"), *cells, **attributes)


def figures_table(validation: Validation) -> Markup:
    """What the rules judge, and how."""
    level = f"{validation.rules.level * 100:g} %"
    return table(
        "figures",
        "The figures that are judged",
        ("figure", "samples", "value", f"{level} interval", "limit", "outcome"),
        map(_rule, validation.results),
    )


def strata_table(validation: Validation) -> Markup:
    """Every category and complexity with all figures, the largest first."""
    header = ("category/complexity", "samples", *(figure.title for figure in FIGURES))
    rows = map(_stratum, largest_first(validation.strata))
    return table("strata", "Figures by category and complexity, with intervals", header, rows)


def periods_table(periods: Sequence[Period]) -> Markup:
    """Every period with all figures."""
    days = periods[0].days if periods else 1
    header = ("from (UTC)", "samples", *(figure.title for figure in FIGURES))
    rows = (row(period.begin, number(period.measures.n), *_all(period.measures)) for period in periods)
    return table("periods", f"Figures over time, each row {days} day{'s' * (days > 1)}", header, rows)


def drift_table(validation: Validation) -> Markup:
    """The last days against what was before."""
    drift = validation.drift
    rows = (
        row(
            FIGURES_BY_NAME[line.name].title,
            _estimate(line.recent, FIGURES_BY_NAME[line.name]),
            _estimate(line.earlier, FIGURES_BY_NAME[line.name]),
            tag("td", "worse" if line.worse else "", class_="number"),
        )
        for line in drift.rows
    )
    header = (
        "figure",
        f"last {drift.days:g} days ({drift.recent} samples)",
        f"before ({drift.earlier} samples)",
        "course",
    )
    return table("drift", "Has it become worse?", header, rows)


def rules_table(validation: Validation) -> Markup:
    """Every rule with its value."""
    values = msgspec.structs.asdict(validation.rules).items()
    rows = (
        row(name, tag("td", " ".join(value) or "all" if isinstance(value, tuple) else str(value)))
        for name, value in values
    )
    return table("rules-table", "The rules of the verdict", ("rule", "value"), rows, labels=2)


def worst_table(calls: Sequence[Call], names: Names) -> Markup:
    """The calls with the largest errors. All are there, so that the filters find some; the first twenty are shown."""
    header = (
        "run/phase",
        "when (UTC)",
        "category/complexity",
        "model",
        "SMAPE",
        "predicted",
        "actual",
        "budget",
        "outcome",
    )
    rows = (_call(call, names, hidden=place >= WORST_SHOWN) for place, call in enumerate(calls))
    return table("worst", "The twenty calls with the largest error", header, rows, labels=4)


def number(value: int, before: str = "") -> Markup:
    """A cell with a count, and what stands before it."""
    return tag("td", before, tag("data", f"{value:,}".replace(",", "\u202f"), value=str(value)), class_="number")


def _rule(result: RuleResult) -> Markup:
    figure, estimate = FIGURES_BY_NAME[result.name], result.estimate
    more = "" if result.more_needed is None else f", {result.more_needed} more needed"
    return row(
        result.title,
        number(estimate.n),
        tag("td", _value(estimate.point, point_text(estimate, figure)), class_="number"),
        tag("td", _interval(estimate), class_="number"),
        tag("td", figure.demand(result.limit), class_="number"),
        tag("td", tag("span", OUTCOME_MARKS[result.outcome], class_=f"outcome {result.outcome}"), more),
        data_name=result.name,
    )


def _stratum(stratum: StratumResult) -> Markup:
    more = f" (+{stratum.more_needed})" if stratum.more_needed else ""
    samples = tag("td", tag("data", str(stratum.measures.n), value=str(stratum.measures.n)), more, class_="number")
    return row(stratum_name(stratum, *_LONGEST_NAMES), samples, *_all(stratum.measures))


def _all(measures: Measures) -> Iterable[Markup]:
    return (_estimate(getattr(measures, figure.name), figure) for figure in FIGURES)


def _estimate(estimate: Estimate, figure: Figure) -> Markup:
    interval = tag("span", _interval(estimate), class_="interval") if estimate.point is not None else None
    return tag("td", _value(estimate.point, point_text(estimate, figure)), interval, class_="number")


def _interval(estimate: Estimate) -> Markup:
    lower, upper = _value(estimate.lower, digits(estimate.lower)), _value(estimate.upper, digits(estimate.upper))
    return tag("span", "[", lower, ", ", upper, "]", title=interval_text(estimate))


def _value(exact: float | None, shown: str) -> Markup:
    return joined(shown) if exact is None else tag("data", shown, value=repr(exact))


def _call(call: Call, names: Names, *, hidden: bool) -> Markup:
    at_least = "≥ " if call.truncated else ""
    outcome = outcome_text(truncated=call.truncated, failed=not call.success, over_budget=call.actual > call.budget)
    return row(
        f"{names.runs[call.run]}/{call.phase}",
        tag("td", _time(call.at_s)),
        tag("td", f"{names.categories[call.category]}/{names.complexities[call.complexity]}"),
        tag("td", names.models[call.model]),
        tag("td", at_least, _value(call.smape_percent, digits(call.smape_percent)), " %", class_="number"),
        number(call.predicted),
        number(call.actual, at_least),
        number(call.budget),
        tag("td", outcome),
        data_run=str(call.run),
        data_category=str(call.category),
        data_model=str(call.model),
        hidden=hidden,
    )


def _time(at_s: float | None) -> str:
    return "-" if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")
