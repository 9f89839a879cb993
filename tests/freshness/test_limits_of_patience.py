"""soft_timeout and hard_timeout: a caller waits no longer, the load goes on behind its fence and is kept."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheError,
    AgentCacheInvalidator,
    LoadTimeoutError,
    MemoryBackend,
    configure,
    get_metrics,
    no_cache,
    refresh,
)
from agent_cache.engine import behind
from agent_cache.engine.effects import FLIGHTS
from agent_cache.testing import FakeClock
from agent_cache.testing.clock import run_virtual
from agent_cache.workers import Workers
from tests.freshness.conftest import Quiet, Seen, Source, Store, wait_for


def in_virtual_time(scenario: Callable[[FakeClock], Any]) -> None:
    async def run() -> None:
        clock = FakeClock(base=asyncio.get_running_loop().time)
        configure(backend=MemoryBackend(clock=clock))
        await scenario(clock)

    run_virtual(run)


class Slow:
    """Takes so many seconds, of the loop's time."""

    def __init__(self) -> None:
        self.asked = self.done = self.cancelled = 0
        self.seconds = 0.0
        self.fails: Exception | None = None

    async def answer(self) -> list[int]:
        self.asked += 1
        mine = self.asked
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails is not None:
            raise self.fails
        self.done += 1
        return [mine]


def reader(source: Slow, **how: Any) -> Any:
    @AgentCache("page:{name}", ttl=10, **how)
    async def get_page(name: str) -> list[int]:
        return await source.answer()

    return get_page


@AgentCacheInvalidator("page:{name}")
async def write_page(name: str) -> None:
    pass


def test_at_the_hard_limit_the_caller_gives_up_and_the_load_goes_on() -> None:
    source = Slow()
    source.seconds = 5
    get_page = reader(source, hard_timeout=2)

    async def scenario(clock: FakeClock) -> None:
        began = clock()
        with pytest.raises(LoadTimeoutError, match="get_page was not answered within hard_timeout=2 s") as error:
            await get_page("a")
        assert clock() - began == pytest.approx(2)
        assert isinstance(error.value, TimeoutError)
        assert isinstance(error.value, AgentCacheError)
        assert (error.value.tool, error.value.seconds) == ("get_page", 2.0)
        await asyncio.sleep(4)
        assert await get_page("a") == [1]
        assert (source.asked, source.cancelled) == (1, 0)
        assert get_metrics()["load_timeouts"] == 1

    in_virtual_time(scenario)


def test_who_comes_later_waits_as_long_as_he_may_and_shares_the_load() -> None:
    source = Slow()
    source.seconds = 5
    get_page = reader(source, hard_timeout=3)

    async def scenario(clock: FakeClock) -> None:
        first = asyncio.create_task(get_page("a"))
        await asyncio.sleep(2.5)
        assert await get_page("a") == [1]
        with pytest.raises(LoadTimeoutError):
            await first
        assert source.asked == 1

    in_virtual_time(scenario)


def test_at_the_soft_limit_the_last_answer_is_served(seen: Seen) -> None:
    source = Slow()
    get_page = reader(source, stale_if_error=60, soft_timeout=1, hard_timeout=3)

    async def scenario(clock: FakeClock) -> None:
        assert await get_page("a") == [1]
        await asyncio.sleep(15)
        source.seconds = 2
        began = clock()
        assert await get_page("a") == [1]
        assert clock() - began == pytest.approx(1)
        assert seen.last == ("stale_served", "soft_timeout")
        await asyncio.sleep(1.5)
        assert await get_page("a") == [2]
        assert (source.asked, source.cancelled) == (2, 0)
        figures = get_metrics()
        assert (figures["stale_served"], figures["load_timeouts"]) == (1, 0)

    in_virtual_time(scenario)


def test_without_a_last_answer_the_soft_limit_is_passed_by() -> None:
    source = Slow()
    source.seconds = 2
    get_page = reader(source, stale_if_error=60, soft_timeout=1, hard_timeout=3)

    async def scenario(clock: FakeClock) -> None:
        assert await get_page("a") == [1]
        source.seconds = 5
        began = clock()
        with pytest.raises(LoadTimeoutError):
            await get_page("b")
        assert clock() - began == pytest.approx(3)

    in_virtual_time(scenario)


def test_what_a_write_dropped_meanwhile_is_not_served_at_the_soft_limit() -> None:
    source = Slow()
    get_page = reader(source, stale_if_error=60, soft_timeout=2, hard_timeout=4)

    async def scenario(clock: FakeClock) -> None:
        assert await get_page("a") == [1]
        await asyncio.sleep(15)
        source.seconds = 10
        caller = asyncio.create_task(get_page("a"))
        await asyncio.sleep(1)
        await write_page("a")
        with pytest.raises(LoadTimeoutError):
            await caller
        await asyncio.sleep(10)
        source.seconds = 0
        assert await get_page("a") == [3], "the load from before the write was not kept"
        assert get_metrics()["fenced_out"] == 1

    in_virtual_time(scenario)


def test_at_the_hard_limit_too_the_last_answer_is_better_than_none(seen: Seen) -> None:
    source = Slow()
    get_page = reader(source, stale_if_error=60, hard_timeout=2)

    async def scenario(clock: FakeClock) -> None:
        assert await get_page("a") == [1]
        await asyncio.sleep(15)
        source.seconds = 5
        assert await get_page("a") == [1]
        assert seen.last == ("stale_served", "stale_if_error")

    in_virtual_time(scenario)


