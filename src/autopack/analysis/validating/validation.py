"""Is the estimator validated on real data? Rules, figures and a verdict that can be checked by hand. Pure.

What a sample is stands in `samples`, how many independent ones a group is worth in `clusters`, the figures and how they
deal with truncated replies in `measures`, the intervals in `intervals`. A rule that is judged

    passes        when it is shown to be within the limit at every look (`looks`), or at one look, when the upper end
                  of its interval is,
    fails         when its point is not, and its interval has both ends,
    is unclear    otherwise: the point is within the limit, but with so few independent samples that need not mean
                  anything; or there are fewer than five runs, or a single phase, and nothing can be told.

A stratum that is judged fails when the lower end of its interval, at the level 1 - (1 - level) / strata, is beyond a
limit that is judged; it is missing while it has too few runs or samples, and it is never passed by the others.

The verdict is `not validated` when a rule or a stratum fails, or when the figures of the last days are certainly worse
than those before (their intervals do not overlap) and not within the limit; else `insufficient data` when a rule is
unclear or something is missing; else `validated`. So a failure is said also where data are missing: more of them can
only be collected, not wished for. Provisionally, points alone are compared, and nothing is unclear but what is
undetermined.

How many more samples a rule takes is the least number of independent ones with which it could pass: as many, and none
of them bad.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from autopack.analysis.sampling.samples import WITHOUT_FILES, Counts, Samples
from autopack.analysis.validating.clusters import LEAST_RUNS, Clusters
from autopack.analysis.validating.drift import Drift, drift_of, recent_since
from autopack.analysis.validating.groups import Groups
from autopack.analysis.validating.judging import (
    FIGURES_BY_NAME,
    RuleResult,
    is_certainly_beyond,
    judge,
    least_samples_for_rate,
)
from autopack.analysis.validating.margins import Margins, margins_of
from autopack.analysis.validating.measures import Group, Measures, group_of
from autopack.analysis.validating.rules import FIGURES, Figure, Rules

__all__ = ["FIGURES_BY_NAME", "CoverageResult", "RuleResult", "StratumResult", "Validation", "Verdict", "validate"]

Verdict = Literal["validated", "not validated", "insufficient data"]

_MOST_NAMED = 3


class CoverageResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many there are of what there must be a number of."""

    name: Literal["samples", "categories", "complexities"]
    present: int
    needed: int
    more_needed: int


