"""What is kept, for how long, and what is told about it."""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    CallEvent,
    InvalidationEvent,
    MemoryBackend,
    configure,
    get_metrics,
    no_cache,
    refresh,
    reset_metrics,
)
from agent_cache.testing import FakeClock


class Source:
    """A read whose every load gives the next number."""

    def __init__(self, **policy: Any) -> None:
        self.runs = 0

        @AgentCache("source", **policy)
        async def read(n: int = 0) -> int:
            self.runs += 1
            return self.runs

        self.read = read


@pytest.mark.parametrize("ttl", [10, 10.0, timedelta(seconds=10)])
async def test_an_answer_is_served_for_its_ttl(ttl: Any, clock: FakeClock) -> None:
    source = Source(ttl=ttl)
    for _ in range(3):
        assert await source.read() == 1
    clock.advance(9.9)
    assert await source.read() == 1
    clock.advance(0.1)
    assert (await source.read.explain()).status == "expired"
    assert await source.read() == await source.read() == 2
    assert get_metrics()["expired"] == 1


async def test_default_ttl_is_for_reads_without_one(clock: FakeClock) -> None:
    configure(default_ttl=5)
    plain, own = Source(), Source(ttl=100)
    await plain.read()
    await own.read()
    clock.advance(6)
    assert (await plain.read(), await own.read()) == (2, 1)


async def test_without_a_ttl_an_answer_stays(clock: FakeClock) -> None:
    source = Source()
    await source.read()
    clock.advance(1e9)
    assert await source.read() == 1


async def test_jitter_shortens_and_spreads() -> None:
    source = Source(ttl=100, jitter=0.5, maxsize=None)
    lefts = []
    for n in range(50):
        await source.read(n)
        lefts.append((await source.read.explain(n)).ttl_left)
    assert all(left is not None and 50 <= left <= 100 for left in lefts)
    assert len(set(lefts)) > 10


async def test_cache_if_says_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(cache_if=lambda value: value == 3)
    assert [await source.read() for _ in range(5)] == [1, 2, 3, 3, 3]
    broken = Source(cache_if=lambda value: value.nothing)
    assert [await broken.read() for _ in range(3)] == [1, 2, 3]
    assert len([r for r in caplog.records if "cache_if" in r.getMessage()]) == 1


async def test_maxsize_bounds_one_tool_over_all_else(memory: MemoryBackend) -> None:
    small, other = Source(maxsize=3), Source()
    await other.read()
    for n in range(10):
        await small.read(n)
    assert memory.sync.sizes()[0] == 4
    assert await other.read.explain()
    assert await small.read.explain(9)
    assert get_metrics()["evictions"] == 7


async def test_what_is_used_stays() -> None:
    source = Source(maxsize=3)
    for n in (1, 2, 3):
        await source.read(n)
    for _ in range(3):
        await source.read(1)
    await source.read(4)
    await source.read(1)
    await source.read(5)
    assert await source.read.explain(1)
    assert not await source.read.explain(2)


async def test_reloading_evicts_nothing_where_there_is_room() -> None:
    source = Source(maxsize=2)
    for n in (1, 2, 3):
        await source.read(n)
    await source.read.invalidate(3)
    await source.read(3)
    assert await source.read.explain(2)


async def test_max_size_and_max_bytes_bound_the_backend() -> None:
    by_count, by_bytes = MemoryBackend(max_size=5), MemoryBackend(max_bytes=10_000)
    for backend in (by_count, by_bytes):
        source = Source(backend=backend, maxsize=None)
        for n in range(100):
            await source.read(n)
        assert await source.read.explain(99)
    assert by_count.sync.sizes()[0] == 5
    assert by_bytes.sync.sizes()[1] <= 10_000


async def test_evictions_do_not_depend_on_backends_long_gone() -> None:
    gone = Source(backend=MemoryBackend(max_size=1), maxsize=None)
    for n in range(50):
        await gone.read(n)
    reset_metrics()
    del gone
    configure(backend=None)
    gc.collect()
    source = Source(backend=MemoryBackend(max_size=1), maxsize=None)
    for n in range(11):
        await source.read(n)
    assert get_metrics()["evictions"] == 10


async def test_explain_says_why(clock: FakeClock) -> None:
    @AgentCacheInvalidator("source")
    async def change() -> None: ...

    source = Source(ttl=10)
    absent = await source.read.explain()
    assert (absent.status, bool(absent)) == ("miss", False)
    await source.read()
    clock.advance(4)
    hit = await source.read.explain()
    assert (hit.status, bool(hit), hit.age, hit.ttl_left) == ("hit", True, 4.0, 6.0)
    assert hit.key == source.read.cache_key()
    assert "any(source)" in hit.tags
    await change()
    stale = await source.read.explain()
    assert (stale.status, stale.dropped_by) == ("stale", "change")
    assert "change" in stale.reason
    await source.read()
    await source.read.invalidate()
    assert (await source.read.explain()).dropped_by == "read.invalidate"
    await source.read()
    clock.advance(11)
    assert (await source.read.explain()).status == "expired"
    with no_cache():
        assert (await source.read.explain()).status == "bypass"
    assert source.runs == 3
    assert get_metrics()["hits"] == 0


