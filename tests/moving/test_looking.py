"""Found, counted and dropped by hand."""

from __future__ import annotations

from typing import Any

import pytest

from agent_cache import AgentCache, ConfigurationError, configure
from agent_cache.moving.looking import drop_entry, drop_resource, find, holdings

ran: list[str] = []


@AgentCache("carts:{user_id}")
async def get_cart(user_id: str) -> str:
    ran.append(user_id)
    return user_id


@pytest.fixture(autouse=True)
async def _filled(backend: Any) -> None:
    configure(backend=backend)
    for user in ("a", "b c", "d"):
        await get_cart(user)
    await backend.set("k", "x" * 5_000)
    ran.clear()


async def test_what_there_is_by_tool_and_namespace(backend: Any) -> None:
    configure(namespace="other")
    await get_cart("a")
    found = await holdings(backend)
    assert [(held.namespace, held.tool.rpartition(".")[2], held.entries, held.outdated) for held in found] in (
        [("", "", 1, 0), ("", "get_cart", 3, 0), ("other", "get_cart", 1, 0)],
        [("", "", 1, 0), ("other", "get_cart", 1, 0), ("", "get_cart", 3, 0)],
    )
    assert all(held.bytes > 0 for held in found)


async def test_found_by_the_beginning_of_a_digest_or_by_name(backend: Any) -> None:
    digest = get_cart.cache_key("a").digest
    for part in (digest[:8], digest[:8].upper(), digest):
        (entry,) = await find(backend, part)
        assert entry.paths == (("carts", "a"),)
    (entry,) = await find(backend, "k", payloads=True)
    assert entry.payload is not None
    assert await find(backend, "nothing") == []
    assert await find(backend, "") == []


async def test_one_entry_dropped(backend: Any) -> None:
    (entry,) = await find(backend, get_cart.cache_key("a").digest[:12])
    await drop_entry(backend, entry)
    assert await find(backend, get_cart.cache_key("a").digest) == []
    (value,) = await find(backend, "k")
    assert await drop_entry(backend, value)
    assert await backend.get("k") is None
    for user in ("a", "b c", "d"):
        await get_cart(user)
    assert ran == ["a"]


@pytest.mark.parametrize(
    ("resource", "again"), [("carts:b c", ["b c"]), ("carts/a", ["a"]), ("carts", ["a", "b c", "d"])]
)
async def test_a_resource_dropped_by_its_text(backend: Any, resource: str, again: list[str]) -> None:
    await drop_resource(backend, resource)
    for user in ("a", "b c", "d"):
        await get_cart(user)
    assert ran == again


@pytest.mark.parametrize("resource", ["", "carts:{user_id}", "carts::a"])
async def test_what_is_no_resource(backend: Any, resource: str) -> None:
    with pytest.raises(ConfigurationError, match="resource"):
        await drop_resource(backend, resource)
