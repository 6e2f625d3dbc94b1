"""Which of nested spans is the one that counts, told by the chain of parents.

Several hooks may each make a span of one call: the SDK itself, an instrumentation around it, an agent framework around
that. The innermost one knows best. So a span that counts covers its ancestors, and so does a call that an instrumented
client records itself. Response ids say nothing: local servers repeat them.

Two kinds of hook leave no parent. One does not make its span the current one: a span of another hook that starts in the
same context, for the same model as far as they say, while that one is open and has no inner span yet, counts as inside
it. The other makes its span when the call is over, with a start in the past: a span that starts before a call that was
recorded in the same context ended is of that call.

Bounded by the number of open spans, 10,000 at most. No lock: spans end in garbage collection, too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

from autopack.instrumentation.calls import Call
from autopack.instrumentation.phases import Phase

_MOST_OPEN = 10_000


class Hook(NamedTuple):
    """Who made a span, and what of: None is not known when it starts."""

    name: str
    provider: str | None
    model: str | None


class SpanNode:
    """An open span: its parent, whether a span or call inside it has been counted, and which inside it are open."""

    __slots__ = ("call", "claimed", "covered", "hook", "is_open", "named_parent", "open_inside", "parent", "phase")

    def __init__(self, parent: SpanNode | None, *, claimed: bool) -> None:
        self.hook: Hook | None = None
        self.is_open = True
        self.parent = self.named_parent = parent
        self.claimed = claimed
        self.covered = False
        self.open_inside: set[int] = set()
        self.call: Call | None = None
        self.phase: Phase | None = None

    def ancestors(self) -> Iterator[SpanNode]:
        """The open spans around this one, the next one first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def cover_ancestors(self) -> None:
        """This one counts; those around it do not."""
        for node in self.ancestors():
            node.covered = True

    @property
    def counts(self) -> bool:
        """Whether this span is the innermost one, as far as can be told when it ends."""
        return not (self.claimed or self.covered or self.open_inside)


class OpenSpans:
    """The open spans by their id."""

    def __init__(self) -> None:
        self._nodes: dict[int, SpanNode] = {}

    def open(self, span_id: int, parent_id: int | None, start_ns: int, hook: Hook | None = None) -> SpanNode:
        """Remembers a span that has started; `hook` says of a model call who made the span."""
        parent = None if parent_id is None else self._nodes.get(parent_id)
        node = self._nodes[span_id] = SpanNode(parent, claimed=_claimed.get() or start_ns < _recorded_until_ns.get())
        if hook is not None:
            node.hook = hook
            _adopt(node)
        if node.claimed:
            node.cover_ancestors()
        while len(self._nodes) > _MOST_OPEN:
            self._nodes.pop(next(iter(self._nodes.copy())), None)
        return node

    def close(self, span_id: int) -> SpanNode | None:
        """Forgets a span that has ended."""
        node = self._nodes.pop(span_id, None)
        if node is not None:
            node.is_open = False
        return node

    def get(self, span_id: int) -> SpanNode | None:
        """An open span."""
        return self._nodes.get(span_id)

    def __len__(self) -> int:
        return len(self._nodes)


open_spans = OpenSpans()
_claimed: ContextVar[bool] = ContextVar("autopack_call_is_recorded", default=False)
_latest: ContextVar[SpanNode | None] = ContextVar("autopack_latest_span", default=None)
_recorded_until_ns: ContextVar[int] = ContextVar("autopack_recorded_until", default=0)


def _adopt(node: SpanNode) -> None:
    """Puts the latest span of this context around the node where it is another hook's of the same call."""
    outer = _latest.get()
    _latest.set(node)
    if outer is None or outer is node.parent or not outer.is_open or outer.open_inside or outer.covered:
        return
    if outer.hook is None or node.hook is None or outer.named_parent is not node.named_parent:
        return
    if outer.hook.name != node.hook.name and _agree(outer.hook.model, node.hook.model):
        node.parent = outer if _agree(outer.hook.provider, node.hook.provider) else node.parent


def _agree(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one.lower() == other.lower()


def mark_recorded() -> None:
    """A call of this context has been recorded, or counted, up to now."""
    _recorded_until_ns.set(time.time_ns())


@contextlib.contextmanager
def claimed() -> Iterator[None]:
    """Spans that start in here are of a call that is recorded already."""
    token = _claimed.set(True)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _claimed.reset(token)


def claim_surrounding(span_id: int) -> None:
    """A call that is recorded already starts inside that span: neither it nor what is around it counts."""
    node = open_spans.get(span_id)
    if node is not None:
        node.covered = True
        node.cover_ancestors()
    latest = _latest.get()
    if latest is not None and latest.is_open and not latest.open_inside:
        latest.covered = True
