"""Is the estimator validated on real data? Rules, figures and a verdict that can be checked by hand. Pure.

The figures and how they deal with truncated replies stand in `measures`, the samples in `samples`, the intervals in
`intervals`. A rule

    passes        when the upper end of its interval is within the limit,
    fails         when its point is not,
    is unclear    otherwise: the point is within the limit, but with so few samples that need not mean anything.

The verdict is `not validated` when a rule fails, or when the figures of the last days are certainly worse than those
before (their intervals do not overlap) and not within the limit; else `insufficient data` when a rule is unclear or a
part of the coverage is missing; else `validated`. So a failure is said also where data are missing: more of them can
only be collected, not wished for. Provisionally, points alone are compared, and nothing is unclear but what is
undetermined.

How many more samples a rule takes is the least number with which it could pass: as many, and none of them bad.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from autopack.analysis.sampling.samples import Counts, Samples
from autopack.analysis.validating.cells import Cell, Period, cells_of
from autopack.analysis.validating.drift import Drift, drift_of, recent_since
from autopack.analysis.validating.intervals import quantile_ranks, samples_until, wilson_interval
from autopack.analysis.validating.measures import Estimate, Group, Measures, Quantile, Share, group_of
from autopack.analysis.validating.rules import FIGURES, Figure, Rules

Outcome = Literal["pass", "fail", "unclear"]
Cells = Mapping[tuple[int, Period], Cell]
Verdict = Literal["validated", "not validated", "insufficient data"]


class RuleResult(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: `estimate` is over `of` (all samples, or the successes), to be `limit` at most, or below it where
    `strict`. `more_needed` is None where it passes or fails, or where no number of samples could show it.
    """

    name: str
    title: str
    unit: Literal["percent", "factor"]
    of: Literal["samples", "successes"]
    limit: float
    strict: bool
    estimate: Estimate
    outcome: Outcome
    more_needed: int | None


class CoverageResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many there are of what there must be a number of."""

    name: Literal["samples", "categories", "complexities"]
    present: int
    needed: int
    more_needed: int


class StratumResult(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of one category and complexity. `judged`: the verdict waits until there are enough of it."""

    category: str
    complexity: str
    judged: bool
    more_needed: int
    measures: Measures

    @property
    def name(self) -> str:
        """What the rules call it."""
        return f"{self.category}/{self.complexity}"


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with all it rests on; `as_of_s` is the end of the last days, in seconds since 1970.

    `reasons` say why not (empty unless `not validated`), `missing` what there is not enough of, `remarks` what a
    reader should know.
    """

    verdict: Verdict
    provisional: bool
    source: str
    as_of_s: float
    rules: Rules
    counts: Counts
    coverage: list[CoverageResult]
    overall: Measures
    results: list[RuleResult]
    strata: list[StratumResult]
    drift: Drift
    reasons: list[str]
    missing: list[str]
    remarks: list[str]


def validate(samples: Samples, rules: Rules, *, as_of_s: float, source: str) -> Validation:
    """The verdict on these samples by these rules; `source` names them for people."""
    cells = cells_of(
        samples,
        underestimation_factor=rules.underestimation_factor,
        recent_since_s=recent_since(as_of_s, rules),
    )
    everything = group_of(cells.values())
    results = [_judged(figure, everything, rules) for figure in FIGURES]
    coverage, strata = _coverage(samples, rules), _strata(samples, cells, rules)
    recent, earlier = (_period(cells, period).measures(rules.level) for period in ("recent", "earlier"))
    drift = drift_of(recent, earlier, rules, as_of_s)
    reasons = [*_failures(results), *drift.reasons]
    missing = [*_missing_coverage(coverage, strata), *_missing_evidence(results, rules)]
    return Validation(
        verdict="not validated" if reasons else "insufficient data" if missing else "validated",
        provisional=rules.provisional,
        source=source,
        as_of_s=as_of_s,
        rules=rules,
        counts=samples.counts,
        coverage=coverage,
        overall=everything.measures(rules.level),
        results=results,
        strata=strata,
        drift=drift,
        reasons=reasons,
        missing=missing,
        remarks=list(_remarks(samples, rules, drift)),
    )


def least_samples_for_rate(limit_percent: float, level: float) -> int | None:
    """How many samples it takes to show that a rate is within a limit when it never happens; None: no number does."""
    return samples_until(lambda count: _rate_is_shown(0, count, limit_percent, level), 0)


def _period(cells: Cells, wanted: str) -> Group:
    return group_of(cell for (_, period), cell in cells.items() if period == wanted)


def _judged(figure: Figure, everything: Group, rules: Rules) -> RuleResult:
    basis: Share | Quantile = getattr(everything, figure.name)
    limit: float = getattr(rules, figure.limit)
    estimate = basis.estimate(rules.level)
    outcome = _outcome(estimate, figure, limit, provisional=rules.provisional)
    return RuleResult(
        name=figure.name,
        title=figure.title,
        unit=figure.unit,
        of=figure.of,
        limit=limit,
        strict=figure.strict,
        estimate=estimate,
        outcome=outcome,
        more_needed=_more_needed(basis, figure, limit, rules) if outcome == "unclear" else None,
    )


def _outcome(estimate: Estimate, figure: Figure, limit: float, *, provisional: bool) -> Outcome:
    if estimate.point is not None and not figure.is_within(estimate.point, limit):
        return "fail"
    decisive = estimate.worst if provisional else estimate.upper
    return "pass" if decisive is not None and figure.is_within(decisive, limit) else "unclear"


def _more_needed(basis: Share | Quantile, figure: Figure, limit: float, rules: Rules) -> int | None:
    if rules.provisional:
        return None  # no number: what is undetermined stays so, and of nothing there is no point
    if isinstance(basis, Share):
        bad = basis.events + basis.undetermined
        return samples_until(lambda count: _rate_is_shown(bad, count, limit, rules.level), basis.trials)
    bad = basis.beyond(limit, strict=figure.strict)
    return samples_until(lambda count: _quantile_is_shown(bad, count, basis.fraction, rules.level), len(basis.largest))


def _rate_is_shown(events: int, count: int, limit_percent: float, level: float) -> bool:
    interval = wilson_interval(events, count, level)
    return interval is not None and interval[1] * 100 <= limit_percent


def _quantile_is_shown(bad: int, count: int, fraction: float, level: float) -> bool:
    """Whether the value at the upper end is one of those within the limit, which are the smaller ones."""
    _, upper = quantile_ranks(count, fraction, level)
    return upper is not None and upper <= count - bad


def _coverage(samples: Samples, rules: Rules) -> list[CoverageResult]:
    present = {samples.strata[index] for index in set(samples.stratum)}
    return [
        _covered("samples", len(samples), rules.min_samples),
        _covered("categories", len({category for category, _ in present}), rules.min_categories),
        _covered("complexities", len({complexity for _, complexity in present}), rules.min_complexities),
    ]


def _covered(name: Literal["samples", "categories", "complexities"], present: int, needed: int) -> CoverageResult:
    return CoverageResult(name=name, present=present, needed=needed, more_needed=max(0, needed - present))


def _strata(samples: Samples, cells: Cells, rules: Rules) -> list[StratumResult]:
    found: dict[tuple[str, str], list[Cell]] = {name: [] for name in rules.named_strata()}
    for (index, _), cell in cells.items():
        found.setdefault(samples.strata[index], []).append(cell)
    return [
        _stratum(category, complexity, group_of(parts).measures(rules.level), rules)
        for (category, complexity), parts in sorted(found.items())
    ]


def _stratum(category: str, complexity: str, measures: Measures, rules: Rules) -> StratumResult:
    judged = not rules.strata or f"{category}/{complexity}" in rules.strata
    more = max(0, rules.min_per_stratum - measures.n) if judged else 0
    return StratumResult(category=category, complexity=complexity, judged=judged, more_needed=more, measures=measures)


def _failures(results: Sequence[RuleResult]) -> Iterator[str]:
    for result in results:
        if result.outcome == "fail":
            figure = FIGURES_BY_NAME[result.name]
            yield f"{result.title}: {figure.shown(result.estimate.point)}, to be {figure.demand(result.limit)}"


def _missing_coverage(coverage: Sequence[CoverageResult], strata: Sequence[StratumResult]) -> Iterator[str]:
    singular = {"samples": "sample", "categories": "category", "complexities": "complexity"}
    for part in coverage:
        if part.more_needed:
            what = singular[part.name] if part.more_needed == 1 else part.name
            yield f"{part.more_needed} more {what} ({part.present} of {part.needed})"
    for stratum in strata:
        if stratum.more_needed:
            yield f"{stratum.more_needed} more of {stratum.name}"


def _missing_evidence(results: Sequence[RuleResult], rules: Rules) -> Iterator[str]:
    for result in results:
        if result.outcome == "unclear":
            yield _evidence(result, FIGURES_BY_NAME[result.name], provisional=rules.provisional)


def _evidence(result: RuleResult, figure: Figure, *, provisional: bool) -> str:
    claim = figure.claim_of(result.limit)
    if not result.estimate.n:
        return f"{result.of} to take {figure.claim} of" if provisional else _more(result, claim)
    if provisional:
        return f"truncated replies hide whether {claim} holds"
    return _more(result, claim)


def _more(result: RuleResult, claim: str) -> str:
    if result.more_needed is None:
        return f"no number of {result.of} can show {claim}"
    what = "" if result.of == "samples" else f" {result.of}"
    return f"{result.more_needed} more{what} before {claim} can be shown, if none of them is bad"


def _remarks(samples: Samples, rules: Rules, drift: Drift) -> Iterator[str]:
    if rules.provisional:
        yield "PROVISIONAL: points only; what the intervals say is left out of the verdict"
    else:
        yield from _out_of_reach(len(samples), rules)
    if samples.counts.imported:
        yield f"{samples.counts.imported} samples are log lines, which do not name their deliverables"
    yield from drift.remarks


def _out_of_reach(count: int, rules: Rules) -> Iterator[str]:
    """The plain word on small numbers: what cannot be shown however good the samples are."""
    limit = min(getattr(rules, figure.limit) for figure in FIGURES if figure.unit == "percent" and figure.is_rate)
    least = least_samples_for_rate(limit, rules.level)
    if least is None:
        yield f"a rate of {limit:g} % cannot be shown by any number of samples"
    elif count < least:
        yield (
            f"a rate of {limit:g} % cannot be shown with {count} samples: even if it never happens it takes {least}"
            "; --provisional judges by points only"
        )


FIGURES_BY_NAME = {figure.name: figure for figure in FIGURES}
