"""New coefficients and budgets from recorded replies, each only as far as the data carry it. Pure.

A promise must not rest on the replies that the prediction was fitted to, and no half is held out for that: the runs
are split into folds, and each run is predicted by coefficients fitted to the others.

    coefficients   (`coefficient_fit`) are taken only when they are certainly better on unseen runs
                   (`cross_validation`), else those in force stay; what is taken is fitted to all runs
    budgets        factors per stratum (`conformal`), from the predictions of unseen runs

Where no fit is tried (too few data, or not wanted) the predictions do not depend on the replies. The safety margin,
floors, buffer and cap stay as they are. Nothing is applied: the result holds a whole set of coefficients that may be
written to a file, and what the rules of a verdict say of it on the same unseen runs.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Literal

import msgspec

from autopack.analysis.calibrating.coefficient_fit import Model, fit, is_informative, model_of
from autopack.analysis.calibrating.conformal import BudgetResult, budgets_of
from autopack.analysis.calibrating.cross_validation import Comparison, compared, predicted_unseen
from autopack.analysis.calibrating.history import KINDS, History, Reply
from autopack.analysis.calibrating.learning import Unseen, learned_from
from autopack.analysis.calibrating.spread import bases_of
from autopack.analysis.sampling.samples import Counts, Samples
from autopack.analysis.validating.cells import cells_of
from autopack.analysis.validating.measures import Measures, group_of
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.validation import Verdict, validate
from autopack.estimation.coefficients import Coefficients, Learned, Marginals, MarginalTable, Spread
from autopack.estimation.estimator import budget_of

LEVEL = 0.95
UNDERESTIMATION_FACTOR = 1.1


class CalibrationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to calibrate.

    alpha_percent     share of future replies that a promised budget may cut, at most: half of the verdict's limit, as
                      what is promised at a limit keeps it only by luck
    prior_weight      how many replies the coefficients in force weigh
    min_replies       informative replies that a fit takes, and min_runs the runs they must come from
    folds             of the cross-validation
    coefficients      whether to fit them, and budgets: whether to promise any
    simulated         simulated replies count
    """

    alpha_percent: float = 1.0
    prior_weight: float = 1.0
    min_replies: int = 30
    min_runs: int = 5
    folds: int = 10
    coefficients: bool = True
    budgets: bool = True
    simulated: bool = False

    @property
    def alpha(self) -> Fraction:
        """As the decimal number that was written, exactly."""
        return Fraction(repr(self.alpha_percent)) / 100


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One coefficient in force, and as fitted; `replies` hang on it."""

    name: str
    before: float
    after: float
    replies: int


class FitResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the coefficients.

    outcome             better: they are taken; unchanged: those in force stay; refused: too few data, see `reason`;
                        skipped: not asked for
    before, after       the verdict's figures of both, on runs that the fit has not seen
    """

    outcome: Literal["better", "unchanged", "refused", "skipped"]
    reason: str | None
    replies: int
    runs: int
    comparison: Comparison | None
    before: Measures | None
    after: Measures | None
    changes: list[Change]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the verdict's default rules say of the proposed budgets, on the recorded replies."""

    verdict: Verdict
    reasons: list[str]
    missing: list[str]


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome, and all it rests on. `coefficients` is None where nothing is to be changed, and `answer` where no
    budget is proposed. `spread` says what budgets are multiples of, where that is not the prediction.
    """

    source: str
    estimator: str
    settings: CalibrationSettings
    counts: Counts
    cut: int
    fit: FitResult
    budgets: list[BudgetResult]
    spread: Spread | None
    answer: Answer | None
    coefficients: Coefficients | None


def calibrate(
    history: History, today: Coefficients, settings: CalibrationSettings, *, source: str, estimator: str
) -> Calibration:
    """New coefficients, where the history carries them; `source` and `estimator` name both for people."""
    refusal = _refusal(history.replies, settings)
    start = model_of(today)
    if refusal is None:
        fitter = partial(fit, start=start, prior_weight=settings.prior_weight)
        pairs = predicted_unseen(history.replies, fitter, settings.folds)
        fitted = _fitted(pairs, fitter(list(filter(is_informative, history.replies))), today, settings)
    else:
        pairs, fitted = [], _unfitted(refusal, history.replies, settings)
    taken = _with_changes(today, fitted.changes) if fitted.outcome == "better" else today
    unseen = pairs if fitted.outcome == "better" else [(reply, start) for reply in history.replies]
    replies = [reply for reply, _ in unseen]
    predicted = {id(reply): _predicted(model, today, reply) for reply, model in unseen}
    spread, bases = bases_of(replies, predicted, settings.alpha, today.budget_cap)
    unseen_replies = Unseen(replies, bases)
    budgets = _budgets(unseen_replies, today, settings) if settings.budgets else []
    factors = {budget.stratum: budget.factor for budget in budgets if budget.factor is not None}
    changed = fitted.outcome == "better" or bool(factors)
    return Calibration(
        source=source,
        estimator=estimator,
        settings=settings,
        counts=history.counts,
        cut=history.cut,
        fit=fitted,
        budgets=budgets,
        spread=spread if factors else None,
        answer=_answer(unseen, today, factors, spread) if factors else None,
        coefficients=_file(
            _rebased(taken, spread if factors else today.budget_spread, fitted),
            factors,
            fitted,
            budgets,
            learned_from(unseen_replies, budgets, settings.alpha if settings.budgets else None, today.budget_cap),
        )
        if changed
        else None,
    )


def _answer(
    unseen: Sequence[tuple[Reply, Model]], today: Coefficients, factors: Mapping[str, float], spread: Spread | None
) -> Answer:
    """What the rules of a verdict say of the proposal, on replies that its predictions have not seen."""
    proposed = msgspec.structs.replace(today, budget_factor={**today.budget_factor, **factors}, budget_spread=spread)
    found = validate(_samples(unseen, proposed), Rules(proposal="the proposal"), as_of_s=0.0, source="")
    return Answer(verdict=found.verdict, reasons=found.reasons, missing=found.missing)


def _refusal(replies: Sequence[Reply], settings: CalibrationSettings) -> str | None:
    """Why no fit is tried. It depends on numbers of replies only, not on what they cost."""
    if not settings.coefficients:
        return "not asked for"
    fitting = list(filter(is_informative, replies))
    runs = len({reply.run_id for reply in fitting})
    if runs < settings.min_runs:
        return f"{runs} run(s) to fit to, {settings.min_runs} needed to cross-validate by run"
    if len(fitting) < settings.min_replies:
        return f"{len(fitting)} usable replies to fit to, {settings.min_replies} needed"
    return None


def _unfitted(reason: str, replies: Sequence[Reply], settings: CalibrationSettings) -> FitResult:
    return FitResult(
        outcome="refused" if settings.coefficients else "skipped",
        reason=reason,
        replies=len(replies),
        runs=len({reply.run_id for reply in replies}),
        comparison=None,
        before=None,
        after=None,
        changes=[],
    )


def _fitted(
    every: Sequence[tuple[Reply, Model]], final: Model, today: Coefficients, settings: CalibrationSettings
) -> FitResult:
    start = model_of(today)
    pairs = [(reply, model) for reply, model in every if is_informative(reply)]
    comparison = compared(pairs, start, settings.folds)
    better = comparison.is_certain
    return FitResult(
        outcome="better" if better else "unchanged",
        reason=None if better else "on unseen runs the fitted coefficients are not better beyond chance",
        replies=len(pairs),
        runs=comparison.runs,
        comparison=comparison,
        before=_measures([(reply, start) for reply, _ in pairs], today),
        after=_measures(pairs, today),
        changes=list(_changes([reply for reply, _ in pairs], start, final)),
    )


def _measures(pairs: Sequence[tuple[Reply, Model]], coefficients: Coefficients) -> Measures:
    """The verdict's figures, had these models predicted."""
    cells = cells_of(_samples(pairs, coefficients), underestimation_factor=UNDERESTIMATION_FACTOR, recent_since_s=0.0)
    return group_of(cells.values()).measures(LEVEL)


