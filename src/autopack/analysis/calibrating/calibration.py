"""New coefficients and budgets from recorded replies, each only as far as the data carry it. Pure.

Runs are split into two halves, because a promise must not rest on the replies that the prediction was fitted to:

    fitting half    coefficients (`coefficient_fit`), cross-validated by run (`cross_validation`); they are taken only
                    when they are certainly better on unseen runs, else those in force stay
    promise half    budget factors per stratum (`conformal`) for the predictions that result

Where no fit is tried (too few data, or not wanted) the predictions do not depend on the replies, and all of them
carry the promise. The safety margin, floors, buffer and cap stay as they are. Nothing is applied: the result holds a
whole set of coefficients that may be written to a file.
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
from autopack.analysis.calibrating.cross_validation import Comparison, compared, dealt, predicted_unseen
from autopack.analysis.calibrating.history import KINDS, History, Reply
from autopack.analysis.sampling.samples import Counts, Samples
from autopack.analysis.validating.cells import cells_of
from autopack.analysis.validating.measures import Measures, group_of
from autopack.estimation.coefficients import Coefficients, Marginals, MarginalTable
from autopack.estimation.estimator import budget_of

LEVEL = 0.95
UNDERESTIMATION_FACTOR = 1.1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to calibrate.

    alpha_percent     share of future replies that a promised budget may cut, at most
    worth_replies     how many replies the coefficients in force are worth
    min_replies       informative replies that a fit takes, and min_runs the runs they must come from
    folds             of the cross-validation
    coefficients      whether to fit them, and budgets: whether to promise any
    simulated         simulated replies count
    """

    alpha_percent: float = 2.0
    worth_replies: float = 1.0
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


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome, and all it rests on. `coefficients` is None where nothing is to be changed."""

    source: str
    estimator: str
    settings: Settings
    counts: Counts
    cut: int
    fit: FitResult
    budgets: list[BudgetResult]
    coefficients: Coefficients | None


def calibrate(history: History, today: Coefficients, settings: Settings, *, source: str, estimator: str) -> Calibration:
    """New coefficients, where the history carries them; `source` and `estimator` name both for people."""
    refusal = _refusal(history.replies, settings)
    fitting, promising = dealt(history.replies, 2) if refusal is None else ([], history.replies)
    fitted = _unfitted(refusal, history.replies, settings) if refusal is not None else _fitted(fitting, today, settings)
    taken = _with_changes(today, fitted.changes) if fitted.outcome == "better" else today
    budgets = _budgets(promising, today, taken, settings) if settings.budgets else []
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
        coefficients=_file(taken, factors, fitted, settings) if changed else None,
    )


def _refusal(replies: Sequence[Reply], settings: Settings) -> str | None:
    """Why no fit is tried. It depends on numbers of replies only, not on what they cost."""
    if not settings.coefficients:
        return "not asked for"
    fitting = list(filter(is_informative, dealt(replies, 2)[0]))
    runs = len({reply.run_id for reply in fitting})
    if runs < settings.min_runs:
        return f"{runs} run(s) in the half to fit to, {settings.min_runs} needed to cross-validate by run"
    if len(fitting) < settings.min_replies:
        return f"{len(fitting)} usable replies in the half to fit to, {settings.min_replies} needed"
    return None


def _unfitted(reason: str, replies: Sequence[Reply], settings: Settings) -> FitResult:
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


def _fitted(replies: Sequence[Reply], today: Coefficients, settings: Settings) -> FitResult:
    start = model_of(today)
    fitter = partial(fit, start=start, worth_replies=settings.worth_replies)
    pairs = predicted_unseen(replies, fitter, settings.folds)
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
        changes=list(_changes(replies, start, fitter(replies))),
    )


def _measures(pairs: Sequence[tuple[Reply, Model]], coefficients: Coefficients) -> Measures:
    """The verdict's figures, had these models predicted."""
    predicted = [max(1, _predicted(model, coefficients, reply)) for reply, model in pairs]
    replies = [reply for reply, _ in pairs]
    samples = Samples(
        counts=_NO_COUNTS,
        strata=[("", "")],
        used=bytes(len(pairs)),
        stratum=array("i", bytes(array("i").itemsize * len(pairs))),
        at_s=array("d", [0.0]) * len(pairs),
        predicted=array("q", predicted),
        actual=array("q", [reply.actual for reply in replies]),
        budget=array("q", map(partial(_budget, coefficients), replies, predicted)),
        nearest=array("q", [reply.actual for reply in replies]),
        phase=array("i", [-1]) * len(pairs),
        run=array("i", [-1]) * len(pairs),
        models={},
        estimators={},
        success=bytes(reply.success for reply in replies),
        truncated=bytes(reply.truncated for reply in replies),
    )
    cells = cells_of(samples, underestimation_factor=UNDERESTIMATION_FACTOR, recent_since_s=0.0)
    return group_of(cells.values()).measures(LEVEL)


def _predicted(model: Model, coefficients: Coefficients, reply: Reply) -> int:
    return int(model.expected(reply.shape) * coefficients.safety_margin)


def _budget(coefficients: Coefficients, reply: Reply, predicted: int) -> int:
    shape = reply.shape
    return min(coefficients.budget_cap, budget_of(predicted, shape.category, shape.complexity, coefficients))


def _budgets(
    replies: Sequence[Reply], today: Coefficients, taken: Coefficients, settings: Settings
) -> list[BudgetResult]:
    before, after = model_of(today), model_of(taken)

    def budget_before(reply: Reply) -> int:
        return _budget(today, reply, _predicted(before, today, reply))

    return budgets_of(replies, partial(_predicted, after, taken), budget_before, settings.alpha, today.budget_cap)


def _changes(replies: Sequence[Reply], before: Model, after: Model) -> Iterator[Change]:
    strata, marginals = _carried(filter(is_informative, replies))
    for stratum in sorted(strata):
        tokens = after.overhead_of(stratum)
        yield _change(f"overhead.{stratum}", before.overhead_of(stratum), tokens, strata[stratum])
    for index, name in enumerate(_MARGINAL_NAMES):
        if marginals[index]:
            yield _change(f"marginal.{name}", before.marginal[index], after.marginal[index], marginals[index])


def _carried(replies: Iterable[Reply]) -> tuple[Counter[str], Counter[int]]:
    """How many replies hang on each overhead, and on each marginal."""
    strata: Counter[str] = Counter()
    marginals: Counter[int] = Counter()
    for reply in replies:
        strata[reply.shape.stratum] += 1
        counts = reply.shape.new + reply.shape.modified
        marginals.update(index for index, count in enumerate(counts) if count)
    return strata, marginals


def _change(name: str, before: float, after: float, replies: int) -> Change:
    """Whole tokens: the rest would claim a precision that nobody has."""
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


def _file(taken: Coefficients, factors: Mapping[str, float], fitted: FitResult, settings: Settings) -> Coefficients:
    parts = []
    if fitted.outcome == "better":
        parts.append(f"Fitted to {fitted.replies} recorded replies of {fitted.runs} runs.")
    if factors:
        parts.append(
            f"budget_factor: at most {settings.alpha_percent:g} % of replies like the recorded ones exceed it."
        )
    earlier = {} if fitted.outcome == "better" else taken.budget_factor  # promised for other predictions
    about = " ".join([*parts, "The formula stands in autopack/token_estimator.py."])
    return msgspec.structs.replace(taken, budget_factor={**earlier, **factors}, about=about)


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
