"""Few calls, every schedule: what chance may miss, counted through to the end.

One writer and three readers (and one that starts the moment the writer is done) with every combination of delays of
zero to three rounds of the loop at every await; two writers of which one is refused, or says only at the end what it
wrote; a writer, and a reader, cancelled at every step. What belongs here: enumerating. What does not: random schedules (their own module) and the verdict (the
world's).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agent_cache.testing.adapters import Adapter, AgentCacheAdapter, MakeAdapter
from agent_cache.testing.clock import FakeClock, HangError, run_virtual
from agent_cache.testing.litmus import Report
from agent_cache.testing.schedule import WriteFailed
from agent_cache.testing.world import Entity, World

__all__ = ["TOLD", "cancellations", "one_writer", "told_apart", "two_writers"]

_DELAYS = range(4)
_EXAMPLES = 10
_CASES_PER_CACHE = 128
TOLD = ("named", "told", "told, refused", "told, failed", "told, unclear", "refused")
"""What a writer of :func:`told_apart` is: the entity is named by its argument (``named``) or told by its result; which
may not come (it changed nothing, or failed after its commit) or may not say."""


_WITHOUT_EFFECT = frozenset({"no_effect", "refused", "told, refused"})


@dataclass(slots=True, frozen=True)
class _Reads:
    """The read tools: of one entity, and of all."""

    one: Any
    both: Any


@dataclass(slots=True)
class _Case:
    """One schedule: how long each await lasts, and what is cancelled when."""

    name: str
    load_before: int = 0
    load_after: int = 0
    readers: tuple[int, ...] = ()
    """After how many rounds each reader starts."""
    writers: tuple[tuple[int, int, int, str], ...] = ()
    """Start, rounds before and after the commit, and how it ends: ok, refuse, no_effect or one of ``TOLD``."""
    warm: bool = False
    cancel: dict[str, int] = field(default_factory=dict)
    """``{"writer": 3}``: cancel that one in the third round."""
    apart: bool = False
    """The second writer's entity, and the second reader's, is another one; the third reader reads both."""


def one_writer(
    make_adapter: MakeAdapter = AgentCacheAdapter, *, scope: str = "global", warm: bool = False, every: int = 1
) -> Report:
    """One writer, three readers, delays 0 to 3 at every await: 4,096 schedules, or each ``every``-th of them."""
    cases = (
        _Case(f"delays {d}", d[0], d[1], (0, d[2], d[3]), ((0, d[4], d[5], "ok"),), warm)
        for d in itertools.product(_DELAYS, repeat=6)
    )
    return _run(itertools.islice(cases, 0, None, every), make_adapter, scope)


def two_writers(
    make_adapter: MakeAdapter = AgentCacheAdapter, *, ends: str = "refuse", warm: bool = False, every: int = 1
) -> Report:
    """Two writers that overlap, one of which changes nothing (``ends``: refuse or no_effect): 4,096 schedules."""
    cases = (
        _Case(f"delays {d}", d[0], 1, (0, d[1], 3), ((1, d[2], d[3], "ok"), (d[4], d[5], 0, ends)), warm)
        for d in itertools.product(_DELAYS, repeat=6)
    )
    return _run(itertools.islice(cases, 0, None, every), make_adapter, "global")


def told_apart(
    make_adapter: MakeAdapter = AgentCacheAdapter,
    first: str = "told",
    second: str = "named",
    *,
    apart: bool = True,
    warm: bool = True,
    every: int = 1,
) -> Report:
    """Two writers that overlap, each one of ``TOLD``, of one entity or (``apart``) of two of one resource, and three
    readers: of the one, of the other, of both. 4,096 schedules, or each ``every``-th of them."""
    cases = (
        _Case(f"delays {d}", d[0], 1, (0, d[1], 3), ((1, d[2], d[3], first), (d[4], d[5], 1, second)), warm, {}, apart)
        for d in itertools.product(_DELAYS, repeat=6)
    )
    return _run(itertools.islice(cases, 0, None, every), make_adapter, "global")


def cancellations(make_adapter: MakeAdapter = AgentCacheAdapter, *, steps: int = 12, every: int = 1) -> Report:
    """The writer cancelled at every step, and with it each reader at every step; cold and warm."""
    cases = (
        _Case(
            f"writer cancelled in round {write_step}, reader {reader} in round {read_step}, warm={warm}",
            2, 2, (0, 1, 4), ((1, 2, 2, "ok"),), warm, {"writer0": write_step, f"reader{reader}": read_step},
        )
        for warm in (False, True)
        for reader in range(3)
        for write_step in range(steps)
        for read_step in range(steps)
    )  # fmt: skip
    return _run(itertools.islice(cases, 0, None, every), make_adapter, "global")


def _run(cases: Iterable[_Case], make_adapter: MakeAdapter, scope: str) -> Report:
    report = Report()
    todo = iter(cases)
    while some := list(itertools.islice(todo, _CASES_PER_CACHE)):
        left = iter(some)
        for case in left:
            bench = _Bench(report, make_adapter, scope)
            try:
                run_virtual(bench.run, itertools.chain([case], left))
            except HangError as hang:  # go on with the next case, in a fresh loop
                report.hangs += 1
                bench.note(str(hang))
                bench.tally()
    return report


class _Bench:
    """One cache on which one case after another is run, each on an entity of its own."""

    def __init__(self, report: Report, make_adapter: MakeAdapter, scope: str) -> None:
        self._report = report
        self._make_adapter = make_adapter
        self._scope = scope
        self._case = _Case("none")
        self._ident = 0
        self._cancelled: set[str] = set()
        self._loads = 0
        self._over = False
        self.world: World

    async def run(self, cases: Iterable[_Case]) -> None:
        adapter = self._make_adapter(FakeClock(base=asyncio.get_running_loop().time))
        self._adapter = adapter
        self.world = World(adapter.checks, keeps_errors=adapter.keeps_errors)
        read, write = _Reads(*self._read_tools(adapter)), self._write_tools(adapter)
        async with adapter.session("litmus-small", {"tenant": "acme", "user": "u1"}):
            for case in cases:
                self._case = case
                self._ident += 1
                self._cancelled = set()
                self._loads = 0
                before = len(self.world.examples), self.world.violations, self.world.refetched
                await self._play(case, read, write)
                if (self.world.violations, self.world.refetched) != before[1:]:
                    self.note("; ".join(self.world.examples[before[0] :]))
        await adapter.close()
        self.tally()

    def note(self, text: str) -> None:
        if len(self._report.examples) < _EXAMPLES:
            self._report.examples.append(f"{self._case.name}: {text}")

    def tally(self) -> None:
        """Add this bench's world to the report."""
        report, world = self._report, self.world
        report.violations += world.violations
        report.refetched += world.refetched
        report.reads += world.served
        report.loads += len(world.loads)
        report.broken.update(world.broken)

    def _read_tools(self, adapter: Adapter) -> tuple[Any, Any]:
        world = self.world

        async def thing(ident: Any) -> tuple[int, str, tuple[int, ...]]:
            return await load("thing", ident, self._entities(ident))

        async def things(ident: Any) -> tuple[int, str, tuple[int, ...]]:
            return await load("things", ident, self._both(ident))

        async def load(name: str, ident: Any, entities: tuple[Entity, ...]) -> tuple[int, str, tuple[int, ...]]:
            case = self._case
            self._loads += 1
            before, after = case.load_before, case.load_after
            if self._loads % 2 == 0:
                before, after = after, before
            load = world.load_begins((name, str(ident)), "", entities, self._time())
            ok = False
            try:
                await _rounds(before)
                load.sampled = world.current(load.entities)
                await _rounds(after)
                ok = True
            finally:
                world.load_ends(load, ok=ok)
            return (load.number, "", load.sampled)

        return adapter.make_read(thing, "thing:{ident}", self._scope), adapter.make_read(things, "thing", self._scope)

    def _write_tools(self, adapter: Adapter) -> tuple[Any, Any]:
        world = self.world

        async def change_thing(ident: Any, plan: Any) -> Any:
            return await change(plan)

        async def change_some_thing(ident: Any, plan: Any) -> Any:
            return await change(plan)

        async def change(plan: Any) -> Any:
            window, before, after, ends = plan
            try:
                await _rounds(before)
                if ends == "refuse":
                    raise WriteFailed
                if ends in _WITHOUT_EFFECT:
                    window.effect = False
                    raise (adapter.no_effect or WriteFailed)("nothing to do")
                world.commit(window, window.entities)
                await _rounds(after)
                if ends == "told, failed":
                    raise WriteFailed
                return window
            finally:
                window.tool_ended = world.tick()

        named = adapter.make_write(change_thing, "thing:{ident}", "global")
        if not adapter.by_result:
            return named, None
        return named, adapter.make_write(change_some_thing, "thing:{result.ident}", "global")

    def _entities(self, ident: Any) -> tuple[Entity, ...]:
        return (("thing", str(ident)),)

    def _both(self, ident: Any) -> tuple[Entity, ...]:
        return self._entities(ident) + self._entities(_other(ident))

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()

    async def _play(self, case: _Case, read: _Reads, write: Any) -> None:
        loop = asyncio.get_running_loop()
        if case.warm:
            await self._read(read)
            if case.apart:
                await self._read(read, number=1)
                await self._read(read, number=2)
        tasks: dict[str, asyncio.Task[None]] = {}
        for number, start in enumerate(case.readers):
            tasks[f"reader{number}"] = loop.create_task(self._read(read, f"reader{number}", start, number))
        for number, plan in enumerate(case.writers):
            tasks[f"writer{number}"] = loop.create_task(self._write(read, write, number, *plan))
        cancelling = [loop.create_task(self._cancel(name, tasks[name], step)) for name, step in case.cancel.items()]
        await asyncio.wait([*tasks.values(), *cancelling])
        for task in tasks.values():
            if not task.cancelled():
                task.result()
        await asyncio.sleep(2 * self._adapter.settle)
        for number in range(3 if case.apart else 1):
            await self._read(read, number=number)
            loads = self._loads
            await self._read(read, number=number)
            if self._loads != loads and not self._adapter.expires:
                self._report.stuck += 1
                self.note("not cached again")

    async def _cancel(self, name: str, task: asyncio.Task[None], step: int) -> None:
        await _rounds(step)
        if not task.done():
            self._cancelled.add(name)
            task.cancel()

    async def _read(self, read: _Reads, name: str = "", start: int = 0, number: int = 0) -> None:
        """``number``: of one entity, of the other, of both."""
        await _rounds(start)
        self._report.operations += 1
        ident, both = self._ident, number == 2 and self._case.apart
        one = _other(ident) if number == 1 and self._case.apart else ident
        key = ("things", str(ident)) if both else ("thing", str(one))
        entities = self._both(ident) if both else self._entities(one)
        reading = self.world.read_begins("litmus-small", key, "", entities)
        async with self._innocent(name):
            self.world.read_ends(reading, await (read.both(ident) if both else read.one(one)))

    async def _write(
        self, read: _Reads, write: Any, number: int, start: int, before: int, after: int, ends: str
    ) -> None:
        await _rounds(start)
        self._report.operations += 1
        name, told, apart = f"writer{number}", ends.startswith("told"), self._case.apart
        ident = _other(self._ident) if number == 1 and apart else self._ident
        window = self.world.open(self._entities(ident), self._both(self._ident) if told else ())
        window.ident = None if ends == "told, unclear" else ident
        known = False
        try:
            async with self._innocent(name, ends):
                await write[told](ident, (window, before, after, ends))
                known = True
        finally:
            known = known or not window.effect
            self.world.close(window, quiet_at=0.0 if known else self._time() + 1.01 * self._adapter.settle)
        await self._read(read, name, number=number)
        if apart:
            await self._read(read, name, number=2)

    @asynccontextmanager
    async def _innocent(self, name: str, ends: str = "ok") -> AsyncIterator[None]:
        """Nothing may be raised here that the case did not ask for."""
        try:
            yield
        except asyncio.CancelledError:
            if name not in self._cancelled:
                self._spurious(f"{name} was cancelled by nobody")
            raise
        except Exception as error:  # noqa: BLE001 - whatever else a cache raises is the finding
            declared = self._adapter.no_effect or WriteFailed
            asked_for: dict[str, type[Exception]] = dict.fromkeys(_WITHOUT_EFFECT, declared)
            asked_for |= {"refuse": WriteFailed, "told, failed": WriteFailed}
            if ends not in asked_for or not isinstance(error, asked_for[ends]):
                self._spurious(f"{name} raised {error!r}")

    def _spurious(self, text: str) -> None:
        self._report.spurious += 1
        self.note(text)


def _other(ident: Any) -> str:
    """Another entity of the same resource."""
    return f"{ident}-too"


async def _rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
