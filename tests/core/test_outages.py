"""What is said of a backend that fails: once for each kind of work that fails, and what really happens."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, BackendError, MemoryBackend, configure, get_metrics
from agent_cache.backends.base import Found, NotStoringError, Taken, is_leading
from agent_cache.config import settings
from agent_cache.context import current_view
from agent_cache.engine.outages import READING, backend_failed
from agent_cache.engine.outbox import OUTBOX
from tests.core.conftest import Faulty

UNREAD = "the backend failed (lookup is down); tools run uncached"
UNSTORED = "the backend stores nothing now (fill is down); results are returned and not stored"
READ, STORED = "the backend answers again", "the backend stores results again"
TAKEN = "the backend takes invalidations again"


class Halved(Faulty):
    """A memory backend of which the methods named in ``down`` raise."""

    def __init__(self, *down: str, error: type[BackendError] = BackendError) -> None:
        super().__init__(*down)
        self.error = error

    def _enter(self, method: str) -> None:
        if method in self.down:
            raise self.error(f"{method} is down")

    async def move(self, *args: Any) -> None:
        self._enter("move")
        await super().move(*args)


class Tools:
    """A read and a write, and what was said since it was last asked for."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._log = caplog
        caplog.set_level(logging.INFO, "agent_cache")
        self.state = 0

        @AgentCache("cart")
        async def get(n: int) -> int:
            return self.state

        @AgentCacheInvalidator("cart")
        async def put() -> int:
            self.state += 1
            return self.state

        self.get, self.put = get, put

    def said(self) -> list[str]:
        told = [r.getMessage().partition(": MemoryBackend")[0] for r in self._log.records if r.name == "agent_cache"]
        self._log.clear()
        return told


@pytest.fixture
def tools(caplog: pytest.LogCaptureFixture) -> Tools:
    settings.notices.forget()
    OUTBOX.debts.clear()
    return Tools(caplog)


async def test_a_backend_that_answers_and_stores_nothing_is_told_of_once(tools: Tools) -> None:
    backend = Halved("fill")
    configure(backend=backend)
    assert [await tools.get(n) for n in range(20)] == [0] * 20
    assert tools.said() == [UNSTORED]
    assert get_metrics()["backend_errors"] == 20
    backend.down.clear()
    assert [await tools.get(n) for n in range(5)] == [0] * 5
    assert tools.said() == [STORED]
    backend.down.add("fill")
    assert [await tools.get(n) for n in range(10, 15)] == [0] * 5
    assert tools.said() == [UNSTORED]


async def test_a_hit_says_nothing_of_what_cannot_be_stored(tools: Tools) -> None:
    backend = Halved()
    configure(backend=backend)
    await tools.get(0)
    backend.down.add("fill")
    for n in range(1, 6):
        await tools.get(n)
        await tools.get(0)
    assert tools.said() == [UNSTORED]


async def test_reading_and_storing_are_outages_of_their_own(tools: Tools) -> None:
    backend = Halved("fill")
    configure(backend=backend)
    await tools.get(1)
    assert tools.said() == [UNSTORED]
    backend.down = {"lookup"}
    await tools.get(1)
    await tools.get(2)
    assert tools.said() == [UNREAD]
    backend.down = {"fill"}
    await tools.get(1)
    await tools.get(2)
    assert tools.said() == [READ]
    backend.down.clear()
    await tools.get(1)
    await tools.get(2)
    assert tools.said() == [STORED]


async def test_a_fill_that_is_refused_was_answered(tools: Tools) -> None:
    backend = Halved("fill")
    configure(backend=backend)
    await tools.get(1)
    tools.said()
    backend.down.clear()

    @AgentCache("cart")
    async def get_and_write() -> int:
        await backend.move([("any", (), ("cart",))], "somebody")
        return 1

    await get_and_write()
    assert get_metrics()["fenced_out"] == 1
    assert tools.said() == [STORED]


@pytest.mark.parametrize(
    "down", [{"begin"}, {"end"}, {"begin", "end", "move"}], ids=lambda down: "+".join(sorted(down))
)
async def test_invalidations_that_are_not_taken_are_told_of_once_and_delivered(tools: Tools, down: set[str]) -> None:
    backend = Halved(*down, "move")
    configure(backend=backend)
    for n in range(1, 6):
        await tools.put()
        assert await tools.get(1) == n
    missed = f"the backend did not take an invalidation ({min(down)} is down); until it does, nothing is read from it"
    assert tools.said() == [missed]
    assert OUTBOX.owes(backend)
    backend.down.clear()
    assert [await tools.get(1) for _ in range(3)] == [5] * 3
    assert tools.said() == [TAKEN]
    assert not OUTBOX.owes(backend)
    await tools.put()
    assert tools.said() == []


