"""A thread of ours with an event loop: where blocking callers reach asynchronous backends, and where what must go on
while a caller's own loop is busy goes on (renewing leases, listening to a bus).

One per process, started when first needed; a forked child starts its own. What is run there is the backends' business.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import Context
from typing import Any, TypeVar

from agent_cache.backends.base import Lead, Lookup, NewEntry, Same, Taken, Token, Window
from agent_cache.codecs import ToolCodec
from agent_cache.errors import BackendError
from agent_cache.recorded import StatsRow
from agent_cache.tags import Chain, Tag

__all__ = ["PORTAL", "BlockingFace", "Portal"]

T = TypeVar("T")
_inherited: list[object] = []
_GOODBYE = 1.0  # seconds that the closing of connections may take when the process ends


class Portal:
    """The thread and its loop."""

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        _inherited.append(getattr(self, "_loop", None))  # a child must not close what it shares with its parent
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._goodbyes: list[Callable[[], Coroutine[Any, Any, None]]] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, started if it is not running yet."""
        loop = self._loop
        if loop is not None:
            return loop
        with self._lock:
            if self._loop is None:
                started = threading.Event()
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(loop, started), name="agent_cache-portal", daemon=True
                )
                self._thread.start()
                started.wait()
                self._loop = loop
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(started.set)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it, whatever it raises.

        Raises:
            BackendError: called from the portal's own thread, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise BackendError("a blocking call of a backend from inside a backend's own thread would never end")
        return self.submit(work).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there; nobody waits unless the future is waited for.

        Not in the caller's context: what goes on after the call would keep its session and its agent alive.
        """
        return Context().run(asyncio.run_coroutine_threadsafe, work, self.loop)

    def at_exit(self, goodbye: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """What to do on the loop before the process ends."""
        with self._lock:
            self._goodbyes.append(goodbye)

    def close(self) -> None:
        """Say goodbye and stop; for the end of the process."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return

        async def leave() -> None:
            leaving = [goodbye() for goodbye in self._goodbyes]
            await asyncio.wait_for(asyncio.gather(*leaving, return_exceptions=True), _GOODBYE)
            mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in mine:
                task.cancel()
            await asyncio.gather(*mine, return_exceptions=True)

        try:
            asyncio.run_coroutine_threadsafe(leave(), loop).result(2 * _GOODBYE)
        except Exception:  # noqa: BLE001 - the process is ending: there is nobody left to tell
            pass
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_GOODBYE)


PORTAL = Portal()
atexit.register(PORTAL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PORTAL._start_anew)


class BlockingFace:
    """An asynchronous backend for code without an event loop: the same methods, run in the portal."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __repr__(self) -> str:
        return f"{self._backend!r}.sync"

    def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        found: Lookup = PORTAL.run(self._backend.lookup(key, tags, codec))
        return found

    def revalidate(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Any) -> Lookup | Same:
        found: Lookup | Same = PORTAL.run(self._backend.revalidate(key, tags, codec, stamp))
        return found

    def tag_ids(self, tags: Sequence[Tag]) -> tuple[bytes, ...]:
        ids: tuple[bytes, ...] = self._backend.tag_ids(tags)
        return ids

    def fill(self, token: Token, entry: NewEntry) -> bool:
        return bool(PORTAL.run(self._backend.fill(token, entry)))

    def begin(self, tags: Sequence[Tag], writer: str) -> Window:
        window: Window = PORTAL.run(self._backend.begin(tags, writer))
        return window

    def end(self, window: Window, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None) -> None:
        PORTAL.run(self._backend.end(window, unknown=unknown, no_effect=no_effect, narrowed=narrowed))

    def move(self, tags: Sequence[Tag], writer: str) -> None:
        PORTAL.run(self._backend.move(tags, writer))

    def drop_chain(self, chain: Chain) -> None:
        PORTAL.run(self._backend.drop_chain(chain))

    def chain_sizes(self, chain: Chain) -> tuple[int, int]:
        """Not known of a shared store: that would mean reading all of it."""
        return 0, 0

    def lead(self, key: bytes, tags: Sequence[Tag], token: Token) -> Lead | Taken:
        lead: Lead | Taken = PORTAL.run(self._backend.lead(key, tags, token))
        return lead

    def release(self, lead: Lead) -> None:
        self._backend.release(lead)

    def get(self, key: str, default: Any = None) -> Any:
        return PORTAL.run(self._backend.get(key, default))

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        PORTAL.run(self._backend.set(key, value, ttl))

    def delete(self, key: str) -> bool:
        return bool(PORTAL.run(self._backend.delete(key)))

    def exists(self, key: str) -> bool:
        return bool(PORTAL.run(self._backend.exists(key)))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        values: dict[str, Any] = PORTAL.run(self._backend.get_many(keys))
        return values

    def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        PORTAL.run(self._backend.set_many(items, ttl))

    def delete_pattern(self, pattern: str) -> int:
        return int(PORTAL.run(self._backend.delete_pattern(pattern)))

    def count(self) -> int:
        return int(PORTAL.run(self._backend.count()))

    def stats(self) -> dict[str, Any]:
        figures: dict[str, Any] = PORTAL.run(self._backend.stats())
        return figures

    def keys(self) -> list[str]:
        async def collect() -> list[str]:
            return [key async for key in self._backend.keys()]  # noqa: SIM118 - a method, not a dict's view

        return PORTAL.run(collect())

    def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        PORTAL.run(self._backend.add_stats(minute, sums, now=now))

    def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        rows: list[StatsRow] = PORTAL.run(self._backend.recorded_stats(since, until, now=now))
        return rows

    def clear(self) -> None:
        PORTAL.run(self._backend.clear())

    def connect(self) -> None:
        PORTAL.run(self._backend.connect())

    def close(self) -> None:
        """Close what this face opened, on the portal."""
        PORTAL.run(self._backend.close())
