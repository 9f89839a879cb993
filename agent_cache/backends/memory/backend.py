"""The asynchronous surface: nothing in memory is worth waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from agent_cache.backends.base import Finding, Lookup, NewEntry, StoredEntry
from agent_cache.backends.base import Token as TokenProtocol
from agent_cache.backends.base import Window as WindowProtocol
from agent_cache.backends.eviction import EvictionChoice
from agent_cache.backends.memory.looking import MemoryStore
from agent_cache.bounds import Quota
from agent_cache.clock import Clock as ClockFunction
from agent_cache.clock import monotonic
from agent_cache.codecs import ToolCodec
from agent_cache.moving import Movable
from agent_cache.recorded import StatsRow
from agent_cache.tags import Chain, Tag

__all__ = ["MemoryBackend"]

_SCANNED = 64  # entries written down before others get their turn


class MemoryBackend(Movable):
    """A bounded cache in this process.

    Args:
        max_size: entries at most, over all tools; ``None`` = no limit.
        max_bytes: bytes at most, values and overhead as estimated; ``None`` = no limit.
        default_ttl: seconds for key-value entries without a ttl of their own.
        settle: seconds for which a resource is not cached after a write whose outcome is unknown
            (it raised, timed out or was cancelled): it may still land.
        write_lease: seconds for which a running write keeps others from storing what they load. After that
            they may, until the write ends: then all of it is dropped. None = for as long as it runs.
        eviction: which entry makes room: ``"adaptive"`` (the default; it holds against scans and loops and keeps what
            sessions ask for again), ``"clock"``, ``"s3fifo"``, ``"cost"`` (what took least time to load, and has the lowest ``cost=``, goes
            first) or a function that makes an
            :class:`~agent_cache.backends.eviction.EvictionPolicy` from a limit. What is bound to a session uses CLOCK.
        quotas: by namespace (``configure(namespace=...)``; ``""`` is what has none) a :class:`~agent_cache.Quota`: what is
            over it makes room among its own.
        max_entry_bytes: a larger value is returned to its callers and not stored; None = 64 MiB.
        sweep: seconds between two looks for what has expired, by a thread that all backends of the process share and that is
            there only while something can expire; None = never (expired entries then wait until they are evicted).
        clock: seconds as a float, never going back.

    Usable from several event loops and threads at once; after a fork the child starts empty.
    By itself it is a key-value cache: ``await backend.set("k", v, ttl=60)``, ``backend.sync.get("k")``.

    Raises:
        ConfigurationError: a limit or duration that is not positive, an unknown ``eviction``, quotas that are none.
    """

    in_process = True

    def __init__(
        self,
        max_size: int | None = 10_000,
        max_bytes: int | None = None,
        *,
        default_ttl: float | None = None,
        settle: float = 5.0,
        write_lease: float | None = 30.0,
        eviction: EvictionChoice = "adaptive",
        clock: ClockFunction = monotonic,
        quotas: Mapping[str, Quota] | None = None,
        max_entry_bytes: int | None = None,
        sweep: float | None = 60.0,
    ) -> None:
        self._store = MemoryStore(
            max_size, max_bytes, default_ttl, settle, write_lease, clock, eviction, quotas, max_entry_bytes, sweep
        )

    @property
    def max_entry_bytes(self) -> int:
        """Bytes of a value; larger ones are not stored."""
        return self._store.max_entry_bytes

    @classmethod
    def over(cls, store: MemoryStore) -> MemoryBackend:
        """The asynchronous surface of a store that is there."""
        made = cls.__new__(cls)
        made._store = store
        return made

    @property
    def sync(self) -> MemoryStore:
        """The same surface for code without an event loop."""
        return self._store

    def __repr__(self) -> str:
        return f"MemoryBackend(max_size={self._store.max_size}, max_bytes={self._store.max_bytes})"

    async def __aenter__(self) -> MemoryBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        return self._store.lookup(key, tags, codec)

    async def fill(self, token: TokenProtocol, entry: NewEntry) -> bool:
        return self._store.fill(token, entry)

    async def begin(self, tags: Sequence[Tag], writer: str) -> WindowProtocol:
        return self._store.begin(tags, writer)

    async def end(
        self, window: WindowProtocol, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        self._store.end(window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)

    async def move(self, tags: Sequence[Tag], writer: str) -> None:
        self._store.move(tags, writer)

    async def drop_chain(self, chain: Chain) -> None:
        self._store.drop_chain(chain)

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, the caller's own; ``default`` when there is none or it has expired."""
        return self._store.get(key, default)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store a copy, for ``ttl`` seconds (without one: ``default_ttl``).

        Raises:
            UnstorableResultError: the value would not come back equal, or is too large.
        """
        self._store.set(key, value, ttl)

    async def delete(self, key: str) -> bool:
        """Remove one key; tells whether it was there."""
        return self._store.delete(key)

    async def exists(self, key: str) -> bool:
        return self._store.exists(key)

    async def clear(self) -> None:
        """Drop every entry, tools' and key-value ones. Loads under way are not kept."""
        self._store.clear()

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of ``keys`` that are there."""
        return self._store.get_many(keys)

    async def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        self._store.set_many(items, ttl)

    async def delete_pattern(self, pattern: str) -> int:
        """Remove keys matching a glob (``*``, ``?``, ``[abc]``; ``[*]`` is a literal star); returns how many."""
        return self._store.delete_pattern(pattern)

    async def count(self) -> int:
        return self._store.count()

    async def stats(self) -> dict[str, Any]:
        """See :meth:`MemoryStore.stats`."""
        return self._store.stats()

    async def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        self._store.add_stats(minute, sums, now=now)

    async def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        return self._store.recorded_stats(since, until, now=now)

    async def sweep(self) -> int:
        """Drop now what has expired and whose grace is over; returns how many."""
        return self._store.sweep()

    async def close(self) -> None:
        """Nothing to close; there for the contract."""

    async def scan(self, *, payloads: bool = False) -> AsyncIterator[StoredEntry]:
        """See :class:`~agent_cache.backends.base.Scanning`."""
        keys, clock = self._store.stored_keys(), self._store.clock
        for at in range(0, len(keys), _SCANNED):
            read = clock()
            for entry in self._store.stored(keys[at : at + _SCANNED], payloads=payloads):
                yield entry.later(clock() - read)
            await asyncio.sleep(0)

    async def check_store(self, *, repair: bool) -> list[Finding]:
        return self._store.check(repair=repair)

    async def held(self, chain: Chain) -> int:
        return self._store.chain_sizes(chain)[0]

    async def remove(self, entry: StoredEntry) -> bool:
        return self._store.remove(entry)

    async def keys(self) -> AsyncIterator[str]:
        for key in self._store.keys():  # noqa: SIM118 - a method, not a dict's view
            yield key


MemoryStore.twin = MemoryBackend.over
