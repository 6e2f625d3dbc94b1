"""The phase that a call belongs to: `autopack.phase`, `current_phase` and `bind`.

A phase lives in a context variable: tasks and `asyncio.to_thread` inherit it, executors and threads do not (`bind`
carries it there), and child processes get it through the environment (`Phase.to_env`, read when this module loads).
A call reads its phase when it starts and keeps it: where its reply ends, in another task, thread or callback, the
context is another one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar, cast

from autopack.estimation.deliverables import flatten_deliverables
from autopack.instrumentation.executions import Executions, count_entry
from autopack.instrumentation.offers import Basis, Offer, Shape, offer_for
from autopack.instrumentation.phase_ids import auto_phase_id, process_run_id
from autopack.telemetry import warn_once

F = TypeVar("F", bound=Callable[..., Any])

RUN_ID_VARIABLE = "AUTOPACK_RUN_ID"
PHASE_VARIABLE = "AUTOPACK_PHASE"
UNKNOWN_CATEGORY = "unknown"
DEFAULT_COMPLEXITY = "medium"

_LONGEST_ATTRIBUTE = 200
_MOST_ATTRIBUTES = 50
_MOST_ENVIRONMENT_BYTES = 64 * 1024  # Linux takes 128 KiB for one variable


@dataclass(frozen=True, slots=True)
class Description:
    """What was said of a phase; None: nothing. Raises TypeError for a value of another kind, by the field's name."""

    phase_id: str | None = None
    run_id: str | None = None
    category: str | None = None
    complexity: str | None = None
    deliverables: tuple[str, ...] | None = None
    existing: tuple[str, ...] | None = None
    attempt: int | None = None
    model: str | None = None
    reasoning_level: str | None = None
    predicted_output_tokens: int | None = None
    selected_budget: int | None = None
    attributes: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, kind, described in _KINDS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise TypeError(f"a phase's {name} is {described}, not {type(value).__name__}")

    def within(self, outer: Description) -> Description:
        """This description, with what it does not say taken from the surrounding phase's.

        A phase that says what a prediction depends on does not inherit one. `phase_id` and `attempt` are its own.
        """
        predicted, budget = self.predicted_output_tokens, self.selected_budget
        shape = (self.category, self.complexity, self.deliverables, self.existing, self.model, self.reasoning_level)
        if predicted is None and budget is None and all(said is None for said in shape):
            predicted, budget = outer.predicted_output_tokens, outer.selected_budget
        return Description(
            phase_id=self.phase_id,
            run_id=_either(self.run_id, outer.run_id),
            category=_either(self.category, outer.category),
            complexity=_either(self.complexity, outer.complexity),
            deliverables=_either(self.deliverables, outer.deliverables),
            existing=_either(self.existing, outer.existing),
            attempt=self.attempt,
            model=_either(self.model, outer.model),
            reasoning_level=_either(self.reasoning_level, outer.reasoning_level),
            predicted_output_tokens=predicted,
            selected_budget=budget,
            attributes={**(outer.attributes or {}), **(self.attributes or {})} or None,
        )


_KINDS: tuple[tuple[str, type, str], ...] = (
    *((name, str, "a text") for name in ("phase_id", "run_id", "category", "complexity", "model", "reasoning_level")),
    *((name, int, "a whole number") for name in ("attempt", "predicted_output_tokens", "selected_budget")),
    ("attributes", Mapping, "a mapping"),
)
T = TypeVar("T")


def _either(own: T | None, outer: T | None) -> T | None:
    return outer if own is None else own


