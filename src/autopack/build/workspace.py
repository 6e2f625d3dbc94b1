"""Which deliverables a workspace has already."""

from __future__ import annotations

from pathlib import Path

from autopack.estimation.deliverables import flatten_deliverables


def find_existing(workspace: Path, deliverables: object) -> list[str]:
    """Those of the deliverables (of any nesting) that are there in the workspace, in their order.

    Only what resolves to a place inside the workspace counts: a path that leaves it by `..`, by being absolute or
    through a link is not looked at, nor is the workspace itself. Never raises: what cannot be looked at is new.
    """
    root = workspace.resolve()
    return [name for name in flatten_deliverables(deliverables) if _exists_inside(root, name)]


def _exists_inside(root: Path, name: str) -> bool:
    try:
        path = (root / name).resolve()
        return path != root and path.is_relative_to(root) and path.exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL, a loop of links
        return False
