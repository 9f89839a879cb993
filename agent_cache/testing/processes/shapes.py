"""The ways in which reads say what they depend on: declared, found while they run, by cached tools inside, by the function.

What belongs here: agent_cache, put in front of the worker's tools in another way than by a declared resource, and which
promises are then made. What does not: the tools, calls and verdicts.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from agent_cache.testing.processes.caches import AgentCacheCache, Setup, Tool
from agent_cache.testing.rules import RULES

__all__ = ["SHAPES", "Functions", "Keys", "Lineage", "Nested", "Saying", "shaped"]

_DEPTH = 2  # cached tools around the one that is written


def shaped(words: Sequence[str]) -> Callable[[Setup], AgentCacheCache]:
    """agent_cache with these rules of freshness and reads of this shape, of each one at most.

    Raises:
        ValueError: a word that is neither.
    """
    kind: Callable[..., AgentCacheCache] = AgentCacheCache
    freshness: str | None = None
    for word in words:
        if word in SHAPES:
            kind = SHAPES[word]
        elif word in RULES:
            freshness = word
        else:
            raise ValueError(f"--cache agent_cache+{word}: give one of {', '.join((*SHAPES, *RULES))}")
    return partial(kind, freshness=freshness)


def _renamed(made: Tool, name: str) -> Tool:
    made.__name__ = made.__qualname__ = name  # as if it stood in a module: the same tool in every process
    return made


class Saying(AgentCacheCache):
    """Every read says while it runs what it depends on.

    A load that comes to depend on something is shared with nobody who comes after that, so loads are not single.
    """

    name = "agent_cache, depends_on"

    def __init__(self, setup: Setup, freshness: str | None = None) -> None:
        super().__init__(setup, freshness)
        self.single_loads = False

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        import agent_cache

        async def saying(ident: Any) -> Any:
            await agent_cache.depends_on(resource, ident=ident)
            return await tool(ident)

        def saying_blocking(ident: Any) -> Any:
            _ = agent_cache.depends_on(resource, ident=ident)  # nothing to await in a def tool
            return tool(ident)

        made = saying if inspect.iscoroutinefunction(tool) else saying_blocking
        return super().read(_renamed(made, f"{tool.__name__}_saying"), "undeclared", scope, owner)


class Nested(AgentCacheCache):
    """Every read is a cached tool inside of two others, of which the outermost is called; the innermost says what is read.

    Reads of a whole family put their answer together from the reads of its entities.
    """

    name = "agent_cache, nested"

    def __init__(self, setup: Setup, freshness: str | None = None) -> None:
        super().__init__(setup, freshness)
        self.single_loads = False

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        made = super().read(tool, resource, scope, owner)
        for depth in range(_DEPTH):
            made = super().read(self._around(made, f"{tool.__name__}_{depth}"), "undeclared", scope, owner)
        return made

    def compose(self, tool: Tool, scope: str) -> Tool:
        """Cache a tool that calls other cached tools, and says nothing of what it reads."""
        return super().read(tool, "undeclared", scope, str)

    @staticmethod
    def _around(inner: Tool, name: str) -> Tool:
        async def around(ident: Any) -> Any:
            return await inner(ident)

        def around_blocking(ident: Any) -> Any:
            return inner(ident)

        return _renamed(around if inspect.iscoroutinefunction(inner) else around_blocking, name)


class Functions(AgentCacheCache):
    """``AsyncLRU`` and ``AsyncLRUInvalidator``: no resources; a write drops the calls it names, or all of a function.

    A function has no scope: who is asking is an argument of it.
    """

    name = "agent_cache, functions"
    by_result = False

    def __init__(self, setup: Setup, freshness: str | None = None) -> None:
        if freshness is not None:
            raise ValueError("--reads functions: functions have no rules of freshness; leave --freshness out")
        super().__init__(setup)
        self._cached: dict[str, list[tuple[Any, bool, str, Callable[[], str]]]] = {}

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        import agent_cache

        async def cached(ident: Any, who: str) -> Any:
            return await tool(ident)

        def cached_blocking(ident: Any, who: str) -> Any:
            return tool(ident)

        is_async = inspect.iscoroutinefunction(tool)
        function: Any = agent_cache.AsyncLRU(maxsize=None)(
            _renamed(cached if is_async else cached_blocking, f"{tool.__name__}_function")
        )
        family, colon, _ = resource.partition(":")
        self._cached.setdefault(family, []).append((function, not colon, scope, owner))

        async def call(ident: Any) -> Any:
            return await function(ident, owner())

        def call_blocking(ident: Any) -> Any:
            return function(ident, owner())

        return call if is_async else call_blocking

    def write(self, tool: Tool, resource: str, scope: str) -> Tool:
        import agent_cache

        family, colon, _ = resource.partition(":")
        made, name = tool, tool.__name__
        for place, (function, whole, read_scope, owner) in enumerate(self._cached[family]):
            widely = not colon or scope != read_scope  # whose copies there are is not known here
            find = None if widely else partial(_the_call, whole, owner)
            dropping = agent_cache.AsyncLRUInvalidator(function, clear_all=widely, key_fn=find)
            made = dropping(_renamed(self._plain(made), f"{name}_{place}"))
        return made

    @staticmethod
    def _plain(inner: Tool) -> Tool:
        async def write(ident: Any, number: Any) -> Any:
            return await inner(ident, number)

        def write_blocking(ident: Any, number: Any) -> Any:
            return inner(ident, number)

        return write if inspect.iscoroutinefunction(inner) else write_blocking


def _the_call(whole: bool, owner: Callable[[], str], args: tuple[Any, ...], kwargs: Any) -> Any:
    return (("all" if whole else args[0], owner()), {})


class Keys(AgentCacheCache):
    """``AsyncCache``: values under keys, and a write that deletes its keys when it has ended, however it ended.

    Nothing is said to the store before the write, so between its commit and the delete others may be served what was
    before (C0, C3), and what a process that dies in between had committed is known to nobody.
    """

    name = "agent_cache, keys"
    threads = False
    by_result = False
    windows = False
    settle = 0.0

    def __init__(self, setup: Setup, freshness: str | None = None) -> None:
        if freshness is not None:
            raise ValueError("--reads keys: AsyncCache has no rules of freshness; leave --freshness out")
        super().__init__(setup)
        self.no_effect = None
        self.checks -= {"C0", "C3"}
        self._kept: dict[str, list[tuple[Any, bool, str, Callable[[], str]]]] = {}

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        import agent_cache

        family, colon, _ = resource.partition(":")
        cache = agent_cache.AsyncCache(maxsize=None, namespace=f"{self._setup.prefix}{tool.__name__}")
        self._kept.setdefault(family, []).append((cache, not colon, scope, owner))

        async def read(ident: Any) -> Any:
            return await cache.get((ident, owner()), lambda: tool(ident))

        return read

    def write(self, tool: Tool, resource: str, scope: str) -> Tool:
        family, colon, _ = resource.partition(":")
        kept = self._kept[family]

        def delete(ident: Any) -> list[Awaitable[None]]:
            return [
                cache.clear()
                if not colon or scope != read_scope
                else cache.delete(("all" if whole else ident, owner()))
                for cache, whole, read_scope, owner in kept
            ]

        async def write(ident: Any, number: Any) -> Any:
            try:
                return await tool(ident, number)
            finally:
                await _whatever_happens(delete(ident))

        return write

    def undelivered(self) -> bool:
        """Whether the store does not know of everything that was deleted here."""
        from agent_cache.engine.outbox import OUTBOX

        return OUTBOX.owes(self._backend)


async def _whatever_happens(acts: Sequence[Awaitable[None]]) -> None:
    """Wait for all of them; a cancellation comes after."""

    async def every() -> None:
        for act in acts:
            await act

    task, cancelled = asyncio.ensure_future(every()), None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class Lineage(AgentCacheCache):
    """Rollouts: each session has a world of its own, begun in a named state; reads are shared by what was written since.

    Nothing is invalidated, so whatever a fault takes from the store, nothing is excused.
    """

    name = "agent_cache, lineage"

    def rollout(self, name: str, identity: dict[str, str], start: str) -> AbstractAsyncContextManager[object]:
        """The block inside which the calls of one rollout are made."""
        import agent_cache

        block: AbstractAsyncContextManager[object] = agent_cache.AgentCacheSession(
            name, loop_detection=False, identity=identity, start_state=(self._setup.prefix, start)
        )
        return block


SHAPES: dict[str, type[AgentCacheCache]] = {
    "depends_on": Saying,
    "nested": Nested,
    "functions": Functions,
    "keys": Keys,
    "lineage": Lineage,
}
