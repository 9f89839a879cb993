"""A worker whose sessions each have a world of their own, begun in one of a few states: what ``scope="lineage"`` is for.

A world is a pure function of its start and of the writes made in it, which fail and refuse by what they find there; so
sessions of all processes come through the same states, and share reads. The worker judges by itself: a read may say
what its own world was from the moment it began, and never what only another one became.

What belongs here: worlds, rollouts, their verdicts. What does not: adding up (the referee), how it is cached (shapes).
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
import itertools
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

from agent_cache.testing.processes.caches import Tool
from agent_cache.testing.processes.orders import Config, LoadFailed, Obedient, WriteFailed

__all__ = ["Rollouts", "World"]

_STARTS = 3
_ROLLOUTS = 6  # at a time
_COLD = "cold"
_WHOSE = ({"tenant": "acme", "user": "u1"}, {"tenant": "acme", "user": "u2"})
_world: ContextVar[World] = ContextVar("litmus_world")


class World:
    """What one session's tools see and change."""

    def __init__(self, start: str, idents: int) -> None:
        self.start = start
        self._lock = threading.Lock()
        self._history = [[_digest(start, ident)] for ident in range(idents)]
        self._returned = [0] * idents

    def now(self, entities: list[int]) -> list[str]:
        """What they are, all at one moment."""
        with self._lock:
            return [self._history[entity][-1] for entity in entities]

    def floors(self, entities: list[int]) -> list[tuple[int, int]]:
        """What a read that begins now may not fall behind: of each, what was committed, and of that what has ended."""
        with self._lock:
            return [(len(self._history[entity]) - 1, self._returned[entity]) for entity in entities]

    def write(self, tool: str, entities: list[int], argument: int) -> str:
        """Do what this call does in this state, all at one moment; how it goes on."""
        with self._lock:
            found = [self._history[entity][-1] for entity in entities]
            drawn = int(_digest(tool, argument, *found)[:4], 16) % 10
            how = {0: "refused", 1: "no effect", 2: "no effect told", 3: "fails"}.get(drawn, "done")
            if how in ("fails", "done"):
                for entity, was in zip(entities, found, strict=True):
                    self._history[entity].append(_digest(tool, argument, was))
            return how

    def heard(self) -> None:
        """A write has ended: whatever was committed is known to have been."""
        with self._lock:
            self._returned = [len(history) - 1 for history in self._history]

    def judge(self, entities: list[int], floors: list[tuple[int, int]], value: object) -> set[str]:
        """What an answer breaks; ``floors``: from when its call began."""
        if not isinstance(value, list) or len(value) != len(entities):
            return {"P2"}
        broken: set[str] = set()
        with self._lock:
            for entity, (committed, returned), said in zip(entities, floors, value, strict=True):
                if said not in self._history[entity]:
                    broken.add("P3")
                    continue
                place = self._history[entity].index(said)
                if place < committed:
                    broken.add("C0")
                if place < returned:
                    broken.add("C1")
        return broken


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


