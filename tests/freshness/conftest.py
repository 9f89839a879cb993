"""One suite on memory, disk, Redis and memory before Redis: a store whose time the test lets pass."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import CallEvent, DiskBackend, MemoryBackend, RedisBackend, TieredBackend, configure
from agent_cache.config import settings
from agent_cache.engine import stale
from agent_cache.engine.effects import FLIGHTS
from agent_cache.engine.outbox import OUTBOX
from agent_cache.policy import scopes_of_reads
from agent_cache.testing import FakeClock
from agent_cache.testing.servers import RedisServer


class Store:
    """A backend, the default of this test, and its time."""

    def __init__(self, backend: Any, clock: FakeClock) -> None:
        self.backend = backend
        self.clock = clock

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        redis = getattr(self.backend, "far", self.backend)
        if isinstance(redis, RedisBackend):
            ms = round(seconds * 1000)
            redis._skew_ms += ms
            async for key in redis._scan(redis._names.prefix):
                left = (await redis._links.ask(key, [("PTTL", key)])).values[0] - ms
                if left > -ms:
                    await redis._links.ask(key, [("PEXPIRE", key, left)] if left > 0 else [("DEL", key)])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "disk", "redis", "tiered", "lease"])
async def store(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path, redis_server: RedisServer
) -> AsyncIterator[Store]:
    prefix = f"t{os.urandom(4).hex()}:"
    backend: Any
    if request.param == "memory":
        backend = MemoryBackend(clock=clock)
    elif request.param == "disk":
        backend = DiskBackend(tmp_path / "cache.db", clock=clock, wall=clock)
    elif request.param == "redis":
        backend = RedisBackend(redis_server.url, prefix=prefix)
    else:
        mode: Any = "lease" if request.param == "lease" else "strict"
        far = RedisBackend(redis_server.url, prefix=prefix, coherence=mode, lease=0.02)
        backend = TieredBackend(MemoryBackend(clock=clock), far)
    configure(backend=backend)
    yield Store(backend, clock)
    configure(backend=None)
    await backend.close()


@pytest.fixture
def memory(clock: FakeClock) -> Store:
    backend = MemoryBackend(clock=clock)
    configure(backend=backend)
    return Store(backend, clock)


@pytest.fixture(autouse=True)
def _nothing_left_over(_fresh_process_state: None, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    monkeypatch.setattr(scopes_of_reads, "_backends", {})
    monkeypatch.setattr(stale, "_clock", clock)
    settings.notices.forget()
    stale.RESTS.forget()
    yield
    OUTBOX.debts.clear()


Quiet = Callable[[], Awaitable[None]]


@pytest.fixture
def quiet() -> Quiet:
    """Wait until no load is under way, on whatever thread; how long that takes is nobody's business."""

    async def wait() -> None:
        async with asyncio.timeout(20):
            while len(FLIGHTS) or FLIGHTS._by_token:
                await asyncio.sleep(0.001)

    return wait


def wait_for(condition: Callable[[], Any]) -> None:
    """The same for what another thread does."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        threading.Event().wait(0.001)


class Source:
    """What a tool asks: answers with the next number, fails when told to, can be held up."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails: Exception | None = None

    def answer(self) -> list[int]:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return [self.asked]


@pytest.fixture
def source() -> Source:
    return Source()


class Seen:
    """The events of the reads."""

    def __init__(self) -> None:
        self.events: list[CallEvent] = []

    def on_event(self, event: Any) -> None:
        if isinstance(event, CallEvent):
            self.events.append(event)

    @property
    def last(self) -> tuple[str, str | None]:
        return self.events[-1].outcome, self.events[-1].reason


@pytest.fixture
def seen() -> Seen:
    made = Seen()
    configure(observers=[made])
    return made
