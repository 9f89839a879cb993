"""A world of one's own, and tools that read it and write to it: what the tests of this folder are about."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from agent_cache import AgentCache, AgentCacheInvalidator, NoEffect

State = dict[tuple[str, ...], int]


class World:
    """Shelves with things on them. ``past`` is every state it was in, the last one the present."""

    def __init__(self) -> None:
        self.past: list[State] = [{}]

    @property
    def now(self) -> State:
        return self.past[-1]

    def set(self, new: State) -> None:
        self.past.append({**self.now, **new})

    def wipe(self) -> None:
        self.past.append({})


here: ContextVar[World] = ContextVar("here")
pace: ContextVar[tuple[int, int]] = ContextVar("pace", default=(0, 0))
"""How many rounds of the loop a tool waits before it looks or does what it does, and after."""


def shelf_in(state: State, shelf: str) -> str:
    return str(sorted((path, value) for path, value in state.items() if path[0] == shelf))


def thing_in(state: State, shelf: str, thing: str) -> str:
    return str((state.get((shelf,), 0), state.get((shelf, thing), 0)))


def all_in(state: State) -> str:
    return str(sorted(state.items()))


async def rounds(number: int) -> None:
    """Let others go on for so many rounds of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


class Tools:
    """The tools; ``runs`` counts loads."""

    def __init__(self, **policy: Any) -> None:
        self.runs = 0
        tools = self

        async def seen(what: str) -> str:
            tools.runs += 1
            await rounds(pace.get()[1])
            return what

        @AgentCache("shop:{shelf}", scope="lineage", maxsize=None)
        async def shelf(shelf: str) -> str:
            await rounds(pace.get()[0])
            return await seen(shelf_in(here.get().now, shelf))

        @AgentCache("shop:{shelf}:{thing}", scope="lineage", maxsize=None)
        async def thing(shelf: str, thing: str) -> str:
            await rounds(pace.get()[0])
            return await seen(thing_in(here.get().now, shelf, thing))

        @AgentCache("shop", scope="lineage", maxsize=None)
        async def everything() -> str:
            await rounds(pace.get()[0])
            return await seen(all_in(here.get().now))

        async def wrote(result: str) -> str:
            await rounds(pace.get()[1])
            return result

        @AgentCacheInvalidator("shop:{shelf}", **policy)
        async def mark(shelf: str, value: int) -> str:
            await rounds(pace.get()[0])
            here.get().set({(shelf,): value})
            return await wrote("marked")

        @AgentCacheInvalidator("shop:{shelf}:{thing}", **policy)
        async def put(shelf: str, thing: str, value: int) -> str:
            await rounds(pace.get()[0])
            here.get().set({(shelf, thing): value})
            return await wrote("put")

        @AgentCacheInvalidator("shop:{to}", **policy)
        async def copy(source: str, to: str) -> str:
            """What it does depends on what it does not name as written, and its result does not say."""
            await rounds(pace.get()[0])
            here.get().set({(to,): here.get().now.get((source,), 0) + 1})
            return await wrote("copied")

        @AgentCacheInvalidator("shop", **policy)
        async def wipe() -> str:
            await rounds(pace.get()[0])
            here.get().wipe()
            return await wrote("wiped")

        @AgentCacheInvalidator("shop:{shelf}", **policy)
        async def refused(shelf: str) -> str:
            await rounds(pace.get()[0])
            raise NoEffect("sold out")

        @AgentCacheInvalidator("shop:{shelf}", **policy)
        async def breaks(shelf: str) -> str:
            await rounds(pace.get()[0])
            here.get().set({(shelf,): 77})
            raise ValueError("after it was done")

        self.shelf, self.thing, self.everything = shelf, thing, everything
        self.mark, self.put, self.copy, self.wipe = mark, put, copy, wipe
        self.refused, self.breaks = refused, breaks
