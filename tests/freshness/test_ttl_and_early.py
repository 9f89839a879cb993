"""A ttl that depends on the result, and answers renewed before their end."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, configure, get_metrics
from agent_cache.backends.base import Found
from agent_cache.codecs import codec_for
from agent_cache.engine import loads, stale
from agent_cache.freshness import Freshness
from tests.freshness.conftest import Quiet, Source, Store


def reader(source: Source, ttl: Any) -> Any:
    @AgentCache("rate:{pair}", ttl=ttl)
    async def get_rate(pair: str) -> list[int]:
        return source.answer()

    return get_rate


async def test_each_result_says_how_long_it_lasts(store: Store, source: Source) -> None:
    get_rate = reader(source, lambda found: {1: 10, 2: timedelta(seconds=60), 3: None}[found[0]])
    assert await get_rate("a") == [1]
    await store.advance(11)
    assert await get_rate("a") == [2]
    await store.advance(50)
    assert await get_rate("a") == [2]
    await store.advance(11)
    assert await get_rate("a") == [3]
    await store.advance(5_000)
    assert await get_rate("a") == [3], "None: no limit"


async def test_none_means_what_no_ttl_means(memory: Store, source: Source) -> None:
    configure(default_ttl=7)
    get_rate = reader(source, lambda found: None)
    assert await get_rate("a") == [1]
    await memory.advance(8)
    assert await get_rate("a") == [2]


async def test_zero_means_do_not_store(memory: Store, source: Source) -> None:
    get_rate = reader(source, lambda found: 0)
    assert await get_rate("a") == [1]
    assert await get_rate("a") == [2]
    assert get_metrics()["unstorable"] == 0, "that is what was asked for"


@pytest.mark.parametrize("said", [-1, "10", True, math.nan, [10], ValueError("bad")])
async def test_what_is_no_duration_is_not_stored_counted_and_told_once(
    memory: Store, source: Source, said: object, caplog: pytest.LogCaptureFixture
) -> None:
    def ttl(found: list[int]) -> Any:
        if isinstance(said, Exception):
            raise said
        return said

    get_rate = reader(source, ttl)
    with caplog.at_level(logging.WARNING, "agent_cache"):
        assert await get_rate("a") == [1]
        assert await get_rate("a") == [2]
    figures = get_metrics()
    assert (figures["unstorable"], figures["reasons"]["ttl_failed"]) == (2, 2)
    assert len([r for r in caplog.records if "the function given as ttl" in r.getMessage()]) == 1


async def test_a_def_tool_may_say_it_too(store: Store, source: Source) -> None:
    @AgentCache("rate:{pair}", ttl=lambda found: 10, stale_if_error=20)
    def get_rate(pair: str) -> list[int]:
        return source.answer()

    assert get_rate("a") == [1]
    await store.advance(11)
    source.fails = OSError()
    assert get_rate("a") == [1]


# -- early refresh -----------------------------------------------------------------------------------------------------------


def slow_reader(source: Source, monkeypatch: pytest.MonkeyPatch, seconds: float, beta: float = 1.0) -> Any:
    moments = iter(range(10_000_000))

    class Time:
        @staticmethod
        def monotonic() -> float:
            return next(moments) * seconds

    monkeypatch.setattr(loads, "time", Time)

    @AgentCache("rate:{pair}", ttl=100, early_refresh=beta)
    async def get_rate(pair: str) -> list[int]:
        return source.answer()

    return get_rate


class Drawn:
    def __init__(self, *drawn: float) -> None:
        self.drawn = list(drawn)

    def random(self) -> float:
        return self.drawn.pop(0) if len(self.drawn) > 1 else self.drawn[0]


def drawing(gap: float) -> Drawn:
    """A draw that comes to ``gap`` loads' durations."""
    return Drawn(1 - math.exp(-gap))


async def test_a_fresh_answer_is_renewed_behind_it_near_its_end(
    store: Store, source: Source, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_rate = slow_reader(source, monkeypatch, 10.0)
    monkeypatch.setattr(stale, "_chance", drawing(1.0))  # each look would refresh 10 s before the end
    assert await get_rate("a") == [1]
    await store.advance(85)
    assert await get_rate("a") == [1]
    await quiet()
    assert source.asked == 1, "too early"
    await store.advance(7)
    assert await get_rate("a") == [1], "nobody waits for it"
    await quiet()
    assert source.asked == 2
    await store.advance(50)
    assert await get_rate("a") == [2]
    figures = get_metrics()
    assert (figures["early_refreshes"], figures["refreshes"], figures["stale_served"]) == (1, 1, 0)
    assert figures["misses"] == 1


async def test_a_hot_call_looks_again_in_time(
    memory: Store, source: Source, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a view answers at once is asked for again from the drawn moment on, not only at its end."""
    get_rate = slow_reader(source, monkeypatch, 10.0)
    monkeypatch.setattr(stale, "_chance", drawing(2.0))
    looks: list[object] = []
    lookup = memory.backend._store.lookup
    monkeypatch.setattr(memory.backend._store, "lookup", lambda *how: (looks.append(how[0]), lookup(*how))[1])
    assert await get_rate("a") == [1]
    assert await get_rate("a") == [1]
    before = len(looks)
    for _ in range(5):
        assert await get_rate("a") == [1]
    assert len(looks) == before, "hot"
    await memory.advance(81)
    assert await get_rate("a") == [1]
    assert len(looks) > before
    await quiet()
    assert source.asked == 2


async def test_the_draw_follows_the_load_and_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(codec_for(Any).freeze(1), 1.0, 50.0, 4.0, None, ())
    gaps = [stale.early_by(Freshness(early_refresh=2.0), found) for _ in range(20_000)]
    assert min(gaps) >= 0.0
    assert 7.5 < sum(gaps) / len(gaps) < 8.5, "exponential, with the mean of beta times the load"
    assert stale.early_by(Freshness(), found) == 0.0


async def test_a_write_beats_an_early_refresh(
    store: Store, source: Source, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    @AgentCacheInvalidator("rate:{pair}")
    async def set_rate(pair: str) -> None:
        pass

    get_rate = slow_reader(source, monkeypatch, 10.0)
    monkeypatch.setattr(stale, "_chance", drawing(1.0))
    assert await get_rate("a") == [1]
    await store.advance(95)
    await set_rate("a")
    assert await get_rate("a") == [2]
    await quiet()
    assert get_metrics()["early_refreshes"] == 0
