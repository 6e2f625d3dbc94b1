"""The event loop of the worker: asyncio's, and nothing that the worker waits for is a greenlet.

Where gevent or eventlet has patched the standard library, asyncio's own loop waits by way of a hub of theirs, and looks
up the address of a server in a "thread" that never runs. The sockets that a driver opens on this loop may be patched
ones: they do not block, and then what is patched only calls what is real.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import math
import select
import selectors
from collections.abc import Callable
from functools import partial
from typing import Any

from autopack._util import os_threads


def make_loop() -> asyncio.AbstractEventLoop:
    """A new one, for `anyio.run`."""
    return _PatchedProcessLoop(_PollSelector()) if os_threads.is_patched(select, "select") else _WorkerLoop()


class _WorkerLoop(asyncio.SelectorEventLoop):
    """A process may be patched when the worker already runs: what it calls on later has to be real even then."""

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 (asyncio's name)
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """See asyncio's, which uses a pool of threads."""
        look_up = partial(_socket.getaddrinfo, host, port, family, type, proto, flags)
        return await self._in_a_thread(look_up)

    async def _in_a_thread(self, function: Callable[[], Any]) -> Any:
        future = self.create_future()

        def settle(method: Callable[[Any], None], value: object) -> None:
            if not future.done():  # the caller has given up
                method(value)

        def work() -> None:
            try:
                outcome = (future.set_result, function())
            except Exception as exc:  # noqa: BLE001 (it is the caller's)
                outcome = (future.set_exception, exc)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(settle, *outcome)

        os_threads.start_new_thread(work, ())
        return await future


class _PatchedProcessLoop(_WorkerLoop):
    # Of asyncio's: private, and the same from Python 3.4 to 3.14.
    _internal_fds: int
    _add_reader: Callable[[int, Callable[[], None]], object]
    _read_from_self: Callable[[], None]

    def _make_self_pipe(self) -> None:
        """See asyncio's: any thread writes to it what wakes the loop. A patched socket belongs to a hub."""
        self._ssock, self._csock = _socket.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        self._internal_fds += 1
        self._add_reader(self._ssock.fileno(), self._read_from_self)


class _PollSelector(selectors.SelectSelector):
    """Waits in the `poll` of the operating system, which is told each time what for: two or three files."""

    def __init__(self) -> None:
        super().__init__()
        self._real_select: Any = os_threads.real_module("select")

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector.select`."""
        readable, writable = self._real_select.POLLIN, self._real_select.POLLOUT
        poll = self._real_select.poll()
        for key in self.get_map().values():
            reads, writes = key.events & selectors.EVENT_READ, key.events & selectors.EVENT_WRITE
            poll.register(key.fd, (readable if reads else 0) | (writable if writes else 0))
        timeout_ms = None if timeout is None else max(0, math.ceil(timeout * 1000))
        found = []
        for fd, events in poll.poll(timeout_ms):
            # An error or a hang-up is both: what reads or writes is told of it.
            reads = selectors.EVENT_READ if events & ~writable else 0
            writes = selectors.EVENT_WRITE if events & ~readable else 0
            key = self.get_key(fd)
            found.append((key, (reads | writes) & key.events))
        return found