def _samples(pairs: Sequence[tuple[Reply, Model]], coefficients: Coefficients) -> Samples:
    """The samples of a verdict, had these models predicted."""
    predicted = [max(1, _predicted(model, coefficients, reply)) for reply, model in pairs]
    replies = [reply for reply, _ in pairs]
    names = sorted({(reply.shape.category, reply.shape.complexity) for reply in replies})
    numbers = {name: number for number, name in enumerate(names)}
    return Samples(
        counts=_NO_COUNTS,
        strata=names,
        used=bytes(len(pairs)),
        stratum=array("i", [numbers[reply.shape.category, reply.shape.complexity] for reply in replies]),
        at_s=array("d", [reply.at_s for reply in replies]),
        predicted=array("q", predicted),
        actual=array("q", [reply.actual for reply in replies]),
        budget=array("q", map(partial(_budget, coefficients), replies, predicted)),
        nearest=array("q", [reply.actual for reply in replies]),
        phase=_numbered([reply.phase for reply in replies]),
        run=_numbered([reply.run_id for reply in replies]),
        models=Counter(reply.model for reply in replies),
        estimators={},
        success=bytes(reply.success for reply in replies),
        truncated=bytes(reply.truncated for reply in replies),
    )


def _numbered(names: Sequence[str]) -> array[int]:
    """A number for each name that occurs more than once; -1 for the others."""
    several = [name for name, count in Counter(names).items() if name and count > 1]
    numbers = {name: number for number, name in enumerate(several)}
    return array("i", [numbers.get(name, -1) for name in names])


