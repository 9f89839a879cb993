"""A TCP proxy that misbehaves when told to: bytes held back, lost or late, connections cut, replies thrown away.

What belongs here: what happens to bytes on their way between a client and a server. What does not: the servers
themselves (:mod:`agent_cache.testing.servers`), and any understanding of the protocol.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Literal, Self, TypeVar

__all__ = ["Connection", "Direction", "FaultProxy", "Only"]

T = TypeVar("T")

Direction = Literal["both", "to_client", "to_server"]

_HOST = "127.0.0.1"
_CHUNK = 65_536
# So much of one connection is kept in each direction; then its sender has to wait, as on a real network.
_ROOM = 1_048_576
_FIRST = 65_536
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_DIRECTIONS: dict[str, tuple[str, ...]] = {
    "both": ("to_client", "to_server"),
    "to_client": ("to_client",),
    "to_server": ("to_server",),
}


class Connection:
    """One connection of a client, as predicates (``only=``) see it."""

    __slots__ = ("_asked", "_client", "_connecting", "_first", "_lost", "_server", "_to_client", "_to_server", "number")

    def __init__(self, number: int, client: socket.socket, server: socket.socket | None) -> None:
        self.number = number
        """1 for the first that was opened."""
        self._client = client
        self._server = server
        self._connecting = server is not None
        self._lost = server is None
        self._first = bytearray()
        self._asked = False
        self._to_server = _Flow("to_server", client, server)
        self._to_client = _Flow("to_client", server, client)

    @property
    def first_bytes(self) -> bytes:
        """What the client sent so far, up to 64 KiB, passed on or not: ``b"SUBSCRIBE" in connection.first_bytes``."""
        return bytes(self._first)

    def __repr__(self) -> str:
        return f"<Connection {self.number} {self.first_bytes[:40]!r}>"


Only = Callable[[Connection], bool]


class _Flow:
    """One direction of one connection: what was read and not yet passed on; ``b""`` is the end."""

    __slots__ = ("blocked", "ended", "name", "queue", "sink", "size", "source")

    def __init__(self, name: str, source: socket.socket | None, sink: socket.socket | None) -> None:
        self.name = name
        self.source = source
        self.sink = sink
        self.queue: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.ended = False  # nothing more comes from the source
        self.blocked = False  # the sink takes no more just now

    def clear(self) -> None:
        self.queue.clear()
        self.size = 0


class FaultProxy:
    """A proxy on a free loopback port in front of one server; it runs in a thread of its own.

    Every control can be called from any thread and any event loop, and holds when it returns: a byte that had not been
    passed on by then is treated as told. ``only`` picks connections; it is called in the proxy's thread, for every
    chunk anew, with what the client has sent by then.

    Args:
        target_host: where the server is.
        target_port: where the server is; it may come and go, each connection looks anew.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self._thread: threading.Thread | None = None
        self._port: int | None = None
        self._gate = threading.Lock()
        self._orders: deque[Callable[[], None]] = deque()
        self._open = False
        self._failure: BaseException | None = None
        # From here on: only touched by the thread, while it runs.
        self._live: dict[int, Connection] = {}
        self._interest: dict[socket.socket, int] = {}
        self._closing = False
        self._stalls: list[tuple[tuple[str, ...], Only | None]] = []
        self._swallows: list[Only | None] = []
        self._delay = 0.0
        self._refusing = False
        self._holed = False
        self._connections = 0
        self._bytes = {"to_client": 0, "to_server": 0}
        self._round_trips = 0

    # -- what it is

    @property
    def port(self) -> int:
        """Where clients connect."""
        assert self._port is not None, "not started yet"
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return _HOST, self.port

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``."""
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many were opened so far, those refused or swallowed by a black hole included."""
        return self._do(lambda: self._connections)

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return self._do(lambda: len(self._live))

    @property
    def bytes_to_client(self) -> int:
        """Bytes passed on from the server to clients."""
        return self._do(lambda: self._bytes["to_client"])

    @property
    def bytes_to_server(self) -> int:
        """Bytes passed on from clients to the server."""
        return self._do(lambda: self._bytes["to_server"])

    @property
    def round_trips(self) -> int:
        """How often the server said something after a client had: a pipeline counts once, a push does not."""
        return self._do(lambda: self._round_trips)

    @property
    def held_to_client(self) -> int:
        """Bytes that were received from the server and not passed on yet: once there are some, it HAS answered."""
        return self._do(lambda: sum(connection._to_client.size for connection in self._live.values()))

    @property
    def held_to_server(self) -> int:
        """Bytes that were received from clients and not passed on yet."""
        return self._do(lambda: sum(connection._to_server.size for connection in self._live.values()))

    # -- faults

    def stall(self, direction: Direction = "both", only: Only | None = None) -> None:
        """Hold bytes back, of present and future connections, and close nothing, until :meth:`resume`.

        The end of a connection is held back too: what a client sent before it gave up still arrives later on. Stalls
        add up.
        """
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction={direction!r}: one of {', '.join(_DIRECTIONS)}")
        self._do(lambda: self._stalls.append((_DIRECTIONS[direction], only)))

    def resume(self) -> None:
        """End every stall: what was held back goes on its way, in order."""
        self._do(self._stalls.clear)

    def drop(self, only: Only | None = None) -> int:
        """Close connections on both sides, with what was held back of them; how many."""
        return self._do(lambda: self._drop(only))

    def refuse(self) -> None:
        """New connections are accepted and closed at once, until :meth:`heal`; present ones go on."""
        self._do(lambda: setattr(self, "_refusing", True))

    def black_hole(self) -> None:
        """Whatever is sent is lost, both ways, and nobody is told, until :meth:`heal`.

        Present connections stay open and new ones are accepted. What is lost stays lost, so :meth:`heal` closes them.
        """
        self._do(self._make_hole)

    def swallow_next_reply(self, only: Only | None = None) -> None:
        """Throw away the next bytes from the server and close their connection: the command WAS executed.

        Once. Say ``only`` when other connections may be spoken to in between. On a new connection, the first bytes
        from the server answer what the client sends to introduce itself.
        """
        self._do(lambda: self._swallows.append(only))

    def delay(self, seconds: float) -> None:
        """Pass on each chunk, either way, so much later; 0 ends it."""
        if seconds < 0:
            raise ValueError(f"delay({seconds!r}): not negative")
        self._do(lambda: setattr(self, "_delay", float(seconds)))

    def partition(self) -> None:
        """Close every connection; new ones fall into a black hole, until :meth:`heal`."""

        def split() -> None:
            self._drop(None)
            self._holed = True

        self._do(split)

    def heal(self) -> None:
        """Back to normal: no fault is left, and connections that lost bytes in a black hole are closed."""

        def mend() -> None:
            self._refusing = self._holed = False
            self._delay = 0.0
            self._stalls.clear()
            self._swallows.clear()
            self._drop(lambda connection: connection._lost)

        self._do(mend)

    # -- its life

    def start(self) -> Self:
        """Listen; clients can connect when this returns."""
        assert self._thread is None, "already running"
        self._failure = None
        self._closing = False
        listener = socket.create_server((_HOST, 0), backlog=512)
        try:
            listener.setblocking(False)
            self._port = listener.getsockname()[1]
            self._bell, ear = socket.socketpair()
        except BaseException:
            listener.close()
            raise
        self._bell.setblocking(False)
        ear.setblocking(False)
        self._thread = threading.Thread(target=self._run, args=(listener, ear), name=f"proxy-{self._port}", daemon=True)
        self._open = True
        self._thread.start()
        return self

    def close(self) -> None:
        """Close everything and end the thread; counters can still be read.

        Raises:
            RuntimeError: the proxy had failed, for example because a predicate raised; the cause is attached.
        """
        thread = self._thread
        if thread is None:
            return
        assert threading.current_thread() is not thread, "a predicate cannot close its proxy"
        if self._open:
            try:
                self._do(lambda: setattr(self, "_closing", True))
            except RuntimeError:  # it has failed meanwhile: said below
                pass
        thread.join()
        self._bell.close()
        self._thread = None
        self._raise_failure()

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close()
        except RuntimeError:
            if error is None:  # what went wrong first is what to tell
                raise

    # -- how: the caller's side

    def _do(self, order: Callable[[], T]) -> T:
        """Have the thread do it, and wait until it is done."""
        done: Future[T] = Future()

        def carry_out() -> None:
            try:
                done.set_result(order())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                done.set_exception(error)

        with self._gate:
            there = self._open and threading.current_thread() is not self._thread
            if there:
                self._orders.append(carry_out)
                self._ring()
        if not there:  # nobody else touches anything, or this is a predicate asking
            self._raise_failure()
            return order()
        return done.result()

    def _ring(self) -> None:
        try:
            self._bell.send(b"!")
        except BlockingIOError:  # rung often enough
            pass

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"the proxy failed: {self._failure!r}") from self._failure

    def _drop(self, only: Only | None) -> int:
        chosen = [connection for connection in self._live.values() if only is None or only(connection)]
        for connection in chosen:
            self._close(connection)
        return len(chosen)

    def _make_hole(self) -> None:
        self._holed = True
        for connection in self._live.values():
            connection._lost = True
            connection._to_client.clear()
            connection._to_server.clear()

    # -- how: the thread's side

    def _run(self, listener: socket.socket, ear: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, listener, ear:
            self._selector = selector
            selector.register(listener, _READ, lambda events: self._accept(listener))
            selector.register(ear, _READ)
            try:
                while not self._closing:
                    happened = selector.select(self._pause())
                    # First: nothing is on its way through now, so what an order sees is held is held.
                    self._obey(ear)
                    for key, events in happened:
                        if key.fileobj is listener or key.fileobj in self._interest:  # else an order closed it
                            key.data(events)
                    for connection in list(self._live.values()):
                        self._pump(connection)
                    for connection in self._live.values():
                        self._watch(connection)
            except BaseException as error:  # noqa: BLE001 - told to whoever asks for something next
                self._failure = error
            finally:
                for connection in list(self._live.values()):
                    self._close(connection)
                with self._gate:
                    self._open = False
                self._obey(ear)

    def _obey(self, ear: socket.socket) -> None:
        try:
            ear.recv(_CHUNK)  # before looking: who orders something from here on rings again
        except BlockingIOError:
            pass
        while self._orders:
            self._orders.popleft()()

    def _pause(self) -> float | None:
        """Seconds until the next delayed chunk is due."""
        if not self._delay:
            return None
        now = time.monotonic()
        heads = (
            flow.queue[0][0]
            for connection in self._live.values()
            for flow in (connection._to_client, connection._to_server)
            if flow.queue and not self._waits(connection, flow) and not self._held(connection, flow)
        )
        first = min(heads, default=None)
        return None if first is None else max(0.0, first + self._delay - now)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self._connections += 1
        if self._refusing:
            client.close()
            return
        self._prepare(client)
        server: socket.socket | None = None
        if not self._holed:
            server = socket.socket()
            self._prepare(server)
            try:
                status = server.connect_ex(self.target)
            except OSError:  # no such host
                status = errno.EHOSTUNREACH
            if status not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                server.close()
                client.close()
                return
        connection = Connection(self._connections, client, server)
        self._live[connection.number] = connection

    @staticmethod
    def _prepare(end: socket.socket) -> None:
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _watch(self, connection: Connection) -> None:
        """Ask the selector for just what this connection can use now."""
        for end, come, go in (
            (connection._client, connection._to_server, connection._to_client),
            (connection._server, connection._to_client, connection._to_server),
        ):
            if end is None:
                continue
            if end is connection._server and connection._connecting:
                wanted = _WRITE
            else:
                wanted = _READ if not come.ended and come.size < _ROOM else 0
                wanted |= _WRITE if go.blocked else 0
            self._register(connection, end, wanted)

    def _register(self, connection: Connection, end: socket.socket, wanted: int) -> None:
        present = self._interest.get(end, 0)
        if wanted == present:
            return
        if not wanted:
            self._selector.unregister(end)
            del self._interest[end]
            return
        self._interest[end] = wanted
        if present:
            self._selector.modify(end, wanted, self._selector.get_key(end).data)
        else:
            self._selector.register(end, wanted, lambda events: self._ready(connection, end, events))

    def _ready(self, connection: Connection, end: socket.socket, events: int) -> None:
        if events & _WRITE:
            if end is connection._server and connection._connecting:
                if end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._close(connection)  # nobody there
                    return
                connection._connecting = False
            (connection._to_client if end is connection._client else connection._to_server).blocked = False
        if events & _READ:
            self._read(connection, connection._to_server if end is connection._client else connection._to_client)

    def _read(self, connection: Connection, flow: _Flow) -> None:
        assert flow.source is not None
        try:
            data = flow.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the other side hears of it as of any end
        if not data:
            flow.ended = True
        if flow is connection._to_server:
            connection._first += data[: _FIRST - len(connection._first)]
        elif data and connection._asked:
            connection._asked = False
            self._round_trips += 1
        if not connection._lost:
            flow.queue.append((time.monotonic(), data))
            flow.size += len(data)

    @staticmethod
    def _waits(connection: Connection, flow: _Flow) -> bool:
        return flow.blocked or (flow is connection._to_server and connection._connecting)

    def _held(self, connection: Connection, flow: _Flow) -> bool:
        return any(flow.name in names and (only is None or only(connection)) for names, only in self._stalls)

    def _pump(self, connection: Connection) -> None:
        """Pass on what may be passed on."""
        for flow in (connection._to_server, connection._to_client):
            while flow.queue and not self._waits(connection, flow) and connection.number in self._live:
                arrived, data = flow.queue[0]
                if arrived + self._delay > time.monotonic() or self._held(connection, flow):
                    break
                if flow is connection._to_client and data and self._swallowed(connection):
                    self._close(connection)
                    return
                if data:
                    self._send(connection, flow, data)
                else:
                    flow.queue.popleft()
                    self._end(connection, flow)

    def _swallowed(self, connection: Connection) -> bool:
        for index, only in enumerate(self._swallows):
            if only is None or only(connection):
                del self._swallows[index]
                return True
        return False

    def _send(self, connection: Connection, flow: _Flow, data: bytes) -> None:
        assert flow.sink is not None
        arrived, _ = flow.queue.popleft()
        flow.size -= len(data)
        try:
            sent = flow.sink.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is gone, and these bytes with it; the other direction may still have something to say
        self._bytes[flow.name] += sent
        if flow is connection._to_server and sent:
            connection._asked = True
        if sent < len(data):
            flow.queue.appendleft((arrived, data[sent:]))
            flow.size += len(data) - sent
            flow.blocked = True

    def _end(self, connection: Connection, flow: _Flow) -> None:
        if flow is connection._to_client:
            self._close(connection)  # the server has gone: it does not listen either
            return
        assert flow.sink is not None
        try:
            flow.sink.shutdown(socket.SHUT_WR)  # it may still answer; then it closes, too
        except OSError:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._live.pop(connection.number, None)
        for end in _ends(connection):
            if self._interest.pop(end, 0):
                self._selector.unregister(end)
            end.close()


def _ends(connection: Connection) -> Iterator[socket.socket]:
    yield connection._client
    if connection._server is not None:
        yield connection._server
