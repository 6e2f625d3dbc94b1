"""A bar chart on a logarithmic scale, as SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

_LABEL_WIDTH, _PLOT_WIDTH, _RIGHT = 330, 480, 70
_ROW, _TOP, _BOTTOM = 26, 44, 30
_OURS, _OTHERS = "#1f6feb", "#8b949e"


def log_bars(title: str, unit: str, bars: Sequence[tuple[str, float]], emphasis: str = "autopack") -> str:
    """One horizontal bar per figure, longest at the bottom; labels that begin with `emphasis` stand out."""
    shown = sorted(((label, value) for label, value in bars if value > 0), key=lambda bar: bar[1])
    if not shown:
        return ""
    first, last = math.floor(math.log10(shown[0][1])), math.ceil(math.log10(shown[-1][1]))
    last = max(last, first + 1)
    height = _TOP + _ROW * len(shown) + _BOTTOM

    def x_of(value: float) -> float:
        return _LABEL_WIDTH + _PLOT_WIDTH * (math.log10(value) - first) / (last - first)

    parts = [_head(height), _text(12, 22, title, weight="bold")]
    for decade in range(first, last + 1):
        x = x_of(10.0**decade)
        parts += [
            f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{height - _BOTTOM}" stroke="#d0d7de"/>',
            _text(x, height - 10, f"{10.0**decade:,g} {unit}", anchor="middle", fill="#57606a"),
        ]
    for row, (label, value) in enumerate(shown):
        y = _TOP + _ROW * row
        colour = _OURS if label.startswith(emphasis) else _OTHERS
        width = max(2.0, x_of(value) - _LABEL_WIDTH)
        parts += [
            _text(_LABEL_WIDTH - 8, y + 14, label, anchor="end"),
            f'<rect x="{_LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{_ROW - 8}" fill="{colour}"/>',
            _text(_LABEL_WIDTH + width + 6, y + 14, f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"),
        ]
    return "\n".join([*parts, "</svg>", ""])


def _head(height: int) -> str:
    width = _LABEL_WIDTH + _PLOT_WIDTH + _RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="#ffffff"/>'
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#24292f", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
