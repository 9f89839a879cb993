"""A limit per entry, a limit of entries, quotas by namespace: on every backend that has them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import (
    AgentCache,
    ConfigurationError,
    DiskBackend,
    MemoryBackend,
    Quota,
    RedisBackend,
    TieredBackend,
    UnstorableResultError,
    configure,
    get_metrics,
)
from agent_cache.backends.base import Missing, NewEntry
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags
from agent_cache.testing import FakeClock

Make = Callable[..., Any]
KINDS = ("memory", "disk", "redis", "tiered")
CODEC = codec_for(Any)


async def settled(backend: Any) -> None:
    """What was stored is where it belongs."""
    flush = getattr(getattr(backend, "far", backend), "flush", None)
    if flush is not None:
        await flush()


def reader(**policy: Any) -> tuple[Any, list[int]]:
    """A read whose result is as long as it is told, and what it was run for."""
    runs: list[int] = []

    @AgentCache("pages", **{"maxsize": None, **policy})
    async def page(size: int) -> dict[str, str]:
        runs.append(size)
        await asyncio.sleep(0)
        return {"text": "x" * size}

    return page, runs


@pytest.mark.parametrize("kind", KINDS)
async def test_a_larger_result_is_returned_and_not_stored(
    kind: str, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    make(kind, max_entry_bytes=2_000)
    page, runs = reader()
    for _ in range(3):
        assert await page(5_000) == {"text": "x" * 5_000}
        assert await page(1_000) == {"text": "x" * 1_000}
    assert runs == [5_000, 1_000, 5_000, 5_000]
    figures = get_metrics()
    assert (figures["unstorable"], figures["reasons"], figures["backend_errors"]) == (3, {"too_large": 3}, 0)
    assert figures["fenced_out"] == 0
    told = [record.getMessage() for record in caplog.records if "max_entry_bytes" in record.getMessage()]
    assert len(told) == 1
    assert "page" in told[0]
    assert "2000" in told[0]


async def test_callers_share_the_load_of_what_is_too_large(make: Make) -> None:
    make("memory", max_entry_bytes=2_000)
    page, runs = reader()
    answers = await asyncio.gather(*(page(5_000) for _ in range(10)))
    assert runs == [5_000]
    assert len({id(answer) for answer in answers}) == 10
    answers[0]["text"] = ""
    assert answers[1] == {"text": "x" * 5_000}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_larger_key_value_entry_is_refused_and_leaves_the_old_one(kind: str, make: Make) -> None:
    backend = make(kind, max_entry_bytes=2_000)
    await backend.set("k", "old")
    with pytest.raises(UnstorableResultError, match="too_large"):
        await backend.set("k", "x" * 5_000)
    with pytest.raises(UnstorableResultError, match="too_large"):
        await backend.set_many({"a": 1, "k": "x" * 5_000})
    assert await backend.get("k") == "old"


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_what_is_larger_than_all_there_is_counts_as_too_large(kind: str, make: Make) -> None:
    make(kind, max_bytes=10_000)
    page, runs = reader()
    for _ in range(2):
        await page(50_000)
    assert runs == [50_000] * 2
    assert get_metrics()["reasons"] == {"too_large": 2}


async def test_a_near_tier_may_have_a_smaller_limit(make: Make) -> None:
    far = make("disk")
    tier = TieredBackend(MemoryBackend(max_entry_bytes=500), far)
    configure(backend=tier)
    page, runs = reader()
    for _ in range(3):
        await page(2_000)
        await page(10)
    assert runs == [2_000, 10]
    assert tier.near.sync.sizes()[0] == 1


async def test_one_result_larger_than_the_queue_to_the_disk_is_kept(make: Make) -> None:
    backend = make("disk")
    page, runs = reader()
    await page(17 * 1024 * 1024)
    await settled(backend)
    await page(17 * 1024 * 1024)
    assert len(runs) == 1


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_number_of_entries(kind: str, make: Make) -> None:
    backend = make(kind, max_size=10)
    page, _ = reader()
    for size in range(50):
        await page(size)
    await settled(backend)
    stats = await backend.stats()
    assert 8 <= stats["entries"] <= 10
    assert stats["evictions"] == 50 - stats["entries"]


# -- quotas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("crowded", ["busy", ""])
async def test_a_namespace_over_its_quota_makes_room_among_its_own(kind: str, crowded: str, make: Make) -> None:
    backend = make(kind, quotas={crowded: Quota(entries=5)})
    page, runs = reader()
    configure(namespace="quiet")
    for size in range(20):
        await page(size)
    configure(namespace=crowded)
    for size in range(40):
        await page(size)
    await settled(backend)
    configure(namespace="quiet")
    runs.clear()
    for size in range(20):
        await page(size)
    assert runs == []
    stats = await backend.stats()
    assert stats["quotas"] == {
        crowded: {"entries": 5, "bytes": stats["quotas"][crowded]["bytes"], "max_entries": 5, "max_bytes": None}
    }
    assert stats["entries"] == 25
    configure(namespace=crowded)
    await page(39)
    assert runs == []


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_quota_of_bytes(kind: str, make: Make) -> None:
    backend = make(kind, quotas={"busy": Quota(bytes=40_000)})
    configure(namespace="busy")
    page, _ = reader()
    for number in range(50):
        await page(3_000 + number)
        await settled(backend)
        assert (await backend.stats())["quotas"]["busy"]["bytes"] <= 40_000
    assert (await backend.stats())["quotas"]["busy"]["entries"] >= 6
    await page(41_000)
    assert get_metrics()["reasons"] == {"too_large": 1}
    assert get_metrics()["backend_errors"] == 0


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_what_dies_otherwise_is_no_longer_counted(kind: str, make: Make) -> None:
    backend = make(kind, quotas={"": Quota(entries=5, bytes=50_000)})
    page, _ = reader()
    for size in range(5):
        await page(size)
    await settled(backend)
    await backend.clear()
    figures = (await backend.stats())["quotas"][""]
    assert (figures["entries"], figures["bytes"]) == (0, 0)


async def test_two_processes_count_towards_one_quota(make: Make) -> None:
    """One that knows of no quota puts its entries into the namespace all the same."""
    one = make("disk")
    two = make("disk", path=one.sync.path, quotas={"busy": Quota(entries=5)})
    configure(namespace="busy")
    page, _ = reader()
    configure(backend=one)
    for size in range(20):
        await page(size)
    await settled(one)
    configure(backend=two)
    await page(99)
    await settled(two)
    assert (await two.stats())["entries"] == 5


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 12), st.integers(0, 3_000), st.booleans()),
        max_size=120,
    ),
    entries=st.sampled_from([None, 1, 3]),
    size=st.sampled_from([None, 2_000, 6_000]),
    eviction=st.sampled_from(["adaptive", "clock", "s3fifo"]),
    most=st.sampled_from([4, 100]),
)
def test_shares_are_what_they_say_whatever_happens(
    steps: list[tuple[str, int, int, bool]], entries: int | None, size: int | None, eviction: str, most: int
) -> None:
    quotas = {} if entries is None and size is None else {"a": Quota(entries, size), "": Quota(2, None)}
    store = MemoryBackend(max_size=most, max_bytes=20_000, eviction=eviction, quotas=quotas, clock=FakeClock()).sync
    tags = read_tags([("cart", "1")], ())
    for namespace, key, length, drop in steps:
        if drop and store._entries:
            store._remove(next(iter(store._entries.values())))
        found = store.lookup(None, tags, CODEC)
        assert isinstance(found, Missing)
        new = NewEntry(
            f"{namespace}{key}".encode(), CODEC.freeze("x" * length), None, 0.0, "g", 5, (), namespace=namespace
        )
        try:
            assert store.fill(found.token, new)
        except UnstorableResultError:
            assert size is not None
            assert length > 1_000
        held = list(store._entries.values())
        assert store.sizes()[:2] == (len(held), sum(entry.size for entry in held))
        assert len(held) <= most
        for name, figures in store.stats()["quotas"].items():
            mine = [entry for entry in held if entry.share is store._shares[name]]
            assert (figures["entries"], figures["bytes"]) == (len(mine), sum(entry.size for entry in mine))
            assert quotas[name].entries is None or len(mine) <= (quotas[name].entries or 0)
            assert quotas[name].bytes is None or figures["bytes"] <= (quotas[name].bytes or 0)


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [MemoryBackend, lambda **how: DiskBackend("unused.db", **how)])
@pytest.mark.parametrize(
    ("how", "names"),
    [
        ({"max_entry_bytes": 0}, "max_entry_bytes=0"),
        ({"max_entry_bytes": 1.5}, "max_entry_bytes=1.5"),
        ({"max_entry_bytes": True}, "max_entry_bytes=True"),
        ({"max_entry_bytes": 1 << 30}, "64 MiB"),
        ({"quotas": {"a": 5}}, "Quota(entries=1_000)"),
        ({"quotas": {1: Quota(5)}}, "quotas={1"),
        ({"quotas": Quota(5)}, "quotas=Quota"),
        ({"max_size": -1}, "max_size=-1"),
    ],
)
def test_bad_limits_are_refused_at_construction(backend: Any, how: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        backend(**how)


@pytest.mark.parametrize("how", [{}, {"entries": 0}, {"bytes": -1}, {"entries": 2.0}, {"entries": True}])
def test_a_quota_says_something(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"quotas|entries|bytes"):
        Quota(**how)


def test_a_near_tier_has_no_quotas() -> None:
    with pytest.raises(ConfigurationError, match="far tier"):
        TieredBackend(MemoryBackend(quotas={"a": Quota(1)}), DiskBackend("unused.db"))


def test_redis_takes_a_limit_per_entry() -> None:
    with pytest.raises(ConfigurationError, match="max_entry_bytes"):
        RedisBackend(max_entry_bytes=-1)


@pytest.mark.parametrize("url", ["memory://?max_entry_bytes=100", "disk://{}/c.db?max_entry_bytes=100&max_size=7"])
def test_limits_in_a_url(url: str, tmp_path: Any) -> None:
    configure(backend=url.format(tmp_path))
    from agent_cache.config import settings

    backend: Any = settings.backend
    assert backend.max_entry_bytes == 100


def test_limits_in_a_redis_url() -> None:
    configure(backend="redis://localhost:1/0?max_entry_bytes=100")
    from agent_cache.config import settings

    backend: Any = settings.backend
    assert backend.max_entry_bytes == 100
