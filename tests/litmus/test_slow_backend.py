"""The same promises over a backend whose every operation takes time and can be interrupted, as one over a network can.

It is the memory backend with waits before and after each operation, so what breaks here is the way calls are carried
out, not the way things are stored.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from agent_cache.backends.base import Lookup, NewEntry, SyncBackend, Token, Window
from agent_cache.backends.memory import MemoryBackend
from agent_cache.codecs import ToolCodec
from agent_cache.tags import Chain, Tag
from agent_cache.testing import FakeClock
from agent_cache.testing.adapters import ALL_CHECKS, AgentCacheAdapter
from agent_cache.testing.litmus import run
from agent_cache.testing.smallscope import cancellations, one_writer, told_apart, two_writers

PROMISED = ALL_CHECKS - {"P5"}
"""A lookup's answer can be on its way while a load of the same key lands: such a call loads again."""


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


class SlowAdapter(AgentCacheAdapter):
    """agent_cache over a slow backend."""

    by_hand = False  # what is changed first and invalidated then is stale in between

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, make_backend=SlowBackend, checks=PROMISED)


def test_random_schedules() -> None:
    report = run(range(20), make_adapter=SlowAdapter)
    assert report.ok, str(report)


def test_one_writer_and_three_readers() -> None:
    report = one_writer(SlowAdapter, every=17)
    assert report.ok, str(report)


@pytest.mark.parametrize("ends", ["refuse", "no_effect"])
def test_two_writers(ends: str) -> None:
    report = two_writers(SlowAdapter, ends=ends, warm=True, every=17)
    assert report.ok, str(report)


@pytest.mark.parametrize("second", ["named", "told", "told, refused", "refused"])
def test_two_writers_told_apart(second: str) -> None:
    report = told_apart(SlowAdapter, second=second, every=43)
    assert report.ok, str(report)


def test_cancellations() -> None:
    report = cancellations(SlowAdapter, every=2, steps=20)
    assert report.ok, str(report)


@pytest.mark.soak
def test_random_schedules_for_long() -> None:
    report = run(range(20_000, 20_300), make_adapter=SlowAdapter)
    assert report.ok, str(report)
