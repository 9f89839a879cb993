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
