"""HTML made of values: whatever is not markup already is escaped, so nothing that was recorded can become any. Pure."""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec

from autopack._util.text import escape_terminal

_VOID = frozenset({"meta", "link", "br", "hr", "input"})
_UNSAFE_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


class Markup(str):
    """Text that is HTML. Only this module makes any, but for what is written out in the page's own templates."""

    __slots__ = ()


def tag(name: str, /, *children: str | Markup | None, **attributes: str | bool | None) -> Markup:
    """An element. A child that is no markup is text; what a reader would not see as it is stands as an escape.

    A trailing underscore of an attribute's name is dropped, others become hyphens: `class_`, `aria_label`. True is an
    attribute without a value, False and None are none.
    """
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in _VOID:
        return Markup(opened)
    return Markup(f"{opened}{joined(*children)}</{name}>")


def joined(*children: str | Markup | None) -> Markup:
    """The children one after the other."""
    return Markup("".join(_child(child) for child in children if child is not None))


def data_script(identifier: str, value: Any) -> Markup:
    """A JSON data block. No text in it can end it: `<`, `>` and `&` are written as JSON escapes."""
    encoded = msgspec.json.encode(value).decode().translate(_UNSAFE_IN_SCRIPT)
    return Markup(f'<script type="application/json" id="{identifier}">{encoded}</script>')


def _child(child: str | Markup) -> str:
    return child if isinstance(child, Markup) else escape(escape_terminal(child))


def _attribute(name: str, value: str | bool | None) -> str:
    shown = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {shown}" if value is True else f' {shown}="{escape(escape_terminal(value))}"'
