"""Writing what was counted to the store, in the background: every few seconds, on the portal's thread, never on a call's way.

What is counted is :mod:`agent_cache.recorded`'s business, how it is stored the backends'.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from collections.abc import Callable
from typing import Any

from agent_cache.backends.portal import PORTAL
from agent_cache.clock import Clock
from agent_cache.context import drain_all
from agent_cache.errors import AgentCacheError, ConfigurationError
from agent_cache.notices import Notices
from agent_cache.recorded import TALLY

__all__ = ["Recording"]

EVERY = 10.0  # seconds between two flushes
_GOODBYE = 2.0  # seconds that the last flush may take


class Recording:
    """Counting in this process, for the backend that is configured when it is written. ``backend`` gives that one."""

    def __init__(self, backend: Callable[[], Any], notices: Notices) -> None:
        self._backend = backend
        self._notices = notices
        self._running = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    async def flush(self, now: Clock = time.time) -> int:
        """Write what was counted so far; returns for how many minutes. ``now`` gives seconds since 1970.

        Raises:
            BackendError: it could not be written; it is kept for the next time.
        """
        drain_all()
        taken = TALLY.take(now())
        done = 0
        try:
            for each in taken:
                await self._backend().add_stats(each.minute, each.sums, now=now())
                done += 1
        finally:
            TALLY.give_back(taken[done:])
        return done

    def start(self) -> None:
        """Count from now on, and flush in the background; idempotent.

        Raises:
            ConfigurationError: the configured backend cannot keep figures.
        """
        if not hasattr(self._backend(), "add_stats"):
            fix = "use a backend with add_stats() and recorded_stats(), such as DiskBackend or RedisBackend"
            raise ConfigurationError("record_stats", True, fix)
        drain_all()  # what came before is not for the record
        TALLY.on = True
        if not self._running:
            self._running = True
            atexit.register(self._at_exit)  # after the backends' own, so it runs before them
            PORTAL.submit(self._on_and_on())

    def stop(self) -> None:
        """Count no more; what was counted and not yet written is dropped."""
        TALLY.on = False
        TALLY.clear()

    async def _on_and_on(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self._flush_quietly()

    async def _flush_quietly(self) -> None:
        """A failing store never fails anybody: the figures wait (bounded) for the next time, and it is said once."""
        if not TALLY.on:
            return
        try:
            await self.flush()
        except (AgentCacheError, OSError) as error:
            self._notices.outage("record_stats", "figures cannot be recorded now (record_stats): %s", error)
        else:
            self._notices.over("record_stats", "figures are recorded again (record_stats)")

    def _at_exit(self) -> None:
        if not TALLY.on:
            return
        try:
            PORTAL.submit(self._flush_quietly()).result(_GOODBYE)
        except TimeoutError:
            pass  # the process is ending: nobody waits longer for figures

    def _after_fork(self) -> None:
        """What the parent counted is the parent's to write; the child has a portal of its own."""
        TALLY.clear()
        if self._running:
            PORTAL.submit(self._on_and_on())
