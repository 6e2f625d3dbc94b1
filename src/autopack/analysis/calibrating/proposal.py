"""Recorded replies as another set of coefficients would have predicted them: what judges a proposal. Pure.

Only runs that began after the newest reply that the proposal was learned from are taken: it has seen the others. A
truncated reply stays a lower bound, so it can have been within the proposed budget or not, where that is above its
ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from autopack.analysis.calibrating.history import Recorded, event_of, lacks_deliverables
from autopack.analysis.sampling.samples import Event
from autopack.estimation.coefficients import Coefficients
from autopack.estimation.estimator import estimate


def newer_as_predicted(
    observations: Iterable[Recorded | None], figures: Coefficients, newer_than_s: float
) -> Iterator[Event | None]:
    """The events of the newer runs, predicted anew; None is one that could not be read.

    An event whose deliverables were not all recorded cannot be predicted, and has a prediction of 0.
    """
    events = [None if each is None else _predicted(each, figures) for each in observations]
    began: dict[str | None, float] = {}
    for event in events:
        if event is not None and event.at_s < math.inf:
            began[event.run_id] = min(event.at_s, began.get(event.run_id, math.inf))
    for event in events:
        if event is None or began.get(event.run_id, -math.inf) > newer_than_s:
            yield event


def _predicted(observation: Recorded, figures: Coefficients) -> Event:
    event = event_of(observation)
    if lacks_deliverables(observation):
        return event._replace(predicted=0)
    estimated = estimate(
        observation.deliverables or (), event.category, event.complexity, figures, observation.existing or ()
    )
    return event._replace(predicted=estimated.predicted_output_tokens, budget=estimated.selected_budget)