class Phase:
    """One entry of a phase: what its calls are recorded with, and the ceiling that it offers them.

    `run_id`, `phase_id`, `category`, `complexity`, `deliverables`, `existing`, `attempt`, `model`, `reasoning_level`
    and `attributes` are as they were said, inherited or generated.
    """

    def __init__(self, description: Description, *, function: str | None = None, entered_by: object = None) -> None:
        said = description
        self._description = said
        self.entered_by = entered_by
        self.token: Token[Phase | None] | None = None
        self.category: str = UNKNOWN_CATEGORY if said.category is None else said.category
        self.complexity: str = DEFAULT_COMPLEXITY if said.complexity is None else said.complexity
        self.deliverables: tuple[str, ...] = said.deliverables or ()
        self.existing: tuple[str, ...] | None = said.existing
        self.model: str | None = said.model
        self.reasoning_level: str | None = said.reasoning_level
        self.attributes: Mapping[str, Any] | None = said.attributes
        self.run_id: str = said.run_id or os.environ.get(RUN_ID_VARIABLE) or process_run_id()
        generated = said.phase_id is None
        self.phase_id: str = auto_phase_id(function) if said.phase_id is None else said.phase_id
        counted = not generated and said.attempt is None
        self.attempt: int = count_entry(self.run_id, self.phase_id) if counted else said.attempt or 1
        self.executions = Executions(self.attempt, self._next_attempt if counted else _following)

    @functools.cached_property
    def _offer(self) -> Offer:
        said = self._description
        return offer_for(
            Shape(
                category=said.category,
                complexity=self.complexity,
                deliverables=self.deliverables,
                existing=self.existing,
                model=self.model,
                predicted_output_tokens=said.predicted_output_tokens,
                selected_budget=said.selected_budget,
                phase_id=self.phase_id,
                reasoning_level=self.reasoning_level,
            )
        )

    @property
    def max_tokens(self) -> int:
        """The ceiling that this phase offers, at least 1. An offer: no request is ever changed."""
        return self._offer.max_tokens

    @property
    def basis(self) -> Basis:
        """Where `max_tokens` comes from: `given`, a basis of `suggest_max_tokens`, `model` or `default`."""
        return self._offer.basis

    @property
    def predicted_output_tokens(self) -> int:
        """The tokens that were predicted; 0: nothing was."""
        return self._offer.predicted_output_tokens

    @property
    def selected_budget(self) -> int:
        """The budget that goes with the prediction; 0: there is none."""
        return self._offer.selected_budget

    @property
    def estimator(self) -> str | None:
        """The fingerprint of the coefficients that made the prediction; None: they did not."""
        return self._offer.estimator

    @property
    def key(self) -> str:
        """What stands for this phase in statistics: a digest, the same wherever it is executed.

        Of id, category, complexity and deliverables; of a generated id only the function's name, or nothing, counts.
        """
        from autopack.estimation.phases import phase_key

        return phase_key(self.phase_id, self.category, self.complexity, self.deliverables)

    def to_env(self) -> dict[str, str]:
        """The environment variables that give this phase to a child process: `Popen(…, env={**os.environ, **these})`.

        Attempt, prediction and budget travel with it, so the child estimates nothing. Deliverables beyond 64 KiB are
        left behind.
        """
        fields: dict[str, Any] = {
            "phase_id": self.phase_id,
            "run_id": self.run_id,
            "category": self._description.category,
            "complexity": self._description.complexity,
            "attempt": self.attempt,
            "model": self.model,
            "reasoning_level": self.reasoning_level,
            "predicted_output_tokens": self.predicted_output_tokens,
            "selected_budget": self.selected_budget or None,
            "attributes": self.attributes,
            "estimator": self.estimator,
        }
        left = _MOST_ENVIRONMENT_BYTES - len(json.dumps(fields))
        for name in ("deliverables", "existing"):
            paths = getattr(self, name)
            if paths is not None and (cost := len(json.dumps(paths))) <= left:
                fields[name] = paths
                left -= cost
        variables = {PHASE_VARIABLE: json.dumps(fields)}
        if self.run_id.isprintable() and self.run_id.isascii():
            variables[RUN_ID_VARIABLE] = self.run_id
        return variables

    @property
    def inherited(self) -> Description:
        """What a nested phase inherits."""
        return replace(self._description, run_id=self.run_id)

    def _next_attempt(self, attempt: int) -> int:
        return max(attempt + 1, count_entry(self.run_id, self.phase_id))

    def __reduce__(self) -> tuple[Callable[[str], Phase], tuple[str]]:
        """A phase goes to another process as it goes through the environment."""
        return _phase_of_text, (self.to_env()[PHASE_VARIABLE],)

    def __repr__(self) -> str:
        return f"<Phase {self.phase_id!r} of run {self.run_id!r}>"


