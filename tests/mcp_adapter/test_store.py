"""Backends as the store of the official client's response cache."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp.types as types
import pytest
from mcp.client.caching import CacheConfig, CacheEntry, CacheKey
from mcp.client.client import Client
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import Server

from agent_cache import ConfigurationError, MemoryBackend
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache_mcp import CacheStore
from agent_cache_mcp.store import _RESULTS

KEY = CacheKey("tools/list", "", "me")


@pytest.fixture(params=["memory", "disk", "redis"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    made: Any
    if request.param == "memory":
        made = MemoryBackend()
    elif request.param == "disk":
        made = DiskBackend(tmp_path / "cache.db")
    else:
        made = RedisBackend(request.getfixturevalue("redis_server").url, prefix="mcp-store:")
    yield made
    await made.clear()
    await made.close()


def entry(value: Any = None, seconds: float = 60) -> CacheEntry:
    tools = types.ListToolsResult(tools=[types.Tool(name="t", input_schema={"type": "object"})], ttl_ms=60_000)
    return CacheEntry(value=value or tools, scope="private", expires_at=time.time() + seconds)


async def test_get_set_delete_clear(backend: Any) -> None:
    store = CacheStore(backend)
    assert await store.get(KEY) is None
    given = entry()
    await store.set(KEY, given)
    assert await store.get(KEY) == given
    for other in (
        CacheKey("tools/list", "", "you"),
        CacheKey("tools/list", "x", "me"),
        CacheKey("prompts/list", "", "me"),
    ):
        assert await store.get(other) is None
    await store.delete(KEY)
    assert await store.get(KEY) is None
    await store.set(KEY, given)
    await backend.set("mine", 1)
    await store.clear()
    assert await store.get(KEY) is None
    assert await backend.get("mine") == 1


async def test_stores_of_two_prefixes_are_two(backend: Any) -> None:
    one, two = CacheStore(backend, "one"), CacheStore(backend, "two")
    await one.set(KEY, entry())
    assert await two.get(KEY) is None
    await two.clear()
    assert await one.get(KEY) is not None


async def test_what_is_not_fresh_replaces_by_nothing(backend: Any) -> None:
    store = CacheStore(backend)
    for stale in (entry(seconds=-1), CacheEntry(value=entry().value, scope="public", expires_at=None)):
        await store.set(KEY, entry())
        await store.set(KEY, stale)
        assert await store.get(KEY) is None


async def test_an_unknown_method_is_not_kept() -> None:
    store = CacheStore(MemoryBackend())
    key = CacheKey("later/method")
    await store.set(key, entry())
    assert await store.get(key) is None


def test_every_cacheable_method_is_known() -> None:
    from mcp.server.caching import CACHEABLE_METHODS

    assert set(_RESULTS) == set(CACHEABLE_METHODS)


class Listed:
    """A server that counts how often its tools are listed, and says how long the list is good for."""

    def __init__(self) -> None:
        self.lists = 0

    def server(self, hints: Any = None) -> Server[Any]:
        async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
            self.lists += 1
            return types.ListToolsResult(tools=[types.Tool(name="t", input_schema={"type": "object"})])

        return Server("listed", on_list_tools=list_tools, cache_hints=hints)


async def test_clients_share_lists_over_the_store(backend: Any) -> None:
    listed = Listed()
    hints = {"tools/list": CacheHint(ttl_ms=60_000)}
    for who, lists in (("alice", 1), ("alice", 1), ("bob", 2)):
        config = CacheConfig(store=CacheStore(backend), partition=who, target_id="listed")
        async with Client(listed.server(hints), cache=config) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["t"]
        assert listed.lists == lists


async def test_a_server_that_hints_nothing_is_asked_every_time(backend: Any) -> None:
    """Servers of 2026-07-28 always send a ttl, and 0 without a hint: a default of the client's never applies."""
    listed = Listed()
    config = CacheConfig(store=CacheStore(backend), partition="me", target_id="x", default_ttl_ms=60_000)
    async with Client(listed.server(), cache=config) as client:
        for _ in range(2):
            await client.list_tools()
    assert listed.lists == 2


@pytest.mark.parametrize(("options", "told"), [({"backend": object()}, "backend"), ({"prefix": "a*"}, "prefix")])
def test_wrong_options(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        CacheStore(**{"backend": MemoryBackend(), **options})
