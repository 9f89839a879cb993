"""What a call costs in the process, beside other caches: hits, misses, a crowd on one cold key, bytes.

    python benchmarks/hit.py [--quick] [--only SECTION ...] [--json FILE]

All contenders of a comparison run interleaved in one process; figures are CPU time. A ratio is taken within
a round, against the FLOOR (or another baseline) of that very round; printed are the median over the rounds
and the middle half of them. FLOOR is `await` of a coroutine that looks up a dict by a tuple key. No figure
here passes or fails: machines differ, ratios less so.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Tool = Callable[..., Awaitable[Any]]
Batch = Callable[[], Coroutine[Any, Any, float]]

SECTIONS = ("hit", "json", "own", "miss", "crowd", "bytes")
ACCELERATORS = ("msgspec", "orjson")
HUGE = 10**9
PAGE = 3
ALL_ON = "nothing: tags, ttl, metrics, session, loop detector on"
SHARES = "shares one object between all callers"


# ------------------------------------------------------------------ what is measured and how


@dataclass(frozen=True)
class Figure:
    """The median of a quantity over the rounds, and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        ordered = sorted(values)
        if len(ordered) < 4:
            return cls(statistics.median(ordered), ordered[0], ordered[-1])
        low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass
class Row:
    """One contender in one comparison."""

    section: str
    case: str
    name: str
    ratio: Figure | None = None
    microseconds: float | None = None
    goal: str = ""
    remark: str = ""
    leaves_out: str = ""


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int
    batch_seconds: float
    misses: int
    callers: int
    crowd_rounds: int
    entries: int


FULL = Plan(rounds=25, batch_seconds=0.02, misses=2_000, callers=10_000, crowd_rounds=9, entries=100_000)
QUICK = Plan(rounds=7, batch_seconds=0.005, misses=500, callers=2_000, crowd_rounds=3, entries=20_000)


async def interleave(batches: dict[str, Batch], rounds: int) -> dict[str, list[float]]:
    """Run every batch once per round, in another order each round, and collect what each returned."""
    times: dict[str, list[float]] = {name: [] for name in batches}
    order = list(batches)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            gc.collect()
            seconds = await batches[name]()
            if number:  # the first round warms up
                times[name].append(seconds)
    return times


def ratios(times: dict[str, list[float]], name: str, baseline: str) -> Figure:
    return Figure.of([mine / base for mine, base in zip(times[name], times[baseline], strict=True)])


def micro(values: Sequence[float]) -> float:
    return statistics.median(values) * 1e6


async def small_calls(call: Tool, times: int) -> float:
    """CPU seconds per call, the calls written out so that the loop around them weighs nothing."""
    user = "user-17"
    start = time.process_time_ns()
    for _ in range(times):
        await call(user_id=user, page=PAGE)
        await call(user_id=user, page=PAGE)
        await call(user_id=user, page=PAGE)
        await call(user_id=user, page=PAGE)
        await call(user_id=user, page=PAGE)
        await call(user_id=user, page=PAGE)
        await call(user_id=user, page=PAGE)
        await call(user_id=user, page=PAGE)
    return (time.process_time_ns() - start) / 1e9 / (8 * times)


async def json_calls(call: Tool, times: int) -> float:
    """As `small_calls`, with a nested argument that is a new object each time, as a framework passes it."""
    a, b, c, d, e, f, g, h = (copy.deepcopy(QUERY) for _ in range(8))
    start = time.process_time_ns()
    for _ in range(times):
        await call(query=a)
        await call(query=b)
        await call(query=c)
        await call(query=d)
        await call(query=e)
        await call(query=f)
        await call(query=g)
        await call(query=h)
    return (time.process_time_ns() - start) / 1e9 / (8 * times)


async def sync_calls(call: Callable[[], object], times: int) -> float:
    start = time.process_time_ns()
    for _ in range(times):
        call()
    return (time.process_time_ns() - start) / 1e9 / times


async def sized(measure: Callable[[Any, int], Awaitable[float]], call: Any, plan: Plan) -> Batch:
    """A batch of about the planned duration, found by trial."""
    times = 1
    while True:
        seconds = await measure(call, times)
        if seconds * 8 * times > plan.batch_seconds / 8 or times > 1_000_000:
            break
        times *= 2
    times = max(1, round(plan.batch_seconds / (8 * max(seconds, 1e-9))))

    async def batch() -> float:
        return await measure(call, times)

    return batch


