"""Teeth: take one mechanism of the cache away, and the litmus must notice.

Each mutation is one that a well-meant simplification could make. If the litmus stays quiet about one, the litmus is at
fault, or the mechanism is not needed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, MemoryBackend, policy, tags
from agent_cache.backends.memory import MemoryStore
from agent_cache.backends.memory import records as memory
from agent_cache.engine import calls
from agent_cache.flight import FlightTable
from agent_cache.testing.adapters import ALL_CHECKS, AgentCacheAdapter, MakeAdapter
from agent_cache.testing.clock import FakeClock
from agent_cache.testing.litmus import run
from agent_cache.testing.smallscope import told_apart, two_writers

SEEDS = range(80)
Patch = pytest.MonkeyPatch


def _caught(*promises: str, make_adapter: MakeAdapter = AgentCacheAdapter) -> None:
    """Search, at most through ``SEEDS``, until each of these promises was seen broken."""
    broken: Counter[str] = Counter()
    for seed in SEEDS:
        broken.update(run([seed], make_adapter=make_adapter).broken)
        if all(broken[promise] for promise in promises):
            return
    pytest.fail(f"{len(SEEDS)} seeds did not notice: of {promises} only {dict(broken)}")


def test_the_unmutated_cache_passes() -> None:
    assert run(range(5)).ok


def test_stamp_check_on_read(monkeypatch: Patch) -> None:
    monkeypatch.setattr(MemoryStore, "_is_current", lambda self, entry, own_version: True)
    _caught("C0", "C1", "C2", "C3")


async def _a_late_fill() -> str:
    """A load from before a write ends after the load of the next reader; what is stored then?"""
    backend, value, gates = MemoryBackend(), "old", [asyncio.Event(), asyncio.Event()]
    waiting = iter(gates)

    @AgentCache("item", backend=backend)
    async def read() -> str:
        seen = value
        await next(waiting).wait()
        return seen

    @AgentCacheInvalidator("item", backend=backend)
    async def write() -> None:
        nonlocal value
        value = "new"

    before = asyncio.create_task(read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await write()
    after = asyncio.create_task(read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gates[1].set()
    assert await after == "new"
    gates[0].set()
    assert await before == "old"  # it began before the write
    return (await read.explain()).status


def test_token_check_at_fill(monkeypatch: Patch) -> None:
    """The stamp check alone keeps stale values from being served, but a dead fill pushes out a live entry."""
    assert asyncio.run(_a_late_fill()) == "hit"
    monkeypatch.setattr(MemoryStore, "_accepts", lambda self, token, now: True)
    assert asyncio.run(_a_late_fill()) == "stale"


def test_token_check_at_fill_where_the_entry_gets_the_stamp_of_the_fill(monkeypatch: Patch) -> None:
    """A plain fenceless fill: whatever comes is stored as current."""

    def accepts(self: MemoryStore, token: memory.Token, now: float) -> bool:
        token.base = memory.Snapshot(token.base.records, token.base.epoch, token.base.tags)
        return True

    monkeypatch.setattr(MemoryStore, "_accepts", accepts)
    _caught("C0", "C1", "C2")


def test_window_at_begin(monkeypatch: Patch) -> None:
    def begin(self: MemoryStore, tags: Sequence[tags.Tag], writer: str) -> memory.Window:
        records = self._records_of(tags)
        window = memory.Window(tags, records, self._fresh(), writer)
        for record in records:
            record.writers[window] = float("inf")
        return window

    monkeypatch.setattr(MemoryStore, "begin", begin)
    _caught("C0")


def test_marker_of_the_window(monkeypatch: Patch) -> None:
    monkeypatch.setattr(MemoryStore, "_is_blocked", lambda self, token, now: False)
    _caught("C0")


def _without_moving(end: Callable[..., None]) -> Callable[..., None]:
    """END that only takes the marker away."""

    def mutated(self: MemoryStore, window: Any, **how: Any) -> None:
        before = [(record, record.version, record.fence) for record in window.records]
        end(self, window, **how)
        for record, version, fence in before:
            record.version, record.fence = version, fence

    return mutated


def _with_a_short_lease(clock: FakeClock) -> AgentCacheAdapter:
    """Windows are given up after a millisecond, most writes last longer: what is promised all the same."""
    return AgentCacheAdapter(clock, settle=0, lease=0.001, checks=frozenset({"C1", "C2", "P2", "P3"}))


def test_move_at_end(monkeypatch: Patch) -> None:
    """A write that outlives its lease: what was stored meanwhile is dropped by nothing but the move at its end."""
    report = run(range(20), make_adapter=_with_a_short_lease)
    assert report.violations == 0, str(report)
    monkeypatch.setattr(MemoryStore, "end", _without_moving(MemoryStore.end))
    _caught("C1", make_adapter=_with_a_short_lease)


def test_end_on_success_only(monkeypatch: Patch) -> None:
    end = MemoryStore.end

    def mutated(self: MemoryStore, window: Any, *, unknown: bool, no_effect: bool, narrowed: Any = None) -> None:
        if unknown:
            for record, (before, _) in zip(window.records, window.before, strict=True):
                record.writers.pop(window, None)
                record.version = before
            window.closed = True
        else:
            end(self, window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)

    monkeypatch.setattr(MemoryStore, "end", mutated)
    _caught("C1")


def test_settling_after_an_unknown_outcome(monkeypatch: Patch) -> None:
    end = MemoryStore.end
    monkeypatch.setattr(MemoryStore, "end", lambda self, window, **how: end(self, window, **{**how, "unknown": False}))
    _caught("C0")


def test_restore_only_where_nobody_else_moved(monkeypatch: Patch) -> None:
    end = MemoryStore.end

    def mutated(self: MemoryStore, window: Any, *, unknown: bool, no_effect: bool, narrowed: Any = None) -> None:
        end(self, window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)
        if no_effect:
            for record, (before, _) in zip(window.records, window.before, strict=True):
                record.version = before

    monkeypatch.setattr(MemoryStore, "end", mutated)
    assert two_writers(ends="no_effect", warm=True, every=5).broken["C1"]


def test_restore_of_a_told_write_only_where_nobody_else_moved(monkeypatch: Patch) -> None:
    """One ends, told by its result, after a write of all was begun and ended: "I am alone now" is not enough."""
    end = MemoryStore.end

    def mutated(self: MemoryStore, window: Any, *, unknown: bool, no_effect: bool, narrowed: Any = None) -> None:
        end(self, window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)
        if narrowed is not None:
            for tag, record, (before, _) in zip(window.tags, window.records, window.before, strict=True):
                if tag not in narrowed:
                    record.version = before

    monkeypatch.setattr(MemoryStore, "end", mutated)
    assert told_apart(first="told", second="told, unclear", every=43).broken["C1"]


def test_children_of_a_told_write_move(monkeypatch: Patch) -> None:
    end = MemoryStore.end

    def mutated(self: MemoryStore, window: Any, *, unknown: bool, no_effect: bool, narrowed: Any = None) -> None:
        kept = None if narrowed is None else [tag for tag in narrowed if tag in window.tags]
        end(self, window, unknown=unknown, no_effect=no_effect, narrowed=kept)

    monkeypatch.setattr(MemoryStore, "end", mutated)
    assert told_apart(first="told", second="refused", every=43).broken["C1"]


@pytest.mark.parametrize("children_first", [True, False])
def test_children_of_a_told_write_move_before_the_parent_is_restored(monkeypatch: Patch, children_first: bool) -> None:
    """In two steps with a moment in between: the other way round somebody reads what was before the write."""

    async def end(self: MemoryBackend, window: Any, *, unknown: bool, no_effect: bool, narrowed: Any = None) -> None:
        steps = [lambda: self.sync.end(window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)]
        if narrowed is not None:
            children = [tag for tag in narrowed if tag not in window.tags]
            narrowed = [tag for tag in narrowed if tag in window.tags]
            steps.insert(0 if children_first else 1, lambda: self.sync.move(children, "late"))
        for step in steps:
            step()
            await asyncio.sleep(0)

    monkeypatch.setattr(MemoryBackend, "end", end)
    monkeypatch.setattr(MemoryBackend, "in_process", False)  # else it is ended in place, in one step
    broken = told_apart(first="told", second="refused", apart=False, every=7).broken
    assert broken["C0"] == 0 if children_first else broken["C0"]


def test_taking_a_write_without_effect_for_a_write_breaks_no_promise(monkeypatch: Patch) -> None:
    """Right, only slower: the litmus does not cry wolf."""
    end = MemoryStore.end
    monkeypatch.setattr(
        MemoryStore, "end", lambda self, window, **how: end(self, window, **{**how, "no_effect": False})
    )
    report = run(range(10))
    assert report.violations == report.refetched == 0, str(report)


def test_flight_keyed_by_token(monkeypatch: Patch) -> None:
    monkeypatch.setattr(FlightTable, "joinable", lambda self, flight, token, arrived: True)
    _caught("C0", "C1", "C2")


def test_flights_shared_at_all(monkeypatch: Patch) -> None:
    monkeypatch.setattr(FlightTable, "joinable", lambda self, flight, token, arrived: False)
    _caught("P5")


@pytest.mark.parametrize(
    "chains",
    [
        pytest.param(lambda chain: (chain,), id="only its own"),
        pytest.param(lambda chain: (tags.EVERYONE,), id="only everyone's"),
    ],
)
def test_scope_as_a_second_chain(monkeypatch: Patch, chains: Callable[[tags.Chain], tuple[tags.Chain, ...]]) -> None:
    monkeypatch.setattr(tags, "read_chains", chains)
    _caught("C0", "C1", "C2")


def test_scope_in_the_key(monkeypatch: Patch) -> None:
    monkeypatch.setattr(calls, "_entry_key", lambda digest, identity: digest)
    _caught("P3")


def test_a_scoped_write_of_what_others_read_too_reaches_everyone(monkeypatch: Patch) -> None:
    monkeypatch.setattr(type(policy.scopes_of_reads), "all_have", lambda self, resources, scope: True)
    _caught("C1")


def test_parents_of_a_path(monkeypatch: Patch) -> None:
    """A write of ``item:1`` that forgets the list ``item``."""

    def write_tags(paths: Any, chain: tags.Chain) -> tuple[tags.Tag, ...]:
        return tuple(tag for path in paths for tag in (("any", chain, path), ("all", chain, path)))

    monkeypatch.setattr(calls, "write_tags", write_tags)
    _caught("C1")


def test_children_of_a_path(monkeypatch: Patch) -> None:
    """A write of the whole ``item`` that forgets ``item:1``."""
    write_tags = tags.write_tags
    monkeypatch.setattr(
        calls, "write_tags", lambda paths, chain: tuple(t for t in write_tags(paths, chain) if t[0] == "any")
    )
    _caught("C1")


def test_all_checks_are_on_by_default() -> None:
    assert AgentCacheAdapter(FakeClock()).checks == ALL_CHECKS
