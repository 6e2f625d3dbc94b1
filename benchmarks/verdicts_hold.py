"""Does the verdict hold? Simulated nightly plans through the real `validate()`, as tables. See docs/validation.md.

Each history has a latent normal value for each sample, with a part that its phase has in common and a part that its run
has in common. The reply is as long as e to half of it, and is truncated where the value is above the quantile that the
true rate says. So length and truncation have the same clusters, as real ones have.

    python -m benchmarks.verdicts_hold --histories 300 --looks 100
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pool
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from autopack.analysis.sampling.samples import Counts, Samples
from autopack.analysis.validating.rules import Rules
from autopack.analysis.validating.validation import Validation, validate

TRUE_P90 = NormalDist().inv_cdf(0.9)

_NOW_S = 1_767_225_600.0
_LENGTH, _BUDGET, _SPREAD = 1000.0, 10**9, 0.5

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """So many phases, all of them run so many times; the shares of variance that phases and runs have in common."""

    phases: int
    runs: int
    by_phase: float
    by_run: float

    def values(self, rng: np.random.Generator) -> Values:
        """The latent values, a row for each run."""
        own = 1 - self.by_phase - self.by_run
        found: Values = (
            np.sqrt(self.by_phase) * rng.normal(size=(1, self.phases))
            + np.sqrt(self.by_run) * rng.normal(size=(self.runs, 1))
            + np.sqrt(own) * rng.normal(size=(self.runs, self.phases))
        )
        return found


def samples_of(values: Values, rate: float, *, looks: int | None = None) -> Samples:
    """The samples of the first `looks` runs."""
    taken = values[:looks]
    runs, phases = taken.shape
    count = taken.size
    truncated = (taken > NormalDist().inv_cdf(1 - rate)).ravel()
    actual = np.maximum(1, np.rint(_LENGTH * np.exp(_SPREAD * taken)).astype(np.int64)).ravel()
    budget = np.where(truncated, 1, _BUDGET)
    zeros, ones = array("i", bytes(4 * count)), bytes([1]) * count
    return Samples(
        counts=NO_COUNTS,
        strata=[("implementation", "low")],
        used=ones,
        stratum=zeros,
        at_s=array("d", [0.0]) * count,
        predicted=array("q", [round(_LENGTH)]) * count,
        actual=array("q", actual.tobytes()),
        budget=array("q", budget.astype(np.int64).tobytes()),
        nearest=array("q", actual.tobytes()),
        success=ones,
        truncated=bytes(truncated.astype(np.uint8)),
        phase=array("i", np.tile(np.arange(phases, dtype=np.int32), runs).tobytes()) if runs > 1 else _alone(count),
        run=array("i", np.repeat(np.arange(runs, dtype=np.int32), phases).tobytes()) if phases > 1 else _alone(count),
        models={"m": count},
        estimators={},
    )


def judged(samples: Samples, rules: Rules) -> Validation:
    """The real verdict."""
    return validate(samples, rules, as_of_s=_NOW_S, source="simulated")


def _alone(count: int) -> array[int]:
    return array("i", [-1]) * count


def validated(plan: Plan, rate: float, rules: Rules, seed: int) -> bool:
    """Whether one history is validated."""
    return judged(samples_of(plan.values(np.random.default_rng(seed)), rate), rules).verdict == "validated"


def ever_validated(plan: Plan, rate: float, rules: Rules, seed: int) -> bool:
    """Whether one history is validated at one of its looks, one after every run."""
    values = plan.values(np.random.default_rng(seed))
    return any(
        judged(samples_of(values, rate, looks=look), rules).verdict == "validated" for look in range(1, plan.runs + 1)
    )


def p90_is_covered(plan: Plan, rate: float, rules: Rules, seed: int) -> bool:
    """Whether the upper end of the interval of the P90 of waste is not below the true one."""
    values = plan.values(np.random.default_rng(seed))
    upper = judged(samples_of(-values, 1e-9), rules).overall.waste_p90.upper
    del rate
    return upper is None or upper >= float(np.exp(_SPREAD * TRUE_P90)) * (1 - 1e-3)


Question = Callable[[Plan, float, Rules, int], bool]


def share(question: Question, plan: Plan, rate: float, rules: Rules, histories: int, *, processes: int = 1) -> float:
    """Of how many histories the answer is yes, 0 … 1."""
    work = [(plan, rate, rules, seed) for seed in range(histories)]
    if processes == 1:
        return sum(question(*each) for each in work) / histories
    with Pool(processes) as pool:
        return sum(pool.starmap(question, work, chunksize=10)) / histories


FORMER = Rules(
    rules="plan",
    one_look=True,
    assume_independent=True,
    max_underestimation_percent=100,
    max_waste_p90=1e9,
    max_smape_median_percent=200,
    min_categories=0,
    min_complexities=0,
)
ONE_LOOK, REPEATED = Rules(one_look=True), Rules()
PLAN_ONE_LOOK, PLAN_REPEATED = Rules(one_look=True, population="plan"), Rules(population="plan")
CORRELATIONS = ((0.0, 0.0), (0.0, 0.1), (0.46, 0.1), (0.46, 0.32), (0.8, 0.0))


def power_table(histories: int, processes: int) -> Iterator[str]:
    """How often a history with a true rate of 0.2 % is validated."""
    yield "| phases × runs | correlation by phase, run | former | one look | repeated looks |"
    yield "|---|---|---|---|---|"
    plans = [(phases, runs, *ones) for phases, runs in ((25, 20), (100, 5), (200, 40)) for ones in CORRELATIONS]
    for phases, runs, by_phase, by_run in plans:
        plan = Plan(phases, runs, by_phase, by_run)
        found = [
            share(validated, plan, 0.002, rules, histories, processes=processes)
            for rules in (FORMER, ONE_LOOK, REPEATED)
        ]
        yield f"| {phases} × {runs} | {by_phase:g}, {by_run:g} | " + " | ".join(f"{one:.0%}" for one in found) + " |"
    for by_phase, by_run in ((0.0, 0.1), (0.46, 0.1), (0.46, 0.32)):
        plan = Plan(25, 60, by_phase, by_run)
        found = [
            share(validated, plan, 0.002, rules, histories, processes=processes)
            for rules in (FORMER, PLAN_ONE_LOOK, PLAN_REPEATED)
        ]
        yield (
            f"| 25 × 60, `--population plan` | {by_phase:g}, {by_run:g} | "
            + " | ".join(f"{one:.0%}" for one in found)
            + " |"
        )


def false_table(histories: int, processes: int) -> Iterator[str]:
    """How often a history at or above the limit of 2 % is validated, and how often the P90 is covered."""
    yield "| phases × runs | correlation by phase, run | true rate | former | one look | repeated | P90 covered |"
    yield "|---|---|---|---|---|---|---|"
    for phases, runs in ((25, 8), (25, 20)):
        for by_phase, by_run in CORRELATIONS:
            plan = Plan(phases, runs, by_phase, by_run)
            covered = share(p90_is_covered, plan, 0.0, ONE_LOOK, histories, processes=processes)
            for rate in (0.02, 0.04):
                found = [
                    share(validated, plan, rate, rules, histories, processes=processes)
                    for rules in (FORMER, ONE_LOOK, REPEATED)
                ]
                yield (
                    f"| {phases} × {runs} | {by_phase:g}, {by_run:g} | {rate:.0%} | "
                    + " | ".join(f"{one:.1%}" for one in (*found, covered))
                    + " |"
                )


def looks_table(histories: int, looks: int, processes: int) -> Iterator[str]:
    """How often a history at the limit is validated at one of its looks."""
    yield "| correlation by phase, run | true rate | looks | former | repeated looks | repeated, `--population plan` |"
    yield "|---|---|---|---|---|---|"
    for by_phase, by_run in ((0.0, 0.0), (0.0, 0.1), (0.46, 0.32)):
        plan = Plan(25, looks, by_phase, by_run)
        found = [
            share(ever_validated, plan, 0.02, rules, histories, processes=processes)
            for rules in (FORMER, REPEATED, PLAN_REPEATED)
        ]
        yield f"| {by_phase:g}, {by_run:g} | 2% | {looks} | " + " | ".join(f"{one:.1%}" for one in found) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=300)
    parser.add_argument("--looks", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--table", choices=["power", "false", "looks"], action="append")
    options = parser.parse_args()
    wanted = options.table or ["power", "false", "looks"]
    if "false" in wanted:
        print(*false_table(options.histories, options.processes), "", sep="\n", flush=True)
    if "power" in wanted:
        print(*power_table(options.histories, options.processes), "", sep="\n", flush=True)
    if "looks" in wanted:
        print(*looks_table(options.histories, options.looks, options.processes), sep="\n", flush=True)


NO_COUNTS = Counts(
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

if __name__ == "__main__":
    main()
