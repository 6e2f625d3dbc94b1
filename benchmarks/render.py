"""Results as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from benchmarks.report import Section, Table, Target


class Result(msgspec.Struct, frozen=True):
    """A section, and where and how it came about."""

    mode: str
    duration_s: float
    machine: dict[str, Any]
    section: Section


def markdown(results: Mapping[str, Result], charts: Iterable[str] = ()) -> str:
    """Targets first, then where it ran, then every table."""
    parts = [_targets(results), _machines(results), *(f"![{chart}]({chart})" for chart in charts)]
    for name, result in results.items():
        parts += [f"### {result.section.title}", f"`scripts/bench {name}`; {result.mode}, {result.duration_s:.0f} s."]
        parts += result.section.remarks
        parts += [_table(table) for table in result.section.tables]
    return "\n\n".join(part for part in parts if part) + "\n"


def _targets(results: Mapping[str, Result]) -> str:
    rows = [
        [
            target.name,
            f"**{_number(target.value)}** {target.unit}",
            _range(target),
            _limit(target, target.must),
            _limit(target, target.aim),
            f"**{target.verdict}**" if target.verdict == "missed" else target.verdict,
        ]
        for result in results.values()
        for target in result.section.targets
    ]
    return _grid(["target", "measured", "spread", "must", "aim", ""], rows) if rows else ""


def _range(target: Target) -> str:
    return "" if target.low is None or target.high is None else f"{_number(target.low)} – {_number(target.high)}"


def _limit(target: Target, limit: float) -> str:
    return f"{'≥' if target.sense == 'at least' else '≤'} {_number(limit)} {target.unit}"


def _machines(results: Mapping[str, Result]) -> str:
    """One line per benchmark: they may have been run at different times."""
    rows = [
        [
            name,
            result.mode,
            result.machine["date"],
            f"`{result.machine['commit']}`{' and changes' if result.machine['changed_since_commit'] else ''}",
            f"{result.machine['cpu']}, {result.machine['cores']} cores",
            f"{result.machine['python']}, SQLite {result.machine['sqlite']}",
            f"{result.machine['load_1_min']} → {result.machine['load_1_min_after']}",
        ]
        for name, result in results.items()
    ]
    return _grid(["benchmark", "mode", "when", "commit", "machine", "versions", "load before → after"], rows)


def _table(table: Table) -> str:
    grid = _grid(["", *table.columns], [[line.label, *map(_cell, line.figures)] for line in table.lines])
    return "\n\n".join(part for part in (f"**{table.title}**", table.note, grid) if part)


def _cell(figure: float | str | None) -> str:
    if figure is None:
        return "–"
    return figure if isinstance(figure, str) else _number(figure)


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _grid(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
