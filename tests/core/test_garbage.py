"""A load leaves nothing to the collector of cycles: its pauses are the longest a loop full of misses would have."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheSession, DiskBackend, MemoryBackend
from agent_cache.backends.base import Backend

Reads = Callable[[str], Awaitable[str]]
LOADS = 20


@pytest.fixture
def collected() -> Iterator[Callable[[], Counter[str]]]:
    """What the collector finds that only cycles keep: objects of ours, and of the parts a load is made of."""

    def found() -> Counter[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        kinds = Counter(
            f"{type(each).__module__}.{type(each).__qualname__}"
            for each in gc.garbage
            if type(each).__module__.startswith("agent_cache")
            or type(each).__name__ in ("Context", "Task", "coroutine")
        )
        gc.garbage.clear()
        return kinds

    gc.collect()
    gc.freeze()  # what earlier tests made, and something may let go of now, is not looked at
    gc.disable()
    yield found
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
    gc.unfreeze()


@pytest.fixture(params=["memory", "disk"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryBackend() if request.param == "memory" else DiskBackend(tmp_path / "cache.db")


def tool(backend: Backend, *, waits: bool = True) -> Reads:
    @AgentCache("page:{name}", backend=backend)
    async def read(name: str) -> str:
        if waits:
            await asyncio.sleep(0)
        if name.startswith("failing"):
            raise LookupError(name)
        return name * 2

    return read


async def alone(read: Reads) -> None:
    for number in range(LOADS):
        await read(f"alone {number}")


async def in_crowds(read: Reads) -> None:
    for number in range(LOADS):
        await asyncio.gather(*(read(f"shared {number}") for _ in range(5)))


async def cancelled(read: Reads) -> None:
    for number in range(LOADS):
        task = asyncio.ensure_future(read(f"cancelled {number}"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)


async def failing_alone(read: Reads) -> None:
    for number in range(LOADS):
        with suppress(LookupError):
            await read(f"failing {number}")


async def failing_in_crowds(read: Reads) -> None:
    for number in range(LOADS):
        await asyncio.gather(*(_suppressed(read, f"failing, shared {number}") for _ in range(5)))


async def _suppressed(read: Reads, name: str) -> None:
    with suppress(LookupError):
        await read(name)


@pytest.mark.parametrize("crowd", [alone, in_crowds, cancelled])
async def test_loads_leave_no_cycles(
    backend: Any, crowd: Callable[[Reads], Awaitable[None]], collected: Callable[[], Counter[str]]
) -> None:
    async with backend:
        read = tool(backend)
        async with AgentCacheSession():
            await read("warm")
            collected()
            await crowd(read)
            assert not [(kind, count) for kind, count in collected().items() if count >= LOADS]


@pytest.mark.parametrize(("crowd", "waits"), [(failing_alone, True), (failing_alone, False), (failing_in_crowds, True)])
async def test_loads_that_fail_leave_no_cycles(
    backend: Any, crowd: Callable[[Reads], Awaitable[None]], waits: bool, collected: Callable[[], Counter[str]]
) -> None:
    """From Python 3.12 on, what is kept of an error keeps the frames of all the coroutines it came through and, by
    ``f_back``, of those that called them."""
    async with backend:
        read = tool(backend, waits=waits)
        async with AgentCacheSession():
            await crowd(read)
            collected()
            await crowd(read)
            assert not [(kind, count) for kind, count in collected().items() if count >= LOADS]


def test_blocking_loads_that_fail_leave_no_cycles(backend: Any, collected: Callable[[], Counter[str]]) -> None:
    @AgentCache("page:{name}", backend=backend)
    def read(name: str) -> str:
        raise LookupError(name)

    def crowd() -> None:
        for number in range(LOADS):
            with suppress(LookupError):
                read(f"failing {number}")

    with AgentCacheSession():
        crowd()
        collected()
        crowd()
        assert not [(kind, count) for kind, count in collected().items() if count >= LOADS]
    asyncio.run(backend.close())
