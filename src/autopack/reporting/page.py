"""The page: one HTML file that needs nothing else and asks for nothing. Pure.

Its Content-Security-Policy lets no request leave it, and no script run but the two in it, which are named by their
hashes. Styles are not named: plotly sets some of its own, and without requests a style can do no harm.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from autopack._util.text import truncate_for_display
from autopack.analysis.summarizing.periods import Period
from autopack.analysis.summarizing.table import largest_first
from autopack.analysis.validating.measures import Measures
from autopack.analysis.validating.rules import FIGURES
from autopack.analysis.validating.table import headline, samples_line
from autopack.analysis.validating.validation import Validation
from autopack.maintenance.health import StatusReport
from autopack.reporting.calls import Calls
from autopack.reporting.figures import drift_table, figures_table, periods_table, rules_table, strata_table, worst_table
from autopack.reporting.health import health_section
from autopack.reporting.markup import Markup, data_script, joined, tag

_ASSETS = files("autopack.reporting") / "assets"


def page(validation: Validation, periods: Sequence[Period], calls: Calls, health: StatusReport, plotly_js: str) -> str:
    """The whole document; `plotly_js` is the library."""
    script = (_ASSETS / "report.js").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(plotly_js, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"autopack report: {validation.verdict}"),
        tag("style", Markup((_ASSETS / "report.css").read_text("utf-8"))),
    )
    body = tag(
        "body",
        tag("a", "Skip to the figures", href="#main", class_="skip"),
        _header(validation),
        tag("main", *_sections(validation, periods, calls, health), id="main"),
        data_script("report-data", _data(validation, periods, calls)),
        tag("script", Markup(plotly_js)),
        tag("script", Markup(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _policy(*scripts: str) -> str:
    return (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _header(validation: Validation) -> Markup:
    as_of = datetime.fromtimestamp(validation.as_of_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return tag(
        "header",
        tag("h1", "Predicted output tokens against actual ones"),
        tag("p", f"As of {as_of}, from {validation.source}. ", samples_line(validation), "."),
    )


def _sections(
    validation: Validation, periods: Sequence[Period], calls: Calls, health: StatusReport
) -> Iterator[Markup]:
    level = f"{validation.rules.level * 100:g} %"
    yield _section("verdict", "Verdict", *_verdict(validation))
    yield _section("filters", "Calls", _filters(calls))
    yield _section(
        "calls",
        "Predicted against actual",
        _plot(
            "plot-calls",
            "Each point is a call, on logarithmic axes. Above the line more came than was predicted. "
            "Of a truncated reply, an open and larger mark, only a lower bound is known: it would lie higher.",
            "Scatter plot of actual against predicted output tokens, by category",
        ),
    )
    yield _section(
        "strata-section",
        "Error by category and complexity",
        _choice("strata-figure"),
        _plot(
            "plot-strata",
            f"The figure of each group with its {level} interval; dashed: the limit; an open mark: "
            "too few samples for an upper end. All runs and models; only the category filter applies.",
            "The chosen figure of each category and complexity with its interval; the table below has all of them",
        ),
        strata_table(validation),
    )
    yield _section(
        "budget",
        "Waste of budget",
        _budget(calls),
        _plot(
            "plot-budget",
            "How much of the selected budget the calls used; beyond the dashed line it was exceeded.",
            "Histogram of the used part of the budget",
        ),
    )
    yield _section(
        "time",
        "Over time",
        _choice("time-figure"),
        _plot(
            "plot-time",
            f"The figure of each period with its {level} interval; dashed: the limit. The filters do not apply.",
            "The chosen figure over time with its interval; the table below has all of them",
        ),
        tag("details", tag("summary", "All figures over time"), periods_table(periods)),
        drift_table(validation) if validation.drift.recent and validation.drift.earlier else None,
    )
    yield _section(
        "worst-section",
        "The worst calls",
        tag(
            "p",
            "By SMAPE, of the calls that succeeded or were truncated; of a truncated reply it is at least that.",
            class_="note",
        ),
        worst_table(calls.worst, calls.names),
    )
    yield _section("health-section", "Health of the writer", health_section(health))
    yield _section(
        "rules",
        "By these rules",
        rules_table(validation),
        tag(
            "p",
            "Intervals are Wilson's for rates and order statistics for quantiles. best–worst: what "
            "depends on what truncated replies would have been.",
            class_="note",
        ),
    )


def _section(identifier: str, heading: str, *children: Markup | None) -> Markup:
    return tag(
        "section",
        tag("h2", heading, id=f"{identifier}-heading"),
        *children,
        id=identifier,
        aria_labelledby=f"{identifier}-heading",
    )


def _verdict(validation: Validation) -> Iterator[Markup]:
    said = headline(validation).removeprefix("verdict: ")
    yield tag("p", tag("strong", said, class_=f"verdict {validation.verdict.replace(' ', '-')}", id="headline"))
    for heading, texts in (
        ("Why not", validation.reasons),
        ("What is missing", validation.missing),
        ("To be known", validation.remarks),
    ):
        if texts:
            yield joined(tag("h3", heading), tag("ul", *(tag("li", text) for text in texts)))
    yield figures_table(validation)


def _filters(calls: Calls) -> Markup:
    names = calls.names
    return joined(
        tag(
            "p",
            f"Plotted: {len(calls.plotted)} of {calls.total} calls"
            + (", evenly spaced in time." if len(calls.plotted) < calls.total else ".")
            + " The filters apply to the plots of calls and to the list of the worst; they never change the verdict, "
            "which autopack validate --run-id gives for a part.",
            class_="note",
        ),
        tag(
            "div",
            _filter("run", "Run", names.runs),
            _filter("category", "Category", names.categories),
            _filter("model", "Model", names.models),
            tag("button", "Show all", type="button", id="reset"),
            class_="filters",
            role="group",
            aria_label="Filters",
        ),
        tag("p", "", id="shown", class_="note", role="status"),
        tag("p", "Plots and filters need JavaScript; the tables have all figures.", id="without-script"),
    )


def _filter(name: str, label: str, values: Sequence[str]) -> Markup:
    options = (tag("option", value, value=str(place)) for place, value in enumerate(values))
    return tag("label", label, tag("select", tag("option", "all", value=""), *options, id=f"filter-{name}"))


def _choice(identifier: str) -> Markup:
    options = (
        tag("option", figure.title, value=figure.name, selected=figure.name == "smape_median_percent")
        for figure in FIGURES
    )
    return tag("label", "Figure: ", tag("select", *options, id=identifier), class_="choice")


def _plot(identifier: str, caption: str, label: str) -> Markup:
    return tag(
        "figure", tag("div", id=identifier, class_="plot", role="img", aria_label=label), tag("figcaption", caption)
    )


def _budget(calls: Calls) -> Markup | None:
    if not calls.budget_tokens:
        return None
    unused = f"{calls.unused_tokens / calls.budget_tokens * 100:.3g} %"
    return tag(
        "p",
        tag("data", unused, value=repr(calls.unused_tokens / calls.budget_tokens), id="unused"),
        f" of all {calls.budget_tokens:,} budget tokens of the {calls.total} calls were not used.",
    )


def _data(validation: Validation, periods: Sequence[Period], calls: Calls) -> dict[str, Any]:
    return {
        "names": calls.names,
        "total": calls.total,
        "plotted": calls.plotted,
        "underestimation_factor": validation.rules.underestimation_factor,
        "figures": [
            {"name": result.name, "title": result.title, "unit": result.unit, "limit": result.limit}
            for result in validation.results
        ],
        "strata": [
            {
                "category": truncate_for_display(stratum.category),
                "complexity": truncate_for_display(stratum.complexity),
                "n": stratum.measures.n,
                "estimates": _estimates(stratum.measures),
            }
            for stratum in largest_first(validation.strata)
        ],
        "periods": [
            {"begin": period.begin, "n": period.measures.n, "estimates": _estimates(period.measures)}
            for period in periods
        ],
    }


def _estimates(measures: Measures) -> dict[str, Any]:
    return {figure.name: getattr(measures, figure.name) for figure in FIGURES}
