"""Who goes first where loads differ: the cheapest to have again, unless it is in use."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import AgentCache, MemoryBackend, Quota, configure
from agent_cache.backends.eviction import CostAware, eviction_policy
from agent_cache.backends.eviction.costs import by_bytes
from agent_cache.backends.eviction.interface import PATIENCE
from agent_cache.testing import FakeClock

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "eviction.py"


class Entry:
    def __init__(self, key: int, seconds: float = 1.0, cost: float = 0.0, size: int = 100) -> None:
        self.key, self.load_seconds, self.cost, self.size = key, seconds, cost, size
        self.visited = self.dead = False


def kept(policy: CostAware[Entry]) -> set[int]:
    return {entry.key for *_, entry in policy._heap if not entry.dead}


def full_of(*entries: Entry, weigh: Any = None) -> CostAware[Entry]:
    policy: CostAware[Entry] = CostAware(len(entries)) if weigh is None else CostAware(len(entries), weigh)
    for entry in entries:
        assert policy.add(entry) is None
    return policy


def test_the_cheapest_goes_first() -> None:
    policy = full_of(Entry(1, 5.0), Entry(2, 0.1), Entry(3, 1.0, cost=9.0))
    victims = [policy.add(Entry(10 + n, 7.0)) for n in range(2)]
    assert [victim and victim.key for victim in victims] == [2, 1]


def test_of_two_that_cost_the_same_the_older_goes_and_one_in_use_stays() -> None:
    first, second, third = Entry(1), Entry(2), Entry(3)
    policy = full_of(first, second, third)
    first.visited = True
    assert policy.add(Entry(4)) is second
    assert not first.visited
    assert policy.add(Entry(5)) is third


def test_where_bytes_are_short_a_large_one_has_to_be_worth_it() -> None:
    large, small = Entry(1, 2.0, size=10_000), Entry(2, 1.0, size=100)
    assert full_of(large, small).evict() is small
    large, small = Entry(1, 2.0, size=10_000), Entry(2, 1.0, size=100)
    assert full_of(large, small, weigh=by_bytes).evict() is large


def test_what_was_dear_and_is_not_asked_for_goes_in_the_end() -> None:
    dear = Entry(-1, 50.0)
    policy = full_of(dear, *(Entry(n) for n in range(9)))
    rng = random.Random(1)
    for n in range(2_000):
        for *_, entry in policy._heap:
            if entry is not dear and rng.random() < 0.5:
                entry.visited = True
        if policy.add(Entry(100 + n)) is dear:
            return
    raise AssertionError("it stayed for ever")


def test_each_use_that_is_found_counts_for_more() -> None:
    used, once = Entry(1, 1.0), Entry(2, 1.0)
    policy = full_of(used, once, Entry(3, 0.0))
    for key in (10, 11):  # what comes now is worth less: all are looked at in turn
        used.visited = True
        policy.add(Entry(key, 1.5))
        policy.add(Entry(100 + key, 1.2))
    assert 1 in kept(policy)
    assert 2 not in kept(policy)


def test_the_search_for_a_victim_ends_where_all_are_in_use() -> None:
    entries = [Entry(key) for key in range(3 * PATIENCE)]
    policy = full_of(*entries)
    for entry in entries:
        entry.visited = True
    assert policy.add(Entry(-1)) is not None
    assert sum(not entry.visited for entry in entries) == PATIENCE


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "evict", "die"]), st.integers(0, 20), st.floats(0, 5), st.integers(1, 9)
        ),
        max_size=200,
    ),
    limit=st.sampled_from([None, 1, 3, 8]),
)
def test_it_keeps_to_the_rules(steps: list[tuple[str, int, float, int]], limit: int | None) -> None:
    policy: CostAware[Entry] = CostAware(limit, by_bytes)
    alive: dict[int, Entry] = {}
    for what, key, seconds, size in steps:
        victim = None
        if what == "ask":
            if key in alive:
                alive[key].visited = True
                continue
            was_full = limit is not None and len(alive) >= limit
            entry = Entry(key, seconds, size=size)
            victim = policy.add(entry)
            assert (victim is not None) == was_full
            alive[key] = entry
        elif what == "evict":
            victim = policy.evict()
            assert (victim is None) == (not alive)
        elif alive:
            alive.pop(next(iter(alive))).dead = True
            policy.forget()
        if victim is not None:
            assert alive.pop(victim.key) is victim
            victim.dead = True
        assert policy.live == len(alive)
        assert kept(policy) == alive.keys()
        assert len(policy._heap) <= max(64, 2 * len(alive)) + 1


async def test_a_tools_cost_and_time_decide_what_a_backend_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    from agent_cache.engine import loads

    monkeypatch.setattr(loads.time, "monotonic", clock)
    backend = MemoryBackend(max_size=10, eviction="cost", clock=clock)
    configure(backend=backend)

    def tool(seconds: float, cost: float | None) -> Any:
        @AgentCache("things", maxsize=None, cost=cost)
        async def thing(n: int) -> int:
            clock.advance(seconds)
            return n

        return thing

    slow, dear, cheap = tool(10.0, None), tool(0.0, 10.0), tool(0.1, None)
    for n in range(3):
        await slow(n)
        await dear(n)
    for n in range(50):
        await cheap(n)
    for n in range(3):
        assert await slow.explain(n)
        assert await dear.explain(n)
    assert backend.sync.sizes()[0] == 10


def test_a_backend_bounded_in_bytes_weighs_them() -> None:
    def weighs(**how: Any) -> Any:
        store = MemoryBackend(eviction="cost", **how).sync
        return store, store._ring

    assert weighs(max_bytes=1_000)[1]._weigh is by_bytes
    assert weighs()[1]._weigh is not by_bytes
    store, ring = weighs(quotas={"a": Quota(bytes=1_000), "b": Quota(entries=5)})
    assert ring._weigh is not by_bytes
    assert store._shares["a"]._ring._weigh is by_bytes
    assert store._shares["b"]._ring._weigh is not by_bytes
    assert isinstance(eviction_policy("cost", 5), CostAware)


def test_entries_carry_no_more_where_nobody_weighs_them() -> None:
    from agent_cache.backends.memory.records import Entry as Plain
    from agent_cache.backends.memory.records import SharedEntry

    assert not {"cost", "share", "grace"} & set(Plain.__slots__)
    assert MemoryBackend().sync._entry_type is Plain
    assert MemoryBackend(eviction="cost").sync._entry_type is SharedEntry
    assert MemoryBackend(eviction=CostAware).sync._entry_type is SharedEntry


def test_it_saves_more_seconds_where_loads_differ() -> None:
    """As docs/eviction.md says; a seeded trace, so the figures are those of every machine."""
    spec = importlib.util.spec_from_file_location("eviction_benchmark_for_costs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = bench
    spec.loader.exec_module(bench)
    for name, bytes_are_short in (("zipf 1.0", False), ("sessions", True)):
        saved = bench.measure_weighed((name, 128, bytes_are_short, False, 1))["saved"]
        assert saved["cost"] > 1.05 * saved["adaptive"]
        assert saved["cost"] > 0.98 * saved["GDSF"]
    saved = bench.measure_weighed(("zipf 1.0", 128, False, True, 1))["saved"]
    assert saved["cost"] < saved["adaptive"], "where loads cost the same the default is better, as the docs say"
