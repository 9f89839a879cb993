"""What a server says has changed: events of a ``subscriptions/listen`` stream, and legacy notifications.

Both become invalidations. No news is not good news: where a subscription ends without us, everything of that server is
dropped, because what changed from then on nobody will tell. How one subscribes is a :class:`Source`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from agent_cache_mcp.calls import Followed, ServerCache

__all__ = ["LIST_CHANGED", "UPDATED", "ServerNews", "Source", "Watch"]

LIST_CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
_log = logging.getLogger("agent_cache.mcp")
_MOST = 1_000  # resources followed at once
Handler = Callable[[Any], Awaitable[None]]
News = tuple[str, str | None]
"""A notification's method, and the URI it is about."""


class Source(Protocol):
    """Where news of a server come from.

    Attributes:
        listens: it has streams of events (the protocol of 2026-07-28).
        subscribes: it tells of single resources (the protocols before).
    """

    listens: bool
    subscribes: bool

    def listen(self, uris: tuple[str, ...]) -> AbstractAsyncContextManager[AsyncIterator[News]]:
        """A stream of news of the tools and these resources; entered when the server has agreed."""
        ...

    async def subscribe(self, uri: str) -> None:
        """Have the server tell of this resource."""
        ...


class ServerNews:
    """Takes a session's messages: ``ClientSession(..., message_handler=news)``, then ``cached_session(..., news=news)``.

    Args:
        then: a message handler of your own, called after.
    """

    def __init__(self, then: Handler | None = None) -> None:
        self._then = then
        self.watch: Watch | None = None

    def before(self, then: Handler | None) -> ServerNews:
        """Itself, followed by a handler that was there before."""
        self._then = self._then or then
        return self

    async def __call__(self, message: Any) -> None:
        if self.watch is not None:
            if isinstance(message, Exception):
                await self.watch.lost()
            else:
                inner = getattr(message, "root", message)  # mcp 1.x wraps notifications
                uri = getattr(getattr(inner, "params", None), "uri", None)
                await self.watch.heard((str(getattr(inner, "method", "")), None if uri is None else str(uri)))
        if self._then is not None:
            await self._then(message)


class Watch:
    """Follows one server for one cache."""

    def __init__(self, cache: ServerCache) -> None:
        self.tools_changed = False
        self._cache = cache
        self._source: Source | None = None
        self._following: OrderedDict[str, Followed] = OrderedDict()
        self._changing = asyncio.Lock()
        self._stream: asyncio.Task[None] | None = None
        self._listens = False

    async def start(self, source: Source) -> None:
        """Listen for new tools from now on; for resources, when the first is followed."""
        self._source = source
        self._listens = source.listens and await self._listen(source, ())

    async def stop(self) -> None:
        """Listen no more. What the server would have told of is dropped."""
        stream, self._stream, self._source = self._stream, None, None
        if stream is not None:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
        for each in self._following.values():
            await each.changed()
        self._following.clear()

    def follows(self, uri: str) -> bool:
        """Whether the server was asked to tell of this resource."""
        return uri in self._following

    async def follow(self, resources: Iterable[Followed]) -> None:
        """Have the server tell of these before what they hold is read."""
        wanted, source = tuple(resources), self._source
        if source is None or not (source.subscribes or self._listens):
            return
        if not self._new(wanted) and (source.subscribes or self._stream is not None):
            return
        async with self._changing:
            new = self._new(wanted)
            if source.subscribes:
                for each in new:
                    if await self._subscribed(source, each.uri):
                        self._following[each.uri] = each
            elif await self._listen(source, (*self._following, *(each.uri for each in new))):
                self._following.update((each.uri, each) for each in new)
            while len(self._following) > _MOST:
                await self._following.popitem(last=False)[1].changed()

    def _new(self, wanted: tuple[Followed, ...]) -> list[Followed]:
        return [each for each in wanted if each.uri not in self._following]

    # -- hearing -----------------------------------------------------------------------------------------------------------

    async def heard(self, news: News) -> None:
        """One notification, whichever way it came."""
        method, uri = news
        if method == LIST_CHANGED:
            self._forget_tools()
            await self._cache.drop_all()
        elif method == UPDATED and uri is not None:
            known = self._following.get(uri)
            await (self._cache.changed(uri) if known is None else known.changed())

    async def lost(self) -> None:
        """The server tells nothing any more."""
        self._following.clear()
        self._forget_tools()
        _log.warning("%s: lost what it says has changed; everything of it is dropped", self._cache.server)
        await self._cache.drop_all()

    def _forget_tools(self) -> None:
        self.tools_changed = True
        self._cache.forget()

    # -- asking for it -----------------------------------------------------------------------------------------------------

    async def _subscribed(self, source: Source, uri: str) -> bool:
        try:
            await source.subscribe(uri)
        except Exception as error:  # noqa: BLE001 - a server that tells no news is no reason to fail a call
            _log.info("%s tells no news of %s: %r", self._cache.server, uri, error)
            return False
        return True

    async def _listen(self, source: Source, uris: tuple[str, ...]) -> bool:
        """Open a stream for these resources, then close the one before; whether the server agreed."""
        ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        before = self._stream
        stream = asyncio.create_task(self._hear_stream(source, uris, ready))
        try:
            agreed = await ready
        except asyncio.CancelledError:
            stream.cancel()
            raise
        if not agreed:
            return False
        self._stream = None if stream.done() else stream
        if before is not None:
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        if self._stream is None:
            await self.lost()
            return False
        return True

    async def _hear_stream(self, source: Source, uris: tuple[str, ...], ready: asyncio.Future[bool]) -> None:
        try:
            async with source.listen(uris) as events:
                ready.set_result(True)
                async for event in events:
                    await self.heard(event)
        except Exception as error:  # noqa: BLE001 - whatever ended it, it is lost
            _log.info("%s: the stream of news ended: %r", self._cache.server, error)
        if not ready.done():
            ready.set_result(False)
        elif self._stream is asyncio.current_task():
            self._stream = None
            await self.lost()
