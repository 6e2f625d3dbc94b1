"""What calibration learns from: of each sample its run, the shape of its work, and what came. Pure.

The shape of a phase is all that the estimator looks at: category, complexity, and how many deliverables of each kind
are new or modified. Which events are samples is decided where the verdict decides it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple, get_args

from autopack.analysis.replaying.observations import Observation, is_total
from autopack.analysis.sampling.collector import SampleCollector
from autopack.analysis.sampling.samples import Counts, Event
from autopack.analysis.sampling.sources import blocks_of, seconds_of, work_of
from autopack.estimation.estimator import Kind, kind_of
from autopack.estimation.phases import phase_key

KINDS: tuple[Kind, ...] = get_args(Kind)


class Recorded(Observation, frozen=True, gc=False, kw_only=True):
    """An event with its deliverables, when it happened, and how it ended."""

    selected_budget: int
    success: bool
    timestamp: str | None = None
    estimator: str | None = None
    attempt: int | None = None
    turn: int | None = None
    input_tokens: int | None = None
    reasoning_tokens: int | None = None
    reasoning_level: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a prediction is made from; `new` and `modified` count deliverables in the order of `KINDS`."""

    category: str
    complexity: str
    new: tuple[int, ...]
    modified: tuple[int, ...]

    @property
    def stratum(self) -> str:
        """As coefficients are keyed."""
        return f"{self.category}/{self.complexity}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A sample. `actual` is a lower bound where it was truncated; one that is neither that nor a success failed.

    phase            the same for every execution of the phase in any run (`phase_key`); empty where it is the only one
    reasoning_share  how much of the output was reasoning, 0 … 1, of its first turn; None where that is not recorded
    """

    run_id: str
    shape: Shape
    actual: int
    success: bool
    truncated: bool
    phase: str = ""
    model: str = ""
    at_s: float = 0.0
    input_tokens: int | None = None
    reasoning_share: float | None = None
    reasoning_level: str | None = None


class _Noted(NamedTuple):
    """Of an event, what samples do not hold."""

    run_id: str
    shape: Shape | None
    phase: str
    model: str
    input_tokens: int | None
    reasoning_share: float | None
    reasoning_level: str | None


@dataclass(frozen=True, slots=True)
class History:
    """The replies, and what was left out: as a verdict does, and `cut`, which had more deliverables than are stored."""

    replies: list[Reply]
    counts: Counts
    cut: int


def history_of(observations: Iterable[Recorded | None], *, include_simulated: bool = False) -> History:
    """The samples among the events; None is one that could not be read."""
    collector = SampleCollector(include_simulated=include_simulated, include_imported=False)
    shapes: dict[Shape, Shape] = {}  # one of each: a million phases have few
    found: list[_Noted] = []

    def noted() -> Iterator[Event | None]:
        for observation in observations:
            if observation is not None and collector.takes(observation.model):
                shape = None if lacks_deliverables(observation) else _shape(observation)
                found.append(_noted(observation, shape and shapes.setdefault(shape, shape)))
            yield None if observation is None else event_of(observation)

    collector.add_all(blocks_of(noted(), collector.unreadable))
    samples = collector.samples()
    replies = []
    for note, actual, success, truncated, at_s in zip(
        compress(found, samples.used), samples.actual, samples.success, samples.truncated, samples.at_s, strict=True
    ):
        if note.shape is not None:
            replies.append(
                Reply(
                    *(note.run_id, note.shape, actual, bool(success), bool(truncated), note.phase, note.model, at_s),
                    *note[4:],
                )
            )
    return History(replies, samples.counts, len(samples) - len(replies))


def _noted(observation: Recorded, shape: Shape | None) -> _Noted:
    reasoning, actual = observation.reasoning_tokens, observation.actual_output_tokens
    return _Noted(
        run_id=observation.run_id or "",
        shape=shape,
        phase=_phase(observation),
        model=sys.intern(observation.model),
        input_tokens=observation.input_tokens,
        reasoning_share=None if reasoning is None or not actual else min(1.0, reasoning / actual),
        reasoning_level=observation.reasoning_level and sys.intern(observation.reasoning_level),
    )


def event_of(observation: Recorded) -> Event:
    """What a verdict takes of it."""
    return Event(
        run_id=observation.run_id,
        phase_id=observation.phase_id,
        model=observation.model,
        category=observation.category,
        complexity=observation.complexity,
        deliverable_count=observation.deliverable_count,
        predicted=observation.predicted_output_tokens,
        actual=observation.actual_output_tokens,
        budget=observation.selected_budget,
        success=observation.success,
        truncated=observation.truncated,
        at_s=seconds_of(observation.timestamp),
        has_paths=bool(observation.deliverables),
        is_total=is_total(observation),
        work=work_of(observation.deliverables or ()),
        estimator=observation.estimator,
        attempt=observation.attempt,
        turn=observation.turn,
    )


def _phase(observation: Recorded) -> str:
    if not observation.phase_id:
        return ""
    return phase_key(observation.phase_id, observation.category, observation.complexity, observation.deliverables or ())


def lacks_deliverables(observation: Recorded) -> bool:
    """Whether it had more deliverables than are stored."""
    return observation.deliverable_count > len(observation.deliverables or ())


def _shape(observation: Recorded) -> Shape:
    existing = frozenset(observation.existing or ())
    counts = Counter((kind_of(path), path in existing) for path in observation.deliverables or ())
    return Shape(
        observation.category,
        observation.complexity,
        tuple(counts[kind, False] for kind in KINDS),
        tuple(counts[kind, True] for kind in KINDS),
    )
