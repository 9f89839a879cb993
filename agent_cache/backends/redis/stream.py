"""The bytes of one connection: taken over from redis-py once it has shaken hands, then written and read directly.

redis-py makes the connection (address, TLS, credentials, protocol, database); its way of reading costs more than Redis
does, so the socket is given a protocol of ours that hands every reply on as it comes. A connection that has no socket to
give, or ways of its own (another class, handed in by a user), is asked in redis-py's way. What is written, and what
replies belong to, is the wire's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from agent_cache.backends.redis.resp import MORE, reader_for

__all__ = ["Listener", "Stream", "stream_of"]

_CLOSED = "Connection closed by server."
_GOODBYE = 1.0  # seconds for a connection to end in good order


class Listener(Protocol):
    """Who is told what comes; always on the connection's own loop."""

    def heard(self, replies: list[Any]) -> None:
        """Some replies, in order; errors are exceptions among them."""
        ...

    def noticed(self) -> None:
        """Something has come, though perhaps not yet a whole reply."""
        ...

    def lost(self, error: Exception) -> None:
        """Nothing more will come; not told to whoever closes it himself."""
        ...


class Stream(Protocol):
    """A connection that is up."""

    def write(self, data: bytes, replies: int) -> None:
        """Send; so many replies belong to it."""
        ...

    def listen(self, listener: Listener | None) -> None:
        """Whom to tell from now on."""
        ...

    def abort(self) -> None:
        """End it now, whatever is still to be sent."""
        ...

    async def close(self) -> None: ...


def stream_of(connection: Any) -> Stream:
    """What a connected redis-py connection is read and written by from now on; it must not be used otherwise any more.

    Raises:
        ConnectionError: redis-py's; it was lost again at once.
    """
    writer, reader = getattr(connection, "_writer", None), getattr(connection, "_reader", None)
    error_of = getattr(getattr(connection, "_parser", None), "parse_error", None)
    own_way = not all(_is_redis_pys(connection, name) for name in ("send_packed_command", "read_response"))
    if own_way or error_of is None:
        return _Lent(connection)
    if isinstance(writer, asyncio.StreamWriter) and isinstance(reader, asyncio.StreamReader):
        if reader.at_eof() or writer.is_closing():
            raise RedisConnectionError(_CLOSED)
        if _has_more(connection._parser, reader):
            return _Lent(connection)  # what comes next begins in the middle of what redis-py has
        taken = _Taken(writer, error_of)
        connection._reader = connection._writer = None  # an empty shell: it has nothing to close when it is collected
        return taken
    return _Lent(connection)


def _is_redis_pys(connection: Any, method: str) -> bool:
    """A class that was handed in may do more than read and write: then it is not passed over."""
    return str(getattr(getattr(type(connection), method, None), "__module__", "")).partition(".")[0] == "redis"


def _has_more(parser: Any, reader: asyncio.StreamReader) -> bool:
    """Whether something has come that redis-py has not read yet: the server spoke unasked (RESP3)."""
    held = getattr(getattr(parser, "_reader", None), "has_data", None)  # hiredis
    return bool(getattr(reader, "_buffer", b"") or (held() if held is not None else getattr(parser, "_buffer", b"")))


class _Taken(asyncio.Protocol):
    """The socket of a connection, with nothing of redis-py's between."""

    def __init__(self, writer: asyncio.StreamWriter, error_of: Callable[[str], Exception]) -> None:
        self._writer = writer  # would close the transport if it were collected
        self._transport = transport = writer.transport
        self._former: Any = transport.get_protocol()
        self._listener: Listener | None = None
        self._reader, self._pushed = reader_for(error_of)
        transport.set_protocol(self)

    def write(self, data: bytes, replies: int) -> None:
        self._transport.write(data)

    def listen(self, listener: Listener | None) -> None:
        self._listener = listener

    def data_received(self, data: bytes) -> None:
        listener = self._listener
        if listener is None:
            return
        replies: list[Any] = []
        try:
            self._reader.feed(data)
            gets, pushed = self._reader.gets, self._pushed
            while (reply := gets()) is not MORE:
                if type(reply) is not pushed:
                    replies.append(reply)
        except Exception as error:  # noqa: BLE001 - nobody can read this: whoever waits has to hear of it
            self._end(error if isinstance(error, RedisError) else InvalidResponse(type(error).__name__))
            return
        if replies:
            listener.heard(replies)
        else:
            listener.noticed()

    def eof_received(self) -> bool:
        return False  # it closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._former.connection_lost(exc)
        self._tell(exc or RedisConnectionError(_CLOSED))

    def _end(self, error: Exception) -> None:
        self._tell(error)
        self._transport.abort()

    def _tell(self, error: Exception) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost(error)

    def abort(self) -> None:
        self._listener = None
        self._transport.abort()

    async def close(self) -> None:
        self._listener = None
        self._writer.close()
        try:
            async with asyncio.timeout(_GOODBYE):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._transport.abort()


class _Lent:
    """A connection that redis-py goes on reading and writing."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._listener: Listener | None = None
        self._exchange: asyncio.Task[None] | None = None

    def listen(self, listener: Listener | None) -> None:
        self._listener = listener

    def write(self, data: bytes, replies: int) -> None:
        self._exchange = asyncio.get_running_loop().create_task(self._carry(data, replies))

    async def _carry(self, data: bytes, replies: int) -> None:
        try:
            await self._connection.send_packed_command(data, check_health=False)
            for _ in range(replies):
                try:
                    reply = await self._connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    reply = error
                if self._listener is not None:
                    self._listener.heard([reply])
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits has to hear of it
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.lost(error)
        finally:
            if self._listener is None:
                await self._connection.disconnect(nowait=True)

    def abort(self) -> None:
        self._listener = None
        if self._exchange is None or self._exchange.done():
            self._exchange = asyncio.get_running_loop().create_task(self._connection.disconnect(nowait=True))
        else:
            self._exchange.cancel()

    async def close(self) -> None:
        self.abort()
        if self._exchange is not None:
            await asyncio.wait({self._exchange})
