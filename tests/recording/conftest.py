"""Every kind of backend that keeps figures."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import MemoryBackend
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.config import recording


@pytest.fixture(autouse=True)
def _only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The background flush, every ten seconds of real time, writes nothing while a test has a clock of its own."""

    async def nothing() -> None:
        return None

    monkeypatch.setattr(recording, "_flush_quietly", nothing)


KINDS = ["memory", "disk", "redis", "cluster", "tiered_disk"]


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    kind = request.param
    made: Any
    if kind == "memory":
        made = MemoryBackend()
    elif kind == "disk":
        made = DiskBackend(tmp_path / "cache.db")
    elif kind == "tiered_disk":
        made = TieredBackend(MemoryBackend(), DiskBackend(tmp_path / "cache.db"))
    else:
        server = request.getfixturevalue("redis_server" if kind == "redis" else "redis_cluster")
        made = RedisBackend(server.url, prefix=f"s{os.urandom(4).hex()}:")
    yield made
    await made.close()