# ------------------------------------------------------------------ values and arguments

QUERY: dict[str, Any] = {
    "filter": {"status": ["open", "pending"], "assignee": {"id": 4711, "team": "billing"}, "archived": False},
    "sort": [{"field": "created", "order": "desc"}, {"field": "priority", "order": "asc"}],
    "limit": 50,
    "cursor": None,
}


def permuted(value: Any) -> Any:
    """The same content with every mapping in reverse order."""
    if isinstance(value, dict):
        return {key: permuted(item) for key, item in reversed(list(value.items()))}
    return [permuted(item) for item in value] if isinstance(value, list) else value


def tree(rows: int) -> dict[str, Any]:
    """A JSON result: a row is about 100 bytes."""
    return {
        "total": rows,
        "items": [
            {
                "id": n,
                "name": f"item {n}",
                "price": n * 1.5,
                "tags": ["a", "b"],
                "stock": {"here": 3},
            }
            for n in range(rows)
        ],
    }


TREES = {"200 B": tree(2), "10 KB": tree(105), "1 MB": tree(10_000)}
KILOBYTE = tree(10)


def spoil(value: Any) -> None:
    """What a careless caller does to its result, deep inside."""
    value["items"][0]["tags"].append("spoilt")


# ------------------------------------------------------------------ contenders


def optional(name: str) -> Any:
    """A module that may not be installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def json_key() -> tuple[str, Callable[[Any], str]]:
    """The fastest canonical JSON text at hand, for rivals that cannot key a dict."""
    orjson = optional("orjson")
    if orjson is not None:
        return "orjson key", lambda value: orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return "json key", lambda value: json.dumps(value, sort_keys=True)


class Library:
    """A cache library in its best configuration for each comparison."""

    name = ""
    distribution = ""
    leaves_out = ""

    def small(self, body: Tool, size: int) -> Tool:
        """A tool of (user_id, page), at most `size` entries."""
        raise NotImplementedError

    def nested(self, body: Tool) -> Tool:
        """A tool of (query)."""
        raise NotImplementedError

    def own(self, body: Tool) -> Tool | None:
        """A tool of (user_id, page) whose every caller gets a value of its own, if that can be had."""
        return None

    def crowd(self, body: Tool, size: int) -> Tool:
        """A tool of (user_id, page) with the library's protection against a crowd on a cold key."""
        return self.small(body, size)


class AsyncLru(Library):
    name = distribution = "async-lru"
    leaves_out = "tags, scopes, own values, loops; bound to one event loop"

    def __init__(self) -> None:
        self._wrap = importlib.import_module("async_lru").alru_cache

    def small(self, body: Tool, size: int) -> Tool:
        tool: Tool = self._wrap(maxsize=size, ttl=3600)(body)
        return tool

    def nested(self, body: Tool) -> Tool:
        _, dumps = json_key()
        tool: Tool = self._wrap(maxsize=1024, ttl=3600, key=lambda query: dumps(query))(body)
        return tool


class Cachebox(Library):
    name = distribution = "cachebox"
    leaves_out = "tags, scopes, loops; own values by deepcopy; a cancelled caller cancels the others"

    def __init__(self) -> None:
        self._box = importlib.import_module("cachebox")

    def _wrap(self, body: Tool, size: int, **options: Any) -> Tool:
        tool: Tool = self._box.cached(self._box.TTLCache(size, global_ttl=3600), **options)(body)
        return tool

    def small(self, body: Tool, size: int) -> Tool:
        return self._wrap(body, size, postprocess=None)

    def nested(self, body: Tool) -> Tool:
        _, dumps = json_key()
        return self._wrap(body, 1024, postprocess=None, key_maker=lambda query: dumps(query))

    def own(self, body: Tool) -> Tool:
        return self._wrap(body, 1024, postprocess=self._box.postprocess_deepcopy)


