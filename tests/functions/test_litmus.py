"""The litmus through the function API: the same schedules, 0 violations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent_cache import AsyncCache, AsyncLRU, AsyncLRUInvalidator, MemoryBackend, NoEffect
from agent_cache.testing import FakeClock
from agent_cache.testing.adapters import ALL_CHECKS, NaiveAdapter
from agent_cache.testing.litmus import Report, run


class _Scoped(NaiveAdapter):
    """What both have in common: no scopes of its own, so the owner is an argument; no resources, so a write names reads."""

    lease = None
    by_hand = True

    def __init__(self, clock: FakeClock, settle: float) -> None:
        super().__init__(clock, before=False, after=False)
        self.settle = settle
        self.backend = MemoryBackend(clock=clock, settle=settle, write_lease=None)
        self.reads: list[tuple[str, Any]] = []

    def related(self, resource: str) -> list[Any]:
        family = resource.partition(":")[0]
        return [read for of, read in self.reads if of == family]


def _owner(scope: str) -> str:
    from agent_cache.testing.adapters import _identity

    session, identity = _identity.get()
    return {"global": "", "session": session}.get(scope, "/".join(identity.values()))


class Functions(_Scoped):
    """AsyncLRU and its invalidators; a write drops the reads of its resource altogether."""

    name = "AsyncLRU"
    no_effect = NoEffect
    checks = ALL_CHECKS - {"P5"}  # a write of one entity drops those of the others too

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, 0.02)

    def make_read(self, fn: Any, resource: str, scope: str) -> Any:
        async def load(owner: str, ident: Any) -> Any:
            return await fn(ident)

        cached = AsyncLRU(maxsize=None, backend=self.backend)(load)
        self.reads.append((resource.partition(":")[0], cached))

        async def read(ident: Any) -> Any:
            return await cached(_owner(scope), ident)

        read.cached = cached  # type: ignore[attr-defined]
        return read

    def make_write(self, fn: Any, resource: str, scope: str, *, only: Any = None) -> Any:
        write = fn
        for cached in [only.cached] if only is not None else self.related(resource):
            write = AsyncLRUInvalidator(cached, clear_all=True)(write)
        return write

    async def invalidate(self, read: Any, ident: Any) -> None:
        await read.cached.clear_cache()


class Keys(_Scoped):
    """AsyncCache; whoever writes drops the keys when it has written, however that ended."""

    name = "AsyncCache"
    # Until it is told of a commit a cache with keys cannot know of it; so nothing of before, and never its own again.
    checks = ALL_CHECKS - {"P5", "C0", "C3"}

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, 0.0)
        self.cache = AsyncCache(maxsize=None, backend=self.backend)

    def make_read(self, fn: Any, resource: str, scope: str) -> Any:
        name = fn.__name__

        async def read(ident: Any) -> Any:
            return await self.cache.get((name, _owner(scope), ident), lambda: fn(ident))

        return read

    def make_write(self, fn: Any, resource: str, scope: str, *, only: Any = None) -> Any:
        async def write(ident: Any, plan: Any) -> Any:
            try:
                return await fn(ident, plan)
            finally:
                self.cache.clear()

        return write

    async def invalidate(self, read: Any, ident: Any) -> None:
        self.cache.clear()


def _right(report: Report) -> None:
    assert report.faults == 0, str(report)


def test_functions_and_their_invalidators() -> None:
    report = run(range(10), 300, Functions)
    _right(report)
    assert report.hit_ratio >= 0.3  # not by never caching, though every write drops whole functions


def test_keys() -> None:
    report = run(range(10), 300, Keys)
    _right(report)
    assert report.hit_ratio >= 0.3  # every write clears all of it


@pytest.mark.soak
@pytest.mark.parametrize("adapter", [Functions, Keys])
def test_for_long(adapter: type[_Scoped]) -> None:
    _right(run(range(2_000, 2_200), 300, adapter))


class _WithoutInvalidators(Functions):
    def make_write(self, fn: Any, resource: str, scope: str, *, only: Any = None) -> Any:
        return fn


class _ForgettingTheEnd(Functions):
    """Drops before the write only."""

    def make_write(self, fn: Any, resource: str, scope: str, *, only: Any = None) -> Any:
        async def write(ident: Any, plan: Any) -> Any:
            for cached in [only.cached] if only is not None else self.related(resource):
                await cached.clear_cache()
            return await fn(ident, plan)

        return write


def test_the_same_schedules_find_what_is_wrong() -> None:
    broken: list[Callable[[FakeClock], Any]] = [_WithoutInvalidators, _ForgettingTheEnd]
    for adapter in broken:
        assert run(range(1, 8), 300, adapter).violations > 0, adapter
