"""Who cancels a write or an invalidation loses none: what was begun is carried through, then the cancellation is raised."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, BackendError, MemoryBackend, configure
from agent_cache.config import settings
from agent_cache.engine.effects import Run
from agent_cache.engine.outbox import OUTBOX
from agent_cache.policy import scopes_of_reads


class Far(MemoryBackend):
    """As one that others share: its ``held`` methods wait for ``go_on``; those in ``down`` raise after that."""

    in_process = False

    def __init__(self, held: str = "", down: str = "") -> None:
        super().__init__(settle=0)
        self.held, self.down = held, down
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.windows: list[Any] = []
        self.abandoned: list[Any] = []

    async def _enter(self, method: str) -> None:
        if method == self.held:
            self.reached.set()
            await self.go_on.wait()
        if method == self.down:
            raise BackendError(f"{method} failed")

    async def begin(self, tags: Any, writer: str) -> Any:
        await self._enter("begin")
        self.windows.append(await super().begin(tags, writer))
        return self.windows[-1]

    async def end(self, *args: Any, **kwargs: Any) -> None:
        await self._enter("end")
        await super().end(*args, **kwargs)

    async def move(self, tags: Any, writer: str) -> None:
        await self._enter("move")
        await super().move(tags, writer)


class Shared(Far):
    """Others wait for our loads too, and windows can be left behind."""

    async def lead(self, *args: Any) -> Any:
        raise BackendError("nobody leads here")

    def release(self, lead: Any) -> None: ...

    def abandon(self, window: Any) -> None:
        self.abandoned.append(window)
        self.sync.end(window, unknown=True, no_effect=False)


@pytest.fixture(autouse=True)
def _nothing_left_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    monkeypatch.setattr(scopes_of_reads, "_backends", {})
    settings.notices.forget()
    yield
    OUTBOX.debts.clear()


class Tools:
    """A read of each backend, and a write of all of them."""

    def __init__(self, *backends: Any) -> None:
        self.ran = 0

        def reading(backend: Any) -> Any:
            @AgentCache("cart", backend=backend)
            async def get() -> int:
                return self.ran

            return get

        self.reads = [reading(backend) for backend in backends]

        @AgentCacheInvalidator("cart", backend=backends[0])
        async def put() -> None:
            self.ran += 1

        self.put = put


async def cancelled(work: Awaitable[Any], held: Far, *, times: int = 1) -> None:
    """Cancel it where ``held`` holds it, and let it go on: the cancellation comes out, and not before."""
    task = asyncio.ensure_future(work)
    await held.reached.wait()
    for _ in range(times):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done(), "it is carried through first"
    held.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


# ------------------------------------------------------------------------------------------------------------- begin


@pytest.mark.parametrize("times", [1, 3])
async def test_a_write_cancelled_while_its_begin_cannot_be_delivered_does_not_run(times: int) -> None:
    backend = Far(held="begin", down="begin")
    tools = Tools(backend)
    await cancelled(tools.put(), backend, times=times)
    assert tools.ran == 0
    assert not OUTBOX, "nothing was written: nothing is owed"


async def test_a_write_cancelled_at_its_second_begin_closes_the_first_and_opens_no_third() -> None:
    first, second, third = Far(), Far(held="begin", down="begin"), Far()
    tools = Tools(first, second, third)
    for read in (tools.reads[0], tools.reads[2]):
        await read()
    await cancelled(tools.put(), second)
    assert tools.ran == 0
    assert [window.closed for window in first.windows] == [True]
    assert third.windows == []
    assert (await tools.reads[0].explain()).status == "hit", "without effect: nothing was dropped"
    assert (await tools.reads[2].explain()).status == "hit"


# --------------------------------------------------------------------------------------------------------------- end


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_at_the_end_still_owes_the_backends_that_could_not_be_told(times: int) -> None:
    well, unwell = Far(held="end"), Far(down="end")
    tools = Tools(well, unwell)
    for read in tools.reads:
        await read()
    await cancelled(tools.put(), well, times=times)
    assert tools.ran == 1
    assert OUTBOX.owed_to(unwell)
    assert not OUTBOX.owed_to(well)
    assert (await tools.reads[0].explain()).status == "stale"


async def test_a_cancellation_at_an_end_that_cannot_be_delivered_owes_it() -> None:
    backend = Far(held="end", down="end")
    tools = Tools(backend)
    await tools.reads[0]()
    await cancelled(tools.put(), backend)
    assert OUTBOX.owed_to(backend)


async def test_a_cancellation_at_the_end_owes_a_backend_whose_window_could_not_be_opened() -> None:
    well, unwell = Far(held="end"), Far(down="begin")
    tools = Tools(well, unwell)
    for read in tools.reads:
        await read()
    await cancelled(tools.put(), well)
    assert OUTBOX.owed_to(unwell)


async def test_a_refused_write_that_is_cancelled_while_it_closes_is_cancelled() -> None:
    well, unwell = Far(held="end"), Far(down="begin")
    tools = Tools(well, unwell)
    configure(on_unavailable="refuse_writes")
    await cancelled(tools.put(), well)
    assert tools.ran == 0
    assert [window.closed for window in well.windows] == [True]
    assert not OUTBOX


# ----------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("how", ["invalidate", "invalidate_all"])
async def test_an_invalidation_by_hand_that_is_cancelled_is_carried_through(how: str) -> None:
    backend = Far(held="move")
    (read,) = Tools(backend).reads
    await read()
    await cancelled(getattr(read, how)(), backend)
    assert (await read.explain()).status == "stale"
    assert not OUTBOX


@pytest.mark.parametrize("how", ["invalidate", "invalidate_all"])
async def test_an_invalidation_by_hand_that_is_cancelled_and_cannot_be_delivered_is_owed(how: str) -> None:
    backend = Far(held="move", down="move")
    (read,) = Tools(backend).reads
    await read()
    task = asyncio.ensure_future(getattr(read, how)())
    await backend.reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    backend.go_on.set()
    await asyncio.wait({task})
    assert OUTBOX.owed_to(backend)
    assert task.cancelled(), "the cancellation is not swallowed"


async def test_refresh_that_is_cancelled_while_it_invalidates_is_cancelled() -> None:
    from agent_cache import refresh

    backend = Far(held="move")
    (read,) = Tools(backend).reads
    await read()

    async def refreshed() -> Any:
        with refresh():
            return await read()

    await cancelled(refreshed(), backend)
    assert (await read.explain()).status == "stale"


async def test_a_def_write_whose_awaitable_is_cancelled_while_it_invalidates_tells_every_backend() -> None:
    first, second = Far(held="move"), Far()
    reads = Tools(first, second).reads

    @AgentCacheInvalidator("cart", backend=first)
    def put() -> Any:
        return asyncio.sleep(0, 7)

    pending = put()
    for read in reads:
        await read()  # after the window: only the invalidation at the end drops these
    await cancelled(pending, first)
    for read, backend in zip(reads, (first, second), strict=True):
        told = (await read.explain()).status == "stale"
        assert told or OUTBOX.owed_to(backend), "told, or owed to it"


# ------------------------------------------------------------------------------------------------------ a loop that ends


@pytest.mark.parametrize("collected", ["outside of any loop", "inside of another loop"])
def test_a_write_whose_loop_was_closed_under_it_leaves_no_window(
    collected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    backend = Shared()
    running: list[int] = []

    @AgentCacheInvalidator("cart", backend=backend)
    async def put() -> None:
        running.append(1)
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(put())
    while not running:
        loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False
    loop.close()
    if collected.startswith("inside"):

        async def collect() -> None:
            nonlocal task
            task = None
            gc.collect()

        asyncio.run(collect())
    else:
        task = None
        gc.collect()
    assert backend.abandoned == backend.windows
    assert [window.closed for window in backend.windows] == [True]
    assert noise == [], "nothing is awaited after that"


async def test_a_tool_that_is_torn_away_hands_nothing_on() -> None:
    ended = []

    class Tool:
        async def call(self, values: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(values)

    run = Run(Tool(), (1,)).go()  # type: ignore[arg-type]
    run.send(None)
    with pytest.raises(GeneratorExit):  # and not an answer for somebody to go on with
        run.throw(GeneratorExit)
    assert ended == [(1,)]