class Aiocache(Library):
    name = distribution = "aiocache"
    leaves_out = "tags, scopes, loops, None as a value, a size limit, here also ttl; own values by pickle"

    def __init__(self) -> None:
        self._lib = importlib.import_module("aiocache")

    @staticmethod
    def _small_key(function: object, user_id: str, page: int) -> str:
        return f"{user_id}:{page}"

    def small(self, body: Tool, size: int) -> Tool:
        tool: Tool = self._lib.cached(ttl=None, timeout=None, key_builder=self._small_key)(body)
        return tool

    def nested(self, body: Tool) -> Tool:
        _, dumps = json_key()
        wrap = self._lib.cached(ttl=None, timeout=None, key_builder=lambda function, query: dumps(query))
        tool: Tool = wrap(body)
        return tool

    def own(self, body: Tool) -> Tool:
        serializer = importlib.import_module("aiocache.serializers").PickleSerializer()
        wrap = self._lib.cached(ttl=None, timeout=None, key_builder=self._small_key, serializer=serializer)
        tool: Tool = wrap(body)
        return tool

    def crowd(self, body: Tool, size: int) -> Tool:
        wrap = self._lib.cached_stampede(lease=30, ttl=None, timeout=None, key_builder=self._small_key)
        tool: Tool = wrap(body)
        return tool


class Cashews(Library):
    name = distribution = "cashews"
    leaves_out = "scopes, own values, loops; a cancelled caller cancels the others"

    def __init__(self) -> None:
        self._cache = importlib.import_module("cashews").Cache

    def _wrap(self, body: Tool, size: int, key: str, protected: bool) -> Tool:
        cache = self._cache()
        cache.setup("mem://", size=size, check_interval=0)
        tool: Tool = cache(ttl=3600, key=key, protected=protected)(body)
        return tool

    def small(self, body: Tool, size: int) -> Tool:
        return self._wrap(body, size, "{user_id}:{page}", protected=False)

    def nested(self, body: Tool) -> Tool:
        return self._wrap(body, 1024, "{query}", protected=False)

    def crowd(self, body: Tool, size: int) -> Tool:
        return self._wrap(body, size, "{user_id}:{page}", protected=True)


RIVALS: tuple[type[Library], ...] = (Cachebox, AsyncLru, Aiocache, Cashews)


class Ours(Library):
    """agent_cache. What is on is said in `case`: the tags by `resource`, who shares by `scope`."""

    distribution = "agent-cache"

    def __init__(self, resource: str = "orders:{user_id}", scope: str = "session") -> None:
        self._ac = importlib.import_module("agent_cache")
        self._resource = resource
        self._scope = scope
        self.name = f"agent_cache, scope={scope}" + (", entity tag" if "{" in resource else "")

    def _wrap(self, body: Tool, size: int | None, resource: str) -> Tool:
        backend = self._ac.MemoryBackend(max_size=max(size or 0, 10_000) * 2)
        wrap = self._ac.AgentCache(resource, scope=self._scope, ttl=3600, maxsize=size, backend=backend)
        tool: Tool = wrap(body)
        return tool

    def small(self, body: Tool, size: int) -> Tool:
        return self._wrap(body, size, self._resource)

    def nested(self, body: Tool) -> Tool:
        return self._wrap(body, 1024, "orders")

    def own(self, body: Tool) -> Tool:
        return self.small(body, 1024)


def open_session(max_tool_repeats: int = HUGE) -> AbstractAsyncContextManager[Any]:
    """A session with an identity and the full loop detector: it works, its limits are out of reach."""
    ac = importlib.import_module("agent_cache")
    session: AbstractAsyncContextManager[Any] = ac.AgentCacheSession(
        identity={"tenant": "acme", "user": "u1"},
        max_tool_repeats=max_tool_repeats,
        max_execution_depth=HUGE,
    )
    return session


def rivals(section: str, case: str) -> tuple[list[Library], list[Row]]:
    """The rivals at hand, and a row for each that is missing."""
    present: list[Library] = []
    missing: list[Row] = []
    for rival in RIVALS:
        try:
            present.append(rival())
        except ImportError:
            install = f"missing (pip install {rival.distribution})"
            missing.append(Row(section, case, rival.name, remark=install))
    return present, missing


