"""The variance that effective sizes rest on, as statsmodels computes it."""

import numpy as np
import pytest
import statsmodels.api as sm  # type: ignore[import-untyped]  # it ships no types
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups  # type: ignore[import-untyped]
from tests.verdicts import blocks, sample

from autopack.analysis.sampling.collector import SampleCollector
from autopack.analysis.sampling.samples import Event
from autopack.analysis.validating.clusters import INDICATORS, Tallies, Tally, _Moments, _unpacked
from autopack.analysis.validating.rules import Rules


def tally(events: list[Event]) -> Tally:
    collector = SampleCollector()
    collector.add_all(blocks(events))
    tallies = Tallies(collector.samples(), Rules(), recent_since_s=0)
    return tallies.of(None)


@pytest.mark.parametrize("kept", [1.0, 0.7, 0.4])
def test_before_its_correction_the_variance_is_that_of_statsmodels(kept: float) -> None:
    """Two-way clusters of Cameron, Gelbach and Miller, with no small-sample correction, of the mean and of a rate."""
    rng = np.random.default_rng(0)
    phases, runs = 30, 12
    z = rng.normal(0, 0.6, (phases, 1)) + rng.normal(0, 0.3, (1, runs)) + rng.normal(0, 0.5, (phases, runs))
    present = np.argwhere(rng.random((phases, runs)) < kept)
    cut = z > np.quantile(z, 0.9)
    events = [
        sample(
            number,
            run_id=f"run-{run}",
            phase_id=f"phase-{phase}",
            category="testing",
            complexity="low",
            predicted=1_000_000,
            actual=round(1_000_000 * np.exp(z[phase, run])),
            truncated=bool(cut[phase, run]),
        )
        for number, (phase, run) in enumerate(present)
    ]
    found = tally(events)
    n, *counts, _, total, _ = _unpacked(found.packed)
    logs = _Moments(n, total, found.squares, found.phases[:4], found.runs[:4])
    of_cut = counts[INDICATORS.index("truncated")]
    rate = _Moments(n, of_cut, of_cut, (*found.phases[:2], *found.phases[12:14]), (*found.runs[:2], *found.runs[12:14]))
    values = np.array([np.log(event.actual / event.predicted) for event in events])
    flags = np.array([float(event.truncated) for event in events])
    for moments, variable, scale in ((logs, values, 2.0**30), (rate, flags, 1.0)):
        fit = sm.OLS(variable, np.ones(n)).fit()
        expected = float(np.squeeze(cov_cluster_2groups(fit, present[:, 0], present[:, 1], use_correction=False)[0]))
        variances = moments.variances()
        assert variances is not None
        single, by_phase, by_run, _ = variances
        assert (by_phase + by_run - single / n) / scale**2 == pytest.approx(expected, rel=1e-6)
