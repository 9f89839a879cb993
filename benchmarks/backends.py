"""What the disk and Redis backends cost, beside the bare store and beside other caches on it.

    python benchmarks/backends.py [--quick] [--only SECTION ...] [--rounds N] [--json FILE]

All contenders of a comparison run interleaved in one process, and a ratio is taken within a round, against the
bare store (sqlite3, redis-py) of that very round; printed are the median over the rounds and the middle half of
them. Each case says whether its ratio is of CPU time of this process, all threads, or of wall time. The Redis
server is our own, on a free port. No figure here passes or fails: machines differ, ratios less so.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import itertools
import json
import os
import platform
import random
import re
import selectors
import sqlite3
import statistics
import string
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hit import Figure, notes, optional, version

from agent_cache import AgentCache, AgentCacheInvalidator, MemoryBackend, TieredBackend
from agent_cache import __version__ as own_version
from agent_cache.backends.base import Found, Missing, NewEntry
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags

SECTIONS = (
    "disk_hit",
    "disk_fill",
    "disk_invalidate",
    "redis_serial",
    "redis_50",
    "redis_invalidate",
    "round_trips",
)
RIVALS = ("diskcache", "aiosqlite", "cashews", "aiocache")
TASKS = 20
READERS = 50
TICK = 0.001
SELECT = "SELECT value FROM kv WHERE key = ?"
INSERT = "INSERT OR REPLACE INTO kv VALUES (?, ?)"
VALUE = "".join(random.Random(7).choices(string.ascii_letters, k=1000))
IDENTS = [f"doc-{number}" for number in range(500)]

Read = Callable[[str], Awaitable[Any]]


# ------------------------------------------------------------------ what is measured and how


@dataclass(frozen=True)
class Cost:
    """Seconds per operation."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Goal:
    """A bound from the design; ``most`` says whether it is an upper one."""

    bound: float
    most: bool = True

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.bound:g}"

    def verdict(self, figure: float) -> str:
        if figure <= 0:
            return "met" if self.most else "?"
        excess = figure / self.bound if self.most else self.bound / figure
        return "met" if excess <= 1 else "within 2x" if excess <= 2 else f"MISSED {excess:.1f}x"


@dataclass
class Row:
    """One contender in one comparison. ``verdict`` holds the median against the goal."""

    section: str
    case: str
    name: str
    ratio: Figure | None = None
    cpu_us: float | None = None
    wall_us: float | None = None
    goal: str = ""
    verdict: str = ""
    remark: str = ""
    leaves_out: str = ""


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int
    batch_seconds: float
    fills: int
    lag_rounds: int
    lag_seconds: float
    writes: int
    sizes: tuple[int, ...]
    entries: int


FULL = Plan(15, 0.05, 100, 7, 1.5, 10, (10, 10_000, 1_000_000), 10_000)
QUICK = Plan(5, 0.01, 30, 3, 0.3, 5, (10, 10_000, 100_000), 500)

Batch = Callable[[], Awaitable[Cost]]
Times = dict[str, list[Cost]]


async def clocked(work: Callable[[], Awaitable[None]], operations: int) -> Cost:
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    await work()
    wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
    return Cost(cpu / 1e9 / operations, wall / 1e9 / operations)


async def interleave(batches: Mapping[str, Batch], rounds: int) -> Times:
    """Run every batch once per round, in another order each round, and collect what each returned."""
    times: Times = {name: [] for name in batches}
    order = list(batches)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            gc.collect()
            cost = await batches[name]()
            if number:  # the first round warms up
                times[name].append(cost)
    return times


async def sized(run: Callable[[int], Awaitable[Cost]], plan: Plan) -> Batch:
    """A batch of about the planned duration, found by trial."""
    times = 10
    while True:
        wall = (await run(times)).wall
        if wall * times > plan.batch_seconds / 4 or times > 100_000:
            break
        times *= 2
    times = max(10, round(plan.batch_seconds / max(wall, 1e-9)))
    return lambda: run(times)


async def serial(read: Read, plan: Plan, idents: Sequence[str] = IDENTS[:100]) -> Batch:
    """One read after the other."""

    following = itertools.cycle(idents)  # goes on where the last batch ended: all of them are read, however few in one

    async def run(times: int) -> Cost:
        wanted = list(itertools.islice(following, times))

        async def work() -> None:
            for ident in wanted:
                await read(ident)

        return await clocked(work, times)

    return await sized(run, plan)


async def blocking(read: Callable[[str], Any], plan: Plan, idents: Sequence[str] = IDENTS[:100]) -> Batch:
    """The same for what is no coroutine."""

    following = itertools.cycle(idents)

    async def run(times: int) -> Cost:
        wanted = list(itertools.islice(following, times))

        async def work() -> None:
            for ident in wanted:
                read(ident)

        return await clocked(work, times)

    return await sized(run, plan)


def first_time(read: Callable[[str], Any], plan: Plan, idents: Sequence[str], *, waits: bool) -> Batch:
    """Each key once: so many in each round that there are some for the last."""
    following = iter(idents)
    times = len(idents) // (plan.rounds + 1)

    async def batch() -> Cost:
        wanted = list(itertools.islice(following, times))

        async def work() -> None:
            for ident in wanted:
                if waits:
                    await read(ident)
                else:
                    read(ident)

        return await clocked(work, times)

    return batch


