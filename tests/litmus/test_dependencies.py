"""The same promises where no read declares what it reads: each says it while it runs, or calls a cached tool that does."""

from __future__ import annotations

from typing import Any

import pytest

from agent_cache import AgentCache, depends_on
from agent_cache.testing import FakeClock
from agent_cache.testing.adapters import ALL_CHECKS, AgentCacheAdapter, ReadTool, WriteTool
from agent_cache.testing.litmus import Report, run
from agent_cache.testing.slow import SlowBackend
from agent_cache.testing.smallscope import cancellations, one_writer, told_apart, two_writers

PROMISED = ALL_CHECKS - {"P5"}
"""A load that comes to depend on something is shared with nobody who comes after that."""


class Saying(AgentCacheAdapter):
    """Every read says while it runs what it depends on."""

    name = "depends_on"

    def __init__(self, clock: FakeClock, **how: Any) -> None:
        super().__init__(clock, checks=PROMISED, **how)

    def make_read(self, fn: ReadTool, resource: str, scope: str) -> ReadTool:
        async def read(ident: Any) -> Any:
            await depends_on(resource, ident=ident)
            return await fn(ident)

        read.__name__ = read.__qualname__ = f"{fn.__name__}_saying"
        made: ReadTool = AgentCache("undeclared", scope=scope, backend=self._backend, maxsize=None)(read)
        return made


class Nested(Saying):
    """Every read is a cached tool inside of two others, of which the outermost is called; the innermost is what is written."""

    name = "nested"

    def __init__(self, clock: FakeClock, **how: Any) -> None:
        super().__init__(clock, **how)
        self._innermost: dict[ReadTool, ReadTool] = {}

    def make_read(self, fn: ReadTool, resource: str, scope: str) -> ReadTool:
        made = innermost = super().make_read(fn, resource, scope)
        for depth in range(2):
            made = self._around(made, f"{fn.__name__}_{depth}", scope)
        self._innermost[made] = innermost
        return made

    def make_write(self, fn: WriteTool, resource: str, scope: str, *, only: ReadTool | None = None) -> WriteTool:
        return super().make_write(fn, resource, scope, only=None if only is None else self._innermost[only])

    async def invalidate(self, read: ReadTool, ident: Any) -> None:
        await super().invalidate(self._innermost[read], ident)

    def _around(self, inner: ReadTool, name: str, scope: str) -> ReadTool:
        async def read(ident: Any) -> Any:
            return await inner(ident)

        read.__name__ = read.__qualname__ = name
        made: ReadTool = AgentCache("undeclared", scope=scope, backend=self._backend, maxsize=None)(read)
        return made


class SlowlySaying(Saying):
    """On a backend whose every operation takes time."""

    by_hand = False

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, make_backend=SlowBackend)


class SlowlyNested(Nested):
    by_hand = False

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, make_backend=SlowBackend)


EVERY = [Saying, Nested, SlowlySaying, SlowlyNested]


def _right(report: Report) -> None:
    assert report.violations == report.hangs == report.spurious == 0, str(report)


@pytest.mark.parametrize("adapter", EVERY)
def test_random_schedules(adapter: Any) -> None:
    _right(run(range(6), make_adapter=adapter))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("adapter", EVERY)
def test_one_writer_and_three_readers(adapter: Any, warm: bool) -> None:
    _right(one_writer(adapter, warm=warm, every=37))


@pytest.mark.parametrize("adapter", EVERY)
def test_two_writers(adapter: Any) -> None:
    _right(two_writers(adapter, ends="no_effect", warm=True, every=37))
    _right(told_apart(adapter, second="told, refused", every=37))


@pytest.mark.parametrize("adapter", EVERY)
def test_cancellations(adapter: Any) -> None:
    _right(cancellations(adapter, every=7))


@pytest.mark.soak
@pytest.mark.parametrize("adapter", EVERY)
def test_for_long(adapter: Any) -> None:
    _right(run(range(3_000, 3_200), make_adapter=adapter))
    for warm in (False, True):
        _right(one_writer(adapter, warm=warm))
        _right(two_writers(adapter, ends="no_effect", warm=warm))
