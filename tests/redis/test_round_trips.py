"""What a read, a fill, a write and an invalidation cost: counted by the backend, on the wire, and by the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, MemoryBackend, configure, get_metrics
from agent_cache.backends.base import Missing, NewEntry
from agent_cache.backends.redis import RedisBackend, looks
from agent_cache.backends.tiered import TieredBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags
from agent_cache.testing.servers import ClusterSetup, RedisServer

BackendAt = Callable[..., RedisBackend]
BIG = "payload " * 2_000


@AgentCache("cart:{user}", maxsize=None)
async def get_cart(user: int) -> str:
    return BIG


@AgentCacheInvalidator("cart:{user}")
async def put_cart(user: int) -> None: ...


def calls(server: RedisServer) -> dict[str, int]:
    """How often each command was called since the statistics were reset; without what a connection begins with."""
    begins = {"cmdstat_hello", "cmdstat_client|setinfo", "cmdstat_client", "cmdstat_config|resetstat", "cmdstat_select"}
    told = {name: line for name, line in server.info("commandstats").items() if name not in begins}
    return {name.removeprefix("cmdstat_"): int(line.split(",")[0].split("=")[1]) for name, line in told.items()}


def reset(server: RedisServer) -> None:
    server.cli("CONFIG", "RESETSTAT")


async def warm(backend: RedisBackend) -> None:
    """The connection stands and Redis knows the scripts."""
    await get_cart(-1)
    await put_cart(-1)
    await get_cart(-1)
    await get_cart.invalidate(-1)


@pytest.fixture
async def tapped(tap: Any, backend_at: BackendAt) -> RedisBackend:
    backend = backend_at(tap.url)
    configure(backend=backend)
    await warm(backend)
    tap.forget()
    return backend


async def test_a_hit_is_one_batch(tapped: RedisBackend, tap: Any) -> None:
    await get_cart(1)
    tap.forget()
    before = tapped._links.round_trips
    await get_cart(1)
    assert tapped._links.round_trips - before == 1
    assert tap.batches == 1
    assert tap.names == ["MGET", "INFO"]


async def test_a_miss_is_three_batches_one_of_them_the_fill(tapped: RedisBackend, tap: Any) -> None:
    await get_cart(2)
    await put_cart(2)
    tap.forget()
    await get_cart(2)
    # look up, take the lead, fill
    assert tap.names == ["MGET", "INFO", "EVALSHA", "EVALSHA"]
    assert tap.batches == 3


async def test_a_write_is_two_batches(tapped: RedisBackend, tap: Any) -> None:
    await put_cart(1)
    assert tap.names == ["EVALSHA", "EVALSHA"]
    assert tap.batches == 2


async def test_an_invalidation_is_one_batch(tapped: RedisBackend, tap: Any) -> None:
    await get_cart(1)
    tap.forget()
    await get_cart.invalidate(1)
    assert (tap.batches, tap.names) == (1, ["EVALSHA"])
    tap.forget()
    await get_cart.invalidate_all()
    assert (tap.batches, tap.names) == (1, ["EVALSHA"])


async def test_the_end_of_a_session_is_one_batch(tapped: RedisBackend, tap: Any) -> None:
    @AgentCache("note", scope="session")
    async def get_note() -> str:
        return "a note"

    async with AgentCacheSession():
        await get_note()
        tap.forget()
    assert (tap.batches, tap.names) == (1, ["EVALSHA"])


async def test_many_values_are_one_batch(tapped: RedisBackend, tap: Any) -> None:
    items = {f"key {number}": number for number in range(500)}
    await tapped.set_many(items, ttl=60)
    assert tap.batches == 1
    tap.forget()
    assert await tapped.get_many(items) == items
    assert (tap.batches, tap.names) == (1, ["MGET"])


async def test_reads_of_one_tick_travel_together(tapped: RedisBackend, tap: Any) -> None:
    await asyncio.gather(*(get_cart(user) for user in range(100)))
    tap.forget()
    before = tapped._links.round_trips
    values = await asyncio.gather(*(get_cart(user) for user in range(100)))
    assert values == [BIG] * 100
    assert tapped._links.round_trips - before <= 2
    assert tap.names.count("INFO") <= 2


async def test_a_def_tools_hit_is_one_batch_too(tapped: RedisBackend, tap: Any) -> None:
    @AgentCache("stock")
    def get_stock() -> int:
        return 5

    await asyncio.to_thread(get_stock)
    tap.forget()
    assert await asyncio.to_thread(get_stock) == 5
    assert (tap.batches, tap.names) == (1, ["MGET", "INFO"])


async def test_a_strict_near_hit_is_one_batch_without_the_payload(
    tap: Any, server: RedisServer, backend_at: BackendAt
) -> None:
    tier = TieredBackend(MemoryBackend(), backend_at(tap.url))
    configure(backend=tier)
    await get_cart(1)
    await get_cart(1)
    (entry,) = [key for key in server.cli("KEYS", "*") if b"}e:" in key]
    tap.forget()

    assert await get_cart(1) == BIG

    assert (tap.batches, tap.names) == (1, ["MGET", "INFO"])
    assert entry not in tap.sent
    assert b"payload" not in tap.received
    assert len(tap.received) < len(BIG) / 2
    assert (await tier.stats())["revalidated"] == 2


async def test_a_lease_near_hit_asks_nobody(
    tap: Any, backend_at: BackendAt, eventually: Callable[..., Awaitable[None]]
) -> None:
    far = backend_at(tap.url, coherence="lease", lease=30)  # long: a busy machine must not let it end meanwhile
    tier = TieredBackend(MemoryBackend(), far)
    configure(backend=tier)
    await tier.connect()
    await eventually(tier._is_proven, "proof that the bus is heard")
    await get_cart(1)
    await get_cart(1)
    before, runs = far._links.round_trips, (await tier.stats())["near_hits"]
    for _ in range(50):
        assert await get_cart(1) == BIG
    assert far._links.round_trips - before == 1  # the stats
    assert runs >= 1


async def test_nothing_on_the_way_of_reads_and_writes_searches_the_keyspace(
    server: RedisServer, backend_at: BackendAt
) -> None:
    configure(backend=TieredBackend(MemoryBackend(), backend_at()))
    for user in range(5):
        await get_cart(user)
        await get_cart(user)
        await put_cart(user)
        await get_cart(user)
        await get_cart.invalidate(user)
    await get_cart.invalidate_all()
    told = calls(server)
    assert {"mget", "evalsha"} <= set(told)
    searching = {"keys", "scan", "sscan", "hscan", "zscan", "smembers", "flushdb", "flushall", "dbsize", "randomkey"}
    assert not searching & set(told)


async def test_an_invalidation_costs_the_same_with_ten_entries_and_with_five_thousand(
    server: RedisServer, backend_at: BackendAt
) -> None:
    backend = backend_at()
    configure(backend=backend)

    @AgentCache("shelf")
    async def get_book() -> int:
        return 1

    @AgentCacheInvalidator("shelf")
    async def put_shelf() -> None: ...

    async def costs_with(entries: int) -> list[dict[str, int]]:
        await get_book()
        codec, tags = codec_for(Any), read_tags([("shelf",)], ())
        missing = await backend.lookup(None, tags, codec)
        assert isinstance(missing, Missing)
        new = [NewEntry(b"%d" % n, codec.freeze(n), None, 0.0, "", None, ()) for n in range(entries)]
        assert all(await asyncio.gather(*(backend.fill(missing.token, each) for each in new)))
        costs = []
        for change in (put_shelf, get_book.invalidate, get_book.invalidate_all):
            reset(server)
            await change()
            costs.append(calls(server))
            assert (await get_book.explain()).status == "stale"
        return costs

    await costs_with(1)  # from here on Redis knows the scripts
    few, many = await costs_with(10), await costs_with(5_000)
    assert few == many
    assert server.cli("DBSIZE") > 5_000


async def test_on_a_cluster_a_hit_asks_for_each_slot_once(cluster: ClusterSetup, backend_at: BackendAt) -> None:
    backend = backend_at(cluster.url)
    configure(backend=backend)
    await warm(backend)
    await get_cart(1)
    before = backend._links.round_trips
    for node in cluster.nodes:
        reset(node)
    await get_cart(1)
    # the resource's slot, the tool's own, and that of "everything", at once, on one node to three
    assert backend._links.round_trips - before <= 3
    assert sum(calls(node).get("mget", 0) for node in cluster.nodes) == 3
    before = backend._links.round_trips
    await put_cart(1)
    assert backend._links.round_trips - before == 2


async def _ask_user(n: int) -> int:
    _RUNS.append(n)
    return n


_RUNS: list[int] = []


@pytest.mark.parametrize("where", ["cluster", "one server"])
async def test_reads_of_one_tick_that_ask_how_long_their_entries_live_are_told_apart(
    cluster: ClusterSetup, server: RedisServer, backend_at: BackendAt, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several commands in one batch: on a Cluster one for each slot, elsewhere where one would have too many keys."""
    monkeypatch.setattr(looks, "_MOST_KEYS", 20)
    _RUNS.clear()
    before = get_metrics()
    for _ in range(2):  # a process of its own each time: its near tier is empty, so it asks for the payloads
        tier = TieredBackend(MemoryBackend(), backend_at(cluster.url if where == "cluster" else server.url))
        get = AgentCache("user:{n}", ttl=60, backend=tier)(_ask_user)
        for _ in range(2):
            assert await asyncio.gather(*(get(n) for n in range(30))) == list(range(30))
            assert sorted(_RUNS) == list(range(30))
    after = get_metrics()
    assert after["backend_errors"] == before["backend_errors"]
    assert after["hits"] - before["hits"] == 90
