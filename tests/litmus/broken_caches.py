"""Caches with one thing wrong each, for the litmus with real processes: what its checker must catch.

Used as ``--cache tests/litmus/broken_caches.py:name``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import agent_cache
from agent_cache.testing.processes.caches import AgentCacheCache, NaiveCache, NeverCache, Setup
from agent_cache.testing.processes.shapes import Keys, Lineage, Nested


class OnSuccessOnly(AgentCacheCache):
    """Invalidates after a write that returned; one that raised after its commit leaves what was there."""

    threads = False

    def write(self, tool: Callable[..., Any], resource: str, scope: str) -> Callable[..., Any]:
        async def nothing(ident: Any, number: Any) -> None: ...

        drop = super().write(nothing, resource, scope)

        async def write(ident: Any, number: Any) -> Any:
            result = await tool(ident, number)
            await drop(ident, number)
            return result

        return write


class OneForAll(NaiveCache):
    """Forgets whose answer it is."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, before=True, after=True)

    def read(self, tool: Callable[..., Any], resource: str, scope: str, owner: Callable[[], str]) -> Callable[..., Any]:
        return super().read(tool, resource, scope, lambda: "")


class Sleepy(NeverCache):
    """A call in a hundred never ends."""

    def read(self, tool: Callable[..., Any], resource: str, scope: str, owner: Callable[[], str]) -> Callable[..., Any]:
        import asyncio
        import random

        if not inspect.iscoroutinefunction(tool):
            return tool

        async def read(ident: Any) -> Any:
            if random.random() < 0.01:
                await asyncio.get_running_loop().create_future()
            return await tool(ident)

        return read


class SaysNothingWasChanged(AgentCacheCache):
    """Takes every write that returned for one that changed nothing."""

    def write(self, tool: Callable[..., Any], resource: str, scope: str) -> Callable[..., Any]:
        return agent_cache.AgentCacheInvalidator(resource, scope=scope, no_effect_if=lambda result: True)(tool)


class NarrowsToAnother(AgentCacheCache):
    """Believes the result, but about the wrong entity."""

    def write(self, tool: Callable[..., Any], resource: str, scope: str) -> Callable[..., Any]:
        return super().write(tool, resource.replace("{result[ident]}", "{result[number]}"), scope)


class ForgetsWhatIsInside(Nested):
    """What is put together from other answers is kept whatever becomes of those."""

    def compose(self, tool: Callable[..., Any], scope: str) -> Callable[..., Any]:
        kept: dict[str, Any] = {}

        async def call(ident: Any) -> Any:
            if ident not in kept:
                kept[ident] = await tool(ident)
            return kept[ident]

        return call if scope == "global" else super().compose(tool, scope)


class DeletesBefore(Keys):
    """Deletes its keys before the write and not after it."""

    def write(self, tool: Callable[..., Any], resource: str, scope: str) -> Callable[..., Any]:
        async def nothing(ident: Any, number: Any) -> None: ...

        delete = super().write(nothing, resource, scope)

        async def write(ident: Any, number: Any) -> Any:
            await delete(ident, number)
            return await tool(ident, number)

        return write


class ForgetsLinks(Lineage):
    """A rollout's writes make no difference to what it reads."""

    def write(self, tool: Callable[..., Any], resource: str, scope: str) -> Callable[..., Any]:
        return tool


class ForgetsWhereItBegan(Lineage):
    """All rollouts are said to begin in one state."""

    def rollout(self, name: str, identity: dict[str, str], start: str) -> Any:
        return super().rollout(name, identity, "somewhere")
