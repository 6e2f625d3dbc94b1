"""The run of a plan: all its phases, a limited number at a time, until they end or a signal stops them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import anyio

from autopack._util.signals import StopSignals
from autopack.build.plan import Phase
from autopack.build.progress import Outcome
from autopack.build.reply import PhaseResult
from autopack.estimation.deliverables import flatten_deliverables

_SIGNAL_EXIT_CODE = 128


async def run_phases(
    phases: Iterable[Phase],
    call: Callable[[Phase], Awaitable[PhaseResult]],
    *,
    concurrency: int,
    stop: StopSignals,
    ended: Callable[[Outcome], object],
) -> None:
    """Call all phases, `concurrency` at a time, and hand each that ends to `ended`; a signal cancels the others."""
    limiter = anyio.CapacityLimiter(concurrency)

    async def run_one(phase: Phase) -> None:
        async with limiter:
            outcome = Outcome(phase.phase_id, await call(phase))
        ended(outcome)

    with anyio.CancelScope() as scope, stop.cancelling(scope):
        async with anyio.create_task_group() as tasks:
            for phase in phases:
                tasks.start_soon(run_one, phase)


def exit_code(outcomes: Iterable[Outcome], signum: int | None) -> int:
    """Return 0 where all phases succeeded, 1 where one failed, 128 + `signum` where a signal stopped the run."""
    if signum is not None:
        return _SIGNAL_EXIT_CODE + signum
    return 0 if all(outcome.result.success for outcome in outcomes) else 1


def find_existing(workspace: Path, deliverables: object) -> list[str]:
    """Return those of the deliverables (of any nesting) that the workspace has already, in their order.

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
