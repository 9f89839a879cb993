"""What is stored can be looked through: names, tags, ages, sizes; while others write; nothing is changed by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent_cache
from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, configure
from agent_cache.backends.base import NewEntry, Scanning, StoredEntry
from agent_cache.backends.labels import _short, _written, call_form, label_bytes, read_label, tags_of_call
from agent_cache.codecs import codec_for
from agent_cache.tags import call_tags, read_tags, shared_tags

Make = Callable[..., Any]


async def scanned(backend: Any, **how: Any) -> list[StoredEntry]:
    return [entry async for entry in backend.scan(**how)]


def tools(backend: Any) -> Any:
    """A read with an entity, one with two resources and an identity, and the write of the first."""

    @AgentCache("cart:{user_id}", ttl=300, backend=backend)
    async def cart(user_id: str, note: str = "x") -> dict[str, str]:
        return {"of": user_id}

    @AgentCache(["orders/{user_id}", "prices"], scope="user", backend=backend)
    async def orders(user_id: str) -> list[int]:
        return [1, 2]

    @AgentCacheInvalidator("cart:{user_id}", backend=backend)
    async def add(user_id: str) -> None:
        return None

    return cart, orders, add


async def test_every_backend_can_be_scanned(backend: Any) -> None:
    assert isinstance(backend, Scanning)
    assert await scanned(backend) == []


async def test_a_tool_s_entry_says_whose_it_is_and_under_what_it_was_loaded(backend: Any) -> None:
    cart, orders, _ = tools(backend)
    await cart("u1", note="secret argument")
    async with AgentCacheSession(identity={"tenant": "acme", "user": "u7"}):
        await orders("o9")
    found = {entry.resource: entry for entry in await scanned(backend, payloads=True)}
    mine, scoped = found["cart:{user_id}"], found["orders/{user_id}, prices"]
    assert mine.is_tool
    assert mine.name == cart.cache_key("u1", note="secret argument").digest
    assert mine.tool.endswith("tools.<locals>.cart")
    assert mine.group == cart.cache_key("u1").tool
    assert mine.paths == (("cart", "u1"),)
    assert (mine.chain, mine.namespace, mine.is_current, mine.problem) == ((), "", True, "")
    assert mine.size > 0
    assert mine.age is not None
    assert mine.ttl_left is not None
    assert mine.age < 100 < mine.ttl_left <= 300
    assert mine.load_seconds > 0
    assert mine.payload is not None
    assert codec_for(dict[str, str]).thaw_payload(mine.payload).fresh() == {"of": "u1"}
    assert scoped.paths == (("orders", "o9"), ("prices",))
    assert scoped.chain == ("tenant=acme", "user=u7")
    assert scoped.ttl_left is None
    assert scoped.name != orders.cache_key("o9").digest  # an identity is in it
    assert b"secret argument" not in repr((mine.tags, mine.where, mine.name)).encode()


async def test_key_value_entries_are_found_by_their_own_names(backend: Any) -> None:
    await backend.set("a", {"x": None})
    await backend.set("bé\ud800", 1, ttl=50)
    found = {entry.name: entry for entry in await scanned(backend, payloads=True)}
    assert set(found) == {"a", "bé\ud800"}
    assert not found["a"].is_tool
    assert found["a"].tags is None
    assert found["a"].ttl_left is None
    assert found["a"].payload is not None
    assert codec_for(Any).thaw_payload(found["a"].payload).fresh() == {"x": None}
    assert 0 < (found["bé\ud800"].ttl_left or 0) <= 50
    assert all(entry.is_current for entry in found.values())


async def test_payloads_come_only_when_they_are_asked_for(backend: Any) -> None:
    cart, _, _ = tools(backend)
    await cart("u1")
    await backend.set("a", 1)
    assert [entry.payload for entry in await scanned(backend)] == [None, None]


async def test_what_a_write_dropped_is_not_current(backend: Any) -> None:
    cart, _, add = tools(backend)
    await cart("u1")
    await cart("u2")
    await add("u1")
    current = {entry.paths[0][1]: entry.is_current for entry in await scanned(backend)}
    assert current["u2"] is True
    assert current.get("u1", False) is False


async def test_what_was_invalidated_by_hand_is_not_current(backend: Any) -> None:
    cart, orders, _ = tools(backend)
    await cart("u1")
    await cart("u1", note="y")
    async with AgentCacheSession(identity={"user": "u7"}):
        await orders("o9")
        await cart.invalidate("u1")
        await orders.invalidate("o9")
    current = sorted(entry.is_current or False for entry in await scanned(backend))
    assert current in ([False, False, True], [True])


async def test_the_namespace_is_told(backend: Any) -> None:
    cart, orders, _ = tools(backend)
    configure(namespace="shop")
    await cart("u1")
    async with AgentCacheSession(identity={"user": "u7"}):
        await orders("o9")
    found = await scanned(backend)
    assert [entry.namespace for entry in found] == ["shop", "shop"]
    assert all(entry.is_current for entry in found)
    await cart.invalidate("u1")
    assert [entry.is_current for entry in await scanned(backend) if entry.paths == (("cart", "u1"),)] in ([], [False])


async def test_scanning_many_finds_each_once_while_others_write(backend: Any) -> None:
    await backend.set_many({f"k{number}": number for number in range(700)})
    cart, _, _ = tools(backend)
    for number in range(30):
        await cart(f"u{number}")
    seen: list[str] = []
    async for entry in backend.scan():
        if len(seen) % 100 == 0:
            await backend.set(f"late{len(seen)}", 1)
        seen.append(entry.name if not entry.is_tool else entry.paths[0][1])
    early = [name for name in seen if not name.startswith("late")]
    assert sorted(early) == sorted([f"k{number}" for number in range(700)] + [f"u{number}" for number in range(30)])


async def test_one_entry_can_be_removed(backend: Any) -> None:
    cart, _, _ = tools(backend)
    await cart("u1")
    await cart("u2")
    await backend.set("a", 1)
    for entry in await scanned(backend):
        if entry.name == "a" or entry.paths == (("cart", "u1"),):
            assert await backend.remove(entry) is True
            assert await backend.remove(entry) is False
    assert [entry.paths for entry in await scanned(backend)] == [(("cart", "u2"),)]
    assert await backend.get("a") is None


async def test_scanning_changes_no_figure_and_serves_nothing(backend: Any) -> None:
    cart, _, _ = tools(backend)
    await cart("u1")
    await backend.set("a", 1)
    before = (await backend.stats())["hits"], agent_cache.get_metrics()["hits"]
    await scanned(backend, payloads=True)
    assert ((await backend.stats())["hits"], agent_cache.get_metrics()["hits"]) == before


@pytest.mark.parametrize("kind", ["disk", "redis", "tiered_disk", "tiered_redis"])
async def test_with_a_secret_names_and_paths_are_not_stored_unless_asked_for(make: Make, kind: str) -> None:
    for labels in (None, True):
        backend = make(kind, secret="s3cret", labels=labels)
        cart, _, _ = tools(backend)
        await cart("visible-user")
        await backend.set("a", 1)
        tool = next(entry for entry in await scanned(backend, payloads=True) if entry.is_tool)
        if labels:
            assert (tool.paths, tool.is_current, tool.problem) == ((("cart", "visible-user"),), True, "")
        else:
            assert (tool.tags, tool.tool, tool.resource, tool.is_current, tool.problem) == (None, "", "", None, "")


async def test_what_another_secret_sealed_is_told_to_be_unreadable(make: Make) -> None:
    mine = make("redis", secret="a", labels=True, prefix="same:")
    other = make("redis", secret="b", labels=True, prefix="same:")
    cart, _, _ = tools(mine)
    await cart("u1")
    await mine.set("a", 1)
    found = await scanned(other)
    await mine.clear()
    assert [entry.problem for entry in found] == ["not sealed with this secret"] * 2
    assert not any(entry.is_current for entry in found)


@pytest.mark.parametrize("kind", ["disk", "redis"])
def test_labels_is_checked(kind: str, tmp_path: Any) -> None:
    from agent_cache import ConfigurationError, DiskBackend, RedisBackend

    with pytest.raises(ConfigurationError, match="labels"):
        DiskBackend(tmp_path / "x.db", labels="yes") if kind == "disk" else RedisBackend(labels=1)  # type: ignore[arg-type]


async def test_foreign_tags_are_known_too(backend: Any) -> None:
    """Whoever uses the protocol by hand, without the tags of a call."""
    codec, tags = codec_for(Any), read_tags([("cart", "42")], ("user=u1",))
    token = (await backend.lookup(None, tags, codec)).token
    assert await backend.fill(token, NewEntry(b"key", codec.freeze([1]), None, 0.5, "g", None, ("user=u1",)))
    (entry,) = await scanned(backend)
    assert (entry.key, entry.group, entry.is_current) == (b"key", "g", True)
    assert entry.tags == tags
    assert entry.chain == ("user=u1",)


async def test_the_age_of_what_was_moved_here_is_kept(backend: Any) -> None:
    codec, tags = codec_for(Any), read_tags([("cart", "42")], ())
    token = (await backend.lookup(None, tags, codec)).token
    assert await backend.fill(token, NewEntry(b"key", codec.freeze([1]), 60, 0.5, "g", None, (), age=1000.0))
    (entry,) = await scanned(backend)
    assert 1000 <= (entry.age or 0) < 1050
    assert 10 < (entry.ttl_left or 0) <= 60
    found = await backend.lookup(b"key", tags, codec)
    assert 1000 <= found.age < 1050
    assert 10 < found.ttl_left <= 60


async def test_a_backend_scanned_from_two_loops_at_once(backend: Any) -> None:
    await backend.set_many({f"k{number}": number for number in range(300)})

    def elsewhere() -> int:
        return len(asyncio.run(scanned(backend)))

    counts = await asyncio.gather(*(asyncio.to_thread(elsewhere) for _ in range(2)), asyncio.to_thread(elsewhere))
    assert counts == [300, 300, 300]


# -- labels

texts = st.text(max_size=12)
paths = st.lists(texts, min_size=1, max_size=4).map(tuple)
chains = st.lists(texts, max_size=3).map(tuple)


@given(st.lists(paths, max_size=3), chains, st.integers(0, 65_535), st.binary(min_size=20, max_size=20), texts)
def test_a_call_s_label_comes_back(
    resources: list[tuple[str, ...]], chain: tuple[str, ...], bucket: int, group: bytes, namespace: str
) -> None:
    name = group.hex()
    tags = call_tags(shared_tags(resources, name, chain), (f"#{name}", str(bucket)))
    entry = NewEntry(b"k", codec_for(Any).freeze(1), None, 0.0, name, None, chain, namespace=namespace)
    label = read_label(label_bytes(tags, entry))
    assert label is not None
    assert label.tags == tags
    assert (label.namespace, label.group) == (namespace, name)
    short = call_form(tags)
    assert short is None or tags_of_call(short) == tags


@given(st.lists(paths, max_size=3), chains, st.integers(0, 65_535), texts)
def test_a_label_put_together_from_shared_parts_is_the_very_same(
    resources: list[tuple[str, ...]], chain: tuple[str, ...], bucket: int, namespace: str
) -> None:
    name = "ab" * 20
    tags = call_tags(shared_tags(resources, name, chain), (f"#{name}", str(bucket)))
    entry = NewEntry(b"k", codec_for(Any).freeze(1), None, 0.0, name, None, chain, namespace=namespace)
    assert _short(tags, entry) == _written(tags, entry, "")


@given(st.lists(st.tuples(st.sampled_from(["any", "all"]), chains, paths), max_size=5).map(tuple), texts)
def test_any_tags_come_back(tags: Any, group: str) -> None:
    entry = NewEntry(b"k", codec_for(Any).freeze(1), None, 0.0, group, None, ())
    label = read_label(label_bytes(tags, entry))
    assert label is not None
    assert (label.tags, label.group) == (tags, group)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x01", b"\x02"]))
def test_bytes_of_anybody_s_are_a_label_or_none(raw: bytes, head: bytes) -> None:
    label = read_label(head + raw)
    assert label is None or all(kind in ("any", "all") for kind, _, _ in label.tags)


def test_a_label_that_would_be_too_long_is_left_out() -> None:
    entry = NewEntry(b"k", codec_for(Any).freeze(1), None, 0.0, "g", None, ())
    assert label_bytes(read_tags([("x" * 20_000,)], ()), entry) == b""
