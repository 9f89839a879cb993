"""What must go on while tools run, whatever the callers' loops are doing: windows and leads are renewed, and the end of
a window that could not be delivered is delivered.

Runs on the portal. What begin, renew and end mean is the backend's; here is only when.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Protocol

from agent_cache.backends.portal import PORTAL
from agent_cache.errors import BackendError

__all__ = ["Keeper", "Kept"]

log = logging.getLogger("agent_cache")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class Kept(Protocol):
    """What is renewed: a window or a lead. ``every``: seconds between renewals; ``due``: when, on the portal's clock."""

    every: float
    due: float


class Keeper:
    """Renews what is under way, each in its time."""

    def __init__(self, renew: Callable[[Kept], Awaitable[None]]) -> None:
        self._renew = renew
        self.start_anew()

    def start_anew(self) -> None:
        """Forget everything: it is another process's after a fork."""
        self._lock = threading.Lock()
        # weakly: a write whose loop was closed under it is not kept alive, and its marker runs out
        self._kept: weakref.WeakValueDictionary[int, Kept] = weakref.WeakValueDictionary()
        self._running = False
        self._wake: asyncio.Event | None = None

    def keep(self, kept: Kept) -> None:
        """Renew it from now on, until :meth:`drop`."""
        loop = PORTAL.loop
        kept.due = loop.time() + kept.every
        with self._lock:
            self._kept[id(kept)] = kept
            start = not self._running
            self._running = True
        if start:
            PORTAL.submit(self._go_on())
        elif self._wake is not None:
            loop.call_soon_threadsafe(self._wake.set)

    def drop(self, kept: Kept) -> None:
        with self._lock:
            self._kept.pop(id(kept), None)

    async def _go_on(self) -> None:
        """Sleep until the next is due; with nothing left to renew it ends."""
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        while True:
            with self._lock:
                if not self._kept:
                    self._running = False
                    self._wake = None
                    return
            pause = max(0.01, await self._renew_due() - loop.time())
            self._wake.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _renew_due(self) -> float:
        """Renew what is due; when the next will be. Nothing is held on to beyond this call: see ``_kept``."""
        loop = asyncio.get_running_loop()
        with self._lock:
            kept = list(self._kept.values())
        now = loop.time()
        for each in kept:
            if each.due <= now and id(each) in self._kept:
                each.due = now + each.every
                try:
                    await self._renew(each)
                except Exception as error:  # noqa: BLE001 - the others go on being renewed; this one is tried again soon
                    each.due = loop.time() + min(each.every, _FIRST_PAUSE * 5)
                    log.debug("a lease could not be renewed, trying again: %r", error)
        return min((each.due for each in kept), default=now)

    @staticmethod
    def deliver(work: Callable[[], Awaitable[None]], give_up_after: float) -> None:
        """Try until it gets through, for so many seconds: after that nobody is waiting for it any more."""

        async def trying() -> None:
            loop = asyncio.get_running_loop()
            until = loop.time() + give_up_after
            pause = _FIRST_PAUSE
            while loop.time() < until:
                try:
                    await work()
                except BackendError as error:
                    log.debug("an end is not delivered yet: %s", error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    return

        PORTAL.submit(trying())