def _predicted(model: Model, coefficients: Coefficients, reply: Reply) -> int:
    return int(model.expected(reply.shape) * coefficients.safety_margin)


def _budget(coefficients: Coefficients, reply: Reply, predicted: int) -> int:
    shape = reply.shape
    return min(coefficients.budget_cap, budget_of(predicted, shape.category, shape.complexity, coefficients))


def _budgets(unseen: Unseen, today: Coefficients, settings: CalibrationSettings) -> list[BudgetResult]:
    before = model_of(today)

    def budget_before(reply: Reply) -> int:
        return _budget(today, reply, _predicted(before, today, reply))

    return budgets_of(unseen.replies, unseen.base, budget_before, settings.alpha, today.budget_cap)


def _changes(replies: Sequence[Reply], before: Model, after: Model) -> Iterator[Change]:
    strata, marginals = _replies_behind(filter(is_informative, replies))
    for stratum in sorted(strata):
        tokens = after.overhead_of(stratum)
        yield _change(f"overhead.{stratum}", before.overhead_of(stratum), tokens, strata[stratum])
    for index, name in enumerate(_MARGINAL_NAMES):
        if marginals[index]:
            yield _change(f"marginal.{name}", before.marginal[index], after.marginal[index], marginals[index])


def _replies_behind(replies: Iterable[Reply]) -> tuple[Counter[str], Counter[int]]:
    """How many replies hang on each overhead, and on each marginal."""
    strata: Counter[str] = Counter()
    marginals: Counter[int] = Counter()
    for reply in replies:
        strata[reply.shape.stratum] += 1
        counts = reply.shape.new + reply.shape.modified
        marginals.update(index for index, count in enumerate(counts) if count)
    return strata, marginals


def _change(name: str, before: float, after: float, replies: int) -> Change:
    """Whole tokens: the rest would claim a precision that no fit has."""
    return Change(name=name, before=before, after=float(max(1, round(after))) if before else 0.0, replies=replies)


def _with_changes(today: Coefficients, changes: Iterable[Change]) -> Coefficients:
    values = {change.name: change.after for change in changes}
    overhead = {
        name.removeprefix("overhead."): tokens for name, tokens in values.items() if name.startswith("overhead.")
    }
    return msgspec.structs.replace(
        today,
        overhead={**today.overhead, **overhead},
        marginal=MarginalTable(
            new=_marginals(today.marginal.new, "new", values),
            modified=_marginals(today.marginal.modified, "modified", values),
        ),
    )


def _marginals(table: Marginals, name: str, values: Mapping[str, float]) -> Marginals:
    return Marginals(**{kind: values.get(f"marginal.{name}.{kind}", getattr(table, kind)) for kind in KINDS})


def _rebased(taken: Coefficients, spread: Spread | None, fitted: FitResult) -> Coefficients:
    """With these bases: what was promised for other ones, or for other predictions, holds no longer."""
    is_kept = fitted.outcome != "better" and taken.budget_spread == spread
    return msgspec.structs.replace(taken, budget_spread=spread, budget_factor=taken.budget_factor if is_kept else {})


def _file(
    taken: Coefficients,
    factors: Mapping[str, float],
    fitted: FitResult,
    budgets: Sequence[BudgetResult],
    learned: Learned,
) -> Coefficients:
    parts = []
    if fitted.outcome == "better":
        parts.append(f"Fitted to {fitted.replies} recorded replies of {fitted.runs} runs.")
    if factors:
        alphas = sorted({budget.alpha_percent for budget in budgets if budget.alpha_percent is not None})
        said = " or ".join(f"{alpha:.2g} %" for alpha in alphas)
        parts.append(f"budget_factor: at most {said} of replies of phases like the recorded ones exceed it.")
    about = " ".join([*parts, "The formula stands in autopack/token_estimator.py."])
    return msgspec.structs.replace(
        taken, budget_factor={**taken.budget_factor, **factors}, about=about, learned=learned
    )


_MARGINAL_NAMES = [f"{table}.{kind}" for table in ("new", "modified") for kind in KINDS]
_NO_COUNTS = Counts(
    read=0,
    unreadable=0,
    simulated=0,
    repeated=0,
    totals=0,
    without_counts=0,
    without_deliverables=0,
    used=0,
    imported=0,
    failed=0,
    truncated=0,
)
