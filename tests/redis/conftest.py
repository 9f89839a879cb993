"""The shared servers, emptied for each test; a wire that is listened to; a server that says what a test wants said."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from agent_cache.backends.portal import PORTAL
from agent_cache.backends.redis import RedisBackend
from agent_cache.config import settings
from agent_cache.engine.outbox import OUTBOX
from agent_cache.policy import scopes_of_reads
from agent_cache.testing.contract import _Face as Face
from agent_cache.testing.servers import ClusterSetup, RedisServer


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """The shared server: empty, its statistics at zero. Tests that break a server start their own."""
    redis_server.cli("FLUSHALL")
    redis_server.cli("CONFIG", "RESETSTAT")
    return redis_server


@pytest.fixture
def cluster(redis_cluster: ClusterSetup) -> ClusterSetup:
    redis_cluster.flush()
    return redis_cluster


@pytest.fixture(autouse=True)
def _nothing_left_over(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of an earlier test is owed to a backend or was said once already."""
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    monkeypatch.setattr(scopes_of_reads, "_backends", {})  # a write of this test reaches no other test's server
    settings.notices.forget()
    OUTBOX.debts.clear()  # whoever still delivers to a backend of an earlier test ends, and holds up nobody here
    yield
    OUTBOX.debts.clear()


@pytest.fixture
async def backend_at(server: RedisServer) -> AsyncIterator[Callable[..., RedisBackend]]:
    """``backend_at(url=…, **settings)``: a backend, at the shared server unless told otherwise; closed after the test."""
    made: list[RedisBackend] = []

    def make(url: str | None = None, **how: Any) -> RedisBackend:
        made.append(RedisBackend(server.url if url is None else url, **how))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


@pytest.fixture
def new_prefix() -> Callable[[], str]:
    return lambda: f"t{os.urandom(4).hex()}:"


@pytest.fixture
def let_pass() -> Callable[[RedisBackend, float], Awaitable[None]]:
    """Time passes for a backend and its keys without anybody waiting."""

    async def passed(backend: RedisBackend, seconds: float) -> None:
        ms = round(seconds * 1000)
        backend._skew_ms += ms
        async for key in backend._scan(backend._names.prefix):
            left = (await backend._links.ask(key, [("PTTL", key)])).values[0] - ms
            if left > -ms:  # -1: it has no end
                await backend._links.ask(key, [("PEXPIRE", key, left)] if left > 0 else [("DEL", key)])

    return passed


class Processes:
    """Backends as several processes have them: server and prefix are one, and nothing else. Time passes for all."""

    def __init__(self, backend_at: Callable[..., RedisBackend], let_pass: Callable[..., Awaitable[None]]) -> None:
        self._backend_at, self._let_pass = backend_at, let_pass
        self.backends: list[RedisBackend] = []

    def __call__(self, url: str | None = None, **how: Any) -> Face:
        self.backends.append(self._backend_at(url, **how))
        return Face(self.backends[-1], blocking=False)

    async def let_pass(self, seconds: float) -> None:
        for backend in self.backends[1:]:
            backend._skew_ms += round(seconds * 1000)
        await self._let_pass(self.backends[0], seconds)


@pytest.fixture
async def process(
    backend_at: Callable[..., RedisBackend], let_pass: Callable[..., Awaitable[None]]
) -> AsyncIterator[Processes]:
    """``process(**settings)``: the protocol as one more process sees it."""
    earlier = set(asyncio.all_tasks(PORTAL.loop))  # other tests' deliveries, to servers that are no more
    yield Processes(backend_at, let_pass)
    async with asyncio.timeout(20):  # what is still to be delivered would open the connections that are closed next
        while any("deliver" in repr(task.get_coro()) for task in asyncio.all_tasks(PORTAL.loop) - earlier):
            await asyncio.sleep(0.01)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Wait for what another thread or process does; how long it takes is nobody's business."""

    async def wait(condition: Callable[[], Any], what: str) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)
        assert condition(), what

    return wait


class Served:
    """A listening socket; every connection to it is handed to ``serve`` on a thread of its own."""

    def __init__(self) -> None:
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(connection)
            threading.Thread(target=self._quietly, args=(connection,), daemon=True).start()

    def _quietly(self, connection: socket.socket) -> None:
        try:
            self.serve(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def _commands(data: bytes) -> list[list[bytes]]:
    """The complete RESP requests at the start of ``data``."""
    found: list[list[bytes]] = []
    rest = data
    while rest.startswith(b"*"):
        head, _, rest = rest.partition(b"\r\n")
        command = []
        for _ in range(int(head[1:])):
            size, _, rest = rest.partition(b"\r\n")
            command.append(rest[: int(size[1:])])
            rest = rest[int(size[1:]) + 2 :]
        found.append(command)
    return found


class Tap(Served):
    """Between a backend and its server, writing down what is said: ``batches`` are requests that waited for an answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.forget()
        super().__init__()

    def forget(self) -> None:
        """Start writing down anew."""
        self.sent, self.received, self.batches = b"", b"", 0

    @property
    def commands(self) -> list[list[bytes]]:
        return _commands(self.sent)

    @property
    def names(self) -> list[str]:
        return [command[0].decode() for command in self.commands]

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as behind:
            behind.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(behind)
            turn = [True]  # whose: the asker's?

            def answers() -> None:
                while data := behind.recv(1 << 20):
                    turn[0] = True
                    self.received += data
                    connection.sendall(data)

            def quietly() -> None:
                try:
                    answers()
                except OSError:
                    pass

            threading.Thread(target=quietly, daemon=True).start()
            while data := connection.recv(1 << 20):
                self.batches += turn[0]
                turn[0] = False
                self.sent += data
                behind.sendall(data)


class Puppet(Served):
    """A server that answers what ``say(command)`` returns, in RESP2: bytes as they are, None for no answer at all."""

    def __init__(self, say: Callable[[list[bytes]], bytes | None]) -> None:
        self.say = say
        super().__init__()

    @property
    def url(self) -> str:
        return f"{super().url}?protocol=2"

    def serve(self, connection: socket.socket) -> None:
        data = b""
        while more := connection.recv(1 << 16):
            data += more
            for command in _commands(data):
                answer = self.say(command)
                if answer is not None:
                    connection.sendall(answer)
            data = b""  # what is asked here is short: a request never comes in two pieces


@pytest.fixture
def tap(server: RedisServer) -> Iterator[Tap]:
    tapped = Tap(server.port)
    yield tapped
    tapped.close()


@pytest.fixture
def tap_on() -> Iterator[Callable[[int], Tap]]:
    """``tap_on(port)``: the same before another server."""
    made: list[Tap] = []

    def make(port: int) -> Tap:
        made.append(Tap(port))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def puppet() -> Iterator[Callable[[Callable[[list[bytes]], bytes | None]], Puppet]]:
    made: list[Puppet] = []

    def make(say: Callable[[list[bytes]], bytes | None]) -> Puppet:
        made.append(Puppet(say))
        return made[-1]

    yield make
    for each in made:
        each.close()
