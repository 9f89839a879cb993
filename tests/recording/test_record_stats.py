"""``configure(record_stats=True)``: what is counted, that all stores add it up alike, and what is forgotten when."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import agent_cache
from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, AgentLoopDetectedError, ConfigurationError
from agent_cache.backends.disk import DiskBackend
from agent_cache.config import recording
from agent_cache.errors import BackendError
from agent_cache.recorded import HOUR, MINUTE, TALLY, Tally

NOON = 1_750_000_000 // HOUR * HOUR


async def _recorded(backend: Any, now: float = NOON) -> dict[str, Any]:
    await recording.flush(lambda: now)
    return {row.tool: row for row in await backend.recorded_stats(now=now) if row.seconds == MINUTE}


async def test_what_tools_do_is_told_by_minute(backend: Any) -> None:
    agent_cache.configure(backend=backend, record_stats=True)

    @AgentCache("item:{item}", cost=2.0)
    async def look(item: int) -> int:
        return item

    @AgentCacheInvalidator("item:{item}")
    async def change(item: int) -> None: ...

    for _ in range(4):
        await look(1)
    await change(1)
    await look(1)
    rows = await _recorded(backend)
    seen, changed = rows["look"], rows["change"]
    assert (seen.hits, seen.misses, seen.stale, seen.cost_saved) == (3, 2, 1, 6.0)
    assert seen.hit_rate == 0.6
    assert seen.seconds_saved > 0
    assert sum(seen.ages.values()) == 3
    assert list(seen.dropped_by) == ["change"]
    assert (changed.invalidations, changed.hits) == (1, 0)
    await look(1)
    assert (await _recorded(backend))["look"].hits == 4  # added to what the minute had


async def test_shared_loads_and_loops_are_told(backend: Any) -> None:
    agent_cache.configure(backend=backend, record_stats=True)
    begun, go = asyncio.Event(), asyncio.Event()

    @AgentCache("thing")
    async def slow(n: int) -> int:
        begun.set()
        await go.wait()
        return n

    calls = [asyncio.ensure_future(slow(1))]
    await begun.wait()
    calls += [asyncio.ensure_future(slow(1)) for _ in range(2)]  # they join it at their first step
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*calls)
    async with AgentCacheSession(max_tool_repeats=2):
        await slow(1)
        await slow(1)
        with pytest.raises(AgentLoopDetectedError):
            await slow(1)
    row = (await _recorded(backend))["slow"]
    assert (row.misses, row.coalesced, row.loops) == (1, 2, 1)


async def test_minutes_become_hours_and_end(backend: Any) -> None:
    sums = {"t": {"hits": 2.0, "seconds_saved": 0.5, "age:60": 2.0, "of a later version": 1.0}}
    for minute in (NOON, NOON + MINUTE, NOON + HOUR):
        await backend.add_stats(minute, sums, now=float(minute))
    now = NOON + HOUR + 5.0
    rows = await backend.recorded_stats(now=now)
    assert [(row.start, row.seconds, row.hits) for row in rows] == [
        (NOON, 60, 2), (NOON + 60, 60, 2), (NOON + HOUR, 60, 2)
    ]  # fmt: skip
    assert rows[0].as_dict()["ages"] == {"60": 2}
    since = await backend.recorded_stats(NOON + 60, NOON + HOUR, now=now)
    assert [row.start for row in since] == [NOON + 60]
    days = now + 2 * 24 * HOUR
    rows = await backend.recorded_stats(now=days)
    assert [(row.start, row.seconds, row.hits, row.seconds_saved) for row in rows] == [
        (NOON, HOUR, 4, 1.0), (NOON + HOUR, HOUR, 2, 0.5)
    ]  # fmt: skip
    assert await backend.recorded_stats(now=now + 8 * 24 * HOUR) == []
    assert await asyncio.to_thread(lambda: backend.sync.recorded_stats(now=days)) == rows


async def test_the_sync_twin_adds_too(backend: Any) -> None:
    def both() -> list[Any]:
        backend.sync.add_stats(NOON, {"t": {"misses": 1}}, now=NOON)
        return list(backend.sync.recorded_stats(now=NOON))

    assert [row.misses for row in await asyncio.to_thread(both)] == [1]


async def test_a_file_forgets_what_is_too_old(tmp_path: Path) -> None:
    async with DiskBackend(tmp_path / "c.db") as backend:
        await backend.add_stats(NOON, {"t": {"hits": 1}}, now=NOON)
        await backend.add_stats(NOON + 9 * 24 * HOUR, {"t": {"hits": 1}}, now=NOON + 9 * 24 * HOUR)
        assert len(backend._store._select("SELECT * FROM figures", ())) == 2
        assert (await backend.integrity_check()).ok


async def test_what_could_not_be_written_waits(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_cache.configure(backend=backend, record_stats=True)
    kind = type(backend)
    add = kind.add_stats

    async def away(*_: Any, **__: Any) -> None:
        raise BackendError("away")

    TALLY.add("t", "hits")
    monkeypatch.setattr(kind, "add_stats", away)
    with pytest.raises(BackendError):
        await recording.flush(lambda: NOON)
    await type(recording)._flush_quietly(recording)  # nobody is failed by it
    monkeypatch.setattr(kind, "add_stats", add)
    TALLY.add("t", "hits")
    assert (await _recorded(backend))["t"].hits == 2


def test_what_waits_is_bounded() -> None:
    tally = Tally()
    for minute in range(200):
        for number in range(100):
            tally.missed("t", "stale", f"writer {number}")
        tally.give_back(tally.take(minute * MINUTE))
    for number in range(1_000):
        tally.add(f"tool {number}", "hits")
    taken = tally.take(200 * MINUTE)
    assert len(taken) == 60
    assert taken[0].minute == 141 * MINUTE
    assert len(taken[-1].sums) == 501
    assert taken[-1].sums["(other)"] == {"hits": 500}
    assert all(len(figures) <= 80 for each in taken for figures in each.sums.values())


async def test_nothing_is_counted_unless_asked_for(backend: Any) -> None:
    agent_cache.configure(backend=backend)

    @AgentCache("item:{item}")
    async def look(item: int) -> int:
        return item

    await look(1)
    await look(1)
    assert TALLY.take(0) == []


def test_bad_input() -> None:
    with pytest.raises(ConfigurationError, match="record_stats"):
        agent_cache.configure(record_stats="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="store_args"):
        agent_cache.configure(store_args=1)  # type: ignore[arg-type]


def test_a_script_that_ends_has_written(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, agent_cache
        agent_cache.configure(backend="disk://{tmp_path}/c.db", record_stats=True)

        @agent_cache.AgentCache("item:{{n}}")
        async def look(n: int) -> int:
            return n

        async def main() -> None:
            await look(1)
            await look(1)

        asyncio.run(main())
        """
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    rows = DiskBackend(tmp_path / "c.db").sync.recorded_stats()
    assert [(row.tool, row.hits, row.misses) for row in rows] == [("look", 1, 1)]


def test_many_writers_take_no_other_figure_s_place() -> None:
    """Whoever dropped it: what is counted after them is counted."""
    tally = Tally()
    for number in range(100):
        tally.missed("t", "stale", f"writer {number}")
    tally.hit("t", 1.0, 0.5, 3.0)
    [taken] = tally.take(0.0)
    figures = taken.sums["t"]
    assert (figures["stale"], figures["hits"], figures["seconds_saved"], figures["age:10"]) == (100, 1, 1.0, 1)
    assert sum(name.startswith("by:") for name in figures) < 64
