"""A proxy on the loopback between the writer and a server: forwards, refuses, hangs, or cuts the answer to a commit."""

import asyncio
import re
import socket
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

# What a server says when rows are written, and when that is committed and the next statement may come.
_COMMITTED = re.compile(rb"C\0\0\0.(?:INSERT 0|COPY) .*?Z\0\0\0\x05", re.DOTALL)
_WRITTEN = re.compile(rb"C\0\0\0.(?:INSERT 0|COPY) ", re.DOTALL)


class Proxy:
    """One port of the loopback. Counts connections and cuts, and keeps what the clients sent."""

    def __init__(self, target: str | tuple[str, int]) -> None:
        self.connections = 0
        self.cuts = 0
        self.refusals = 0
        self.sent = bytearray()
        self.refused_setting: bytes | None = None
        self.seems_a_standby = False
        self.failures: list[asyncio.Task[None]] = []
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._open: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._hanging = False
        self._cuts_left = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def heal(self) -> None:
        """Listen, and forward."""
        self._hanging = False
        self._run(self._listen())

    def refuse(self) -> None:
        """End every connection, and refuse further ones."""
        self._run(self._stop())

    def hang(self) -> None:
        """Accept connections and bytes, and never answer, also on those that are open."""
        self._hanging = True
        self._run(self._listen())

    def end_connections(self) -> None:
        """End every connection that is open; further ones are forwarded."""
        self._run(self._end_all())

    def cut_answers(self, count: int) -> None:
        """Of the next `count` batches that are committed, the client never hears."""
        self._cuts_left = count

    def close(self) -> None:
        """End everything."""
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert self.failures == []

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(30)

    # Not asyncio's own server: what that is just accepting when it is closed is never closed.
    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()
        await self._end_all()

    async def _end_all(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is closed in the loop's next turn

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):  # who called has gone again
            client, _ = listener.accept()
            task = self._loop.create_task(self._serve(client))
            self._open.add(task)
            self.connections += 1
            task.add_done_callback(partial(self._served, client))

    def _served(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        client.close()
        if not task.cancelled() and not isinstance(task.exception(), OSError | EOFError | None):
            self.failures.append(task)

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            await self._forward(reader, writer)
        finally:
            writer.transport.abort()

    async def _forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        startup = await self._startup(client, to_client)
        if not startup:
            return
        if isinstance(self._target, str):
            server, to_server = await asyncio.open_unix_connection(self._target)
        else:
            server, to_server = await asyncio.open_connection(*self._target)
        if not self._hanging:
            to_server.write(startup)
        up = asyncio.create_task(self._up(client, to_server))
        down = asyncio.create_task(self._down(server, to_client))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            to_server.transport.abort()

    async def _startup(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> bytes:
        """The startup message; empty if it asks for a setting that is refused, as PgBouncer does."""
        length = await client.readexactly(4)
        startup = length + await client.readexactly(int.from_bytes(length, "big") - 4)
        self.sent += startup
        if self.refused_setting is None or self.refused_setting not in startup:
            return startup
        fields = b"SFATAL\0C08P01\0Munsupported startup parameter: " + self.refused_setting + b"\0\0"
        to_client.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        await to_client.drain()
        self.refusals += 1
        return b""

    async def _up(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await client.read(1 << 16):
            self.sent += data
            if not self._hanging:
                to_server.write(data)
                await to_server.drain()

    async def _down(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        answer = b""
        while data := await server.read(1 << 16):
            if self.seems_a_standby:
                data = data.replace(_status(b"in_hot_standby", b"off"), _status(b"in_hot_standby", b"on"))
            if self._cuts_left:
                answer += data
                if _COMMITTED.search(answer):
                    self._cuts_left -= 1
                    self.cuts += 1
                    return
                if _WRITTEN.search(answer):
                    continue
            if not self._hanging:
                to_client.write(data)
                await to_client.drain()


def _status(name: bytes, value: bytes) -> bytes:
    """What a server says of one of its settings when a connection begins."""
    text = name + b"\0" + value + b"\0"
    return b"S" + (len(text) + 4).to_bytes(4, "big") + text


@contextmanager
def proxy_to(target: str | tuple[str, int]) -> Iterator[Proxy]:
    """A proxy that forwards to a server, as long as the context lasts."""
    proxy = Proxy(target)
    try:
        proxy.heal()
        yield proxy
    finally:
        proxy.close()


def parse_names(sent: bytes) -> list[bytes]:
    """The names of the statements that a client had parsed: of each Parse message in what it sent, behind the startup
    message.
    """
    position = int.from_bytes(sent[:4], "big")
    names = []
    while position + 5 <= len(sent):
        kind, length = sent[position : position + 1], int.from_bytes(sent[position + 1 : position + 5], "big")
        if kind == b"P":
            names.append(sent[position + 5 : sent.index(b"\0", position + 5)])
        position += 1 + length
    return names
