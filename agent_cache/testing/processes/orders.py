"""What the parent tells one process of the litmus, and how it obeys: from its greeting to its goodbye.

What belongs here: the configuration, the connection, orders. What does not: which calls are made, tools, verdicts.
"""

from __future__ import annotations

import asyncio
import os
import random
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent_cache.testing.processes.caches import Cache, Setup, load_cache
from agent_cache.testing.processes.channel import Client

__all__ = ["MIXES", "Config", "LoadFailed", "Mix", "Obedient", "WriteFailed"]


@dataclass(frozen=True, slots=True)
class Mix:
    """How much of what."""

    writes: float
    faults: float
    cancels: float
    load_faults: float
    twins: float
    longest: int
    """The longest pause inside a tool, in milliseconds,"""
    long: float
    """but for this share: those take up to a tenth of a second."""


MIXES = {
    "adversarial": Mix(writes=0.15, faults=0.4, cancels=0.04, load_faults=0.01, twins=0.2, longest=6, long=0.01),
    "read-mostly": Mix(writes=0.004, faults=0.0, cancels=0.0, load_faults=0.0, twins=0.05, longest=4, long=0.0),
}


@dataclass(frozen=True, slots=True)
class Config:
    """What the parent tells a worker on its standard input."""

    socket: str
    worker: int
    """Its number, another one after a restart."""
    url: str
    prefix: str
    cache: str
    seed: int
    idents: int
    late: bool
    """Whether commits may land after the call has ended."""
    mix: str
    writes: str = "all"
    """``told``: those that are known by their result, and every second fails to change anything."""
    rollouts: bool = False
    """Whether each session has a world of its own (:mod:`.rollouts`)."""
    sessions: int = 4
    lanes: int = 4


class LoadFailed(Exception):  # noqa: N818 - the litmus's tools fail on purpose
    """A read tool failed on purpose; its argument is the number of the load."""


class WriteFailed(Exception):  # noqa: N818 - as above
    """A write tool failed on purpose; its argument is the number of the write."""


class Obedient(ABC):
    """Runs until the parent says ``quit``, hangs up, or kills it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rng = random.Random(config.seed)
        self._mix = MIXES[config.mix]
        self._cache: Cache = load_cache(config.cache)(Setup(config.url, config.prefix, config.idents))
        self._running = True
        self._lanes: list[asyncio.Task[None]] = []
        """What makes calls until nothing more is to be started."""
        self._quit = asyncio.Event()
        self._orders: set[asyncio.Task[None]] = set()
        self._client = Client(self._on_order, lambda: os._exit(0))

    async def run(self) -> None:
        """Connect, make calls until told to stop, answer questions, end."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16))
        await self._client.connect(self._config.socket)
        await self._cache.open()
        await self._client.ask("hello", self._config.worker)
        await self._work()
        await self._cache.close()
        self._client.tell("bye")
        self._client.channel.flush()
        await asyncio.sleep(0.05)

    @abstractmethod
    async def _work(self) -> None:
        """Start the lanes, and end when ``_quit`` is set."""

    @abstractmethod
    async def _storm(self, number: int, callers: int) -> None:
        """Many callers at once for what nobody has: one load will do."""

    @abstractmethod
    async def _look(self) -> None:
        """Ask for everything, in the end: right, and the second time from the cache."""

    @abstractmethod
    async def _drain(self) -> None:
        """Start nothing more; done when all calls have ended."""

    def _on_order(self, order: list[Any]) -> None:
        if order[0] == "mix":
            self._mix = MIXES[order[1]]
        elif order[0] == "quit":
            self._quit.set()
        else:
            does: dict[str, Callable[..., Coroutine[Any, Any, None]]]
            does = {"storm": self._storm, "look": self._look, "drain": self._drain}
            task = asyncio.create_task(self._obey(order[0], does[order[0]](*order[1:])))
            self._orders.add(task)
            task.add_done_callback(self._orders.discard)

    async def _obey(self, word: str, doing: Coroutine[Any, Any, None]) -> None:
        try:
            await doing
        except Exception:  # noqa: BLE001 - the finding is the parent's to report
            self._client.tell("spurious", f"{word}: {traceback.format_exc()}")
        self._client.tell("done", word)
