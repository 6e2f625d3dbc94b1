"""Coefficients: a known cost is found again, noise changes nothing, and no run is on both sides."""

import dataclasses
import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.analysis.cost_models import TODAY, Noise, exact, history, lognormal, normal, other_costs
from tests.read_side import autopack, event, make_database

from autopack.analysis.calibrating.calibration import Calibration, CalibrationSettings, calibrate
from autopack.analysis.calibrating.coefficient_fit import fit, model_of
from autopack.analysis.calibrating.cross_validation import compared, predicted_unseen, split_by_run
from autopack.analysis.calibrating.history import History, Recorded, Reply, Shape, history_of
from autopack.analysis.calibrating.least_squares import Equations
from autopack.estimation.coefficients import Coefficients, parse_coefficients
from autopack.estimation.estimator import estimate
from autopack.models import TokenEstimationV2Event

ONLY_COEFFICIENTS = CalibrationSettings(budgets=False)


def calibrated(records: Any, settings: CalibrationSettings | None = None, today: Coefficients = TODAY) -> Calibration:
    return calibrate(history_of(records), today, settings or CalibrationSettings(), source="test", estimator="test")


def true_value(costs: Coefficients, name: str) -> float:
    kind, _, rest = name.partition(".")
    if kind == "overhead":
        return costs.overhead[rest]
    table, _, of = rest.partition(".")
    return float(getattr(getattr(costs.marginal, table), of))


def write(path: Path, records: Any) -> Path:
    path.write_bytes(b"\n".join(map(msgspec.json.encode, records)) + b"\n")
    return path


def row(number: int, record: Recorded) -> TokenEstimationV2Event:
    fields = (
        "run_id",
        "phase_id",
        "category",
        "complexity",
        "deliverable_count",
        "predicted_output_tokens",
        "actual_output_tokens",
        "selected_budget",
    )
    return event(
        number,
        **{name: getattr(record, name) for name in fields},
        deliverables_json=json.dumps(record.deliverables),
        existing_json=json.dumps(record.existing),
    )


@pytest.mark.slow
def test_without_noise_a_known_cost_model_is_recovered() -> None:
    costs = other_costs(5)
    result = calibrated(history(2000, costs, exact), ONLY_COEFFICIENTS)
    assert result.fit.outcome == "better"
    errors = [abs(math.log(change.after / true_value(costs, change.name))) for change in result.fit.changes]
    assert len(errors) == 6 + 10
    assert np.mean(errors) < 0.05
    assert max(errors) < 0.3  # the smallest coefficients make the least of a difference, and are held the most


@pytest.mark.slow
def test_with_noise_the_recovered_model_predicts_nearly_as_well() -> None:
    """With noise, the recovered model predicts nearly as well as the true one."""
    costs = other_costs(5)
    result = calibrated(history(2000, costs, lognormal(0.3)), ONLY_COEFFICIENTS)
    assert result.coefficients is not None
    unseen = history_of(history(1000, costs, lognormal(0.3), seed=99)).replies

    def error(coefficients: Coefficients) -> float:
        model = model_of(coefficients)
        return float(np.mean([abs(math.log(r.actual / model.expected(r.shape))) for r in unseen]))

    assert error(result.coefficients) < error(costs) + 0.01 < error(TODAY) - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("noise", [lognormal(0.2), lognormal(0.6), normal(0.3)], ids=["narrow", "wide", "added"])
@pytest.mark.parametrize("seed", range(4))
def test_pure_noise_changes_nothing(noise: Noise, seed: int) -> None:
    result = calibrated(history(500, TODAY, noise, seed=seed), ONLY_COEFFICIENTS)
    assert (result.fit.outcome, result.coefficients) == ("unchanged", None)


def test_few_replies_keep_the_coefficients_near_those_in_force() -> None:
    """The fewer replies, the nearer the coefficients stay to those in force."""
    costs = msgspec.structs.replace(TODAY, overhead={name: 2 * tokens for name, tokens in TODAY.overhead.items()})
    moved = []
    for count in (0, 5, 50, 1000):
        replies = history_of(history(count, costs, exact)).replies
        fitted = fit(replies, model_of(TODAY), prior_weight=1)
        moved.append(math.log(fitted.overhead_of("testing/high") / TODAY.overhead["testing/high"]))
    assert moved[0] == 0
    assert all(fewer < more for fewer, more in pairwise(moved))
    assert moved[-1] == pytest.approx(math.log(2), abs=0.05)


