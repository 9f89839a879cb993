"""Every kind of backend, real ones; and a memory one whose time stands still as the default, for each test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import DiskBackend, MemoryBackend, RedisBackend, TieredBackend, configure
from agent_cache.config import settings
from agent_cache.engine.effects import FLIGHTS
from agent_cache.engine.outbox import OUTBOX
from agent_cache.policy import scopes_of_reads
from agent_cache.testing import FakeClock
from agent_cache.testing.servers import RedisServer


@pytest.fixture
def all_riding() -> Callable[[int], Awaitable[None]]:
    """Wait until so many callers share the loads under way; how long their lookups take is nobody's business."""

    async def wait(callers: int) -> None:
        async with asyncio.timeout(20):
            while sum(len(getattr(flight, "_riders", ())) for flight in FLIGHTS._latest.values()) < callers:
                await asyncio.sleep(0.001)

    return wait


KINDS = ("memory", "disk", "disk behind memory", "redis", "redis behind memory", "redis by lease")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _default_backend(_fresh_process_state: None, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    monkeypatch.setattr(scopes_of_reads, "_backends", {})
    settings.notices.forget()
    configure(backend=MemoryBackend(clock=clock))
    yield
    OUTBOX.debts.clear()


@pytest.fixture
def make_backend(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """``make_backend(kind)``: a fresh one of the same store each time, as another process would have it."""
    prefix = f"t{os.urandom(4).hex()}:"

    def make(kind: str) -> Any:
        if kind == "memory":
            return MemoryBackend()
        if kind.startswith("disk"):
            far: Any = DiskBackend(tmp_path / "cache.db")
        else:
            server: RedisServer = request.getfixturevalue("redis_server")
            coherence = "lease" if "lease" in kind else "strict"
            # many at once on a slow machine take longer than a tool would wait, which is a miss
            far = RedisBackend(server.url, prefix=prefix, coherence=coherence, op_timeout=10)
        return TieredBackend(MemoryBackend(), far) if " " in kind else far

    return make


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Any]) -> AsyncIterator[Any]:
    made = make_backend(request.param)
    yield made
    await made.close()


@pytest.fixture(params=[kind for kind in KINDS if kind != "memory"])
async def two_processes(
    request: pytest.FixtureRequest, make_backend: Callable[[str], Any]
) -> AsyncIterator[tuple[Any, Any]]:
    """Two backends over one store, as two processes have them."""
    made = make_backend(request.param), make_backend(request.param)
    yield made
    for each in made:
        await each.close()
