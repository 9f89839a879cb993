"""Redis keeps the backend contract: over RESP2 and RESP3, on a Cluster, and behind a near tier in both modes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_cache import MemoryBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.testing import BackendContract, FakeClock
from agent_cache.testing.servers import ClusterSetup, RedisServer

LetPass = Callable[[RedisBackend, float], Awaitable[None]]


class _OnRedis(BackendContract):
    """Time is let pass by moving the backend's clock and the keys' ends; each backend has a prefix of its own."""

    bounds_groups = False
    query = ""

    @pytest.fixture(autouse=True)
    def _at(self, redis_server: RedisServer, let_pass: LetPass, new_prefix: Callable[[], str]) -> None:
        self.url = redis_server.url + self.query
        self.let_pass = let_pass
        self.new_prefix = new_prefix

    def redis(self, **how: Any) -> RedisBackend:
        return RedisBackend(self.url, prefix=self.new_prefix(), settle=self.settle, **how)

    def make(self, clock: FakeClock) -> Any:
        return self.redis()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.let_pass(getattr(self.backend, "far", self.backend), seconds)


class TestResp3(_OnRedis):
    query = "?protocol=3"


class TestResp2(_OnRedis):
    query = "?protocol=2"


class TestOnACluster(_OnRedis):
    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, _at: None, redis_cluster: ClusterSetup) -> None:
        self.url = redis_cluster.url


class TestStrictNearTier(_OnRedis):
    def make(self, clock: FakeClock) -> TieredBackend:
        return TieredBackend(MemoryBackend(clock=clock), self.redis())


class TestLeaseNearTier(_OnRedis):
    def make(self, clock: FakeClock) -> TieredBackend:
        return TieredBackend(MemoryBackend(clock=clock), self.redis(coherence="lease", lease=0.02))


class TestSealed(_OnRedis):
    def make(self, clock: FakeClock) -> RedisBackend:
        return self.redis(secret="of this test")