def test_one_coefficient_alone_moves_by_n_of_n_plus_m_of_the_way() -> None:
    shape = Shape("testing", "low", (0,) * 5, (0,) * 5)
    start = model_of(TODAY)
    reply = Reply("r", shape, round(start.overhead_of("testing/low") * 1.1), success=True, truncated=False)
    for count, worth in ((1, 1.0), (4, 1.0), (10, 40.0)):
        fitted = fit([reply] * count, start, prior_weight=worth)
        moved = math.log(fitted.overhead_of("testing/low") / start.overhead_of("testing/low"))
        assert moved == pytest.approx(count / (count + worth) * math.log(1.1), rel=1e-3)


def test_a_coefficient_on_which_no_reply_hangs_stays_exactly() -> None:
    shape = Shape("testing", "low", (1, 0, 0, 0, 0), (0,) * 5)
    start = model_of(TODAY)
    fitted = fit([Reply("r", shape, 100, success=True, truncated=False)] * 9, start, prior_weight=1)
    assert fitted.marginal[1:] == start.marginal[1:]
    assert {name for name in start.overhead if fitted.overhead[name] != start.overhead[name]} == {"testing/low"}


def test_a_truncated_reply_pulls_upwards_only() -> None:
    shape = Shape("testing", "low", (1, 0, 0, 0, 0), (0,) * 5)
    start = model_of(TODAY)

    def expected(actual: int) -> float:
        reply = Reply("r", shape, actual, success=False, truncated=True)
        return fit([reply] * 20, start, prior_weight=1).expected(shape)

    assert expected(10) == start.expected(shape)
    assert expected(50_000) > 5 * start.expected(shape)


def test_a_failed_reply_says_nothing_of_the_cost() -> None:
    shape = Shape("testing", "low", (1, 0, 0, 0, 0), (0,) * 5)
    failed = Reply("r", shape, 3, success=False, truncated=False)
    assert fit([failed] * 50, model_of(TODAY), prior_weight=1) == model_of(TODAY)


def test_a_stratum_without_an_overhead_begins_at_the_default() -> None:
    """A stratum without an overhead gets one that begins at the default."""
    records = [msgspec.structs.replace(r, category="novel") for r in history(600, other_costs(3), exact)]
    result = calibrated(records, ONLY_COEFFICIENTS)
    assert result.coefficients is not None
    names = {change.name: change.before for change in result.fit.changes}
    assert names["overhead.novel/low"] == TODAY.default_overhead
    assert result.coefficients.overhead["novel/low"] > 0
    assert result.coefficients.default_overhead == TODAY.default_overhead


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=80), st.integers(1, 12))
def test_a_run_is_never_on_both_sides(runs: list[str], hands: int) -> None:
    shape = Shape("testing", "low", (1, 0, 0, 0, 0), (0,) * 5)
    replies = [Reply(run, shape, 100, success=True, truncated=False) for run in runs]
    parts = split_by_run(replies, hands)
    assert sorted(reply.run_id for part in parts for reply in part) == sorted(runs)
    homes = [{reply.run_id for reply in part} for part in parts]
    assert sum(map(len, homes)) == len(set(runs))

    def fit_of_seen(seen: Any) -> Any:
        return {reply.run_id for reply in seen}

    for reply, seen in predicted_unseen(replies, fit_of_seen, hands):
        assert reply.run_id not in seen  # type: ignore[operator]  # this model is what it has seen


@pytest.mark.slow
def test_runs_that_only_repeat_themselves_are_no_evidence() -> None:
    """Five runs, in one of which everything cost ten times as much: many replies, and yet only one observation."""
    records = [
        msgspec.structs.replace(r, actual_output_tokens=r.actual_output_tokens * (10 if r.run_id == "run-3" else 1))
        for r in history(2000, TODAY, lognormal(0.2), runs=12)
    ]
    assert calibrated(records, ONLY_COEFFICIENTS).fit.outcome == "unchanged"


