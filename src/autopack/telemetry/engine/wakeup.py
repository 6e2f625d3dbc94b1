"""A bell that any thread may ring and one event loop listens to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    import anyio


class Bell:
    """Rings once per `ring`, however often it is rung before the listener wakes.

    `ring` takes no lock and is safe in a signal handler; it costs a system call, so the call site rings only for a
    full batch. `bind` and `wait` belong to the listener, and import what they need: where telemetry is off nobody
    listens, and nothing is imported.
    """

    def __init__(self) -> None:
        self._rung = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: anyio.Event | None = None

    def bind(self) -> None:
        """Listen in the running loop from now on."""
        import asyncio

        import anyio

        self._event = anyio.Event()
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Wake the listener, now or when it next listens."""
        self._rung = True
        if (loop := self._loop) is not None:
            # RuntimeError: the loop is closed. Then nobody listens any more, and whoever waits has a deadline.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when the bell rings, or rang since the last `wait`, or after the timeout."""
        import anyio

        if not self._rung and self._event is not None:
            with anyio.move_on_after(timeout_s):
                await self._event.wait()
        self._rung = False
        self._event = anyio.Event()
