"""Rivals for the litmus with real processes: the same calls, faults and verdicts as for agent_cache.

``python -m agent_cache.testing.litmus --backend redis:// --server own --seconds 20 --cache benchmarks/litmus_rivals.py:cashews``

Each is used as its documentation shows, invalidating after the write, whatever way it ended: ``aiocache`` (the
``cached`` decorator on Redis, keys searched and deleted by hand), ``cashews`` (decorator with tags, ``delete_tags``), and ``cashews_lock``.
What belongs here: putting a rival in front of the tools. What does not: anything that would make one better or worse.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any
from urllib.parse import urlsplit

from agent_cache.testing.processes.caches import Setup
from agent_cache.testing.processes.referee import ALL_CHECKS

_TTL = 3600


class _Rival:
    checks = ALL_CHECKS
    threads = False
    no_effect: type[Exception] | None = None
    by_result = False
    expires = False
    windows = True  # judged as ours is
    settle = 0.0
    grace = 0.0
    grant = 0.0

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def write(self, tool: Callable[..., Any], resource: str, scope: str) -> Callable[..., Any]:
        async def write(ident: Any, number: int) -> Any:
            try:
                return await tool(ident, number)
            finally:
                family, colon, _ = resource.partition(":")
                changed = [str(ident)] if colon else [str(each) for each in range(self.setup.idents)]
                await self.forget(family, changed)

        return write

    async def forget(self, family: str, idents: list[str]) -> None:
        raise NotImplementedError

    def session(self, name: str, identity: dict[str, str]) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    def refused(self, error: Exception) -> bool:
        return False


class aiocache(_Rival):
    """aiocache: ``cached(key_builder=...)`` on Redis; the keys of what was written are searched and deleted after it."""

    name = "aiocache"
    single_loads = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.client: Any = None
        self.caches: list[Any] = []

    async def open(self) -> None:
        from redis.asyncio import Redis

        self.client = Redis.from_url(self.setup.bare_url)

    def read(self, tool: Callable[..., Any], resource: str, scope: str, owner: Callable[[], str]) -> Callable[..., Any]:
        from aiocache import Cache, cached
        from aiocache.serializers import JsonSerializer

        family = resource.partition(":")[0]
        where = urlsplit(self.setup.bare_url)
        decorated: Callable[..., Any] = cached(
            ttl=_TTL,
            key_builder=lambda _, ident: f"{family}:{ident}:{tool.__name__}:{owner()}",
            namespace=self.setup.prefix,
            serializer=JsonSerializer(),
            cache=Cache.REDIS,
            endpoint=where.hostname,
            port=where.port or 6379,
        )(tool)
        self.caches.append(decorated.cache)  # type: ignore[attr-defined]
        return decorated

    async def forget(self, family: str, idents: list[str]) -> None:
        for ident in (*idents, "all"):
            names = [
                name async for name in self.client.scan_iter(f"{self.setup.prefix}*{family}:{ident}:*", count=1000)
            ]
            if names:
                await self.client.delete(*names)

    async def close(self) -> None:
        for cache in self.caches:
            await cache.close()
        await self.client.aclose()


class cashews(_Rival):
    """cashews: ``@cache(ttl, key, tags)`` and ``delete_tags``."""

    name = "cashews"
    single_loads = False
    lock = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from cashews import Cache

        self.cache = Cache()

    async def open(self) -> None:
        self.cache.setup(self.setup.bare_url)
        await self.cache.init()

    def read(self, tool: Callable[..., Any], resource: str, scope: str, owner: Callable[[], str]) -> Callable[..., Any]:
        family, colon, _ = resource.partition(":")
        prefix = self.setup.prefix.replace(":", "-")
        tag = f"{prefix}:{family}:{'{ident}' if colon else 'all'}"

        @self.cache(ttl=_TTL, key=f"{prefix}:{tool.__name__}:{{ident}}:{{whose}}", tags=[tag], lock=self.lock)
        async def cached(ident: Any, whose: str) -> Any:
            return await tool(ident)

        async def read(ident: Any) -> Any:
            # it finds the tags of a key by matching the key's text against the template: no separators in values
            return await cached(ident, re.sub(r"\W", "-", owner()) or "everyone")

        return read

    async def forget(self, family: str, idents: list[str]) -> None:
        prefix = self.setup.prefix.replace(":", "-")
        await self.cache.delete_tags(*(f"{prefix}:{family}:{ident}" for ident in (*idents, "all")))

    async def close(self) -> None:
        await self.cache.close()


class cashews_lock(cashews):
    """The same with ``lock=True``, its way to one load for all processes."""

    name = "cashews lock=True"
    single_loads = True
    lock = True