def test_the_standard_error_is_that_of_the_means_of_runs() -> None:
    """The standard error is that of the means of runs, however many replies each has."""
    shape = Shape("testing", "low", (1, 0, 0, 0, 0), (0,) * 5)
    before = model_of(TODAY)
    after = dataclasses.replace(before, marginal=(before.marginal[0] * 1.5, *before.marginal[1:]))
    actual = [3000, 3500, 4000, 4500, 9000]
    pairs = [
        (Reply(f"run-{run}", shape, tokens, success=True, truncated=False), after)
        for run, tokens in enumerate(actual)
        for _ in range(40)
    ]
    found = compared(pairs, before, 10)
    gains = [
        abs(math.log(tokens / before.expected(shape))) - abs(math.log(tokens / after.expected(shape)))
        for tokens in actual
    ]
    assert found.improvement == pytest.approx(np.mean(gains))
    assert found.standard_error == pytest.approx(np.std(gains, ddof=1) / math.sqrt(len(gains)))


@pytest.mark.parametrize(
    ("count", "runs", "why"), [(300, 4, "4 run(s)"), (20, 20, "usable replies"), (0, 1, "0 run(s)")]
)
def test_it_refuses_where_the_data_cannot_carry_a_fit(count: int, runs: int, why: str) -> None:
    fitted = calibrated(history(count, other_costs(1), exact, runs=runs), ONLY_COEFFICIENTS).fit
    assert fitted.outcome == "refused"
    assert fitted.reason is not None
    assert why in fitted.reason


@pytest.mark.slow
def test_the_outcome_does_not_depend_on_the_order_of_rows() -> None:
    records = list(history(700, other_costs(2), lognormal(0.3)))
    forwards, backwards = calibrated(records), calibrated(reversed(records))
    assert [change.name for change in forwards.fit.changes] == [change.name for change in backwards.fit.changes]
    for there, back in zip(forwards.fit.changes, backwards.fit.changes, strict=True):
        assert there.after == pytest.approx(back.after, abs=1.01)


def test_what_is_no_sample_is_not_learned_from() -> None:
    (record,) = history(1, TODAY, exact)
    changes: list[dict[str, Any]] = [
        {"model": "simulated-1"},
        {"deliverables": []},
        {"deliverable_count": 25},
        {"attributes": {"usage": "total"}},
    ]
    others = [msgspec.structs.replace(record, phase_id=f"x{n}", **change) for n, change in enumerate(changes)]
    later = msgspec.structs.replace(record, timestamp="2027-01-01T00:00:00Z", actual_output_tokens=9)
    found = history_of([record, *others, later, None])
    assert [reply.actual for reply in found.replies] == [record.actual_output_tokens]
    counts = found.counts
    assert (counts.simulated, counts.without_deliverables, counts.totals, counts.repeated, counts.unreadable) == (
        1,
    ) * 5
    assert found.cut == 1


def test_the_shape_of_a_phase_is_what_the_estimator_sees() -> None:
    for record in history(300, TODAY, exact):
        (reply,) = history_of([record]).replies
        expected = estimate(record.deliverables, record.category, record.complexity, TODAY, record.existing or ())
        assert int(model_of(TODAY).expected(reply.shape) * TODAY.safety_margin) == expected.predicted_output_tokens


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))
def test_the_equations_are_solved_as_numpy_solves_them(seed: int, strata: int, marginals: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"s{index}" for index in range(strata)]
    equations, size = Equations(names, marginals), strata + marginals
    matrix, side = np.zeros((size, size)), np.zeros(size)
    for _ in range(20):
        place, own, weight, pull = int(rng.integers(strata)), rng.random(), rng.random(), rng.normal()
        shares = [
            (int(index), float(rng.random())) for index in rng.permutation(marginals)[: rng.integers(marginals + 1)]
        ]
        equations.add(names[place], own, shares, weight, pull)
        row = np.zeros(size)
        row[place] = own
        for index, share in shares:
            row[strata + index] = share
        matrix, side = matrix + weight * np.outer(row, row), side + pull * row
    for place, name in enumerate(names):
        equations.hold_overhead(name, 0.5, 0.25)
        matrix[place, place] += 0.5
        side[place] += 0.25
    for index in range(marginals):
        equations.hold_marginal(index, 0.5, -0.25)
        matrix[strata + index, strata + index] += 0.5
        side[strata + index] -= 0.25
    overheads, found = equations.solved()
    assert [*overheads.values(), *found] == pytest.approx(list(np.linalg.solve(matrix, side)))