class Source:
    """Makes tools with a result, and counts how often they really ran. Every tool gets a name of its own."""

    _made = 0

    def __init__(self, value: Any = "shipped", seconds: float = 0) -> None:
        self.value = value
        self.seconds = seconds
        self.loads = 0

    def small(self) -> Tool:
        """A tool of (user_id, page); a mapping is made anew by each load, as a client library does."""
        source = self
        if isinstance(self.value, str):

            async def text(user_id: str, page: int) -> str:
                await source.load()
                return "shipped"

            return self._named(text)

        async def mapping(user_id: str, page: int) -> dict[str, Any]:
            await source.load()
            return copy.deepcopy(dict(source.value))

        return self._named(mapping)

    def nested(self) -> Tool:
        """A tool of (query)."""
        source = self

        async def search(query: dict[str, Any]) -> str:
            await source.load()
            return "shipped"

        return self._named(search)

    async def load(self) -> None:
        self.loads += 1
        if self.seconds:
            await asyncio.sleep(self.seconds)

    @staticmethod
    def _named(function: Tool) -> Tool:
        Source._made += 1
        function.__name__ = function.__qualname__ = f"tool_{Source._made}"
        return function


def all_hits(source: Source) -> str:
    """Says so when what was measured were not hits."""
    return "" if source.loads == 1 else f"NOT HITS: the tool ran {source.loads} times"