def _following(attempt: int) -> int:
    return attempt + 1


def flat_attributes(attributes: Mapping[str, Any]) -> dict[str, str | float | bool | None]:
    """At most 50 scalars, each text cut to 200 characters; any other value is named by its type, never called."""
    flat: dict[str, str | float | bool | None] = {}
    for name, value in list(attributes.items())[:_MOST_ATTRIBUTES]:
        if isinstance(value, str):
            flat[str(name)[:_LONGEST_ATTRIBUTE]] = str.__str__(value)[:_LONGEST_ATTRIBUTE]
        elif value is None or type(value) in (int, float, bool):
            flat[str(name)[:_LONGEST_ATTRIBUTE]] = value
        else:
            flat[str(name)[:_LONGEST_ATTRIBUTE]] = f"<{type(value).__name__}>"
    return flat


_FIELDS = frozenset(Description.__dataclass_fields__)


def phase_of_fields(said: Mapping[str, Any]) -> Phase:
    """A phase from decoded JSON, as in the metadata of a request. Raises TypeError for fields that it does not have."""
    fields = dict(said)
    if isinstance(attributes := fields.get("attributes"), Mapping):
        fields["attributes"] = flat_attributes(attributes)
    if unknown := fields.keys() - _FIELDS - {"estimator"}:
        raise TypeError(f"a phase has no {', '.join(sorted(map(repr, unknown)))[:100]}")
    estimator = fields.pop("estimator", None)
    for name in ("deliverables", "existing"):
        if fields.get(name) is not None:
            fields[name] = tuple(flatten_deliverables(fields[name]))
    made = Phase(Description(**fields))
    if estimator is not None:
        made.__dict__["_offer"] = replace(made._offer, estimator=str(estimator)[:8], basis="coefficients")
    return made


def _phase_of_text(text: str) -> Phase:
    """The phase that `to_env` wrote. Raises ValueError or TypeError where it is another text."""
    said = json.loads(text)
    if not isinstance(said, dict):
        raise TypeError("a phase is a mapping")
    return phase_of_fields(said)


def _phase_of_process() -> Phase | None:
    """The phase that the parent process gave to this one."""
    text = os.environ.get(PHASE_VARIABLE)
    if not text:
        return None
    try:
        return _phase_of_text(text)
    except (ValueError, TypeError, AttributeError, RecursionError):
        warn_once(f"{PHASE_VARIABLE} does not hold what Phase.to_env() writes; calls have no phase by it")
        return None


_current: ContextVar[Phase | None] = ContextVar("autopack_phase", default=_phase_of_process())  # noqa: B039 (a phase is entered, not changed)


def current_phase() -> Phase | None:
    """The innermost phase that this context is in; the one of the parent process; None: there is none."""
    return _current.get()


