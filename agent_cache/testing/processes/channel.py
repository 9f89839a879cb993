"""One connection between the referee and a worker: JSON lines, many requests on their way at once.

What belongs here: framing, request numbers, writing once per round of the loop. What does not: what is said.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

__all__ = ["Channel", "Client"]


class Channel(asyncio.Protocol):
    """Calls ``on_message(channel, message)`` for every line, ``on_closed(channel)`` when the other end is gone."""

    def __init__(
        self, on_message: Callable[[Channel, list[Any]], None], on_closed: Callable[[Channel], None] | None = None
    ) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._out: list[bytes] = []
        self.closed = False
        self.peer = -1
        """Which worker this is, once it has said so."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_message(self, json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._on_closed is not None:
            self._on_closed(self)

    def say(self, message: list[Any]) -> None:
        """Send one message, together with all others of this round of the loop, in order."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(json.dumps(message).encode())

    def flush(self) -> None:
        """Send what there is now."""
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"\n".join(self._out) + b"\n")
        self._out.clear()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


class Client:
    """The worker's end: ``[number, word, …]`` out, ``[number, answer]`` back; number 0 wants no answer.

    What the referee says by itself, ``[0, word, …]``, goes to ``on_order``.
    """

    def __init__(self, on_order: Callable[[list[Any]], None], on_closed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._on_order = on_order
        self.channel = Channel(self._hear, lambda _: on_closed())

    async def connect(self, path: str) -> None:
        """Connect to the referee's socket."""
        await self._loop.create_unix_connection(lambda: self.channel, path)

    def tell(self, word: str, *rest: Any) -> None:
        """Say something and go on: it will be noted before whatever is said here later."""
        self.channel.say([0, word, *rest])

    def ask(self, word: str, *rest: Any) -> asyncio.Future[Any]:
        """Say something; the future ends when it has been noted. Said even if nobody waits for the future any more."""
        self._last += 1
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[self._last] = future
        self.channel.say([self._last, word, *rest])
        return future

    def tell_from_thread(self, word: str, *rest: Any) -> None:
        """:meth:`tell`, from another thread."""
        self._loop.call_soon_threadsafe(self.tell, word, *rest)

    def ask_from_thread(self, word: str, *rest: Any) -> Any:
        """:meth:`ask`, from another thread, which waits for the answer."""

        async def asking() -> Any:
            return await self.ask(word, *rest)

        return asyncio.run_coroutine_threadsafe(asking(), self._loop).result()

    def _hear(self, _: Channel, message: list[Any]) -> None:
        number = message[0]
        if not number:
            self._on_order(message[1:])
            return
        future = self._waiting.pop(number)
        if not future.done():
            future.set_result(message[1])