@pytest.mark.slow
def test_a_proposal_is_one_the_estimator_loads_and_is_not_applied(tmp_path: Path) -> None:
    """A proposal is in the form that the estimator loads, and is not applied."""
    export, output = (
        write(tmp_path / "events.ndjson", history(1500, other_costs(5), lognormal(0.3))),
        tmp_path / "new.json",
    )
    before = autopack("replay", "--json", "--source", "ndjson", export).stdout
    done = autopack("calibrate", "--source", "ndjson", export, "--output", output)
    assert done.returncode == 0
    assert "coefficients: better" in done.stdout
    assert autopack("replay", "--json", "--source", "ndjson", export).stdout == before
    coefficients = parse_coefficients(output.read_bytes(), "new.json")
    assert coefficients != TODAY
    assert output.stat().st_mode & 0o777 == 0o600
    after = autopack(
        "replay", "--json", "--source", "ndjson", export, AUTOPACK_ESTIMATOR_COEFFICIENTS=str(output)
    ).stdout
    then, now = (msgspec.json.decode(text)["overall"]["today"]["mean_smape_percent"] for text in (before, after))
    assert now < then - 5


@pytest.mark.slow
def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    export, output = write(tmp_path / "events.ndjson", history(1500, other_costs(5), exact)), tmp_path / "mine.json"
    output.write_text("mine")
    refused = autopack("calibrate", "--source", "ndjson", export, "--output", output)
    assert (refused.returncode, refused.stdout, output.read_text()) == (1, "", "mine")
    assert "--force replaces it" in refused.stderr
    assert autopack("calibrate", "--source", "ndjson", export, "--output", output, "--force").returncode == 0
    assert parse_coefficients(output.read_bytes(), "mine.json").overhead


def test_where_nothing_is_to_be_changed_no_file_is_written(tmp_path: Path) -> None:
    export, output = write(tmp_path / "events.ndjson", history(500, TODAY, lognormal(0.3))), tmp_path / "new.json"
    done = autopack("calibrate", "--source", "ndjson", export, "--no-budgets", "--output", output)
    assert done.returncode == 0
    assert "no file was written" in done.stderr
    assert not output.exists()


def test_where_the_data_carry_nothing_it_refuses_in_one_clear_line(tmp_path: Path) -> None:
    export = write(tmp_path / "events.ndjson", history(2, TODAY, exact))
    done = autopack("calibrate", "--source", "ndjson", export)
    assert done.returncode == 1
    assert done.stderr == "Error: the data carry neither coefficients nor budgets; record other phases\n"


@pytest.mark.parametrize(
    "arguments", [["x.ndjson"], ["--source", "ndjson"], ["--source", "log", "x"], ["--folds", "1"]]
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str]) -> None:
    assert autopack("calibrate", *arguments).returncode == 2


@pytest.mark.slow
def test_the_database_and_its_export_give_the_same_proposal(tmp_path: Path) -> None:
    database, copy = tmp_path / "autopack.db", tmp_path / "copy.ndjson"
    make_database(database, [row(n, record) for n, record in enumerate(history(400, other_costs(5), exact))])
    autopack("export", "--output", copy, database=database)
    from_database, from_export = (
        msgspec.json.decode(done.stdout, type=Calibration)
        for done in (
            autopack("calibrate", "--json", database=database),
            autopack("calibrate", "--json", "--source", "ndjson", copy),
        )
    )
    assert from_database.fit == from_export.fit
    assert from_database.coefficients == from_export.coefficients


@pytest.mark.slow
def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    records = [msgspec.structs.replace(r, category="\x1b[2Jevil") for r in history(600, other_costs(5), exact)]
    done = autopack("calibrate", "--source", "ndjson", write(tmp_path / "events.ndjson", records))
    assert "\x1b" not in done.stdout
    assert "\\x1b[2Jevil" in done.stdout


def test_alpha_is_the_decimal_number_that_was_written() -> None:
    assert CalibrationSettings(alpha_percent=2).alpha == Fraction(1, 50)
    assert CalibrationSettings(alpha_percent=0.1).alpha == Fraction(1, 1000)


def test_nothing_recorded_is_no_history() -> None:
    found = history_of(list[Recorded]())
    assert found == History([], found.counts, 0)
    assert calibrated([]).coefficients is None
