"""Deliverables of any nesting as a flat list of text.

A plan may give its deliverables as a list, as a mapping of groups, or as any mixture of both. Estimator, client
and telemetry all count them, so they all flatten them here, alike.
"""

from __future__ import annotations

from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath

MAX_DEPTH = 32
MAX_NODES = 100_000  # a list that holds itself twice has 2**32 nodes within the depth limit

_PATHS = frozenset({PurePath, PurePosixPath, PureWindowsPath, PosixPath, WindowsPath})
_PLAIN = frozenset({int, float, bool})
_LONGEST_INT_BITS = 1024  # str() of an int refuses above 4,300 digits


def flatten_deliverables(value: object) -> list[str]:
    """Return the deliverables in `value`, in order, as a new list.

    Text is kept as it is; mappings give their values, lists, tuples and sets their items (a set of text in sorted
    order, so that two runs agree); numbers and pathlib's own paths become text; None is no deliverable. Anything
    else counts as one, named by its type as `<Type>`: methods of the caller's own classes are never called.

    What is nested deeper than 32, and what comes after the 100,000th node, is left out, so that hostile or cyclic
    nesting costs a bounded time. Never raises.
    """
    if type(value) is list and all(type(item) is str for item in value):
        return value.copy()  # nearly every call: takes a fifth of the time of what follows
    names: list[str] = []
    stack = [(value, 0)]
    for _ in range(MAX_NODES):
        if not stack:
            break
        node, depth = stack.pop()
        children = _children(node)
        if children is None:
            names.extend(_name(node))
        elif depth < MAX_DEPTH:
            stack.extend((child, depth + 1) for child in reversed(children))
    return names


def _children(node: object) -> list[object] | None:
    """Return the nodes under a container, None for a leaf."""
    if isinstance(node, dict):
        return list(dict.values(node))[:MAX_NODES]
    if isinstance(node, list):
        return list(list.__iter__(node))[:MAX_NODES]
    if isinstance(node, tuple):
        return list(tuple.__iter__(node))[:MAX_NODES]
    if type(node) in (set, frozenset):
        return _set_items(node)
    return None


def _set_items(node: object) -> list[object]:
    items: list[object] = list(node)  # type: ignore[call-overload]
    texts = [item for item in items if type(item) is str]
    return list(sorted(texts)) if len(texts) == len(items) else items  # noqa: C413 (list[str] is not list[object])


def _name(leaf: object) -> tuple[str, ...]:
    """Return the text of a leaf; nothing for None."""
    if leaf is None:
        return ()
    if isinstance(leaf, str):
        return (str.__str__(leaf),)
    if type(leaf) is int and leaf.bit_length() > _LONGEST_INT_BITS:
        return ("<int>",)
    if type(leaf) in _PLAIN or type(leaf) in _PATHS:
        return (str(leaf),)
    return (f"<{type(leaf).__name__}>",)