class phase:  # noqa: N801 (it reads as a word of the language: `with autopack.phase(…)`, `@autopack.phase(…)`)
    """The calls in a `with` block, or in each call of a function, belong to this phase.

    >>> with autopack.phase("p3", run_id="nightly-42", category="refactoring", deliverables=paths) as phase:
    ...     client.messages.create(max_tokens=phase.max_tokens, ...)

    A nested phase inherits what it does not say. `phase_id` None: generated, `auto-…`; for statistics such a phase is
    its kind: the function's qualified name or none, category, complexity, deliverables. `run_id` None: the surrounding
    phase's, `AUTOPACK_RUN_ID`, else one of the process and day. `attempt` None: counts the entries of the same
    (`run_id`, `phase_id`) in this process. deliverables, existing: paths, nested as one likes. model: the one that is
    going to be asked, for the offered ceiling. reasoning_level: a word. predicted_output_tokens, selected_budget: None:
    the estimator's, for a category that it knows or deliverables; for any other kind nothing is predicted. attributes:
    the caller's own tags, flat; a text keeps 200 characters.
    """

    def __init__(
        self,
        phase_id: str | None = None,
        *,
        run_id: str | None = None,
        category: str | None = None,
        complexity: str | None = None,
        deliverables: object = None,
        existing: object = None,
        attempt: int | None = None,
        model: str | None = None,
        reasoning_level: str | None = None,
        predicted_output_tokens: int | None = None,
        selected_budget: int | None = None,
        attributes: Mapping[str, str | float | bool | None] | None = None,
    ) -> None:
        if callable(phase_id):
            raise TypeError("autopack.phase is called before it decorates: write @autopack.phase()")
        self._description = Description(
            phase_id=phase_id,
            run_id=run_id,
            category=category,
            complexity=complexity,
            deliverables=None if deliverables is None else tuple(flatten_deliverables(deliverables)),
            existing=None if existing is None else tuple(flatten_deliverables(existing)),
            attempt=attempt,
            model=model,
            reasoning_level=reasoning_level,
            predicted_output_tokens=predicted_output_tokens,
            selected_budget=selected_budget,
            attributes=flat_attributes(attributes) if isinstance(attributes, Mapping) else attributes,
        )
        self._function: str | None = None

    def __enter__(self) -> Phase:
        outer = _current.get()
        description = self._description if outer is None else self._description.within(outer.inherited)
        entered = Phase(description, function=self._function, entered_by=self)
        entered.token = _current.set(entered)
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        inner = _current.get()
        if inner is None or inner.entered_by is not self or inner.token is None:
            return  # closed in another context than it was entered in, as an abandoned generator is
        with contextlib.suppress(ValueError, RuntimeError):
            _current.reset(inner.token)

    def __call__(self, function: F) -> F:
        """The function, each of whose calls is a phase of its own. Raises TypeError for a generator function."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator function, whose body runs in its reader's context: "
                "enter the phase around the call in it that asks the model"
            )
        entry = phase()
        entry._description = self._description
        entry._function = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def in_phase(*args: Any, **kwargs: Any) -> Any:
                with entry:
                    return await function(*args, **kwargs)

        else:

            @functools.wraps(function)
            def in_phase(*args: Any, **kwargs: Any) -> Any:
                with entry:
                    return function(*args, **kwargs)

        return cast("F", in_phase)


def bind(function: F) -> F:
    """The function, run in the phase of this moment: for executors and threads, which begin without a context.

    >>> pool.submit(autopack.bind(ask), item)

    Works for coroutine functions, too, and for pools of processes where the function itself can be sent there. Its
    calls count as calls of the same entry of the phase. Outside a phase it is the function itself.
    """
    entered = _current.get()
    if entered is None:
        return function
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def bound(*args: Any, **kwargs: Any) -> Any:
            with _inside(entered):
                return await function(*args, **kwargs)

        return cast("F", bound)
    return cast("F", _Bound(function, entered))


class _Bound:
    """A function with the phase that it runs in; can be pickled where the function can."""

    def __init__(self, function: Callable[..., Any], entered: Phase) -> None:
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._phase = entered

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _inside(self._phase):
            return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[type[_Bound], tuple[Callable[..., Any], Phase]]:
        return _Bound, (self._function, self._phase)


class _inside:  # noqa: N801 (reads as a word)
    """Enters an entered phase again, in another context."""

    def __init__(self, entered: Phase) -> None:
        self._phase = entered

    def __enter__(self) -> None:
        self._token = _current.set(self._phase)

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(ValueError, RuntimeError):
            _current.reset(self._token)
