"""A memory backend whose every operation takes time and can be interrupted, as one over a network can.

What breaks on it and not in memory is the way calls are carried out, not the way things are stored.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agent_cache.backends.base import Lookup, NewEntry, SyncBackend, Token, Window
from agent_cache.backends.memory import MemoryBackend
from agent_cache.codecs import ToolCodec
from agent_cache.tags import Chain, Tag
from agent_cache.testing.clock import FakeClock

__all__ = ["SlowBackend"]


class SlowBackend:
    """The memory backend, seen over a slow line."""

    in_process = False

    def __init__(self, clock: FakeClock, settle: float) -> None:
        self._memory = MemoryBackend(clock=clock, settle=settle, write_lease=None)
        self._rng = random.Random(1)

    @property
    def sync(self) -> SyncBackend:
        return self._memory.sync

    async def _slowly(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self._wait()
        done = await work()
        await self._wait()
        return done

    async def _wait(self) -> None:
        length = self._rng.randint(-3, 2)
        for _ in range(-length):
            await asyncio.sleep(0)
        if length > 0:
            await asyncio.sleep(length / 1000)

    async def lookup(self, key: Any, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        found: Lookup = await self._slowly(lambda: self._memory.lookup(key, tags, codec))
        return found

    async def fill(self, token: Token, entry: NewEntry) -> bool:
        return bool(await self._slowly(lambda: self._memory.fill(token, entry)))

    async def begin(self, tags: Sequence[Tag], writer: str) -> Window:
        window: Window = await self._slowly(lambda: self._memory.begin(tags, writer))
        return window

    async def end(
        self, window: Window, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        await self._slowly(lambda: self._memory.end(window, unknown=unknown, no_effect=no_effect, narrowed=narrowed))

    async def move(self, tags: Sequence[Tag], writer: str) -> None:
        await self._slowly(lambda: self._memory.move(tags, writer))

    async def drop_chain(self, chain: Chain) -> None:
        await self._slowly(lambda: self._memory.drop_chain(chain))

    async def close(self) -> None:
        return None