class Rollouts(Obedient):
    """Sessions with worlds of their own; the parent hears what a :class:`.worker.Worker` would tell."""

    _cache: Any
    """One that has rollouts."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._names = itertools.count()
        self._numbers = itertools.count(config.worker << 32)
        self._everything = list(range(config.idents))
        self._loads = 0
        self._calm = False
        self._reads: list[tuple[Tool, bool]] = [
            (self._make_read("item", threaded=False), False),
            (self._make_read("item_in_thread", threaded=True), False),
            (self._make_read("items", threaded=False, whole=True), True),
        ]
        self._writes: list[tuple[Tool, bool]] = [
            (self._make_write("change", "item:{ident}", "lineage"), False),
            (self._make_write("change_in_thread", "item:{ident}", "lineage", threaded=True), False),
            (self._make_write("change_told", "item:{result[ident]}", "lineage"), False),
            (self._make_write("change_for_all", "item:{ident}", "global"), False),
            (self._make_write("change_items", "item", "lineage"), True),
        ]

    async def _work(self) -> None:
        self._lanes += [asyncio.create_task(self._on_and_on()) for _ in range(_ROLLOUTS)]
        await self._quit.wait()

    # -- what the parent says -------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._running = False
        for ended in await asyncio.gather(*self._lanes, return_exceptions=True):
            if isinstance(ended, BaseException):
                self._client.tell("spurious", f"a rollout ended with {ended!r}")
        self._calm = True

    async def _storm(self, number: int, callers: int) -> None:
        """Many sessions at once that begin where nobody has been: one load will do."""

        async def one() -> None:
            async with self._rollout(f"{_COLD}{number}", _WHOSE[0]) as world:
                await self._read(world, *self._reads[0], 0)

        await asyncio.gather(*(asyncio.create_task(one()) for _ in range(callers)))

    async def _look(self) -> None:
        """The same rollout twice: right, and the second time without a load."""
        for time in range(2):
            before = self._loads
            async with self._rollout("start0", _WHOSE[0]) as world:
                for argument in range(2):
                    for read, whole in self._reads:
                        for ident in [0] if whole else self._everything:
                            if await self._read(world, read, whole, ident) is None:
                                self._client.tell("stuck", f"no answer for {ident} of {world.start}")
                    await self._write(world, *self._writes[0], 0, argument)
            if time and self._loads > before:
                self._client.tell("uncached", f"{self._loads - before} loads of a rollout made a second time")

    # -- rollouts -------------------------------------------------------------------------------------------------

    def _rollout(self, start: str, identity: dict[str, str]) -> _InWorld:
        world = World(start, self._config.idents)
        name = f"{self._config.prefix}{self._config.worker}-{next(self._names)}"
        return _InWorld(world, self._cache.rollout(name, identity, start))

    async def _on_and_on(self) -> None:
        while self._running:
            start = f"start{self._rng.randrange(_STARTS)}"
            async with self._rollout(start, self._rng.choice(_WHOSE)) as world:
                for _ in range(self._rng.randint(3, 12)):
                    await self._step(world)

    async def _step(self, world: World) -> None:
        rng, mix = self._rng, self._mix
        calls = [self._some_call(world, writes=rng.random() < mix.writes * 2)]
        if rng.random() < mix.twins:
            calls.append(self._some_call(world, writes=rng.random() < mix.writes * 3))
        tasks = [asyncio.create_task(call) for call in calls]
        cancelled: list[asyncio.Task[Any]] = []
        if rng.random() < mix.cancels:
            cancelled.append(tasks[0])
            asyncio.get_running_loop().call_later(rng.uniform(0, 0.006), tasks[0].cancel)
        await asyncio.wait(tasks)
        for task in tasks:
            if task.cancelled():
                if task not in cancelled:
                    self._client.tell("spurious", "a call was cancelled by nobody")
            elif (error := task.exception()) is not None:
                self._client.tell("spurious", f"a call ended with {error!r}")
        if rng.random() < 0.2:
            await self._pause()

    def _some_call(self, world: World, *, writes: bool) -> Coroutine[Any, Any, Any]:
        ident = self._rng.randrange(min(2, self._config.idents))  # few ways to go, so that many go the same
        if writes:
            return self._write(world, *self._rng.choice(self._writes), ident, self._rng.randrange(2))
        return self._read(world, *self._rng.choice(self._reads), ident)

    async def _pause(self) -> None:
        drawn = self._rng.random()
        if self._calm or drawn < 0.3:
            return
        await asyncio.sleep(self._rng.uniform(0.03, 0.1) if drawn > 0.995 else self._rng.uniform(0, 0.004))

    # -- calls ----------------------------------------------------------------------------------------------------

    async def _read(self, world: World, read: Tool, whole: bool, ident: int) -> Any:
        number, client = next(self._numbers), self._client
        entities = self._everything if whole else [ident]
        client.tell("ob", number, f"a read of {entities} from {world.start}")
        floors, broken, text = world.floors(entities), list[str](), ""
        value: Any = None
        try:
            value = await _called(read, ident)
            broken = sorted(world.judge(entities, floors, value))
            text = f"{entities} from {world.start} is {value}, floors {floors}" if broken else ""
        except LoadFailed:
            pass
        except Exception as error:  # noqa: BLE001 - whatever else a cache raises is the finding
            client.tell("spurious", f"a read raised {error!r}")
        finally:
            client.tell("oe", number, value is not None, broken, text)
        return value

    async def _write(self, world: World, write: Tool, whole: bool, ident: int, argument: int) -> None:
        number, client, how = next(self._numbers), self._client, "raised"
        client.tell("ob", number, f"a write from {world.start}")
        try:
            result = await _called(write, ident, argument)
            how = "no effect" if result["refused"] else "returned"
        except (WriteFailed, TimeoutError):
            pass
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        except Exception as error:  # noqa: BLE001 - as above
            if isinstance(error, self._cache.no_effect):
                how = "no effect"
            elif self._cache.refused(error):
                how = "refused"
            else:
                client.tell("spurious", f"a write raised {error!r}")
        finally:
            world.heard()
            client.tell("ow", number, how)

    # -- the tools ------------------------------------------------------------------------------------------------

    def _make_read(self, name: str, *, threaded: bool, whole: bool = False) -> Tool:
        def begins() -> World:
            world = _world.get()
            self._loads += 1
            storm = world.start.removeprefix(_COLD)
            say = self._client.tell_from_thread if threaded else self._client.tell
            say("ol", f"item_for_all({storm})@" if storm != world.start else "")
            if not self._calm and self._rng.random() < self._mix.load_faults:
                raise LoadFailed(0)
            return world

        async def read(ident: Any) -> Any:
            world = begins()
            await self._pause()
            if world.start.startswith(_COLD):
                await asyncio.sleep(0.1)
            said = world.now(self._everything if whole else [ident])
            self._client.tell("at", "ls")
            await self._pause()
            return said

        def read_blocking(ident: Any) -> Any:
            world = begins()
            threading.Event().wait(self._rng.uniform(0, 0.002))
            return world.now([ident])

        tool: Tool = read_blocking if threaded else read
        tool.__name__ = tool.__qualname__ = f"rollout_{name}"
        made: Tool = self._cache.read(tool, "item" if whole else "item:{ident}", "lineage", str)
        return made

    def _make_write(self, name: str, resource: str, scope: str, *, threaded: bool = False) -> Tool:
        whole = ":" not in resource

        def does(world: World, ident: int, argument: int) -> str:
            return world.write(name, self._everything if whole else [ident], argument)

        async def write(ident: Any, argument: Any) -> Any:
            world = _world.get()
            self._client.tell("at", "wt")
            await self._pause()
            unsure = not self._calm and self._rng.random() < 0.02
            if unsure and self._rng.random() < 0.5:
                raise TimeoutError
            how = does(world, ident, argument)
            self._client.tell("at", "wc")
            if unsure:
                raise TimeoutError
            await self._pause()
            return self._turn_out(how, ident)

        def write_blocking(ident: Any, argument: Any) -> Any:
            threading.Event().wait(self._rng.uniform(0, 0.002))
            return self._turn_out(does(_world.get(), ident, argument), ident)

        tool: Tool = write_blocking if threaded else write
        tool.__name__ = tool.__qualname__ = f"rollout_{name}"
        made: Tool = self._cache.write(tool, resource, scope)
        return made

    def _turn_out(self, how: str, ident: int) -> dict[str, Any]:
        if how in ("refused", "fails"):
            raise WriteFailed(how)
        if how == "no effect":
            raise self._cache.no_effect("nothing to do")
        return {"ident": ident, "refused": how == "no effect told"}


class _InWorld:
    """A session, and its world, for as long as a block runs."""

    def __init__(self, world: World, session: Any) -> None:
        self._world = world
        self._session = session
        self._token: contextvars.Token[World]

    async def __aenter__(self) -> World:
        self._token = _world.set(self._world)
        await self._session.__aenter__()
        return self._world

    async def __aexit__(self, *how: Any) -> None:
        await self._session.__aexit__(*how)
        _world.reset(self._token)


async def _called(tool: Tool, *args: Any) -> Any:
    if inspect.iscoroutinefunction(tool):
        return await tool(*args)
    return await asyncio.to_thread(tool, *args)
