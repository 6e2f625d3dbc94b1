"""Predictions and budgets on real calls, each run judged by what was learned from all others. See docs/budgets.md.

The first table has what people would do instead, each in its own way. The second compares at one level: each method
promises the same share of replies above its ceiling, counts phases and takes what a truncated reply needed for unknown,
as `autopack calibrate` does. Its pinball loss is the one at the level that was promised.

The calls are those of `../shared/data/real_calls.json`, which is not part of the project. Each call is an execution:
the repeated ones are retries and re-runs of their phase. A truncated call is a lower bound.

    python -m benchmarks.real_calls [FILE]
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from autopack.analysis.calibrating.calibration import CalibrationSettings, calibrate
from autopack.analysis.calibrating.conformal import Scores, least_phases, supported_factor
from autopack.analysis.calibrating.history import Recorded, history_of
from autopack.coefficients import shipped_coefficients
from autopack.estimation.coefficients import Coefficients
from autopack.estimation.estimator import estimate
from autopack.estimation.phases import phase_key
from autopack.estimation.suggesting import suggest_max_tokens

FRACTION = 0.95
LEVELS_PERCENT = (5.0, 15.0, 20.0, 25.0)
PRICE_IN, PRICE_OUT = 3e-6, 15e-6  # dollars a token

_DATA = Path(__file__).parents[2] / "shared" / "data" / "real_calls.json"
_MARGIN = shipped_coefficients().safety_margin


@dataclass(frozen=True)
class Call:
    """A recorded call, and the run that is left out with it."""

    run: str
    record: Recorded
    input_tokens: int

    @property
    def stratum(self) -> str:
        """Category and complexity."""
        return f"{self.record.category}/{self.record.complexity}"


@dataclass(frozen=True)
class Ceiling:
    """What is sent, and which share of replies is said to exceed it, in percent."""

    tokens: int
    guaranteed_percent: float | None = None


@dataclass(frozen=True)
class Learned:
    """What a method says of a call: the tokens that it expects, and the ceiling that it sends."""

    expected: Callable[[Call], float | None]
    budget: Callable[[Call], Ceiling]


Learn = Callable[[Sequence[Call]], Learned]


def calls_of(rows: Iterable[dict[str, Any]]) -> list[Call]:
    """The calls whose deliverables are known, in the order of their time; each repetition of a phase is a run of its
    own, left out with the others.
    """
    calls: list[Call] = []
    seen: Counter[tuple[str, str]] = Counter()
    for row in sorted((row for row in rows if row["deliverables"]), key=lambda row: str(row["at"])):
        run, category = row["run_id"] or f"day-{row['at'][:10]}", row["category"] or "unknown"
        seen[run, row["phase_id"]] += 1
        predicted = estimate(row["deliverables"], category, row["complexity"], shipped_coefficients())
        record = Recorded(
            run_id=f"{run} {seen[run, row['phase_id']]}",
            phase_id=row["phase_id"],
            category=category,
            complexity=row["complexity"],
            deliverable_count=len(row["deliverables"]),
            deliverables=row["deliverables"],
            predicted_output_tokens=predicted.predicted_output_tokens,
            actual_output_tokens=row["output_tokens"],
            selected_budget=predicted.selected_budget,
            success=not row["truncated"],
            truncated=row["truncated"],
            model=row["model"],
            timestamp=row["at"],
        )
        calls.append(Call(run, record, row["input_tokens"]))
    return calls


def shipped(_: Sequence[Call]) -> Learned:
    """The coefficients that come with the package."""
    return _of_coefficients(shipped_coefficients(), lambda call: Ceiling(call.record.selected_budget))


def one_constant(calls: Sequence[Call]) -> Learned:
    """The same for every call."""
    tokens = [call.record.actual_output_tokens for call in calls]
    return Learned(lambda _: statistics.median(tokens), lambda _: Ceiling(_quantile(tokens)))


def by_stratum(calls: Sequence[Call]) -> Learned:
    """The same for every call of a stratum; of one with too few calls, for every call."""
    pooled, strata = one_constant(calls), defaultdict(list)
    for call in calls:
        strata[call.stratum].append(call)
    own = {name: one_constant(members) for name, members in strata.items() if len(members) >= 1 / (1 - FRACTION) - 1}
    return Learned(
        lambda call: own.get(call.stratum, pooled).expected(call),
        lambda call: own.get(call.stratum, pooled).budget(call),
    )


def constant_at(calls: Sequence[Call], *, alpha_percent: float) -> Learned:
    """The same for every call, with a promise."""
    ceiling = _guaranteed(calls, alpha_percent)
    assert ceiling is not None
    return Learned(one_constant(calls).expected, lambda _: ceiling)


def stratum_at(calls: Sequence[Call], *, alpha_percent: float) -> Learned:
    """The same for every call of a stratum with phases enough, with a promise; of another one, for every call."""
    strata: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        strata[call.stratum].append(call)
    pooled = constant_at(calls, alpha_percent=alpha_percent).budget
    least = least_phases(Fraction(repr(alpha_percent)) / 100)
    own = {
        name: ceiling
        for name, members in strata.items()
        if len({_phase(call) for call in members}) >= least and (ceiling := _guaranteed(members, alpha_percent))
    }
    return Learned(by_stratum(calls).expected, lambda call: own.get(call.stratum) or pooled(call))


def calibrated(calls: Sequence[Call], *, alpha_percent: float = round(100 * (1 - FRACTION), 6)) -> Learned:
    """What `autopack calibrate` proposes and `autopack budget` makes of it."""
    settings = CalibrationSettings(alpha_percent=alpha_percent)
    history = history_of(call.record for call in calls)
    found = calibrate(history, shipped_coefficients(), settings, source="", estimator="")
    figures = found.coefficients or shipped_coefficients()

    def budget(call: Call) -> Ceiling:
        record = call.record
        found = suggest_max_tokens(
            record.deliverables,
            record.category,
            record.complexity,
            figures,
            phase_id=record.phase_id,
            model=record.model,
        )
        return Ceiling(found.max_tokens, found.alpha_percent)

    return _of_coefficients(figures, budget)


def _of_coefficients(figures: Coefficients, budget: Callable[[Call], Ceiling]) -> Learned:
    def expected(call: Call) -> float:
        record = call.record
        predicted = estimate(record.deliverables, record.category, record.complexity, figures)
        return predicted.predicted_output_tokens / _MARGIN

    return Learned(expected, budget)


def _guaranteed(calls: Sequence[Call], alpha_percent: float) -> Ceiling | None:
    """As `calibrate` does it, with thousands of tokens for scores."""
    scores = Scores(
        [math.inf if call.record.truncated else call.record.actual_output_tokens / 1000 for call in calls],
        [_phase(call) for call in calls],
    )
    factor, promise = supported_factor(scores, Fraction(repr(alpha_percent)) / 100)
    if factor is None or promise is None:
        return None
    return Ceiling(math.ceil(1000 * factor), promise.alpha_percent)


def _phase(call: Call) -> str:
    record = call.record
    return phase_key(record.phase_id, record.category, record.complexity, record.deliverables or ())


def _quantile(tokens: Sequence[int]) -> int:
    rank = math.ceil((len(tokens) + 1) * FRACTION)
    return sorted(tokens)[min(rank, len(tokens)) - 1]


def judged(calls: Sequence[Call], learn: Learn) -> Iterator[tuple[Call, float | None, Ceiling]]:
    """Each call with what was learned from the other runs."""
    for run in sorted({call.run for call in calls}):
        learned = learn([call for call in calls if call.run != run])
        yield from ((call, learned.expected(call), learned.budget(call)) for call in calls if call.run == run)


@dataclass(frozen=True)
class Risk:
    """Of calls: those certainly above their ceilings, those that may be, the mean ceiling and pinball loss."""

    above: float
    at_most_above: float
    ceiling: float
    pinball: float
    guaranteed_percent: float | None
    guaranteed_calls: int

    @property
    def shares(self) -> str:
        """As text."""
        return f"{self.above:.1%} to {self.at_most_above:.1%}"


def risk_of(found: Sequence[tuple[Call, float | None, Ceiling]], fraction: float | None = None) -> Risk:
    """How the ceilings did; the pinball loss is the one at `fraction`, None: at the level that each promised."""
    pinball = []
    above = undetermined = 0
    for call, _, ceiling in found:
        actual, cut = call.record.actual_output_tokens, call.record.truncated
        over = actual > ceiling.tokens or (cut and actual == ceiling.tokens)
        above += over
        undetermined += cut and not over
        at = 1 - (ceiling.guaranteed_percent or 0) / 100 if fraction is None else fraction
        pinball.append(max(at * (actual - ceiling.tokens), (1 - at) * (ceiling.tokens - actual)))
    promises = [ceiling.guaranteed_percent for *_, ceiling in found if ceiling.guaranteed_percent is not None]
    return Risk(
        above / len(found),
        (above + undetermined) / len(found),
        statistics.mean(ceiling.tokens for *_, ceiling in found),
        statistics.mean(pinball),
        statistics.mean(promises) if promises else None,
        len(promises),
    )


def line(title: str, calls: Sequence[Call], learn: Learn) -> str:
    """A row of the first table."""
    found = list(judged(calls, learn))
    errors = [
        abs(math.log(call.record.actual_output_tokens / expected))
        for call, expected, _ in found
        if expected and not call.record.truncated
    ]
    risk = risk_of(found, FRACTION)
    guaranteed = (
        "-" if risk.guaranteed_percent is None else f"{risk.guaranteed_percent:.1f} % for {risk.guaranteed_calls}"
    )
    return (
        f"| {title} | × {math.exp(statistics.median(errors)):.2f} | {risk.pinball:,.0f} | {risk.ceiling:,.0f} | "
        f"{risk.shares} | {guaranteed} | ${1000 * statistics.mean(map(_cost, found)):,.0f} |"
    )


def _cost(found: tuple[Call, float | None, Ceiling]) -> float:
    """What a call costs at least, asked for again where it was above its ceiling."""
    call, _, ceiling = found
    actual, cut = call.record.actual_output_tokens, call.record.truncated
    over = actual > ceiling.tokens or (cut and actual == ceiling.tokens)
    request = PRICE_IN * call.input_tokens
    return request + PRICE_OUT * min(actual, ceiling.tokens) + (request + PRICE_OUT * actual) * over


def level_lines(calls: Sequence[Call], alpha_percent: float) -> Iterator[str]:
    """The rows of the second table for one level that was asked for."""
    for title, learn in (
        ("one constant", constant_at),
        ("a quantile for each stratum", stratum_at),
        ("`calibrate` and `budget`", calibrated),
    ):
        risk = risk_of(list(judged(calls, partial(learn, alpha_percent=alpha_percent))))
        yield (
            f"| {alpha_percent:g} % | {title} | {risk.guaranteed_percent:.1f} % | {risk.shares} | "
            f"{risk.ceiling:,.0f} | {risk.pinball:,.0f} |"
        )


def memory_line(calls: Sequence[Call]) -> str:
    """The median of a phase's own earlier replies."""
    earlier: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    errors = []
    for call in calls:
        record = call.record
        if record.truncated:
            continue
        known = earlier[record.phase_id or "", record.model]
        if known:
            errors.append(abs(math.log(record.actual_output_tokens / statistics.median(known))))
        known.append(record.actual_output_tokens)
    error = math.exp(statistics.median(errors))
    return f"| a phase's own earlier replies ({len(errors)} calls) | × {error:.2f} | | | | | |"


def main() -> None:
    """Print the table."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else _DATA
    calls = calls_of(json.loads(file.read_text()))
    runs, phases = {call.run for call in calls}, {call.record.phase_id for call in calls}
    cut = sum(call.record.truncated for call in calls)
    print(f"{len(calls)} calls of {len(phases)} phases in {len(runs)} runs, {cut} truncated")
    columns = (
        "learned from the other runs",
        "typical error",
        "pinball loss at 0.95",
        "mean ceiling",
        "above it",
        "promised",
        "1,000 calls",
    )
    print("\n| " + " | ".join(columns) + " |")
    print("|---|---|---|---|---|---|---|")
    for title, learn in (
        ("the shipped coefficients", shipped),
        ("one constant", one_constant),
        ("a quantile for each stratum", by_stratum),
        ("`autopack calibrate`, `budget`", calibrated),
    ):
        print(line(title, calls, learn))
    print(memory_line(calls))
    print("\n| asked for | learned from the other runs | promised | above it | mean ceiling | pinball loss there |")
    print("|---|---|---|---|---|---|")
    for alpha_percent in LEVELS_PERCENT:
        print(*level_lines(calls, alpha_percent), sep="\n")


if __name__ == "__main__":
    main()