async def test_a_write_that_is_not_run_is_told_of_as_such(tools: Tools) -> None:
    backend = Halved("begin")
    configure(backend=backend, on_unavailable="refuse_writes")
    for _ in range(3):
        with pytest.raises(BackendError, match="was not run"):
            await tools.put()
    assert tools.state == 0
    [said] = tools.said()
    assert "writes are not run (on_unavailable='refuse_writes')" in said
    backend.down.clear()
    await tools.put()
    await tools.put()
    assert tools.said() == [TAKEN]


async def test_a_miss_without_a_token_is_an_outage_of_storing(tools: Tools) -> None:
    backend = Halved(error=NotStoringError)
    configure(backend=backend)
    await tools.get(0)
    for n in range(1, 4):  # a full store: what is there is read, and for what is not there is nothing to load under
        backend.down = {"lookup"}
        await tools.get(n)
        backend.down = {"fill"}
        await tools.get(0)
    assert tools.said() == [UNSTORED.replace("fill", "lookup")]


async def test_what_is_stored_by_hand_is_told_of_alike(tools: Tools) -> None:
    backend = Halved("fill")
    configure(backend=backend)
    await tools.get(1)
    assert tools.said() == [UNSTORED]
    await tools.get.invalidate(1)
    backend.down.clear()
    await tools.get.invalidate(1)
    assert tools.said() == []


def test_an_outage_ends_with_its_backend(tools: Tools) -> None:
    for _ in range(3):  # the next one may well stand at the same place in memory
        backend = Halved()
        backend_failed(current_view(), "cart", backend, BackendError("lookup is down"), READING)
        assert tools.said() == [UNREAD]
        del backend
        gc.collect()
        assert not settings.notices.outages, "nobody has to look any more who it is that answers"


async def test_what_comes_and_goes_does_not_fill_the_log(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(settings.notices, "clock", lambda: now)
    backend = Halved()
    configure(backend=backend)

    async def come_and_go(first: int) -> list[str]:
        for n in range(first, first + 100, 2):
            backend.down = {"fill"}
            await tools.get(n)
            backend.down.clear()
            await tools.get(n + 1)
        return tools.said()

    once = [UNSTORED, STORED]
    last = f"{UNSTORED} (this comes and goes: no more is said of it for a while)"
    assert await come_and_go(0) == [*once * 4, last, STORED]
    now = 59.0
    assert await come_and_go(100) == []
    now = 60.0
    assert await come_and_go(200) == [*once * 4, last, STORED]
    assert get_metrics()["backend_errors"] == 150, "all of them are counted"


class Leased(MemoryBackend):
    """Served from a near copy that is known to be current, without asking."""

    in_process = False
    coherence = "lease"
    down = False

    async def lookup(self, *args: Any) -> Any:
        found = await super().lookup(*args)
        if self.down and not isinstance(found, Found):
            raise BackendError("lookup is down")
        return found


async def test_a_near_copy_says_nothing_of_the_far_tier(tools: Tools) -> None:
    backend = Leased()
    configure(backend=backend)
    await tools.get(0)
    backend.down = True
    for n in range(1, 6):
        await tools.get(n)
        await tools.get(0)
    assert tools.said() == [UNREAD]
    backend.down = False
    await tools.get(1)
    assert tools.said() == [READ]


class Thrashing(MemoryBackend):
    """A shared backend that has lost the tags again before anybody can lead."""

    in_process = False

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def lead(self, key: bytes, tags: Sequence[Any], token: Any) -> Taken:
        self.asked += 1
        await asyncio.sleep(0)
        await self.move(tags, "whoever evicts")
        return Taken(again=True)

    def release(self, lead: Any) -> None:
        raise AssertionError("nobody leads")

    def abandon(self, window: Any) -> None:
        raise AssertionError("nothing is interrupted")


async def test_a_store_that_loses_its_tags_at_once_is_not_asked_for_ever(tools: Tools) -> None:
    backend = Thrashing()
    configure(backend=backend)
    assert is_leading(backend)
    async with asyncio.timeout(5):
        assert await tools.get(1) == 0
    assert 2 < backend.asked < 20