def notes(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


FLOOR_TABLE = {("user-17", PAGE): "shipped"}


async def floor(user_id: str, page: int) -> str:
    return FLOOR_TABLE[user_id, page]


# ------------------------------------------------------------------ near hits


async def section_hit(plan: Plan) -> list[Row]:
    case = "near hit, small arguments"
    others, rows = rivals("hit", case)
    ours = [Ours(scope=scope) for scope in ("session", "user", "global")]
    sources: dict[str, Source] = {}
    async with open_session():
        batches: dict[str, Batch] = {"FLOOR": await sized(small_calls, floor, plan)}
        for library in (*ours, *others):
            sources[library.name] = Source()
            call = library.small(sources[library.name].small(), 1024)
            assert await call(user_id="user-17", page=PAGE) == "shipped"
            batches[library.name] = await sized(small_calls, call, plan)
        times = await interleave(batches, plan.rounds)
    for library in (*ours, *others):
        mine = isinstance(library, Ours)
        rows.append(
            Row(
                "hit",
                case,
                library.name,
                ratios(times, library.name, "FLOOR"),
                micro(times[library.name]),
                goal="<= 2.5" if mine else "",
                remark=all_hits(sources[library.name]),
                leaves_out=ALL_ON if mine else library.leaves_out,
            )
        )
    rows.append(Row("hit", case, "FLOOR", Figure(1, 1, 1), micro(times["FLOOR"])))
    return rows


async def section_json(plan: Plan) -> list[Row]:
    case = "near hit, nested JSON arguments"
    key_name, _ = json_key()
    others, rows = rivals("json", case)
    ours = Ours(resource="orders")
    remarks: dict[str, str] = {}
    sources: dict[str, Source] = {}
    async with open_session():
        batches: dict[str, Batch] = {"FLOOR": await sized(small_calls, floor, plan)}
        for library in (ours, *others):
            sources[library.name] = Source()
            call = library.nested(sources[library.name].nested())
            await call(query=copy.deepcopy(QUERY))
            remarks[library.name] = await nested_remark(library)
            batches[library.name] = await sized(json_calls, call, plan)
        times = await interleave(batches, plan.rounds)
    for library in (ours, *others):
        mine = library is ours
        named = "" if mine or isinstance(library, Cashews) else key_name
        rows.append(
            Row(
                "json",
                case,
                library.name,
                ratios(times, library.name, "FLOOR"),
                micro(times[library.name]),
                goal="<= 5.5" if mine else "",
                remark=notes(all_hits(sources[library.name]), named, remarks[library.name]),
                leaves_out="" if mine else library.leaves_out,
            )
        )
    rows.append(Row("json", case, "FLOOR", Figure(1, 1, 1), micro(times["FLOOR"])))
    return rows


async def nested_remark(library: Library) -> str:
    """Is the same content in another order a hit, and are different types told apart?"""
    source = Source()
    call = library.nested(source.nested())
    await call(query=QUERY)
    await call(query=permuted(QUERY))
    order = "order ignored" if source.loads == 1 else "another order misses"
    await call(query=QUERY | {"limit": 1})
    before = source.loads
    await call(query=QUERY | {"limit": True})
    await call(query=QUERY | {"limit": "1"})
    return f"{order}, " + ("types told apart" if source.loads == before + 2 else "1, True or '1' CONFUSED")


# ------------------------------------------------------------------ a result of its own


async def section_own(plan: Plan) -> list[Row]:
    rows: list[Row] = []
    installed = [name for name in ACCELERATORS if optional(name) is not None]
    with_what = "with " + " and ".join(installed) + " installed" if installed else "pure Python codecs"
    for size, value in TREES.items():
        case = f"mutable result of {size}, own value per caller, x faster than deepcopy"
        others, missing = rivals("own", case)
        rows += missing
        ours = Ours(resource="orders")
        faithful: dict[str, bool] = {}
        sources: dict[str, Source] = {}
        async with open_session():

            def bare(value: dict[str, Any] = value) -> object:
                return copy.deepcopy(value)

            batches: dict[str, Batch] = {"deepcopy": await sized(sync_calls, bare, plan)}
            for library in (ours, *others):
                source = sources[library.name] = Source(value)
                call = library.own(source.small())
                if call is None:
                    rows.append(Row("own", case, library.name, remark=SHARES))
                    continue
                await call(user_id="user-17", page=PAGE)
                spoil(await call(user_id="user-17", page=PAGE))
                faithful[library.name] = await call(user_id="user-17", page=PAGE) == value
                batches[library.name] = await sized(small_calls, call, plan)
            times = await interleave(batches, max(3, plan.rounds // 2))
        for library in (ours, *others):
            if library.name not in faithful:
                continue
            mine = library is ours
            remark = "own value" if faithful[library.name] else "A CALLER'S MUTATION REACHED THE NEXT"
            rows.append(
                Row(
                    "own",
                    case,
                    library.name,
                    ratios(times, "deepcopy", library.name),
                    micro(times[library.name]),
                    goal=">= 9 with a library, >= 4 without" if mine else "",
                    remark=notes(all_hits(sources[library.name]), remark, with_what if mine else ""),
                    leaves_out="" if mine else library.leaves_out,
                )
            )
        rows.append(Row("own", case, "deepcopy", Figure(1, 1, 1), micro(times["deepcopy"])))
    return rows


# ------------------------------------------------------------------ misses


async def section_miss(plan: Plan) -> list[Row]:
    """The cost of a miss beyond the trivial tool itself, in a full cache of 1,024 entries."""
    case = "miss overhead, trivial tool, x cachebox"
    others, rows = rivals("miss", case)
    ours = [Ours(resource="orders"), Ours(), Ours(resource="orders", scope="global")]
    counter = iter(range(HUGE))

    def misses(call: Tool) -> Batch:
        async def batch() -> float:
            users = [f"u{next(counter)}" for _ in range(plan.misses)]
            start = time.process_time_ns()
            for user in users:
                await call(user_id=user, page=PAGE)
            return (time.process_time_ns() - start) / 1e9 / plan.misses

        return batch

    async with open_session():
        batches: dict[str, Batch] = {"tool": misses(Source().small())}
        for library in (*ours, *others):
            batches[library.name] = misses(library.small(Source().small(), 1024))
        raw = await interleave(batches, plan.rounds)
    over = {
        name: [max(mine - bare, 1e-9) for mine, bare in zip(values, raw["tool"], strict=True)]
        for name, values in raw.items()
    }
    base = Cachebox.name if Cachebox.name in over else ours[0].name
    for library in (*ours, *others):
        mine = isinstance(library, Ours)
        rows.append(
            Row(
                "miss",
                case if base == Cachebox.name else f"miss overhead, trivial tool, x {base}",
                library.name,
                ratios(over, library.name, base),
                micro(over[library.name]),
                goal="<= 0.4" if mine else "",
                leaves_out="" if mine else library.leaves_out,
            )
        )
    return rows


# ------------------------------------------------------------------ a crowd on one cold key


async def section_crowd(plan: Plan) -> list[Row]:
    rows: list[Row] = []
    for what, value in (("an immutable result", "shipped"), ("a 1 KB JSON result", KILOBYTE)):
        case = f"{plan.callers:,} callers on one cold key, {what}, x sharing one Task"
        others, missing = rivals("crowd", case)
        rows += missing
        ours = Ours(resource="orders")
        sources = {one.name: Source(value, seconds=0.02) for one in (ours, *others)}
        calls = {one.name: one.crowd(sources[one.name].small(), 1024) for one in (ours, *others)}
        pages = iter(range(HUGE))

        async def shared(value: Any = value) -> float:
            body = Source(value, seconds=0.02).small()
            start = time.process_time_ns()
            task = asyncio.ensure_future(body("user-17", 0))

            async def caller() -> Any:
                return await task

            await asyncio.gather(*(caller() for _ in range(plan.callers)))
            return (time.process_time_ns() - start) / 1e9 / plan.callers

        def crowd(call: Tool, pages: Iterable[int] = pages) -> Batch:
            async def batch() -> float:
                page = next(iter(pages))
                start = time.process_time_ns()
                await asyncio.gather(*(call(user_id="user-17", page=page) for _ in range(plan.callers)))
                return (time.process_time_ns() - start) / 1e9 / plan.callers

            return batch

        async with open_session():
            batches: dict[str, Batch] = {"one Task": shared}
            batches |= {name: crowd(call) for name, call in calls.items()}
            times = await interleave(batches, plan.crowd_rounds)
            runs = {name: source.loads / (plan.crowd_rounds + 1) for name, source in sources.items()}
            after = {name: await cancel_first(calls[name], sources[name], next(pages)) for name in calls}
        for library in (ours, *others):
            mine = library is ours
            rows.append(
                Row(
                    "crowd",
                    case,
                    library.name,
                    ratios(times, library.name, "one Task"),
                    micro(times[library.name]),
                    goal="1 load, <= 2, no waiter harmed" if mine else "",
                    remark=f"loads {runs[library.name]:g}; first cancelled: {after[library.name]}",
                    leaves_out="" if mine else library.leaves_out,
                )
            )
        rows.append(Row("crowd", case, "one Task", Figure(1, 1, 1), micro(times["one Task"])))
    return rows


async def cancel_first(call: Tool, source: Source, page: int, callers: int = 100) -> str:
    """Cancel the first caller while the tool runs, and see what the others get."""
    source.loads = 0
    tasks = [asyncio.ensure_future(call(user_id="user-17", page=page)) for _ in range(callers)]
    await asyncio.sleep(0.005)
    tasks[0].cancel()
    _, pending = await asyncio.wait(tasks, timeout=5)
    for task in pending:
        task.cancel()
    outcomes = await asyncio.gather(*tasks[1:], return_exceptions=True)
    served = sum(outcome == source.value for outcome in outcomes)
    if pending:
        return f"{len(pending)} of {callers - 1} others HANG"
    text = f"{served} of {callers - 1} others served"
    if served < callers - 1:
        text = f"{callers - 1 - served} of {callers - 1} others CANCELLED OR FAILED"
    return f"{text}, {source.loads} load{'s' if source.loads != 1 else ''}"


# ------------------------------------------------------------------ bytes per entry

STORES: dict[str, Callable[[], Library]] = {
    "agent_cache, scope=global": lambda: Ours(resource="orders", scope="global"),
    "agent_cache, scope=global, entity tag": lambda: Ours(scope="global"),
    "agent_cache, scope=session": lambda: Ours(resource="orders"),
    **{rival.name: rival for rival in RIVALS},
}


def resident_bytes() -> int:
    """Resident memory: it sees what extensions allocate. Without /proc the peak stands in."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


async def bytes_of(name: str, entries: int) -> float:
    """Grow one store in this (fresh) process. Arguments exist before; the result is one shared constant."""
    library = STORES[name]()
    users = [f"user-{number}" for number in range(entries)]
    # No call is repeated here. What the detector remembers may grow with the limit, so it gets a usual one.
    session = open_session(max_tool_repeats=5) if "scope=session" in name else nullcontext()
    async with session:
        call = library.small(Source().small(), entries + 5_000)
        for number in range(2_000):
            await call(user_id=f"warm-{number}", page=PAGE)
        gc.collect()
        before = resident_bytes()
        for user in users:
            await call(user_id=user, page=PAGE)
        gc.collect()
        return (resident_bytes() - before) / entries


def section_bytes(plan: Plan) -> list[Row]:
    case = f"bytes per entry, {plan.entries:,} entries, x cachebox"
    figures: dict[str, float] = {}
    rows: list[Row] = []
    for name in STORES:
        command = [sys.executable, str(Path(__file__).resolve()), "--bytes-of", name, str(plan.entries)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            figures[name] = float(done.stdout)
        else:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1]
            missing = "ModuleNotFoundError" in reason
            rows.append(Row("bytes", case, name, remark="missing" if missing else f"failed: {reason}"))
    base = figures.get(Cachebox.name)
    for name, figure in figures.items():
        ratio = None if not base else Figure(figure / base, figure / base, figure / base)
        goal = "<= 2.5" if name.startswith("agent_cache") else ""
        rows.append(Row("bytes", case, name, ratio, goal=goal, remark=f"{figure:.0f} bytes"))
    return rows


# ------------------------------------------------------------------ report


def table(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    for case in dict.fromkeys(row.case for row in rows):
        lines += ["", case]
        lines.append(f"  {'':<42}{'ratio':>8}  {'middle half':<15}{'us':>10}  remark / what it leaves out")
        for row in (row for row in rows if row.case == case):
            ratio = f"{row.ratio.median:.2f}" if row.ratio else "-"
            spread = f"{row.ratio.low:.2f}..{row.ratio.high:.2f}" if row.ratio else ""
            cost = f"{row.microseconds:.2f}" if row.microseconds is not None else ""
            goal = f"goal {row.goal}" if row.goal else ""
            said = " / ".join(note for note in (goal, row.remark, row.leaves_out) if note)
            lines.append(f"  {row.name:<42}{ratio:>8}  {spread:<15}{cost:>10}  {said}".rstrip())
    return "\n".join(lines).lstrip("\n")


def environment() -> dict[str, str]:
    """What the figures depend on."""
    names = ["pydantic", *ACCELERATORS, *(rival.distribution for rival in RIVALS)]
    about = {"python": platform.python_version(), "implementation": platform.python_implementation()}
    about["agent_cache"] = getattr(optional("agent_cache"), "__version__", "missing")
    about |= {"system": f"{platform.system()} {platform.machine()}", "cpus": str(os.cpu_count())}
    about |= {name: version(name) for name in names}
    hidden = [name for name in ACCELERATORS if name in sys.modules and sys.modules[name] is None]
    return about | ({"hidden": ", ".join(hidden)} if hidden else {})


def without_accelerators(sections: Sequence[str], quick: bool) -> list[Row]:
    """Our own rows again, in a process that cannot import the optional accelerators."""
    wanted = [section for section in sections if section in ("json", "own")]
    if not wanted or not any(optional(name) for name in ACCELERATORS):
        return []
    command = [sys.executable, str(Path(__file__).resolve()), "--plain", "--json", "-", "--only", *wanted]
    command += ["--quick"] if quick else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    again: list[Row] = []
    for row in json.loads(done.stdout)["rows"]:
        if row["name"].startswith("agent_cache"):
            row["name"] += ", plain Python"
            again.append(Row(**row | {"ratio": Figure(**row["ratio"]) if row["ratio"] else None}))
    return again


async def measure(sections: Sequence[str], plan: Plan) -> list[Row]:
    rows: list[Row] = []
    runs = {
        "hit": section_hit,
        "json": section_json,
        "own": section_own,
        "miss": section_miss,
        "crowd": section_crowd,
    }
    for section in sections:
        if section in runs:
            print(f"measuring: {section} ...", file=sys.stderr)
            rows += await runs[section](plan)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="CPU cost of a call in the process, beside other caches.")
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
    parser.add_argument("--plain", action="store_true", help=f"hide {' and '.join(ACCELERATORS)}")
    parser.add_argument("--bytes-of", nargs=2, metavar=("NAME", "ENTRIES"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    plan = QUICK if options.quick else FULL

    if options.bytes_of:
        print(asyncio.run(bytes_of(options.bytes_of[0], int(options.bytes_of[1]))))
        return 0
    if options.plain:
        for name in ACCELERATORS:
            sys.modules[name] = None  # type: ignore[assignment]
    rows = asyncio.run(measure(options.only, plan))
    if not options.plain:
        rows += without_accelerators(options.only, options.quick)
    if "bytes" in options.only:
        print("measuring: bytes ...", file=sys.stderr)
        rows += section_bytes(plan)
    document = {"environment": environment(), "quick": options.quick, "rows": [asdict(row) for row in rows]}
    if options.json == "-":
        print(json.dumps(document, indent=1))
        return 0
    print("\n".join(f"{name}: {value}" for name, value in environment().items()), end="\n\n")
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
