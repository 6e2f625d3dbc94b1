"""A calibration for people: what is proposed, before and after side by side, and the price of budgets. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from autopack._util.text import escape_terminal
from autopack.analysis.calibrating.calibration import Calibration, FitResult
from autopack.analysis.calibrating.conformal import BudgetResult
from autopack.analysis.calibrating.cross_validation import STANDARD_ERRORS
from autopack.analysis.tables import Part
from autopack.analysis.validating.rules import FIGURES

MOST_ROWS = 40
MOST_REASONS = 5


def before_tables(calibration: Calibration) -> list[str]:
    """What was read and what became of it, a line each."""
    counts = calibration.counts
    return [
        f"source: {escape_terminal(calibration.source)}",
        f"in force: {escape_terminal(calibration.estimator)}",
        f"{counts.read} events read, {counts.used - calibration.cut} used; left out: {counts.simulated} simulated, "
        f"{counts.repeated} repeated attempts, {counts.without_deliverables} without real deliverables, "
        f"{calibration.cut} with more deliverables than are stored, "
        f"{counts.unreadable + counts.totals + counts.without_counts} unusable",
        *_about_fit(calibration.fit),
        *_about_budgets(calibration),
    ]


def parts(calibration: Calibration) -> Iterator[Part]:
    """The tables."""
    fit = calibration.fit
    taken = "fitted" if fit.outcome == "better" else "fitted, not taken"
    if fit.before is not None and fit.after is not None:
        yield "on runs not seen by the fit", ("", "in force", taken), list(_figures(fit))
    if fit.changes:
        yield _shortened(
            "coefficients",
            ("", "in force", taken, "replies"),
            [
                (escape_terminal(change.name), f"{change.before:g}", f"{change.after:g}", str(change.replies))
                for change in fit.changes
            ],
        )
    if calibration.budgets:
        yield _shortened(
            "budgets, and the share of replies of new phases that exceeds them: on average at most, and in one history",
            ("", "replies", "phases", "factor", "average", "95 %", "above: now", "then", "unused: now", "then", ""),
            [_budget(budget) for budget in calibration.budgets],
        )


def _about_fit(fit: FitResult) -> Iterator[str]:
    comparison = fit.comparison
    if comparison is None:
        yield f"coefficients: {fit.outcome}: {fit.reason}"
        return
    yield (
        f"coefficients: {fit.outcome}: {comparison.replies} replies of {comparison.runs} runs in "
        f"{comparison.folds} folds; typical error before {_factor(comparison.before)}, after "
        f"{_factor(comparison.after)}"
    )
    ratio = comparison.improvement / comparison.standard_error if comparison.standard_error else math.inf
    yield f"  the improvement is {ratio:.1f} of its standard errors; more than {STANDARD_ERRORS:g} are asked for"


def _about_budgets(calibration: Calibration) -> Iterator[str]:
    if not calibration.settings.budgets:
        yield "budgets: skipped: not asked for"
        return
    promised = [budget for budget in calibration.budgets if budget.factor is not None]
    yield (
        f"budgets: promised for {len(promised)} of {len(calibration.budgets)} strata"
        + (f"; price: {_price(promised)}" if promised else "")
    )
    if calibration.spread is not None:
        power, centre = calibration.spread.power, calibration.spread.centre
        what = "one ceiling for all" if not power else f"{centre:g} × (prediction / {centre:g})^{power:g}"
        yield f"  multiples of {what}, which takes a tenth fewer tokens at least than multiples of the prediction"
    for budget in calibration.budgets[:MOST_ROWS]:
        if budget.reason:
            what = "refused" if budget.factor is None else "proposed" if budget.basis == "stratum" else "pooled"
            yield f"  {escape_terminal(budget.stratum)}: {what}: {budget.reason}"
    if calibration.answer is not None:
        answer = calibration.answer
        yield f"what validate says of these budgets on these replies: {answer.verdict}"
        yield from (f"  {escape_terminal(text)}" for text in (answer.reasons or answer.missing)[:MOST_REASONS])


def _price(promised: list[BudgetResult]) -> str:
    before, after = (_mean_unused(promised, name) for name in ("unused_before", "unused_after"))
    return f"{after:,.0f} unused tokens a reply, {before:,.0f} with the budgets in force"


def _mean_unused(promised: list[BudgetResult], name: str) -> float:
    weighted = [(getattr(budget, name), budget.replies - budget.truncated) for budget in promised]
    known = [(unused, weight) for unused, weight in weighted if unused is not None]
    return math.fsum(unused * weight for unused, weight in known) / sum(weight for _, weight in known)


def _figures(fit: FitResult) -> Iterator[tuple[str, ...]]:
    for figure in FIGURES:
        if figure.name != "truncation_percent":  # that is the ceiling's doing, not the prediction's
            yield (
                figure.title,
                *(figure.shown(getattr(measures, figure.name).point) for measures in (fit.before, fit.after)),
            )


def _budget(budget: BudgetResult) -> tuple[str, ...]:
    return (
        escape_terminal(budget.stratum),
        str(budget.replies),
        str(budget.phases),
        "-" if budget.factor is None else f"{budget.factor:.4g}",
        "-" if budget.alpha_percent is None else f"{budget.alpha_percent:.2g} %",
        "-" if budget.bound_percent is None else f"{'' if budget.bound_is_exact else '~'}{budget.bound_percent:.2g} %",
        str(budget.over_before),
        "-" if budget.over_after is None else str(budget.over_after),
        _tokens(budget.unused_before),
        _tokens(budget.unused_after),
        "refused" if budget.factor is None else "" if budget.basis == "stratum" else "pooled",
    )


def _shortened(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Part:
    if len(rows) > MOST_ROWS:
        more = (f"({len(rows) - MOST_ROWS} more: --json)", *[""] * (len(header) - 1))
        rows = [*rows[:MOST_ROWS], more]
    return title, header, rows


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _factor(error: float) -> str:
    """A mean of logarithms as the factor that it stands for."""
    return f"× {math.exp(error):.3g}"
