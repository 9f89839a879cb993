"""What is cached through the function API inside a cached tool: the tool's answer depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AsyncCache,
    AsyncLRU,
    AsyncLRUInvalidator,
    MemoryBackend,
    configure,
    get_metrics,
)
from agent_cache.engine.calls import REMEMBERED
from tests.functions.conftest import KINDS


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Any]) -> Any:
    REMEMBERED.clear()
    made = make_backend(request.param)
    configure(backend=made)
    return made


async def twice(read: Callable[..., Any], *args: Any) -> Any:
    """Until it is answered at once, where it can be."""
    await read(*args)
    return await read(*args)


@pytest.mark.parametrize("warm", [False, True])
async def test_a_cached_function_inside_a_tool(backend: Any, *, warm: bool) -> None:
    users = {"u1": 1}

    @AsyncLRU()
    async def get_user(user_id: str) -> int:
        return users[user_id]

    @AsyncLRUInvalidator(get_user)
    async def update_user(user_id: str) -> None:
        users[user_id] += 1

    @AgentCache("page")
    async def page() -> int:
        return await get_user("u1")

    if warm:
        await twice(get_user, "u1")
    assert await twice(page) == 1
    await update_user("u1")
    assert await page() == 2


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("loads", [False, True])
async def test_a_key_inside_a_tool(backend: Any, *, warm: bool, loads: bool) -> None:
    cache, source = AsyncCache(backend=backend, namespace="keys"), [1]

    @AgentCache("page")
    async def page() -> int | None:
        return await cache.get("k", (lambda: source[0]) if loads else None)

    if not loads:
        await cache.set("k", 1)
    if warm:
        await twice(cache.get, "k", lambda: source[0])
    assert await twice(page) == 1
    source[0] = 2
    await (cache.delete("k") if loads else cache.set("k", 2))
    assert await page() == 2


def rates() -> tuple[Callable[[], Awaitable[int]], Callable[[], Awaitable[None]]]:
    """A cached tool, and one that adds 1 to what it returns."""
    rate = 1

    @AgentCache("rates")
    async def get_rate() -> int:
        return rate

    @AgentCacheInvalidator("rates")
    async def set_rate() -> None:
        nonlocal rate
        rate += 1

    return get_rate, set_rate


async def test_a_tool_inside_a_batch_loader(backend: Any) -> None:
    """Every key of the batch depends on it, not only the one that opened it."""
    (get_rate, set_rate), runs, cache = rates(), [0], AsyncCache(backend=backend, namespace="keys")

    async def prices(keys: list[int]) -> list[int]:
        runs[0] += 1
        return [key * await get_rate() for key in keys]

    async def all_prices() -> list[int]:
        return await asyncio.gather(*(cache.get(key, batch_loader=prices) for key in (1, 2, 3)))

    await twice(get_rate)
    for expected in ([1, 2, 3], [2, 4, 6], [3, 6, 9]):
        assert await twice(all_prices) == expected
        await set_rate()
    await twice(all_prices)
    runs[0] = 0
    assert await all_prices() == [4, 8, 12]
    assert runs[0] == 0


async def test_what_is_set_by_hand_depends_on_nothing_else(backend: Any) -> None:
    """And is found by those who have not loaded that key themselves."""
    cache, (get_rate, set_rate) = AsyncCache(backend=backend, namespace="keys"), rates()

    assert await twice(cache.get, "k", get_rate) == 1
    await cache.set("k", 77)
    learned = dict(REMEMBERED)
    REMEMBERED.clear()
    other = AsyncCache(backend=backend, namespace="keys")
    assert await other.get("k") == 77
    REMEMBERED.update(learned)
    await set_rate()
    assert await twice(cache.get, "k") == 77


async def test_a_load_under_way_does_not_hide_what_is_set_by_hand(backend: Any) -> None:
    cache, began, go = AsyncCache(backend=backend, namespace="keys"), asyncio.Event(), asyncio.Event()

    @AgentCache("rates")
    async def get_rate() -> int:
        return 1

    async def load() -> int:
        found: int = await get_rate()
        began.set()
        await go.wait()
        return found

    loading = asyncio.create_task(cache.get("k", load))
    await began.wait()
    await cache.set("k", 77)
    go.set()
    assert await loading == 1
    assert await cache.get("k") == 77


async def test_what_is_kept_on_another_backend_keeps_a_tool_s_answer_from_being_kept() -> None:
    """What is done to it by hand reaches its own backend only."""
    REMEMBERED.clear()
    cache, data = AsyncCache(backend=MemoryBackend(), namespace="keys"), [1]

    @AsyncLRU()
    async def get_user() -> int:
        return data[0]

    @AgentCache("page", backend=MemoryBackend())
    async def page() -> tuple[int, int | None]:
        return await get_user(), await cache.get("k")

    await cache.set("k", 1)
    assert await twice(page) == (1, 1)
    await cache.set("k", 2)
    assert await twice(page) == (1, 2)
    data[0] = 2
    await get_user.clear_cache()
    assert await page() == (2, 2)
    assert get_metrics()["reasons"]["other_backend"]
