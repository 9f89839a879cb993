"""One suite on memory, disk, Redis and memory before Redis; a source that others change behind the cache's back."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import (
    CallEvent,
    DiskBackend,
    MemoryBackend,
    RedisBackend,
    TieredBackend,
    configure,
    get_metrics,
)
from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads
from agent_cache.testing import FakeClock
from agent_cache.testing.servers import RedisServer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "disk", "redis", "tiered"])
async def store(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path, redis_server: RedisServer
) -> AsyncIterator[Any]:
    prefix = f"t{os.urandom(4).hex()}:"
    backend: Any
    if request.param == "memory":
        backend = MemoryBackend(clock=clock)
    elif request.param == "disk":
        backend = DiskBackend(tmp_path / "cache.db")
    elif request.param == "redis":
        backend = RedisBackend(redis_server.url, prefix=prefix)
    else:
        backend = TieredBackend(MemoryBackend(), RedisBackend(redis_server.url, prefix=prefix))
    configure(backend=backend)
    yield backend
    if request.param != "memory":
        await backend.close()


@pytest.fixture(autouse=True)
def _fresh(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    settings.notices.forget()


class Seen:
    """An observer."""

    def __init__(self) -> None:
        self.calls: list[CallEvent] = []

    def on_event(self, event: object) -> None:
        if isinstance(event, CallEvent):
            self.calls.append(event)

    @property
    def last(self) -> tuple[str, str | None]:
        return self.calls[-1].outcome, self.calls[-1].reason


@pytest.fixture
def seen() -> Seen:
    observer = Seen()
    configure(observers=[observer])
    return observer


Settled = Callable[[int], Awaitable[dict[str, Any]]]


@pytest.fixture
def settled() -> Settled:
    """Wait until so many verifications are over, one way or the other; the figures then."""

    async def wait(verifications: int) -> dict[str, Any]:
        for _ in range(50_000):
            figures = get_metrics()
            if figures["verified"] + figures["unverified"] >= verifications:
                return figures
            await asyncio.sleep(0.001 if threading.active_count() > 1 else 0)
        raise AssertionError(f"{verifications} verifications have not ended: {get_metrics()}")

    return wait
