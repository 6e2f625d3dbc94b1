"""A verdict for people: what it is, why, what is missing, and every figure with its interval. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from autopack._util.text import escape_terminal
from autopack.analysis.tables import Part
from autopack.analysis.validating.clusters import LEAST_RUNS, Clusters
from autopack.analysis.validating.estimate_text import digits, interval_text, point_text
from autopack.analysis.validating.margins import MarginRow
from autopack.analysis.validating.measures import Estimate
from autopack.analysis.validating.rules import FIGURES, FORMER
from autopack.analysis.validating.validation import FIGURES_BY_NAME, RuleResult, Validation

MOST_STRATA = 25
MOST_LINES = 20
_LONGEST_NAME = 28
_NEARLY = 0.9

_COUNTS = (
    ("unreadable", "{} unreadable"),
    ("simulated", "{} simulated"),
    ("other_estimators", "{} of other estimators"),
    ("turns", "{} further turns, summed with their first"),
    ("repeated", "{} repeated attempts"),
    ("totals", "{} of which only the tokens of the whole call are known"),
    ("without_counts", "{} with a count of 0"),
    ("without_deliverables", "{} without real deliverables"),
)


def headline(validation: Validation) -> str:
    """The verdict, labelled where it is provisional or rests on an assumption."""
    label = "PROVISIONAL, points only: " if validation.provisional else ""
    said = ", ".join(_labels(validation))
    return f"verdict: {label}{validation.verdict.upper()}" + (f" ({said})" if said else "")


def _labels(validation: Validation) -> Iterator[str]:
    rules, clusters = validation.rules, validation.overall.clusters
    if rules.proposal is not None:
        yield f"as {escape_terminal(rules.proposal)} would have predicted, on runs that are newer"
    if rules.is_former:
        yield "the former verdict"
        return
    if rules.population == "plan" and not rules.assume_independent:
        yield f"of these {clusters.kinds if clusters else 0} phases only"
    if rules.assume_independent:
        yield "every sample taken to be independent"
    if rules.one_look:
        yield "at one look"


def clusters_line(validation: Validation) -> str:
    """How many samples there are, of how many phases and runs, and how many independent ones they are worth."""
    overall = validation.overall
    clusters = overall.clusters
    if clusters is None:
        return f"{overall.n} samples"
    too_few = "runs" if clusters.runs < LEAST_RUNS else "phases"
    worth = f"too few {too_few} to tell how many independent ones they are worth"
    if clusters.n_effective is not None:
        worth = f"worth {clusters.n_effective:.0f} independent ones{_because(clusters, overall.n)}"
    kinds, runs = _number(clusters.kinds, "phase"), _number(clusters.runs, "run")
    return f"{overall.n} samples: {kinds} in {runs}, {worth}"


def _because(clusters: Clusters, count: int) -> str:
    if clusters.n_effective is None or clusters.n_effective > _NEARLY * count:
        return ""
    by_phase = (clusters.phase_correlation or 0) / max(1, clusters.phases)
    by_run = (clusters.run_correlation or 0) / max(1, clusters.runs)
    return " (mostly the same phases again)" if by_phase >= by_run else " (a run resembles itself)"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def before_tables(validation: Validation) -> list[str]:
    """The verdict and its reasons, a line each."""
    former = "" if validation.rules.is_former else f" [the former verdict: {FORMER}]"
    lines = [headline(validation) + former, clusters_line(validation)]
    lines += _listed("reason", validation.reasons)
    lines += _listed("missing", validation.missing)
    if validation.margins is not None:
        lines += _listed("margin", [validation.margins.said])
    lines += _listed("note", validation.remarks)
    return [*lines, f"source: {escape_terminal(validation.source)}", samples_line(validation)]


def after_tables(validation: Validation) -> list[str]:
    """How to read the figures, and by which rules they were judged."""
    level = f"{validation.rules.level * 100:g} %"
    return [
        f"[…] is the {level} interval: Wilson's for rates, order statistics for quantiles, for as many independent",
        "samples as these are worth; ? is an end that takes more of them, or more runs. What depends on what truncated",
        "replies would have been is shown as best–worst. All digits: --json",
        "rules: " + ", ".join(_rules(validation)),
    ]


def parts(validation: Validation) -> Iterator[Part]:
    """The tables."""
    yield "rules", ("", "n", "figure", "interval", "limit", "outcome"), [_rule(rule) for rule in validation.results]
    if validation.margins is not None:
        yield (
            "margin, as a factor on all predictions and budgets; truncated replies count against it",
            ("", "underestimation", "budget overrun", "waste P90", "SMAPE median"),
            [_margin(row) for row in validation.margins.curve],
        )
    yield "by category/complexity", ("", "n", *(figure.title for figure in FIGURES)), _strata(validation)
    drift = validation.drift
    if drift.recent and drift.earlier:
        header = ("", f"last {drift.days:g} days (n={drift.recent})", f"before (n={drift.earlier})", "")
        yield (
            "drift",
            header,
            [
                (
                    FIGURES_BY_NAME[row.name].title,
                    _with_interval(row.recent, row.name),
                    _with_interval(row.earlier, row.name),
                    "worse" if row.worse else "",
                )
                for row in drift.rows
            ],
        )


def _listed(word: str, texts: Sequence[str]) -> list[str]:
    lines = [f"  {word}: {escape_terminal(text)}" for text in texts[:MOST_LINES]]
    rest = len(texts) - len(lines)
    return [*lines, f"  {word}: … and {rest} more (--json has all)"] if rest else lines


def samples_line(validation: Validation) -> str:
    """How many events were read, how many of them are samples, and why the others are not."""
    counts = validation.counts
    left_out = [text.format(value) for name, text in _COUNTS if (value := getattr(counts, name))]
    covered = ", ".join(f"{part.present} {part.name}" for part in validation.coverage[1:])
    return f"{counts.read} events read, {counts.used} samples ({covered}); left out: {', '.join(left_out) or 'none'}"


def _rule(rule: RuleResult) -> tuple[str, ...]:
    figure = FIGURES_BY_NAME[rule.name]
    estimate = rule.estimate
    more = "" if rule.more_needed is None else f", {rule.more_needed} more"
    return (
        figure.title,
        str(estimate.n),
        point_text(estimate, figure),
        interval_text(estimate),
        figure.demand(rule.limit),
        f"{rule.outcome}{more}" if rule.judged else f"({rule.outcome}, not judged)",
    )


def _margin(row: MarginRow) -> tuple[str, ...]:
    return (
        f"× {row.margin:g}",
        f"{digits(row.underestimation_percent)} %",
        f"{digits(row.budget_overrun_percent)} %",
        f"{digits(row.waste_p90)} ×",
        f"{digits(row.smape_median_percent)} %",
    )


def _strata(validation: Validation) -> list[tuple[str, ...]]:
    shown = sorted(validation.strata, key=lambda stratum: (-stratum.measures.n, stratum.name))
    rows = [
        (
            _name(stratum.name),
            f"{stratum.measures.n}"
            + (f" (+{stratum.more_needed})" if stratum.more_needed else "")
            + (" fails" if stratum.failures else ""),
            *(_with_interval(getattr(stratum.measures, figure.name), figure.name) for figure in FIGURES),
        )
        for stratum in shown[:MOST_STRATA]
    ]
    if rest := shown[MOST_STRATA:]:
        rows.append((f"({len(rest)} more)", str(sum(stratum.measures.n for stratum in rest)), *[""] * len(FIGURES)))
    return rows


def _with_interval(estimate: Estimate, name: str) -> str:
    if estimate.point is None:
        return "-"
    return f"{point_text(estimate, FIGURES_BY_NAME[name])} {interval_text(estimate)}"


def _rules(validation: Validation) -> Iterator[str]:
    for name, value in msgspec.structs.asdict(validation.rules).items():
        shown = escape_terminal(" ".join(value)) or "all" if isinstance(value, tuple) else value
        yield f"{name}={shown}"


def _name(name: str) -> str:
    shown = escape_terminal(name)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 3]}..."