async def crowd(read: Read, plan: Plan, idents: Sequence[str]) -> Batch:
    """50 tasks, each reading one after the other, each beginning at another key."""

    async def run(times: int) -> Cost:
        each = max(1, times // READERS)

        async def reader(start: int) -> None:
            for number in range(start, start + each):
                await read(idents[number % len(idents)])

        async def work() -> None:
            await asyncio.gather(*(reader(task * 10) for task in range(READERS)))

        return await clocked(work, each * READERS)

    return await sized(run, plan)


def compared(
    section: str,
    case: str,
    times: Times,
    baseline: str,
    *,
    by: str = "cpu",
    less: str | None = None,
    inverse: bool = False,
    goals: Mapping[str, Goal] | None = None,
    remarks: Mapping[str, str] | None = None,
    leaves_out: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for each contender: its ratio to the baseline of the same round.

    ``by`` names the time; ``less`` a contender whose time is no part of the others'; ``inverse`` turns a ratio of
    times into one of rates.
    """
    rows: list[Row] = []
    for name, costs in times.items():
        if name == less:
            continue
        mine = [getattr(cost, by) for cost in costs]
        base = [getattr(cost, by) for cost in times[baseline]]
        if less is not None and name != baseline:
            mine = [max(0.0, one - getattr(cost, by)) for one, cost in zip(mine, times[less], strict=True)]
        pairs = list(zip(mine, base, strict=True))
        ratio = Figure.of([b / m if inverse else m / b for m, b in pairs if b and (m or not inverse)] or [0.0])
        goal = (goals or {}).get(name)
        rows.append(
            Row(
                section,
                case,
                name,
                ratio,
                statistics.median(cost.cpu for cost in costs) * 1e6,
                statistics.median(cost.wall for cost in costs) * 1e6,
                str(goal or ""),
                goal.verdict(ratio.median) if goal else "",
                (remarks or {}).get(name, ""),
                (leaves_out or {}).get(name, ""),
            )
        )
    return rows


def missing(section: str, case: str, names: Sequence[str]) -> list[Row]:
    absent = [name for name in names if optional(name) is None]
    return [Row(section, case, name, remark=f"missing (pip install {name})") for name in absent]


# ------------------------------------------------------------------ our tools


class Source:
    """A tool that counts its runs. One name is one tool and one resource, whatever backend it is decorated with."""

    def __init__(self, name: str, seconds: float = 0, value: str = VALUE) -> None:
        self.name = name
        self.seconds = seconds
        self.value = value
        self.loads = 0

    def bare(self) -> Read:
        async def read(ident: str) -> str:
            self.loads += 1
            if self.seconds:
                await asyncio.sleep(self.seconds)
            return self.value

        read.__name__ = read.__qualname__ = self.name
        return read

    def cached(self, **where: Any) -> Any:
        """As a decorated read with a tag of its own for each ident."""
        return AgentCache(f"{self.name}:{{ident}}", ttl=3600, maxsize=None, **where)(self.bare())

    def writer(self) -> Any:
        async def write(ident: str) -> None:
            return None

        write.__name__ = write.__qualname__ = f"write_{self.name}"
        return AgentCacheInvalidator(f"{self.name}:{{ident}}")(write)

    async def read_all(self, read: Read, idents: Sequence[str]) -> None:
        for ident in idents:
            if await read(ident) != self.value:
                raise AssertionError(f"{self.name} returned something else")

    def all_hits(self, expected: int) -> str:
        return "" if self.loads == expected else f"NOT HITS: the tool ran {self.loads} times"


async def seeded_lookup(backend: Any, idents: Sequence[str]) -> tuple[Read, Callable[[], Awaitable[None]]]:
    """A lookup at the backend's own surface, and how to put there what it finds."""
    codec = codec_for(str)
    tags = {ident: read_tags([("level", ident)], ()) for ident in idents}
    keys = {ident: ident.encode().ljust(32, b".") for ident in idents}

    async def lookup(ident: str) -> None:
        found = await backend.lookup(keys[ident], tags[ident], codec)
        if not isinstance(found, Found):
            raise AssertionError(f"no hit at the backend: {found!r}")

    async def seed() -> None:
        for number, ident in enumerate(idents):
            answer = await backend.lookup(keys[ident], tags[ident], codec)
            if isinstance(answer, Missing):
                entry = NewEntry(keys[ident], codec.freeze(VALUE), 3600, 0.0, "level", None, ())
                if not await backend.fill(answer.token, entry):
                    raise AssertionError("a fill was not taken")
            if number % 50 == 49:  # what is written behind is bounded: beyond that fills are dropped
                await backend.flush()

    return lookup, seed


# ------------------------------------------------------------------ disk


def open_disk(path: Path) -> Any:
    return importlib.import_module("agent_cache.backends.disk").DiskBackend(path)


def bare_sqlite(path: Path, synchronous: str = "NORMAL") -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    return db


async def open_aiosqlite(path: Path, stack: AsyncExitStack) -> Any:
    bare_sqlite(path).close()
    db = await importlib.import_module("aiosqlite").connect(path)
    await db.execute("PRAGMA synchronous=NORMAL")
    stack.push_async_callback(db.close)
    return db


LEFT_OUT_DISK = {
    "bare sqlite3 SELECT": "everything",
    "bare sqlite3 commit": "everything",
    "diskcache": "tags of a read, single load, fence; pickles what is no text; blocks the loop",
    "aiosqlite": "everything; does not block the loop",
}


async def disk_hit(plan: Plan) -> list[Row]:
    few, all_of_it = IDENTS[:100], [f"doc-{number}" for number in range(plan.entries)]
    random.Random(1).shuffle(all_of_it)
    anew = f"hit on 1 KB on disk, {plan.entries:,} keys read for the first time, x bare SELECT, CPU"
    cases = {
        f"hit on 1 KB on disk, {len(few)} keys of {plan.entries:,}, x bare SELECT, CPU": few,
        f"hit on 1 KB on disk, all of {plan.entries:,} keys in no order, read before, x bare SELECT, CPU": all_of_it,
    }
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = bare_sqlite(folder / "bare.db")
        stack.callback(bare.close)
        bare.execute("BEGIN")
        bare.executemany(INSERT, [(ident, VALUE) for ident in all_of_it])
        bare.execute("COMMIT")

        source, tiered = Source("disk_hit"), Source("disk_hit_tiered")
        backend, far, looked_up, plain = (open_disk(folder / f"ours-{number}.db") for number in range(4))
        for each in (backend, far, looked_up, plain):
            stack.push_async_callback(each.close)
        lookup, seed = await seeded_lookup(looked_up, all_of_it)
        read, behind = source.cached(backend=backend), tiered.cached(backup=far)
        for some in (all_of_it[at : at + 50] for at in range(0, plan.entries, 50)):
            await gathered(read, some)
            await gathered(behind, some)
            await backend.flush()
            await far.flush()
        await seed()
        await plain.set_many(dict.fromkeys(all_of_it, VALUE))
        for each in (backend, far, looked_up, plain):
            await each.close()  # what is read from now on comes from the file
        waiting: dict[str, Read] = {
            "decorated, DiskBackend": read,
            "decorated, memory before disk": behind,
            "DiskBackend.lookup": lookup,
            "DiskBackend.get (key-value)": plain.get,
        }
        goals = dict.fromkeys(waiting, Goal(1.2))
        at_once: dict[str, Callable[[str], Any]] = {
            "bare sqlite3 SELECT": lambda ident: bare.execute(SELECT, (ident,)).fetchone()[0]
        }
        if (diskcache := optional("diskcache")) is not None:
            cache = stack.enter_context(diskcache.Cache(str(folder / "diskcache"), eviction_policy="none"))
            with cache.transact():
                for ident in all_of_it:
                    cache.set(ident, VALUE)
            at_once["diskcache"] = cache.get
        if optional("aiosqlite") is not None:
            db = await open_aiosqlite(folder / "bare.db", stack)

            async def select(ident: str) -> Any:
                return (await db.execute_fetchall(SELECT, (ident,)))[0][0]

            waiting["aiosqlite"] = select
        source.loads = tiered.loads = 0

        async def measure(case: str, batches: Mapping[str, Batch]) -> list[Row]:
            times = await interleave(batches, plan.rounds)
            remarks = {"decorated, DiskBackend": source.all_hits(0)}
            remarks |= {"decorated, memory before disk": tiered.all_hits(0)}
            how: dict[str, Any] = {"goals": goals, "remarks": remarks, "leaves_out": LEFT_OUT_DISK}
            found = missing("disk_hit", case, ("diskcache", "aiosqlite"))
            return found + compared("disk_hit", case, times, "bare sqlite3 SELECT", **how)

        once = {name: first_time(call, plan, all_of_it, waits=False) for name, call in at_once.items()}
        once |= {name: first_time(call, plan, all_of_it, waits=True) for name, call in waiting.items()}
        first = await measure(anew, once)
        for ident in all_of_it:  # those that were left over
            for call in waiting.values():
                await call(ident)
        for case, idents in cases.items():
            batches = {name: await blocking(call, plan, idents) for name, call in at_once.items()}
            batches |= {name: await serial(call, plan, idents) for name, call in waiting.items()}
            rows += await measure(case, batches)
    return rows + first


async def disk_fill(plan: Plan) -> list[Row]:
    case = "fill of 1 KB as the caller sees it, without the tool, x bare commit (WAL, NORMAL), wall"
    rows = missing("disk_fill", case, ("diskcache", "aiosqlite"))
    fresh = (f"fill-{number}" for number in itertools.count())
    batches: dict[str, Batch] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = bare_sqlite(folder / "bare.db")
        stack.callback(bare.close)
        backend = open_disk(folder / "ours.db")
        stack.push_async_callback(backend.close)
        source, trivial = Source("disk_fill"), Source("disk_fill_bare")
        read, tool = source.cached(backend=backend), trivial.bare()
        codec = codec_for(str)
        stored = codec.freeze(VALUE)

        def each(act: Read) -> Batch:
            """The CPU time includes what is written behind after the caller has gone on."""

            async def batch() -> Cost:
                wanted = [next(fresh) for _ in range(plan.fills)]
                cpu = time.process_time_ns()

                async def work() -> None:
                    for ident in wanted:
                        await act(ident)

                cost = await clocked(work, plan.fills)
                await backend.flush()
                return Cost((time.process_time_ns() - cpu) / 1e9 / plan.fills, cost.wall)

            return batch

        def fill_alone() -> Batch:
            async def batch() -> Cost:
                asked = []
                for _ in range(plan.fills):
                    ident = next(fresh)
                    key, tags = ident.encode().ljust(32, b"."), read_tags([("fill_alone", ident)], ())
                    answer = await backend.lookup(key, tags, codec)
                    assert isinstance(answer, Missing)
                    asked.append((answer.token, NewEntry(key, stored, 3600, 0.0, "fill", None, ())))
                cpu = time.process_time_ns()

                async def work() -> None:
                    for token, entry in asked:
                        await backend.fill(token, entry)

                cost = await clocked(work, plan.fills)
                await backend.flush()
                return Cost((time.process_time_ns() - cpu) / 1e9 / plan.fills, cost.wall)

            return batch

        async def commit(ident: str) -> None:
            bare.execute(INSERT, (ident, VALUE))

        async def absent(ident: str) -> None:
            await backend.lookup(ident.encode().ljust(32, b"."), read_tags([("absent", ident)], ()), codec)

        batches["bare sqlite3 commit"] = each(commit)
        batches["the tool"] = each(tool)
        batches["a whole miss, decorated"] = each(read)
        batches["of it: DiskBackend.lookup, absent"] = each(absent)
        batches["of it: DiskBackend.fill"] = fill_alone()
        batches["DiskBackend.set (key-value)"] = each(lambda ident: backend.set(ident, VALUE))
        if (diskcache := optional("diskcache")) is not None:
            cache = stack.enter_context(diskcache.Cache(str(folder / "diskcache"), eviction_policy="none"))

            async def set_in_diskcache(ident: str) -> None:
                cache.set(ident, VALUE)

            batches["diskcache"] = each(set_in_diskcache)
        if optional("aiosqlite") is not None:
            db = await open_aiosqlite(folder / "aio.db", stack)

            async def insert(ident: str) -> None:
                await db.execute(INSERT, (ident, VALUE))
                await db.commit()

            batches["aiosqlite"] = each(insert)
        times = await interleave(batches, plan.rounds)
        dropped = (await backend.stats())["dropped_fills"]
        lost = f"{dropped} FILLS DROPPED" if dropped else ""
        remarks = {"a whole miss, decorated": notes("lookup, lead, tool, fill", lost)}
        goals = dict.fromkeys(("a whole miss, decorated", "of it: DiskBackend.fill"), Goal(0.25))
        how: dict[str, Any] = {"goals": goals, "remarks": remarks, "leaves_out": LEFT_OUT_DISK}
        rows += compared("disk_fill", case, times, "bare sqlite3 commit", by="wall", less="the tool", **how)
        for (selector, sleeps), milliseconds in itertools.product(LAG_ON, LAG_TOOLS):
            name = f"{selector}-{milliseconds}-{sleeps}"
            rows += await loop_lag(plan, folder / name, selector, sleeps, milliseconds)
    return rows


async def late(seconds: float, act: Callable[[], Awaitable[Any]] | None, lengths: Iterator[float]) -> Cost:
    """The 99th percentile of how late a sleep of about a millisecond returns while 20 tasks act again and again."""
    stop = False

    async def again() -> None:
        while not stop and act is not None:
            await act()

    tasks = [asyncio.ensure_future(again()) for _ in range(TASKS if act else 0)]
    await asyncio.sleep(0.02)
    lateness: list[float] = []
    cpu, end = time.process_time(), time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        length = next(lengths)
        await asyncio.sleep(length)
        lateness.append(time.perf_counter() - now - length)
    cpu = time.process_time() - cpu
    stop = True
    await asyncio.gather(*tasks)
    return Cost(cpu / len(lateness), statistics.quantiles(lateness, n=100)[98])


SELECTORS: dict[str, Callable[[], selectors.BaseSelector]] = {
    "select": selectors.SelectSelector,
    "epoll": selectors.DefaultSelector,
}
ANY, WHOLE = "sleeps of any length", "sleeps of whole milliseconds"
LAG_ON = {
    ("select", ANY): "timers to the microsecond",
    ("epoll", ANY): "asyncio's own on Linux: idle or not, a timer waits for a whole number of milliseconds",
    ("epoll", WHOLE): "for these an idle epoll loop is punctual; any load costs up to 1 ms",
}
"""Selectors, with the lengths of the sleeps that are to be late: an agent's time-outs and pauses fall due whenever they do."""


def lengths(sleeps: str) -> Iterator[float]:
    """Seconds."""
    if sleeps == WHOLE:
        return itertools.repeat(TICK)
    of = random.Random(7)
    return (of.uniform(TICK / 2, 3 * TICK / 2) for _ in itertools.count())


LAG_TOOLS = {100: "about 200 fills a second", 10: "about all that one loop can do, 1,000 to 1,800 a second"}
"""Milliseconds the tool takes, and how many fills that comes to."""


async def loop_lag(plan: Plan, folder: Path, selector: str, sleeps: str, milliseconds: int) -> list[Row]:
    """Lag on an event loop of its own, in a thread: what one sees depends on how fine the loop's timers are."""
    folder.mkdir()

    def measure() -> list[Row]:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(SELECTORS[selector]())) as runner:
            return runner.run(_loop_lag(plan, folder, selector, sleeps, milliseconds))

    return await asyncio.to_thread(measure)


async def _loop_lag(plan: Plan, folder: Path, selector: str, sleeps: str, milliseconds: int) -> list[Row]:
    load = f"tool of {milliseconds} ms on {selector}, {sleeps}: {LAG_TOOLS[milliseconds]}"
    case = f"event-loop lag p99 while {TASKS} tasks fill ({load}; {LAG_ON[selector, sleeps]}), x idle, wall"
    seconds = milliseconds / 1000
    fresh = (f"lag-{number}" for number in itertools.count())
    async with AsyncExitStack() as stack:
        backend = open_disk(folder / "lag.db")
        stack.push_async_callback(backend.close)
        on_disk, in_memory = Source("disk_lag", seconds), Source("memory_lag", seconds)
        read = on_disk.cached(backend=backend)
        control = in_memory.cached(backend=MemoryBackend())
        bare = bare_sqlite(folder / "lag-bare.db")
        stack.callback(bare.close)
        tool = Source("tool_lag", seconds).bare()

        async def commit() -> None:
            bare.execute(INSERT, (next(fresh), await tool("")))

        acts: dict[str, Callable[[], Awaitable[Any]] | None] = {
            "idle": None,
            "only the tool": lambda: tool(""),
            "decorated, DiskBackend": lambda: read(next(fresh)),
            "decorated, MemoryBackend": lambda: control(next(fresh)),
            "bare sqlite3 commit": commit,
        }
        if (diskcache := optional("diskcache")) is not None:
            cache = stack.enter_context(diskcache.Cache(str(folder / "lag-diskcache"), eviction_policy="none"))

            async def set_in_diskcache() -> None:
                cache.set(next(fresh), await tool(""))

            acts["diskcache"] = set_in_diskcache
        batches: dict[str, Batch] = {
            name: (lambda act=act: late(plan.lag_seconds, act, lengths(sleeps))) for name, act in acts.items()
        }
        times = await interleave(batches, plan.lag_rounds)
    goals = {"decorated, DiskBackend": Goal(4)}
    return compared("disk_fill", case, times, "idle", by="wall", goals=goals, leaves_out=LEFT_OUT_DISK)


async def disk_invalidate(plan: Plan) -> list[Row]:
    case = "a write with its invalidation on the disk, x two bare commits (WAL, FULL), wall"
    rows = missing("disk_invalidate", case, ("diskcache",))
    batches: dict[str, Batch] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = bare_sqlite(folder / "bare.db", "FULL")
        stack.callback(bare.close)
        backend = open_disk(folder / "ours.db")
        stack.push_async_callback(backend.close)
        source = Source("disk_invalidate")
        read, write = source.cached(backend=backend), source.writer()
        await source.read_all(read, IDENTS[:20])
        await backend.flush()
        numbers = itertools.count()

        async def commits(ident: str) -> None:
            for _ in range(2):
                bare.execute(INSERT, (ident, f"version {next(numbers)}"))

        def each(act: Read) -> Batch:
            async def work() -> None:
                for ident in IDENTS[: plan.writes]:
                    await act(ident)

            return lambda: clocked(work, plan.writes)

        batches["two bare FULL commits"] = each(commits)
        batches["decorated write, DiskBackend"] = each(write)
        batches["read.invalidate()"] = each(read.invalidate)
        if (diskcache := optional("diskcache")) is not None:
            cache = stack.enter_context(diskcache.Cache(str(folder / "diskcache"), eviction_policy="none"))

            async def delete(ident: str) -> None:
                cache.set(ident, VALUE)
                cache.delete(ident)

            batches["diskcache set and delete"] = each(delete)
        times = await interleave(batches, plan.rounds)
        before = source.loads
        await write(IDENTS[0])
        await read(IDENTS[0])
        remarks = {
            "decorated write, DiskBackend": "" if source.loads == before + 1 else "NOT INVALIDATED",
            "read.invalidate()": "one durable commit",
        }
    left_out = {"diskcache set and delete": "durability (NORMAL), fence: a load under way is kept"}
    baseline = "two bare FULL commits"
    how: dict[str, Any] = {"by": "wall", "remarks": remarks, "leaves_out": left_out}
    return rows + compared("disk_invalidate", case, times, baseline, **how)


# ------------------------------------------------------------------ Redis


class Near:
    """Our tools on one Redis, with a server's address; closed with the stack."""

    def __init__(self, server: Any, stack: AsyncExitStack) -> None:
        self._server = server
        self._stack = stack

    def backend(self, **how: Any) -> Any:
        backend = importlib.import_module("agent_cache.backends.redis").RedisBackend(self._server.url, **how)
        self._stack.push_async_callback(backend.close)
        return backend

    def client(self, **how: Any) -> Any:
        client = importlib.import_module("redis.asyncio").Redis(host="127.0.0.1", port=self._server.port, **how)
        self._stack.push_async_callback(client.aclose)
        return client

    async def cashews(self) -> Any:
        cache = importlib.import_module("cashews").Cache()
        cache.setup(self._server.url, max_connections=READERS)
        await cache.init()
        self._stack.push_async_callback(cache.close)
        return cache

    def aiocache(self) -> dict[str, Any]:
        library = importlib.import_module("aiocache")
        serializer = importlib.import_module("aiocache.serializers").StringSerializer()
        where = {"endpoint": "127.0.0.1", "port": self._server.port, "timeout": None, "ttl": None}
        return {"cache": library.Cache.REDIS, "serializer": serializer, **where}


LEFT_OUT_REDIS = {
    "redis-py GET": "everything",
    "redis-py MGET": "everything",
    "cashews": "a check that the entry is current, fence, scopes; values by pickle",
    "aiocache": "tags, fence, scopes, None as a value; here also types: every value is text",
    "RedisBackend.get (key-value)": "tags, fence",
    "RedisBackend.get_many": "tags, fence",
}


async def redis_readers(server: Any, stack: AsyncExitStack, idents: Sequence[str]) -> dict[str, tuple[Read, Source]]:
    """Everybody who reads one ident from Redis, with it all there."""
    near = Near(server, stack)
    client = near.client()
    for ident in idents:
        await client.set(ident, VALUE)
    alone, strict = near.backend(), near.backend(prefix="strict:")
    await alone.set_many(dict.fromkeys(idents, VALUE))
    names = ("redis-py GET", "decorated, RedisBackend", "decorated, near tier, strict", "RedisBackend.get (key-value)")
    sources = {name: Source(re.sub(r"\W", "_", name)) for name in names}
    readers: dict[str, tuple[Read, Source]] = {
        names[0]: (client.get, sources[names[0]]),
        names[1]: (sources[names[1]].cached(backend=alone), sources[names[1]]),
        names[2]: (sources[names[2]].cached(remote_cache=strict), sources[names[2]]),
        names[3]: (alone.get, sources[names[3]]),
    }
    if optional("cashews") is not None:
        source = Source("cashews")
        cache = await near.cashews()
        readers["cashews"] = (cache(ttl=3600, key="doc:{ident}", protected=False)(source.bare()), source)
    if (aiocache := optional("aiocache")) is not None:
        source = Source("aiocache")
        wrap = aiocache.cached(key_builder=lambda _, ident: f"aio:{ident}", **near.aiocache())
        tool = wrap(source.bare())
        stack.push_async_callback(tool.cache.close)
        readers["aiocache"] = (tool, source)
    for read, _ in readers.values():
        for ident in idents:
            await read(ident)
    for _, source in readers.values():
        source.loads = 0
    return readers


async def redis_serial(plan: Plan, server: Any) -> list[Row]:
    case = "hit on 1 KB in Redis, one after the other, x plain redis-py GET, CPU of this process"
    rows = missing("redis_serial", case, ("cashews", "aiocache"))
    async with AsyncExitStack() as stack:
        readers = await redis_readers(server, stack, IDENTS[:100])
        batches = {name: await serial(read, plan) for name, (read, _) in readers.items()}
        times = await interleave(batches, plan.rounds)
        remarks = {name: source.all_hits(0) for name, (_, source) in readers.items()}
    goals = {name: Goal(1.5) for name in readers if name.startswith("decorated")}
    how: dict[str, Any] = {"goals": goals, "remarks": remarks, "leaves_out": LEFT_OUT_REDIS}
    rows += compared("redis_serial", case, times, "redis-py GET", **how)
    return rows + await lease_hit(plan, server)


async def lease_hit(plan: Plan, server: Any) -> list[Row]:
    case = "near hit in lease mode, x a hit in memory, CPU"
    async with AsyncExitStack() as stack:
        far = Near(server, stack).backend(coherence="lease", prefix="lease:")
        leased, memory = Source("lease_hit"), Source("memory_hit")
        read, control = leased.cached(remote_cache=far), memory.cached(backend=MemoryBackend())
        await memory.read_all(control, IDENTS[:100])
        await proven(read, far, IDENTS[:100])
        loads = leased.loads
        batches = {
            "decorated, MemoryBackend": await serial(control, plan),
            "decorated, near tier, lease": await serial(read, plan),
        }
        before = far._links.round_trips
        times = await interleave(batches, plan.rounds)
        asked = far._links.round_trips - before
    unproven = "" if not asked else f"asked Redis {asked} times: the lease ran out, or a copy was taken anew"
    remark = notes(leased.all_hits(loads), unproven)
    goals = {"decorated, near tier, lease": Goal(1.2)}
    remarks = {"decorated, near tier, lease": remark}
    return compared("redis_serial", case, times, "decorated, MemoryBackend", goals=goals, remarks=remarks)


async def proven(read: Read, far: Any, idents: Sequence[str]) -> None:
    """Until none of these asks Redis any more."""
    for _ in range(200):
        before = far._links.round_trips
        for ident in idents:
            await read(ident)
        if far._links.round_trips == before:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the near tier goes on asking: its bus is not heard")


async def redis_50(plan: Plan, server: Any) -> list[Row]:
    rows: list[Row] = []
    for case, idents in (
        (f"{READERS} tasks read one hot key, reads per second, x plain redis-py GET, wall", IDENTS[:1]),
        (f"{READERS} tasks read {len(IDENTS)} keys, reads per second, x plain redis-py GET, wall", IDENTS),
    ):
        rows += missing("redis_50", case, ("cashews", "aiocache"))
        async with AsyncExitStack() as stack:
            server.cli("FLUSHALL")
            readers = await redis_readers(server, stack, idents)
            batches = {name: await crowd(read, plan, idents) for name, (read, _) in readers.items()}
            times = await interleave(batches, plan.rounds)
            remarks = {
                name: notes(source.all_hits(0), f"{1 / statistics.median(cost.wall for cost in times[name]):,.0f}/s")
                for name, (_, source) in readers.items()
            }
        goals = {name: Goal(4, most=False) for name in readers if name.startswith("decorated")}
        how: dict[str, Any] = {"by": "wall", "inverse": True, "goals": goals, "remarks": remarks}
        rows += compared("redis_50", case, times, "redis-py GET", leaves_out=LEFT_OUT_REDIS, **how)
    return rows + await many(plan, server)


async def many(plan: Plan, server: Any) -> list[Row]:
    case = "100 keys at once, one call after the other, x redis-py MGET of them, CPU of this process"
    keys = IDENTS[:100]
    server.cli("FLUSHALL")
    async with AsyncExitStack() as stack:
        near = Near(server, stack)
        client, backend = near.client(), near.backend()
        await client.mset(dict.fromkeys(keys, VALUE))
        await backend.set_many(dict.fromkeys(keys, VALUE))
        calls: dict[str, Read] = {
            "redis-py MGET": lambda _: client.mget(keys),
            "RedisBackend.get_many": lambda _: backend.get_many(keys),
        }
        if optional("cashews") is not None:
            cache = await near.cashews()
            await cache.set_many({f"c:{key}": VALUE for key in keys})
            calls["cashews"] = lambda _: cache.get_many(*(f"c:{key}" for key in keys))
        if (aiocache := optional("aiocache")) is not None:
            how = near.aiocache()
            store = aiocache.Cache(how.pop("cache"), **how)
            stack.push_async_callback(store.close)
            await store.multi_set([(f"a:{key}", VALUE) for key in keys])
            calls["aiocache"] = lambda _: store.multi_get([f"a:{key}" for key in keys])
        batches = {name: await serial(call, plan) for name, call in calls.items()}
        times = await interleave(batches, plan.rounds)
    return compared("redis_50", case, times, "redis-py MGET", leaves_out=LEFT_OUT_REDIS)


# ------------------------------------------------------------------ invalidating in Redis

COPIES = """
for number = tonumber(ARGV[3]), tonumber(ARGV[4]) do
  local name = ARGV[1] .. string.format('%064x', number)
  redis.call('SET', name, ARGV[2], 'PX', 3600000)
  if ARGV[5] ~= '' then redis.call('SADD', ARGV[5], name) end
end
"""


async def put_copies(client: Any, prefix: str, value: bytes, count: int, members_of: str = "") -> None:
    """As raw SETs: ``count`` keys of a realistic length (a prefix and 64 hex digits)."""
    for first in range(0, count, 5_000):
        last = min(count, first + 5_000) - 1
        await client.eval(COPIES, 0, prefix, value, first, last, members_of)


async def redis_invalidate(plan: Plan, server: Any) -> list[Row]:
    smallest, largest = plan.sizes[0], plan.sizes[-1]
    case = f"invalidate a tag, x the same with {smallest} entries, wall"
    rows = missing("redis_invalidate", case, ("cashews",))
    rows += await our_invalidation(plan, server, case)
    for name, act in (("SCAN and UNLINK", scan_and_unlink), ("cashews", cashews_tags)):
        if optional(name) is None and name == "cashews":
            continue
        base: float | None = None
        for size in plan.sizes:
            rounds = 1 if size > 50_000 else 3
            seconds = sorted([await act(server, size) for _ in range(rounds)])
            median = statistics.median(seconds)
            base = base or median
            ratio = Figure.of([each / base for each in seconds])
            left_out = "fence: a load under way is kept; " + ("a search" if act is scan_and_unlink else "")
            row = Row("redis_invalidate", case, f"{name}, {size:,} entries", ratio, wall_us=median * 1e6)
            row.leaves_out = left_out.rstrip("; ")
            row.remark = f"{rounds} round{'s' if rounds > 1 else ''}"
            rows.append(row)
    server.cli("FLUSHALL")
    assert largest > smallest
    return rows


async def our_invalidation(plan: Plan, server: Any, case: str) -> list[Row]:
    """Each size in a database of its own, interleaved. One entry is a real one, the others are copies of its record
    under keys of the same form, which is enough: nothing ever counts or visits them."""
    server.cli("FLUSHALL")
    async with AsyncExitStack() as stack:
        near = Near(server, stack)
        batches: dict[str, Batch] = {}
        server_us: dict[str, list[float]] = {}
        checks: dict[str, str] = {}
        reads: dict[str, tuple[Any, Any, Source]] = {}
        for number, size in enumerate(plan.sizes):
            name = f"decorated write, {size:,} entries"
            backend, client = near.backend(db=number), near.client(db=number)
            source = Source(f"shelf_{size}", value="shipped")
            read, write = source.cached(backend=backend), source.writer()
            await read("here")
            (entry,) = [key for key in await client.keys("*") if b"}e:" in key]
            record = await client.get(entry)
            await put_copies(client, entry.decode().partition("}e:")[0] + "}e:", record, size - 1)
            reads[name] = (read, write, source)
            server_us[name] = []

            async def batch(name: str = name, write: Any = write) -> Cost:
                before = script_microseconds(server)

                async def work() -> None:
                    for _ in range(plan.writes):
                        await write("here")

                cost = await clocked(work, plan.writes)
                server_us[name].append((script_microseconds(server) - before) / plan.writes)
                return cost

            batches[name] = batch
        times = await interleave(batches, plan.rounds)
        for name, (read, write, source) in reads.items():
            await read("here")
            before = source.loads
            await write("here")
            await read("here")
            dropped = "" if source.loads == before + 1 else "NOT INVALIDATED"
            checks[name] = notes(dropped, f"{statistics.median(server_us[name]):.0f} us of it in the server")
    first, last = next(iter(times)), list(times)[-1]
    goals = {last: Goal(2)}
    return compared("redis_invalidate", case, times, first, by="wall", goals=goals, remarks=checks)


def script_microseconds(server: Any) -> float:
    told = server.info("commandstats")
    lines = [told[name] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in told]
    return sum(float(re.search(r"usec=(\d+)", line).group(1)) for line in lines)  # type: ignore[union-attr]


async def scan_and_unlink(server: Any, size: int) -> float:
    server.cli("FLUSHALL")
    async with AsyncExitStack() as stack:
        client = Near(server, stack).client(socket_timeout=600)
        await put_copies(client, "shelf:", b"shipped", size)
        start = time.perf_counter()
        names: list[bytes] = []
        async for name in client.scan_iter(match="shelf:*", count=1000):
            names.append(name)
            if len(names) >= 1000:
                await client.unlink(*names)
                names.clear()
        if names:
            await client.unlink(*names)
        seconds = time.perf_counter() - start
        assert await client.dbsize() == 0
    return seconds


async def cashews_tags(server: Any, size: int) -> float:
    server.cli("FLUSHALL")
    async with AsyncExitStack() as stack:
        near = Near(server, stack)
        client, cache = near.client(socket_timeout=600), await near.cashews()

        @cache(ttl=3600, key="shelf:{ident}", tags=["shelf"], protected=False)
        async def read(ident: str) -> str:
            return "shipped"

        await read("0")
        held = {name: await client.type(name) for name in await client.keys("*")}
        (record,) = [name for name, kind in held.items() if kind == b"string"]
        (members,) = [name for name, kind in held.items() if kind == b"set"]
        value = await client.get(record)
        await put_copies(client, record.decode()[:-1], value, size - 1, members.decode())
        assert await client.scard(members) == size
        start = time.perf_counter()
        await cache.delete_tags("shelf")
        seconds = time.perf_counter() - start
        assert await client.dbsize() == 0, await client.dbsize()
    return seconds


# ------------------------------------------------------------------ round trips


async def round_trips(plan: Plan, server: Any) -> list[Row]:
    """Counted by the backend, after the connection stands and Redis knows the scripts."""
    server.cli("FLUSHALL")
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        near = Near(server, stack)
        for title, how, tiered in (
            ("RedisBackend", {}, False),
            ("near tier, strict", {}, True),
            ("near tier, lease", {"coherence": "lease"}, True),
        ):
            case = f"round trips of one operation, {title}"
            backend = near.backend(prefix=f"trips{len(rows)}:", **how)
            source = Source(f"trips_{len(rows)}")
            where = TieredBackend(MemoryBackend(), backend) if tiered else backend
            read, write = source.cached(backend=where), source.writer()
            await read("a")
            await write("a")
            await read("a")
            if how:
                await proven(read, backend, ["a"])
            fill, seed = await fill_only(where)
            await seed()
            calls: dict[str, tuple[Callable[[], Awaitable[Any]], int]] = {
                "first miss under its tags": (partial(read, "b"), 4),
                "of it: fill": (fill, 1),
                "hit": (partial(read, "b"), 0 if how else 1),
                "write": (partial(write, "b"), 2),
                "miss after a write": (partial(read, "b"), 3),
                "read.invalidate()": (partial(read.invalidate, "b"), 1),
                "100 hits at once": (partial(gathered, read, ["a"] * 100), 0 if how else 2),
            }
            for name, (call, bound) in calls.items():
                before = backend._links.round_trips
                await call()
                count = backend._links.round_trips - before
                row = Row("round_trips", case, name, Figure(count, count, count), goal=f"<= {bound}")
                row.verdict = "met" if count <= bound else Goal(max(bound, 1)).verdict(count)
                rows.append(row)
    return rows


async def gathered(read: Read, idents: Sequence[str]) -> None:
    await asyncio.gather(*(read(ident) for ident in idents))


async def fill_only(backend: Any) -> tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[None]]]:
    codec, tags, held = codec_for(str), read_tags([("only", "x")], ()), []

    async def seed() -> None:
        for key in (b"0" * 32, b"1" * 32):
            answer = await backend.lookup(key, tags, codec)
            assert isinstance(answer, Missing)
            held[:] = [(answer.token, NewEntry(key, codec.freeze(VALUE), 60, 0.0, "only", None, ()))]
            if key == b"0" * 32:
                await backend.fill(*held[0])  # Redis learns the script

    async def fill() -> None:
        await backend.fill(*held[0])

    return fill, seed


