"""Each test on each kind of backend; nothing of an earlier one is known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import MemoryBackend, configure
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads

BACKENDS = ("memory", "disk", "redis", "tiered")


@pytest.fixture(autouse=True)
def _nothing_left_over(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    monkeypatch.setattr(scopes_of_reads, "_backends", {})
    settings.notices.forget()


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """A backend of each kind, empty, the default of this test."""
    made: Any
    if request.param == "memory":
        made = MemoryBackend()
    elif request.param == "disk":
        made = DiskBackend(tmp_path / "cache.db")
    else:
        server = request.getfixturevalue("redis_server")
        server.cli("FLUSHALL")
        made = RedisBackend(server.url)
        if request.param == "tiered":
            made = TieredBackend(MemoryBackend(), made)
    configure(backend=made)
    yield made
    configure(backend=None)
    if request.param != "memory":
        await made.close()
