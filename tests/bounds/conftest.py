"""Every backend under the same bounds: ``make("disk", max_entry_bytes=…)``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import DiskBackend, MemoryBackend, RedisBackend, TieredBackend, configure
from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads
from agent_cache.testing import FakeClock
from agent_cache.testing.servers import RedisServer

Make = Callable[..., Any]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _nothing_left_over(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    monkeypatch.setattr(scopes_of_reads, "_backends", {})
    settings.notices.forget()


@pytest.fixture
async def make(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Make]:
    """Makes a backend and sets it as the default; closed after the test."""
    made: list[Any] = []

    def wall() -> float:
        return 5_000_000.0 + clock()

    def new(kind: str, **how: Any) -> Any:
        backend: Any
        if kind == "memory":
            backend = MemoryBackend(clock=clock, **how)
        elif kind == "disk":
            backend = DiskBackend(how.pop("path", tmp_path / f"{len(made)}.db"), clock=clock, wall=wall, **how)
        elif kind == "tiered":
            backend = TieredBackend(MemoryBackend(clock=clock), new("disk", **how))
        else:
            server: RedisServer = request.getfixturevalue("redis_server")
            backend = RedisBackend(server.url, **{"prefix": f"b{os.urandom(4).hex()}:", **how})
        made.append(backend)
        configure(backend=backend)
        return backend

    yield new
    configure(backend=None)
    for backend in made:
        await backend.close()
