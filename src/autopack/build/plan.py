"""A build plan: its phases, read from a file and checked before anything starts. Pure but for the reading."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec

from autopack._util.decoding import decode_input
from autopack._util.input_files import read_input
from autopack._util.text import truncate_for_display
from autopack.errors import InputFileError

SHIPPED_PLAN = "plan.json (shipped with autopack)"

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Phase(msgspec.Struct, frozen=True):
    """One phase of a plan. `deliverables` may be nested; a field that the plan leaves out is None."""

    phase_id: Identifier
    description: str = ""
    complexity: str = "medium"
    category: str | None = None
    task_category: str | None = None
    deliverables: list[Any] | dict[str, Any] | None = None
    metadata: Any = None

    def spec(self, run_id: str) -> dict[str, Any]:
        """Return the phase as the client takes it: its fields, and the run that it belongs to."""
        return {"run_id": run_id, **msgspec.structs.asdict(self)}


class Plan(msgspec.Struct, frozen=True):
    """A plan with at least one phase, each with an id of its own."""

    phases: tuple[Phase, ...]
    source: str


class _PlanFile(msgspec.Struct):
    phases: Annotated[list[Any], msgspec.Meta(min_length=1)]


def load_plan(path: Path | None) -> Plan:
    """Return the plan in a file, the shipped one where `path` is None.

    Raises:
        InputFileError: the file is missing, not JSON, or has a bad phase; the line names the file and the phase.

    """
    if path is not None:
        return parse_plan(read_input(path), str(path))
    return parse_plan(resources.files("autopack").joinpath("data/plan.json").read_bytes(), SHIPPED_PLAN)


def parse_plan(data: bytes, source: str) -> Plan:
    """Return the plan in a JSON text; `source` names it in messages. Raises `InputFileError`."""
    entries = decode_input(data, _PlanFile, source).phases
    phases = tuple(_phase(entry, number, source) for number, entry in enumerate(entries, start=1))
    first_place: dict[str, int] = {}
    for number, phase in enumerate(phases, start=1):
        first = first_place.setdefault(phase.phase_id, number)
        if first != number:
            name = truncate_for_display(repr(phase.phase_id))
            raise InputFileError(
                f"{truncate_for_display(source)}: phase {number} ({name}): phase {first} has the same phase_id"
            )
    return Plan(phases, source)


def _phase(entry: object, number: int, source: str) -> Phase:
    try:
        return msgspec.convert(entry, Phase)
    except msgspec.ValidationError as exc:
        place = f"phase {number}{_id_of(entry)}"
        raise InputFileError(f"{truncate_for_display(source)}: {place}: {truncate_for_display(str(exc))}") from exc


def _id_of(entry: object) -> str:
    name = entry.get("phase_id") if isinstance(entry, dict) else None
    return f" ({truncate_for_display(repr(name), 80)})" if isinstance(name, str) else ""
