"""What is done by hand (invalidate, store, clear) acts when it is called, and can be awaited for the far tier.

In a backend of this process all of it has happened when the call returns. Before a shared one, the near copies are
gone when the call returns, and the rest is under way: reads of the same thing wait for it, so that they see what
was done whether or not its caller awaits it. What is torn away with its event loop is owed to the backend.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Generator, Hashable
from typing import Any, Final

from agent_cache.backends.base import Backend
from agent_cache.backends.memory import MemoryBackend, MemoryStore
from agent_cache.backends.tiered import TieredBackend
from agent_cache.engine.drivers import Line, drive, drive_blocking
from agent_cache.engine.outbox import OUTBOX
from agent_cache.locks import renewed_after_fork
from agent_cache.tags import Tag

__all__ = ["DONE", "Acts", "near_store"]

EVERYTHING: Final = None
_LOOK = 0.5  # seconds between looks at whether another event loop still runs


def near_store(backend: Backend) -> MemoryStore | None:
    """Where a backend keeps entries in this process."""
    if isinstance(backend, MemoryBackend):
        return backend.sync
    return backend.near.sync if isinstance(backend, TieredBackend) else None


class _Done:
    """There is nothing left to wait for."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


DONE: Final[Awaitable[None]] = _Done()


class _Act:
    """One act under way to a shared backend. Awaiting it, or giving up on that, changes nothing about it."""

    def __init__(self, backend: Backend, tags: tuple[Tag, ...]) -> None:
        self.backend = backend
        self.tags = tags
        self.loop = asyncio.get_running_loop()
        self.over: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.task: asyncio.Task[None] | None = None

    def finish(self, *, delivered: bool) -> None:
        if not self.over.done():
            if not delivered:
                OUTBOX.owe(self.backend, self.tags)
            self.over.set_result(None)

    @property
    def is_lost(self) -> bool:
        """Its event loop will not carry it any further, as far as another thread can see."""
        return self.loop.is_closed() or not self.loop.is_running()

    async def wait(self) -> None:
        """Until it has reached the backend, or was given up and is owed."""
        looked = False
        while not self.over.done():
            here = self.loop is asyncio.get_running_loop()
            await asyncio.wait({asyncio.wrap_future(self.over)}, timeout=None if here else _LOOK)
            if not here and self.is_lost:
                if looked:
                    self.finish(delivered=False)
                looked = True

    def wait_blocking(self) -> None:
        """The same for a thread without an event loop."""
        while not self.over.done():
            concurrent.futures.wait({self.over}, timeout=_LOOK)
            if self.is_lost:
                self.finish(delivered=False)

    def __await__(self) -> Generator[Any, None, None]:
        return self.wait().__await__()


class Acts:
    """The acts of one cached thing that are under way, by what they concern (``EVERYTHING``: all of it)."""

    def __init__(self) -> None:
        self._open: dict[Hashable, _Act] = {}
        self._lock = renewed_after_fork(self, "_lock")

    def __bool__(self) -> bool:
        return bool(self._open)

    def do(
        self, what: Hashable, backend: Backend, tags: tuple[Tag, ...], line: Callable[[], Line[Any]]
    ) -> Awaitable[None]:
        """Carry a line out, after those before it that concern the same.

        Without a running event loop, and on a backend of this process, it is over when this returns.
        """
        if backend.in_process:
            drive_blocking(line())
            return DONE
        forget = getattr(backend, "forget", None)
        if forget is not None:
            forget(tags, "a change by hand")
        if asyncio._get_running_loop() is None:
            for earlier in self._before(what):
                earlier.wait_blocking()
            drive_blocking(line())
            return DONE
        act = _Act(backend, tags)
        with self._lock:
            before = self._before(what)
            self._open[what] = act
        act.task = act.loop.create_task(self._carry_out(act, what, before, line))
        act.task.add_done_callback(lambda _: self._over(act, what, delivered=False))  # cancelled before its first step
        return act

    async def _carry_out(self, act: _Act, what: Hashable, before: list[_Act], line: Callable[[], Line[Any]]) -> None:
        delivered = False
        try:
            for earlier in before:
                await earlier.wait()
            await drive(line())
            delivered = True
        finally:
            self._over(act, what, delivered=delivered)

    def _over(self, act: _Act, what: Hashable, *, delivered: bool) -> None:
        """Once is enough."""
        with self._lock:
            if self._open.get(what) is act:
                del self._open[what]
        act.finish(delivered=delivered)

    def _before(self, what: Hashable) -> list[_Act]:
        """Those which one that concerns ``what`` comes after."""
        with self._lock:
            mine = self._open.values() if what is EVERYTHING else map(self._open.get, (what, EVERYTHING))
            return [act for act in mine if act is not None and not act.over.done()]

    async def over(self, what: Hashable) -> None:
        """Wait for those that a read of ``what`` must see; ``EVERYTHING``: for all."""
        while waiting := self._before(what):
            for act in waiting:
                await act.wait()


__all__ += ["EVERYTHING"]
