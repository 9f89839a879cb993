"""Caches with one thing wrong each, for the litmus with real processes: what its checker must catch.

Used as ``--cache tests/litmus/broken_caches.py:name``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from agent_cache.testing.processes.caches import AgentCacheCache, NaiveCache, NeverCache, Setup


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