async def test_no_cache_reads_live_and_stores_nothing() -> None:
    source = Source()
    with no_cache():
        assert [await source.read(), await source.read()] == [1, 2]
    assert not await source.read.explain()
    assert await source.read() == await source.read() == 3
    with no_cache():
        assert await source.read() == 4
    assert await source.read() == 3
    assert get_metrics()["reasons"]["no_cache"] == 3


async def test_writes_inside_no_cache_still_invalidate() -> None:
    @AgentCacheInvalidator("source")
    async def change() -> None: ...

    source = Source()
    await source.read()
    with no_cache():
        await change()
    assert await source.read() == 2


async def test_refresh_reads_live_and_stores() -> None:
    source = Source()
    await source.read()
    await source.read()
    with refresh():
        assert [await source.read(), await source.read()] == [2, 3]
    assert await source.read() == 3


async def test_mode_off_reads_live_and_writes_invalidate() -> None:
    @AgentCacheInvalidator("source")
    async def change() -> None: ...

    source = Source()
    for _ in range(3):
        await source.read()
    configure(mode="off")
    assert [await source.read(), await source.read()] == [2, 3]
    configure(mode="on")
    assert await source.read() == 1
    configure(mode="off")
    await change()
    configure(mode="on")
    assert await source.read() == 4


@pytest.mark.parametrize("setting", ["namespace", "secret"])
async def test_namespaces_and_secrets_keep_apart(setting: str) -> None:
    source = Source()
    for expected, value in ((1, "a"), (2, "b"), (1, "a"), (3, "")):
        configure(**{setting: value})
        assert await source.read() == await source.read() == expected


async def test_observers_get_one_event_per_call(clock: FakeClock) -> None:
    seen: list[Any] = []

    class Observer:
        def on_event(self, event: object) -> None:
            seen.append(event)

    @AgentCacheInvalidator("source")
    async def change() -> None: ...

    source = Source(ttl=10)
    await source.read()
    configure(observers=[Observer()])
    await source.read()
    await change()
    await source.read()
    clock.advance(11)
    await source.read()
    with no_cache():
        await source.read()
    calls = [event for event in seen if isinstance(event, CallEvent)]
    assert [event.outcome for event in calls] == ["hit", "stale", "expired", "bypass"]
    assert [event.stored for event in calls] == [False, True, True, False]
    (write,) = [event for event in seen if isinstance(event, InvalidationEvent)]
    assert (write.tool, write.scope, write.failed, write.no_effect) == ("change", "global", False, False)
    assert "any(source)" in write.tags
    configure(observers=())
    await source.read()
    assert len(seen) == 5


async def test_figures_add_up_and_start_over() -> None:
    source = Source(cost=0.5)
    for n in (1, 1, 1, 2):
        await source.read(n)
    figures = get_metrics()
    assert (figures["hits"], figures["misses"], figures["hit_rate"]) == (2, 2, 0.5)
    assert figures["cost_saved"] == 1.0
    assert figures["seconds_saved"] > 0
    assert figures["entries"] >= 2
    assert figures["bytes"] > 0
    assert figures["resources"]["source"]["hits"] == 2
    names = "coalesced stale fenced_out bypasses load_failures backend_errors evictions invalidations loop_detections"
    assert {name: figures[name] for name in names.split()} == dict.fromkeys(names.split(), 0)
    reset_metrics()
    assert get_metrics()["hits"] == get_metrics()["misses"] == 0
    assert await source.read(1) == 1


async def test_events_say_what_was_saved_and_what_dropped_an_entry(clock: FakeClock) -> None:
    events: list[CallEvent | InvalidationEvent] = []

    class Ear:
        def on_event(self, event: Any) -> None:
            events.append(event)

    @AgentCache("price:{sku}", cost=0.5)
    async def price(sku: str) -> int:
        return 10

    @AgentCacheInvalidator("price:{sku}")
    async def set_price(sku: str) -> None: ...

    configure(observers=[Ear()])
    try:
        await price("a")
        await price("a")
        await set_price("a")
        await price("a")
    finally:
        configure(observers=())
    miss, hit, write, again = events
    assert isinstance(miss, CallEvent)
    assert isinstance(hit, CallEvent)
    assert isinstance(write, InvalidationEvent)
    assert isinstance(again, CallEvent)
    assert (miss.outcome, miss.cost_saved, miss.seconds_saved, miss.dropped_by) == ("miss", 0.0, 0.0, None)
    assert (hit.outcome, hit.cost_saved, hit.dropped_by) == ("hit", 0.5, None)
    assert hit.seconds_saved == get_metrics()["resources"][hit.resource]["seconds_saved"]
    assert hit.seconds_saved > 0
    assert write.resource == hit.resource
    assert again.outcome == "stale"
    assert again.dropped_by == write.tool
