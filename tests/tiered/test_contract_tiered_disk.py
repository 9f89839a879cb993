"""A near tier over a disk, and a disk that keeps the copies of a tier over Redis, keep the backend contract."""

from __future__ import annotations

import asyncio
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agent_cache import MemoryBackend
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.testing import BackendContract, FakeClock
from agent_cache.testing.servers import RedisServer


class _WithFiles(BackendContract):
    bounds_groups = False
    folder: Path
    numbers = count()

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def disk(self, clock: FakeClock, **how: Any) -> DiskBackend:
        path = self.folder / f"{next(self.numbers)}.db"
        return DiskBackend(path, clock=clock, wall=clock, settle=self.settle, **how)


class TestOverADisk(_WithFiles):
    def make(self, clock: FakeClock) -> TieredBackend:
        return TieredBackend(MemoryBackend(clock=clock), self.disk(clock))


class TestOverASealedDisk(_WithFiles):
    def make(self, clock: FakeClock) -> TieredBackend:
        return TieredBackend(MemoryBackend(clock=clock), self.disk(clock, secret="of this test"))


class TestARoomOfOne(_WithFiles):
    """Near there is room for one entry only: what is pushed out is asked of the disk again."""

    def make(self, clock: FakeClock) -> TieredBackend:
        return TieredBackend(MemoryBackend(1, clock=clock), self.disk(clock))


class TestRedisWithADiskThatKeepsCopies(_WithFiles):
    """Time is let pass by moving the backend's clock and the ends of its keys."""

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.url = redis_server.url

    def make(self, clock: FakeClock) -> TieredBackend:
        far = RedisBackend(self.url, prefix=f"t{os.urandom(4).hex()}:", settle=self.settle)
        return TieredBackend(MemoryBackend(clock=clock), far, keep=self.disk(clock))

    async def advance(self, seconds: float) -> None:
        while self.backend._keeping:  # a copy that is written after time has passed would live as much longer
            await asyncio.sleep(0.001)
        self.clock.advance(seconds)
        far, ms = self.backend.far, round(seconds * 1000)
        far._skew_ms += ms
        async for key in far._scan(far._names.prefix):
            left = (await far._links.ask(key, [("PTTL", key)])).values[0] - ms
            if left > -ms:  # -1: it has no end
                await far._links.ask(key, [("PEXPIRE", key, left)] if left > 0 else [("DEL", key)])
