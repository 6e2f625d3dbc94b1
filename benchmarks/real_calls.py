"""Predictions and budgets on real calls, each run judged by what was learned from all others. See docs/budgets.md.

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
from pathlib import Path
from typing import Any

from autopack.analysis.calibrating.calibration import Settings, calibrate
from autopack.analysis.calibrating.history import Recorded, history_of
from autopack.estimation.coefficients import Coefficients, shipped_coefficients
from autopack.estimation.estimator import estimate
from autopack.estimation.suggesting import Suggestion, suggest_max_tokens

FRACTION = 0.95
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
class Learned:
    """What a method says of a call: the tokens that it expects, and the ceiling that it sends."""

    expected: Callable[[Call], float | None]
    budget: Callable[[Call], Suggestion | int]


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
    return _of_coefficients(shipped_coefficients(), lambda call: call.record.selected_budget)


def one_constant(calls: Sequence[Call]) -> Learned:
    """The same for every call."""
    tokens = [call.record.actual_output_tokens for call in calls]
    return Learned(lambda _: statistics.median(tokens), lambda _: _quantile(tokens))


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


def calibrated(calls: Sequence[Call]) -> Learned:
    """What `autopack calibrate` proposes and `autopack budget` makes of it."""
    settings = Settings(alpha_percent=round(100 * (1 - FRACTION), 6))
    history = history_of(call.record for call in calls)
    found = calibrate(history, shipped_coefficients(), settings, source="", estimator="")
    figures = found.coefficients or shipped_coefficients()

    def budget(call: Call) -> Suggestion:
        record = call.record
        return suggest_max_tokens(
            record.deliverables,
            record.category,
            record.complexity,
            figures,
            phase_id=record.phase_id,
            model=record.model,
        )

    return _of_coefficients(figures, budget)


def _of_coefficients(figures: Coefficients, budget: Callable[[Call], Suggestion | int]) -> Learned:
    def expected(call: Call) -> float:
        record = call.record
        predicted = estimate(record.deliverables, record.category, record.complexity, figures)
        return predicted.predicted_output_tokens / _MARGIN

    return Learned(expected, budget)


def _quantile(tokens: Sequence[int]) -> int:
    rank = math.ceil((len(tokens) + 1) * FRACTION)
    return sorted(tokens)[min(rank, len(tokens)) - 1]


def judged(calls: Sequence[Call], learn: Learn) -> Iterator[tuple[Call, float | None, Suggestion | int]]:
    """Each call with what was learned from the other runs."""
    for run in sorted({call.run for call in calls}):
        learned = learn([call for call in calls if call.run != run])
        yield from ((call, learned.expected(call), learned.budget(call)) for call in calls if call.run == run)


def line(title: str, calls: Sequence[Call], learn: Learn) -> str:
    """A row of the table."""
    found = list(judged(calls, learn))
    errors = [
        abs(math.log(call.record.actual_output_tokens / expected))
        for call, expected, _ in found
        if expected and not call.record.truncated
    ]
    pinball, cost, above, undetermined = [], [], 0, 0
    for call, _, said in found:
        budget = said if isinstance(said, int) else said.max_tokens
        actual = call.record.actual_output_tokens
        over = actual > budget or (call.record.truncated and actual == budget)
        above += over
        undetermined += call.record.truncated and not over
        pinball.append(max(FRACTION * (actual - budget), (1 - FRACTION) * (budget - actual)))
        once = PRICE_IN * call.input_tokens + PRICE_OUT * min(actual, budget)
        again = PRICE_IN * call.input_tokens + PRICE_OUT * actual
        cost.append(once + again * over)
    promises = [
        said.alpha_percent for *_, said in found if isinstance(said, Suggestion) and said.alpha_percent is not None
    ]
    promised = f"{statistics.mean(promises):.1f} % for {len(promises)}" if promises else "-"
    return (
        f"| {title} | × {math.exp(statistics.median(errors)):.2f} | {statistics.mean(pinball):,.0f} | "
        f"{above / len(found):.1%} to {(above + undetermined) / len(found):.1%} | {promised} | "
        f"{1000 * statistics.mean(cost):,.0f} $ |"
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
    return (
        f"| a phase's own earlier replies ({len(errors)} calls) | × {math.exp(statistics.median(errors)):.2f} | | | | |"
    )


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
        "above it",
        "promised",
        "1,000 calls",
    )
    print("\n| " + " | ".join(columns) + " |")
    print("|---|---|---|---|---|---|")
    for title, learn in (
        ("the shipped coefficients", shipped),
        ("one constant", one_constant),
        ("a quantile for each stratum", by_stratum),
        ("`autopack calibrate`, `budget`", calibrated),
    ):
        print(line(title, calls, learn))
    print(memory_line(calls))


if __name__ == "__main__":
    main()
