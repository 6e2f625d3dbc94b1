"""Which of nested spans is the one that counts, told by the chain of parents.

Several hooks may each make a span of one call: the SDK itself, an instrumentation around it, an agent framework around
that. The innermost one knows best. So a span that counts covers its ancestors, and so does a call that an instrumented
client records itself. Response ids say nothing: local servers repeat them.

Bounded by the number of open spans, 10,000 at most. No lock: spans end in garbage collection, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from autopack.instrumentation.calls import Call
from autopack.instrumentation.phases import Phase

_MOST_OPEN = 10_000


class SpanNode:
    """An open span: its parent, whether a span or call inside it has been counted, and which inside it are open."""

    __slots__ = ("call", "claimed", "covered", "open_inside", "parent", "phase")

    def __init__(self, parent: SpanNode | None, *, claimed: bool) -> None:
        self.parent = parent
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

    def open(self, span_id: int, parent_id: int | None) -> SpanNode:
        """Remembers a span that has started."""
        parent = None if parent_id is None else self._nodes.get(parent_id)
        node = self._nodes[span_id] = SpanNode(parent, claimed=_claimed.get())
        if node.claimed:
            node.cover_ancestors()
        while len(self._nodes) > _MOST_OPEN:
            self._nodes.pop(next(iter(self._nodes.copy())), None)
        return node

    def close(self, span_id: int) -> SpanNode | None:
        """Forgets a span that has ended."""
        return self._nodes.pop(span_id, None)

    def get(self, span_id: int) -> SpanNode | None:
        """An open span."""
        return self._nodes.get(span_id)

    def __len__(self) -> int:
        return len(self._nodes)


open_spans = OpenSpans()
_claimed: ContextVar[bool] = ContextVar("autopack_call_is_recorded", default=False)


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
