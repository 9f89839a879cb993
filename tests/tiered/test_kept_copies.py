"""A third store keeps near copies over restarts; one of them counts only while Redis says that its stamp is current."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agent_cache import BackendError, ConfigurationError, MemoryBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.tags import read_tags
from agent_cache.testing import FakeClock
from agent_cache.testing.contract import _Face as Face
from agent_cache.testing.servers import RedisServer

OTHER = read_tags([("cart", "43")], ())


class Kept(MemoryBackend):
    """A key-value cache that outlives the process; it can be told to fail."""

    fails = False

    async def get(self, key: str, default: Any = None) -> Any:
        if self.fails:
            raise BackendError("the disk is gone")
        return await super().get(key, default)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        if self.fails:
            raise BackendError("the disk is full")
        await super().set(key, value, ttl)


@pytest.fixture
def keep(clock: FakeClock) -> Kept:
    return Kept(clock=clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


Start = Callable[[], Face]


@pytest.fixture
async def start(server: RedisServer, keep: Kept) -> AsyncIterator[Start]:
    """``start()``: the process is started (again), its near tier is empty."""
    tiers: list[TieredBackend] = []

    def started() -> Face:
        tiers.append(TieredBackend(MemoryBackend(), RedisBackend(server.url), keep=keep))
        return Face(tiers[-1], blocking=False)

    yield started
    for tier in tiers:
        await written(tier)
        await tier.far.close()


async def written(tier: TieredBackend) -> None:
    """What is written behind has been."""
    await asyncio.gather(*tier._keeping)


async def figures(face: Face) -> tuple[int, int]:
    """Reads that Redis answered "still current", and those for which it sent the payload."""
    stats = await face.stats()
    return stats["revalidated"], stats["far_hits"]


async def test_a_copy_survives_a_restart_and_is_not_fetched_again(start: Start) -> None:
    before = start()
    await before.store(["a", "b"])
    await written(before._backend)
    after = start()
    await after.expect_value(["a", "b"])
    assert await figures(after) == (1, 0)
    await after.expect_value(["a", "b"])
    assert await figures(after) == (2, 0), "it is near again"


async def test_without_a_store_that_keeps_copies_a_restart_fetches_them(start: Start, keep: Kept) -> None:
    await start().store("cart")
    await keep.clear()
    after = start()
    await after.expect_value("cart")
    assert await figures(after) == (0, 1)


async def test_a_copy_from_before_a_write_is_not_served(start: Start) -> None:
    before, other = start(), start()
    await before.store("old")
    await written(before._backend)
    await other.end(await other.begin())
    after = start()
    await after.expect_missing("stale")
    await after.store("new")
    await after.expect_value("new")


async def test_a_copy_from_before_an_invalidation_by_hand_or_a_lost_tag_is_not_served(
    start: Start, server: RedisServer
) -> None:
    before = start()
    await before.store("old")
    await written(before._backend)
    server.cli("FLUSHALL")
    await start().expect_missing("absent")


async def test_a_copy_is_not_served_while_a_write_runs(start: Start) -> None:
    before, other = start(), start()
    await before.store("old")
    await written(before._backend)
    window = await other.begin()
    await start().expect_blocked()
    await other.end(window, no_effect=True)
    await start().expect_value("old")


async def test_a_copy_that_another_process_has_replaced_is_fetched(start: Start) -> None:
    before, other = start(), start()
    await before.store("old")
    await written(before._backend)
    kept = dict(await before._backend.keep.get_many([key async for key in before._backend.keep.keys()]))  # noqa: SIM118 - a method
    await other.move()
    await other.store("new")
    await written(other._backend)
    await before._backend.keep.set_many(kept)  # this process's own disk knows nothing of the other's
    after = start()
    await after.expect_value("new")
    assert await figures(after) == (0, 1)


async def test_a_kept_copy_lives_no_longer_than_its_entry(start: Start, clock: FakeClock) -> None:
    before = start()
    await before.store("cart", ttl=100)
    await written(before._backend)
    assert await before._backend.keep.count() == 1
    clock.advance(101)
    assert await before._backend.keep.count() == 0


@pytest.mark.parametrize("damaged", [None, 7, "text", (), (b"stamp", b"payload"), (b"stamp", b"\x00junk", None, 0.0)])
async def test_a_damaged_copy_is_no_copy(start: Start, keep: Kept, damaged: object) -> None:
    before = start()
    await before.store("cart")
    await written(before._backend)
    async for key in keep.keys():
        await keep.set(key, damaged)
    after = start()
    await after.expect_value("cart")
    assert await figures(after) == (0, 1)


async def test_a_store_that_fails_costs_its_copies_and_nothing_else(start: Start, keep: Kept) -> None:
    keep.fails = True
    before = start()
    await before.store("cart")
    await written(before._backend)
    await start().expect_value("cart")


async def test_clear_drops_the_kept_copies_and_leaves_what_else_is_there(start: Start, keep: Kept) -> None:
    before = start()
    await keep.set("somebody else's", 1)
    await before.store("cart")
    await written(before._backend)
    assert await keep.count() == 2
    await before.clear()
    assert await keep.count() == 1
    await start().expect_missing("absent")


async def test_what_redis_refused_is_not_kept(start: Start, keep: Kept) -> None:
    before, other = start(), start()
    token = await before.token()
    await other.move()
    assert not await before.fill(token, "old")
    await written(before._backend)
    assert await keep.count() == 0


def test_tiers_are_what_they_have_to_be(server: RedisServer) -> None:
    far = RedisBackend(server.url)
    with pytest.raises(ConfigurationError, match="near"):
        TieredBackend(far, far)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="far"):
        TieredBackend(MemoryBackend(), MemoryBackend())
    with pytest.raises(ConfigurationError, match="keep"):
        TieredBackend(MemoryBackend(), far, keep=object())


async def test_another_resources_copy_is_another(start: Start) -> None:
    before = start()
    await before.store("cart 42")
    await written(before._backend)
    await start().expect_missing("absent", OTHER, b"another key")