# ------------------------------------------------------------------ report


def table(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    for case in dict.fromkeys(row.case for row in rows):
        lines += ["", case]
        head = f"  {'':<36}{'ratio':>10}  {'middle half':<17}{'CPU us':>11}{'wall us':>12}  {'goal':<8}{'verdict':<14}"
        lines.append(f"{head}remark / what it leaves out")
        for row in (row for row in rows if row.case == case):
            ratio = f"{row.ratio.median:,.2f}" if row.ratio else "-"
            spread = f"{row.ratio.low:,.2f}..{row.ratio.high:,.2f}" if row.ratio else ""
            cpu = f"{row.cpu_us:,.1f}" if row.cpu_us is not None else ""
            wall = f"{row.wall_us:,.1f}" if row.wall_us is not None else ""
            said = " / ".join(note for note in (row.remark, row.leaves_out) if note)
            text = f"  {row.name:<36}{ratio:>10}  {spread:<17}{cpu:>11}{wall:>12}  {row.goal:<8}{row.verdict:<14}{said}"
            lines.append(text.rstrip())
    return "\n".join(lines).lstrip("\n")


def environment() -> dict[str, str]:
    """What the figures depend on."""
    about = {"python": platform.python_version(), "agent_cache": own_version, "sqlite": sqlite3.sqlite_version}
    about |= {"system": f"{platform.system()} {platform.machine()}", "cpus": str(os.cpu_count())}
    if hasattr(os, "getloadavg"):
        about["load before"] = f"{os.getloadavg()[0]:.1f}"
    return about | {name: version(name) for name in ("redis", "hiredis", *RIVALS)}


ON_DISK: dict[str, Callable[[Plan], Awaitable[list[Row]]]] = {
    "disk_hit": disk_hit,
    "disk_fill": disk_fill,
    "disk_invalidate": disk_invalidate,
}
ON_REDIS: dict[str, Callable[[Plan, Any], Awaitable[list[Row]]]] = {
    "redis_serial": redis_serial,
    "redis_50": redis_50,
    "redis_invalidate": redis_invalidate,
    "round_trips": round_trips,
}


def absent(section: str) -> str:
    """Why a section cannot be measured here at all; empty if it can."""
    try:
        if section in ON_DISK:
            importlib.import_module("agent_cache.backends.disk")
        else:
            importlib.import_module("agent_cache.backends.redis")
    except ImportError as error:
        return f"missing ({error})"
    return ""


def measured(section: str, plan: Plan, stack: ExitStack, servers: list[Any], about: dict[str, str]) -> list[Row]:
    """One section's rows; one row that says why where it cannot be measured."""
    print(f"measuring: {section} ...", file=sys.stderr)
    if why := absent(section):
        return [Row(section, section, "agent_cache", remark=why)]
    try:
        if section in ON_DISK:
            return asyncio.run(ON_DISK[section](plan))  # type: ignore[arg-type]
        if not servers:
            library = importlib.import_module("agent_cache.testing.servers")
            try:
                servers.append(stack.enter_context(library.RedisServer(library.find_server())))
            except library.ServerNotFoundError as error:
                return [Row(section, section, "Redis", remark=f"missing ({error})")]
            about["redis-server"] = servers[0].binary.label
        servers[0].cli("FLUSHALL")
        return asyncio.run(ON_REDIS[section](plan, servers[0]))  # type: ignore[arg-type]
    except Exception as error:
        traceback.print_exc()
        return [Row(section, section, "agent_cache", remark=f"FAILED: {type(error).__name__}: {error}")]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cost of the disk and Redis backends, beside the bare store.")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, - for standard output")
    parser.add_argument("--rounds", type=int, metavar="N", help="measure N times instead")
    options = parser.parse_args(argv)
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = replace(plan, rounds=options.rounds, lag_rounds=options.rounds)
    about = environment()
    rows: list[Row] = []
    servers: list[Any] = []
    with ExitStack() as stack:
        for section in options.only:
            rows += measured(section, plan, stack, servers, about)
    document = {"environment": about, "quick": options.quick, "rows": [asdict(row) for row in rows]}
    if options.json == "-":
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(f"{name}: {value}" for name, value in about.items()), end="\n\n")
        print(table(rows))
        if options.json:
            Path(options.json).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return int(any(row.remark.startswith("FAILED") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
