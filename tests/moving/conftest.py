"""Every kind of backend, and tools to fill it with."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import MemoryBackend
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.config import settings
from agent_cache.engine.outbox import OUTBOX
from agent_cache.policy import scopes_of_reads
from agent_cache.testing.servers import ClusterSetup, RedisServer

KINDS = ["memory", "disk", "redis", "cluster", "tiered_disk", "tiered_redis"]
SHARED = [kind for kind in KINDS if kind != "memory"]

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _nothing_left_over(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    monkeypatch.setattr(scopes_of_reads, "_backends", {})
    settings.notices.forget()
    yield
    OUTBOX.debts.clear()


@pytest.fixture
async def make(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """``make(kind, **settings)``: an empty backend of that kind, closed after the test."""
    made: list[Any] = []

    def redis(name: str, **how: Any) -> RedisBackend:
        setup: RedisServer | ClusterSetup = request.getfixturevalue(name)
        return RedisBackend(setup.url, **{"prefix": f"m{os.urandom(4).hex()}:", **how})

    def new(kind: str, **how: Any) -> Any:
        near = MemoryBackend()
        if kind == "memory":
            made.append(MemoryBackend(**how))
        elif kind == "disk":
            made.append(DiskBackend(how.pop("path", tmp_path / f"{len(made)}.db"), **how))
        elif kind == "redis":
            made.append(redis("redis_server", **how))
        elif kind == "cluster":
            made.append(redis("redis_cluster", **how))
        elif kind == "tiered_disk":
            made.append(TieredBackend(near, DiskBackend(tmp_path / f"{len(made)}.db", **how)))
        elif kind == "tiered_redis":
            made.append(TieredBackend(near, redis("redis_server", **how)))
        else:
            raise ValueError(kind)
        return made[-1]

    yield new
    for backend in made:
        await backend.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def backend(kind: str, make: Make) -> Any:
    return make(kind)