def test_who_is_cancelled_before_the_limit_ends_the_load() -> None:
    source = Slow()
    source.seconds = 5
    get_page = reader(source, hard_timeout=3)

    async def scenario(clock: FakeClock) -> None:
        caller = asyncio.create_task(get_page("a"))
        await asyncio.sleep(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(1)
        assert source.cancelled == 1

    in_virtual_time(scenario)


def test_a_callers_own_timeout_is_his_own() -> None:
    source = Slow()
    source.seconds = 5
    get_page = reader(source, hard_timeout=3)

    async def scenario(clock: FakeClock) -> None:
        with pytest.raises(TimeoutError) as error:
            async with asyncio.timeout(1):
                await get_page("a")
        assert not isinstance(error.value, LoadTimeoutError)

    in_virtual_time(scenario)


def test_a_tools_own_timeout_error_passes_through() -> None:
    source = Slow()
    source.fails = TimeoutError("the tool's own")
    get_page = reader(source, hard_timeout=3)

    async def scenario(clock: FakeClock) -> None:
        with pytest.raises(TimeoutError, match="the tool's own"):
            await get_page("a")

    in_virtual_time(scenario)


def test_the_limit_holds_where_nothing_is_cached_and_in_refresh() -> None:
    source = Slow()
    source.seconds = 5
    get_page = reader(source, hard_timeout=2)

    async def scenario(clock: FakeClock) -> None:
        with no_cache(), pytest.raises(LoadTimeoutError):
            await get_page("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert source.cancelled == 1, "nobody will ever have it"
        with refresh(), pytest.raises(LoadTimeoutError):
            await get_page("a")
        await asyncio.sleep(6)
        assert await get_page("a") == [2]

    in_virtual_time(scenario)


def test_a_load_that_fails_after_its_caller_gave_up_is_counted() -> None:
    source = Slow()
    source.seconds = 5
    source.fails = OSError("away")
    get_page = reader(source, hard_timeout=2)

    async def scenario(clock: FakeClock) -> None:
        with pytest.raises(LoadTimeoutError):
            await get_page("a")
        await asyncio.sleep(6)
        assert get_metrics()["refresh_failures"] == 1

    in_virtual_time(scenario)


async def test_on_every_store_the_load_goes_on(store: Store, quiet: Quiet) -> None:
    go = asyncio.Event()
    asked = [0]

    @AgentCache("page:{name}", ttl=10, stale_if_error=60, soft_timeout=0.02, hard_timeout=0.05)
    async def get_page(name: str) -> list[int]:
        asked[0] += 1
        if asked[0] == 2:
            await go.wait()
        return [asked[0]]

    assert await get_page("a") == [1]
    await store.advance(15)
    assert await get_page("a") == [1]
    go.set()
    await quiet()
    assert await get_page("a") == [2]
    assert asked[0] == 2


# -- def tools ---------------------------------------------------------------------------------------------------------------


def test_a_def_tool_is_given_up_by_its_caller_and_goes_on_in_its_thread(memory: Store, source: Source) -> None:
    go = threading.Event()
    threads: list[int] = []

    @AgentCache("page:{name}", ttl=10, stale_if_error=60, soft_timeout=0.02, hard_timeout=0.05)
    def get_page(name: str) -> list[int]:
        threads.append(threading.get_ident())
        found = source.answer()
        if source.asked > 1:
            go.wait(20)
        return found

    assert get_page("a") == [1]
    assert threads[0] != threading.get_ident(), "it runs where it can be left"
    memory.clock.advance(15)
    assert get_page("a") == [1]
    with pytest.raises(LoadTimeoutError):
        get_page("b")
    go.set()
    wait_for(lambda: not len(FLIGHTS))
    assert get_page("a") == [2]
    assert get_page("b") == [3]
    assert source.asked == 3


def test_a_def_tool_whose_threads_are_all_busy_runs_in_its_callers(
    memory: Store, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "_TIMED", Workers("none", 0))
    threads: list[int] = []

    @AgentCache("page:{name}", ttl=10, hard_timeout=5)
    def get_page(name: str) -> list[int]:
        threads.append(threading.get_ident())
        return source.answer()

    assert get_page("a") == [1]
    assert threads == [threading.get_ident()]


def test_a_def_tool_sees_its_callers_context(memory: Store) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    who.set("me")

    @AgentCache("page", hard_timeout=5)
    def get_page() -> str:
        return who.get()

    assert get_page() == "me"


def test_a_def_tools_error_is_its_own(memory: Store, source: Source) -> None:
    @AgentCache("page", hard_timeout=5)
    def get_page() -> list[int]:
        return source.answer()

    source.fails = OSError("away")
    with pytest.raises(OSError, match="away"):
        get_page()


def test_nested_tools_with_limits_do_not_wait_for_each_other_in_a_circle() -> None:
    depth = [0]

    @AgentCache("page:{name}", hard_timeout=5)
    async def get_page(name: str) -> int:
        depth[0] += 1
        if depth[0] < 3:
            return 1 + int(await get_page(name))
        return 0

    async def scenario(clock: FakeClock) -> None:
        assert await get_page("a") == 2

    in_virtual_time(scenario)


def test_the_soft_limit_leaves_a_load_alone_that_is_not_kept() -> None:
    """While a write runs there is no stale answer to give: the caller waits on, and his load must not be ended."""
    source = Slow()
    get_page = reader(source, stale_if_error=60, soft_timeout=1)

    @AgentCacheInvalidator("page:{name}")
    async def slow_write(name: str) -> None:
        await asyncio.sleep(50)

    async def scenario(clock: FakeClock) -> None:
        writer = asyncio.create_task(slow_write("a"))
        await asyncio.sleep(1)
        source.seconds = 5
        assert await get_page("a") == [1]
        assert source.cancelled == 0
        await writer

    in_virtual_time(scenario)
