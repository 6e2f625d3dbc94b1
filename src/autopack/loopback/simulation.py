"""Simulated replies, which need neither a key nor a recording. Pure: the same seed gives the same run.

Each random number comes from a stream of its own, seeded by what it is for (seed, phase, attempt), so neither
concurrency nor the order of requests changes a reply.

The lengths follow a cost model of their own, which knows nothing of the estimator's figures: a typical cost per
kind of file, scaled by complexity, by a bias of the category and by the length of the description, with less
than proportional growth in the number of files; around it a log-normal spread, and for one phase in 25 a long
tail. The draw of a phase is kept: a second attempt is about as long as the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from random import Random

from autopack.build.plan import Phase
from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.estimator import Kind, kind_of
from autopack.loopback.replies import Refusal, Reply, ReplyRequest

SIMULATED_MODEL = "simulated-writer-1"
DEFAULT_SEED = 7  # of the shipped plan it cuts one reply short, and the second attempt succeeds
STALL_S = 5.0
RETRY_AFTER_MS = 20

_KIND_TOKENS: Mapping[Kind, int] = {"backend": 1700, "frontend": 2300, "test": 2000, "doc": 2400, "config": 450}
_COMPLEXITY_FACTOR = {"low": 0.6, "medium": 1.0, "high": 1.7}
_CATEGORY_FACTOR = {
    "implementation": 1.1,
    "backend": 1.1,
    "frontend": 1.2,
    "testing": 1.3,
    "tests": 1.3,
    "documentation": 1.5,
    "docs": 1.5,
    "configuration": 0.5,
    "refactoring": 0.7,
    "integration": 1.5,
}
_SPREAD = 0.3
_ATTEMPT_SPREAD = 0.08
_TAIL_PROBABILITY = 0.04
_PROMPT_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Faults:
    """How probable each fault of a request is, from 0 (never, the default) to 1 (always).

    `rate_limit` refuses with 429 and `overload` with 529, both with retry headers; `drop` ends the connection in
    the middle of the reply, `truncate` ends the reply at `max_tokens`, `no_usage` leaves out its output count,
    `stall` holds it back for five seconds after its first piece.
    """

    rate_limit: float = 0.0
    overload: float = 0.0
    drop: float = 0.0
    truncate: float = 0.0
    no_usage: float = 0.0
    stall: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"the probability of {field.name} must be between 0 and 1")


def parse_faults(texts: Iterable[str]) -> Faults:
    """Return the faults in texts of the form `KIND=PROBABILITY`, such as `rate-limit=0.1`.

    Raises:
        ValueError: a text is not of that form, the kind is unknown, or the probability is not between 0 and 1.

    """
    known = [field.name for field in fields(Faults)]
    probabilities: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        kind = name.strip().replace("-", "_")
        if kind not in known:
            raise ValueError(f"unknown fault {name!r}; use one of {', '.join(known).replace('_', '-')}")
        try:
            probabilities[kind] = float(number)
        except ValueError:
            raise ValueError(f"{text!r}: give a probability between 0 and 1, as in {name}=0.1") from None
    return Faults(**probabilities)


class SimulatedReplies:
    """Makes up replies to the phases of a plan; an unknown phase costs what one backend file does."""

    def __init__(self, seed: int, phases: Iterable[Phase] = (), faults: Faults | None = None) -> None:
        self._seed = seed
        self._phases = {phase.phase_id: phase for phase in phases}
        self._faults = faults or Faults()

    def reply(self, request: ReplyRequest) -> Reply | Refusal:
        """Reply to a request: a function of seed, request and faults, and of nothing else."""
        struck = self._struck(request)
        if struck.rate_limit:
            return Refusal(429, "rate_limit_error", "simulated: too many requests", RETRY_AFTER_MS)
        if struck.overload:
            return Refusal(529, "overloaded_error", "simulated: overloaded", RETRY_AFTER_MS)
        length = self._length(request)
        too_long = length > request.max_tokens or bool(struck.truncate)
        return Reply(
            model=SIMULATED_MODEL,
            input_tokens=self._input_tokens(request),
            output_tokens=request.max_tokens if too_long else length,
            stop_reason="max_tokens" if too_long else "end_turn",
            text="Simulated reply; nothing was written.",
            gives_usage=not struck.no_usage,
            drops=bool(struck.drop),
            stall_s=STALL_S * struck.stall,
        )

    def _struck(self, request: ReplyRequest) -> Faults:
        """Draw the faults of this request, each 0 or 1. Every kind draws, so that none shifts the others' draws."""
        draw = self._stream("faults", request.phase_id, request.attempt, request.http_retry).random
        kinds = [field.name for field in fields(Faults)]
        return Faults(**{kind: float(draw() < getattr(self._faults, kind)) for kind in kinds})

    def _length(self, request: ReplyRequest) -> int:
        luck = self._stream("phase", request.phase_id)
        spread = math.exp(luck.gauss(0, _SPREAD))
        tail = 1 + luck.paretovariate(2) if luck.random() < _TAIL_PROBABILITY else 1.0
        jitter = math.exp(self._stream("attempt", request.phase_id, request.attempt).gauss(0, _ATTEMPT_SPREAD))
        cost = typical_cost_tokens(self._phases.get(request.phase_id or "", _UNKNOWN))
        return max(1, round(cost * spread * tail * jitter))

    def _input_tokens(self, request: ReplyRequest) -> int:
        context = self._stream("context", request.phase_id).randrange(500, 12_000)
        return request.prompt_bytes // _PROMPT_BYTES_PER_TOKEN + context

    def _stream(self, *purpose: object) -> Random:
        """Return a generator for one purpose. repr() keeps apart what differs, whatever a phase's id contains."""
        return Random(repr((self._seed, *purpose)))  # noqa: S311 (a simulation, not a secret)


_UNKNOWN = Phase("unknown", category="implementation", deliverables=["unknown.py"])


def typical_cost_tokens(phase: Phase) -> float:
    """Return the output tokens that a phase typically costs: the middle of the simulation's spread."""
    paths = flatten_deliverables(phase.deliverables) or ["unknown.py"]
    files = sum(_KIND_TOKENS[kind_of(path)] for path in paths) * len(paths) ** -0.25
    category = _CATEGORY_FACTOR.get(phase.task_category or phase.category or "", 1.0)
    words = len(phase.description.split())
    complexity = _COMPLEXITY_FACTOR.get(phase.complexity, 1.0)
    return float(files * category * complexity * (0.7 + words / 50))