class StratumResult(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of one category and complexity. `judged`: the verdict waits until there are enough of it.

    `more_needed` samples, and `runs_needed` runs, are missing; `failures` are the titles of the rules whose limit its
    interval lies beyond.
    """

    category: str
    complexity: str
    judged: bool
    more_needed: int
    runs_needed: int
    failures: list[str]
    measures: Measures

    @property
    def name(self) -> str:
        """What the rules call it."""
        return f"{self.category}/{self.complexity}"


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with all it rests on; `as_of_s` is the end of the last days, in seconds since 1970.

    `reasons` say why not (empty unless `not validated`), `missing` what there is not enough of, `remarks` what a
    reader should know. `models` and `estimators` count the samples of each. `margins` is there where a rule fails.
    """

    verdict: Verdict
    provisional: bool
    source: str
    as_of_s: float
    rules: Rules
    counts: Counts
    models: Mapping[str, int]
    estimators: Mapping[str, int]
    coverage: list[CoverageResult]
    overall: Measures
    results: list[RuleResult]
    strata: list[StratumResult]
    drift: Drift
    margins: Margins | None
    reasons: list[str]
    missing: list[str]
    remarks: list[str]


def validate(samples: Samples, rules: Rules, *, as_of_s: float, source: str) -> Validation:
    """The verdict on these samples by these rules; `source` names them for people."""
    groups = Groups(samples, rules, recent_since_s=recent_since(as_of_s, rules))
    everything = groups.whole()
    results = [judge(figure, everything, rules) for figure in FIGURES]
    coverage, strata = _coverage(samples, rules, groups.judged), _strata(samples, groups, rules)
    recent, earlier = (groups.whole(period).measures(rules.level) for period in ("recent", "earlier"))
    drift = drift_of(recent, earlier, rules, as_of_s)
    overall = everything.measures(rules.level)
    failures = list(_failures(results))
    reasons = [*failures, *_failed_strata(strata), *drift.reasons]
    missing = [
        *_missing_coverage(coverage, strata),
        *_missing_clusters(overall, strata, rules),
        *_missing_evidence(results, overall, rules),
    ]
    margins = margins_of(samples, rules, groups.judged) if failures and not rules.is_former else None
    return Validation(
        verdict="not validated" if reasons else "insufficient data" if missing else "validated",
        provisional=rules.provisional,
        source=source,
        as_of_s=as_of_s,
        rules=rules,
        counts=samples.counts,
        models=samples.models,
        estimators=samples.estimators,
        coverage=coverage,
        overall=overall,
        results=results,
        strata=strata,
        drift=drift,
        margins=margins,
        reasons=reasons,
        missing=missing,
        remarks=list(_remarks(samples, overall, rules, drift)),
    )


def _coverage(samples: Samples, rules: Rules, judged: frozenset[int] | None) -> list[CoverageResult]:
    present = {samples.strata[index] for index in set(samples.stratum) if judged is None or index in judged}
    count = len(samples) if judged is None else sum(map(judged.__contains__, samples.stratum))
    categories = len({category for category, _ in present})
    complexities = len({complexity.removesuffix(WITHOUT_FILES) for _, complexity in present})
    return [
        _covered("samples", count, rules.min_samples),
        _covered("categories", categories, rules.categories_needed(categories)),
        _covered("complexities", complexities, rules.complexities_needed(complexities)),
    ]


def _covered(name: Literal["samples", "categories", "complexities"], present: int, needed: int) -> CoverageResult:
    return CoverageResult(name=name, present=present, needed=needed, more_needed=max(0, needed - present))


def _strata(samples: Samples, groups: Groups, rules: Rules) -> list[StratumResult]:
    found: dict[tuple[str, str], tuple[int | None, Group]] = {
        name: (None, group_of([])) for name in rules.named_strata()
    }
    found |= {samples.strata[index]: (index, group) for index, group in groups.strata().items()}
    judged = [name for name, (index, _) in found.items() if index is not None and _is_judged(name, rules)]
    level = 1 - (1 - rules.level) / max(1, len(judged))
    return [
        _stratum(name, group, rules, _beyond(groups, index, group, level, rules))
        for name, (index, group) in sorted(found.items())
    ]


def _is_judged(name: tuple[str, str], rules: Rules) -> bool:
    return not rules.strata or "/".join(name) in rules.strata


def _beyond(groups: Groups, index: int | None, group: Group, level: float, rules: Rules) -> list[str]:
    """The rules that a stratum certainly breaks."""
    if index is None or rules.is_former or rules.provisional:
        return []
    strict = group.resized(groups.sizes(index, level))
    return [
        figure.title for figure in FIGURES if rules.judges(figure) and is_certainly_beyond(figure, strict, rules, level)
    ]


def _stratum(name: tuple[str, str], group: Group, rules: Rules, beyond: list[str]) -> StratumResult:
    measures, judged = group.measures(rules.level), _is_judged(name, rules)
    return StratumResult(
        category=name[0],
        complexity=name[1],
        judged=judged,
        more_needed=max(0, rules.min_per_stratum - measures.n) if judged else 0,
        runs_needed=max(0, LEAST_RUNS - measures.clusters.runs) if judged and measures.clusters else 0,
        failures=beyond if judged else [],
        measures=measures,
    )


def _failures(results: Sequence[RuleResult]) -> Iterator[str]:
    for result in results:
        if result.outcome == "fail" and result.judged:
            figure = FIGURES_BY_NAME[result.name]
            yield f"{result.title}: {figure.shown(result.estimate.point)}, to be {figure.demand(result.limit)}"


def _failed_strata(strata: Sequence[StratumResult]) -> Iterator[str]:
    titles = {figure.title: figure for figure in FIGURES}
    for stratum in strata:
        for title in stratum.failures:
            figure = titles[title]
            estimate = getattr(stratum.measures, figure.name)
            yield f"{stratum.name}: {title} {figure.shown(estimate.point)} of {estimate.n} samples"


def _missing_coverage(coverage: Sequence[CoverageResult], strata: Sequence[StratumResult]) -> Iterator[str]:
    singular = {"samples": "sample", "categories": "category", "complexities": "complexity"}
    for part in coverage:
        if part.more_needed:
            what = singular[part.name] if part.more_needed == 1 else part.name
            yield f"{part.more_needed} more {what} ({part.present} of {part.needed})"
    for stratum in strata:
        if stratum.more_needed:
            yield f"{stratum.more_needed} more of {stratum.name}"


def _missing_clusters(overall: Measures, strata: Sequence[StratumResult], rules: Rules) -> Iterator[str]:
    if rules.provisional or overall.clusters is None:
        return
    yield from _too_few_clusters(overall.clusters, "", _least_phases(rules))
    if overall.clusters.runs >= LEAST_RUNS:
        for stratum in strata:
            if stratum.judged and stratum.measures.clusters:
                yield from _too_few_clusters(stratum.measures.clusters, f" of {stratum.name}")


def _least_phases(rules: Rules) -> str:
    """How many phases it takes at least, where one is all there is."""
    limit = min(getattr(rules, figure.limit) for figure in _judged_rates(rules))
    least = least_samples_for_rate(limit, rules.level, one_look=rules.one_look)
    return "" if least is None else f"; a rate of {limit:g} % takes {least} at least"


def _too_few_clusters(clusters: Clusters, what: str, least: str = "") -> Iterator[str]:
    if clusters.runs < LEAST_RUNS:
        more = LEAST_RUNS - clusters.runs
        yield f"{more} more run{'s' * (more > 1)}{what} ({clusters.runs} of {LEAST_RUNS})"
    elif clusters.n_effective is None:
        yield f"other phases{what}: all samples are of one, and say nothing of others{least} (or --population plan)"


def _missing_evidence(results: Sequence[RuleResult], overall: Measures, rules: Rules) -> Iterator[str]:
    for result in results:
        if result.outcome == "unclear" and result.judged:
            if result.estimate.n and result.estimate.size is None:
                continue  # clusters are what is missing
            yield _evidence(result, overall.clusters, rules)


def _evidence(result: RuleResult, clusters: Clusters | None, rules: Rules) -> str:
    figure = FIGURES_BY_NAME[result.name]
    claim = figure.claim_of(result.limit)
    if rules.provisional:
        return (
            f"truncated replies hide whether {claim} holds"
            if result.estimate.n
            else f"{result.of} to take {figure.claim} of"
        )
    if result.more_needed is None:
        return f"no number of {result.of} can show {claim}"
    if result.estimate.point is not None and not figure.is_within(result.estimate.point, result.limit):
        return f"more {result.of} to tell whether {claim} is broken"
    more, size, n = result.more_needed, result.estimate.size, result.estimate.n
    if clusters is None or size is None or size == n:
        of = "" if result.of == "samples" else f" {result.of}"
        return f"{more} more{of} before {claim} can be shown, if none of them is bad"
    if rules.population == "plan":
        runs = max(1, -(-more * clusters.runs // max(1, int(size))))
        return f"some {runs} more runs of these phases before {claim} can be shown, if none of them is bad"
    is_out_of_reach = clusters.reach is not None and size + more > clusters.reach
    return f"{more} more phases that were not there before, none of them bad, to show {claim}" + (
        "; more nights will not suffice: other phases are needed, or --population plan" if is_out_of_reach else ""
    )


def _remarks(samples: Samples, overall: Measures, rules: Rules, drift: Drift) -> Iterator[str]:
    if rules.provisional:
        yield "PROVISIONAL: points only; what the intervals say is left out of the verdict"
    else:
        yield from _out_of_reach(overall, rules)
    if not rules.is_former:
        yield from _pooled("models", samples.models, "--model")
        yield from _pooled("estimators", samples.estimators, "--estimator")
    if samples.counts.imported:
        yield f"{samples.counts.imported} samples are log lines, which do not name their deliverables"
    yield from drift.remarks


def _pooled(what: str, counts: Mapping[str, int], option: str) -> Iterator[str]:
    if len(counts) > 1:
        named = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:_MOST_NAMED])
        rest = f" and {len(counts) - _MOST_NAMED} more" if len(counts) > _MOST_NAMED else ""
        yield f"{len(counts)} {what} are judged as one: {named}{rest}; {option} judges one of them"


def _out_of_reach(overall: Measures, rules: Rules) -> Iterator[str]:
    """The plain word on small numbers: what cannot be shown however good the samples are."""
    limit = min(getattr(rules, figure.limit) for figure in _judged_rates(rules))
    least = least_samples_for_rate(limit, rules.level, one_look=rules.one_look)
    size = overall.truncation_percent.size if overall.n else 0
    if least is None:
        yield f"a rate of {limit:g} % cannot be shown by any number of samples"
    elif size is not None and size < least:
        independent = "" if size == overall.n else "independent "
        yield (
            f"a rate of {limit:g} % cannot be shown with {size:.0f} {independent}samples: even if it never happens it "
            f"takes {least}; --provisional judges by points only"
        )


def _judged_rates(rules: Rules) -> list[Figure]:
    return [figure for figure in FIGURES if figure.unit == "percent" and figure.is_rate and rules.judges(figure)]
