"""The asynchronous surface: reads right here, everything else on the writer thread."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent_cache.backends.base import Finding, Lead, Lookup, NewEntry, Same, StoredEntry, Taken, Token, Window
from agent_cache.backends.disk import figures, integrity, scanning, scrubbing
from agent_cache.backends.disk.doctor import diagnose
from agent_cache.backends.disk.keyvalue import DiskStore, text_of
from agent_cache.backends.disk.leases import DiskLead
from agent_cache.backends.disk.reading import NotReady, Rounds
from agent_cache.backends.disk.turns import rounds, turn
from agent_cache.backends.disk.writer import Job
from agent_cache.bounds import Quota, checked_entry_limit, checked_quotas
from agent_cache.clock import Clock, seconds, uptime
from agent_cache.codecs import ToolCodec
from agent_cache.errors import AgentCacheError, ConfigurationError
from agent_cache.moving import Movable, Targets
from agent_cache.policy import checked_keys, checked_labels, checked_maxsize, checked_secret
from agent_cache.recorded import StatsRow
from agent_cache.tags import Chain, Tag

__all__ = ["DiskBackend"]

T = TypeVar("T")


_LOOKUP, _LEAD, _FILL = 1 / 8, 3 / 4, 1.0
"""Shares of a round of the event loop: some 0.3 ms, with what goes on after it. A lead goes with two lookups, its own and a hit."""


class DiskBackend(Movable):
    """A cache in one SQLite file, shared by the processes of one host (not over a network file system).

    Args:
        path: the file; made with its directories if it is missing, readable by its owner only.
        max_bytes: bytes the entries may take in the file; what was not used for longest makes room.
        default_ttl: seconds for key-value entries without a ttl of their own.
        settle: seconds for which a resource is not cached after a write whose outcome is unknown.
        write_lease: seconds after which a write whose process died no longer keeps others from storing.
        lead_lease: seconds after which a load whose process stands still is taken over; of one that died, at once.
        clock: seconds as a float, never going back, the same for all processes of this host.
        wall: the time of day in seconds; ages entries over a restart of the machine.
        secret: entries are sealed with it; one that was made without it is a miss.
        labels: whether entries carry their tool's name and the paths of their resources in readable form, so that they
            can be listed and exported; None = yes, unless there is a secret.
        max_size: entries at most, over all tools and processes; None = as many as fit.
        quotas: by namespace (``configure(namespace=...)``; ``""`` is what has none) a :class:`~agent_cache.Quota`: what is
            over it makes room among its own. All processes should say the same.
        max_entry_bytes: a larger value (written, before compression) is returned to its callers and not stored; None = 64 MiB.
        compress: True = payloads from 2 KiB on are compressed (zlib); a number = from so many bytes on. What was stored the
            other way is read all the same.
        sweep: seconds between two looks for what has expired while nothing is stored (every ten while something is), by a
            thread that all backends of the process share; None = never (expired entries then wait until they are evicted).

    Invalidations are on the disk before a write tool runs. Results are written behind, in small batches: a crash may
    lose one, which is only a miss. What was read a moment ago is kept decoded (32 MB at most) and served again while
    SQLite says that nothing was committed. Who loads what is noted in a small file beside it (``…-leads``). Usable from
    several event loops, threads and processes at once. Before ``os.fork()`` the file is closed, and both sides open it
    again when they need it; a child that was forked past that while it was open does without the file.

    Raises:
        ConfigurationError: a limit or duration that is not positive, an empty secret, quotas that are none.
    """

    in_process = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = 256 * 1024 * 1024,
        *,
        default_ttl: float | None = None,
        settle: float = 5.0,
        write_lease: float = 30.0,
        lead_lease: float = 3.0,
        clock: Clock = uptime,
        wall: Clock = time.time,
        secret: str | bytes | None = None,
        labels: bool | None = None,
        max_size: int | None = None,
        quotas: Mapping[str, Quota] | None = None,
        max_entry_bytes: int | None = None,
        compress: bool | int = False,
        sweep: float | None = 60.0,
    ) -> None:
        text: object = os.fspath(path) if isinstance(path, os.PathLike) else path
        if not isinstance(text, str) or not text or "\0" in text or text == ":memory:":
            raise ConfigurationError("path", path, "give the path of a file")
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise ConfigurationError("path", path, "no file can be called that; give the path of a file") from None
        size = checked_maxsize(max_bytes, "max_bytes")
        if size is None:
            raise ConfigurationError("max_bytes", max_bytes, "give a whole number of bytes")
        self._store = DiskStore(
            str(Path(text).expanduser().absolute()),
            size,
            max_size=checked_maxsize(max_size, "max_size"),
            quotas=checked_quotas(quotas),
            max_entry_bytes=checked_entry_limit(max_entry_bytes),
            compress=compress,
            sweep=sweep,
            settle=_positive(settle, "settle", zero_ok=True),
            write_lease=_positive(write_lease, "write_lease"),
            lead_lease=_positive(lead_lease, "lead_lease"),
            clock=clock,
            wall=wall,
            secret=checked_secret(secret, most=None) or None,
        )
        self._store.twin = DiskBackend.over
        self._store.default_ttl = seconds(default_ttl, "default_ttl")
        self._store.labels = checked_labels(labels, sealed=secret is not None)

    @classmethod
    def over(cls, store: DiskStore) -> DiskBackend:
        """The asynchronous surface of a store that is there."""
        made = cls.__new__(cls)
        made._store = store
        return made

    @property
    def max_entry_bytes(self) -> int:
        """Bytes of a written value; larger ones are not stored."""
        return self._store.max_entry_bytes

    @property
    def sync(self) -> DiskStore:
        """The same surface for code without an event loop."""
        return self._store

    def __repr__(self) -> str:
        return f"DiskBackend({self._store.path!r}, max_bytes={self._store.max_bytes})"

    async def __aenter__(self) -> DiskBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, job: Job) -> Any:
        # As an executor: the loop then knows that a thread is at work for it.
        return await asyncio.get_running_loop().run_in_executor(self._store._writer, job)

    async def _read(self, work: Callable[[], T]) -> T:
        rounds = Rounds(self._store.path, locked=2)
        while True:
            try:
                return work()
            except NotReady as wanted:
                rounds.another(wanted)
                await self._run(self._store.ready_job(wanted))

    async def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        waiter = turn(_LOOKUP)
        if waiter is not None:
            await waiter
        try:
            return self._store.found_now(key, tags, codec)
        except NotReady:
            return await self._read(lambda: self._store.lookup_now(key, tags, codec))

    async def revalidate(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Hashable) -> Lookup | Same:
        return await self._read(lambda: self._store.revalidate_now(key, tags, codec, stamp))

    def unchanged(self) -> bool:
        """Whether no tag was changed in the file, by anybody, since this thread asked the last time."""
        return self._store.unchanged()

    def forget(self, tags: Sequence[Tag], writer: str) -> None:
        """Serve nothing without asking any more: an invalidation could not be delivered."""
        self._store.forget(tags, writer)

    def tag_ids(self, tags: Sequence[Tag]) -> tuple[bytes, ...]:
        return self._store.tag_ids(tags)

    async def fill(self, token: Token, entry: NewEntry) -> bool:
        packing = self._store.packing
        packed = None if packing.least is None else await packing.aside(entry.stored.payload())
        try:
            lead = entry.lead
            if isinstance(lead, DiskLead) and lead.since != rounds():  # it waited; what never did goes on at once
                waiter = turn(_FILL)
                if waiter is not None:
                    await self._waited(waiter, token, entry, packed)
            return self._store.fill_now(token, entry, packed)
        except NotReady:
            return await self._read(lambda: self._store.fill_now(token, entry, packed))

    async def _waited(self, waiter: asyncio.Future[None], token: Token, entry: NewEntry, packed: bytes | None) -> None:
        try:
            await waiter
        except asyncio.CancelledError:  # nobody waits for it any more, but the tool has answered
            with suppress(NotReady, AgentCacheError):  # nor is told why not
                self._store.fill_now(token, entry, packed)
            raise

    async def begin(self, tags: Sequence[Tag], writer: str) -> Window:
        window: Window = await self._run(self._store.begin_job(tags, writer))
        return window

    async def end(
        self, window: Window, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        job = self._store.end_job(window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)
        if job is not None:
            await self._run(job)

    async def move(self, tags: Sequence[Tag], writer: str) -> None:
        await self._run(self._store.move_job(tags, writer))

    async def drop_chain(self, chain: Chain) -> None:
        await self._run(self._store.drop_chain_job(chain))

    async def lead(self, key: bytes, tags: Sequence[Tag], token: Token) -> Lead | Taken:
        waiter = turn(_LEAD)
        if waiter is not None:
            await waiter
        try:
            lead = self._store.lead_now(key, token)
        except NotReady:
            lead = await self._read(lambda: self._store.lead_now(key, token))
        if isinstance(lead, DiskLead):
            lead.since = rounds()
        return lead

    def release(self, lead: Lead) -> None:
        """Does not wait, never raises."""
        self._store.release(lead)

    def abandon(self, window: Window) -> None:
        """Does not wait, never raises."""
        self._store.abandon(window)

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, the caller's own; ``default`` when there is none or it has expired."""
        return (await self._read(lambda: self._store.get_now([key]))).get(key, default)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store a copy, for ``ttl`` seconds (without one: ``default_ttl``).

        Raises:
            UnstorableResultError: the value would not come back equal, or is too large.
        """
        await self.set_many({key: value}, ttl)

    async def delete(self, key: str) -> bool:
        """Remove one key; tells whether it was there."""
        return bool(await self._run(self._store.delete_job(key)))

    async def exists(self, key: str) -> bool:
        return await self._read(lambda: self._store.exists_now(key))

    async def clear(self) -> None:
        """Drop every entry, tools' and key-value ones. Loads under way are not kept."""
        await self._run(self._store.clear_job())

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of ``keys`` that are there."""
        wanted = checked_keys(keys)
        return await self._read(lambda: self._store.get_now(wanted))

    async def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        payloads = self._store.written(items)
        if self._store.packing.least is not None:
            payloads = {key: await self._store.packing.aside(payload) for key, payload in payloads.items()}
        await self._run(self._store.set_job(payloads, ttl))

    async def delete_pattern(self, pattern: str) -> int:
        """Remove keys matching a glob (``*``, ``?``, ``[abc]``; ``[*]`` is a literal star); returns how many."""
        return int(await self._run(self._store.delete_pattern_job(pattern)))

    async def count(self) -> int:
        return await self._read(self._store.count_now)

    async def stats(self) -> dict[str, Any]:
        """See :meth:`DiskStore.stats`."""
        return await self._read(self._store.stats_now)

    async def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        await self._run(figures.add_job(minute, sums, now))

    async def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        return await self._read(partial(figures.rows, self._store, since, until, now))

    async def keys(self) -> AsyncIterator[str]:
        after = b"j\xff"
        while page := await self._read(partial(self._store.page_now, after)):
            for key in page:
                yield text_of(key)
            after = page[-1]
            await asyncio.sleep(0)

    async def scan(self, *, payloads: bool = False) -> AsyncIterator[StoredEntry]:
        """See :class:`~agent_cache.backends.base.Scanning`."""
        await self.flush()
        after, until = 0, await self._read(partial(scanning.last, self._store))
        clock = self._store.clock
        read = clock()
        while page := await self._read(partial(scanning.page, self._store, after, until, payloads)):
            for entry in page:
                yield entry.later(clock() - read)
            after = page[-1].where[0]
            await asyncio.sleep(0)
            read = clock()

    async def check_store(self, *, repair: bool) -> list[Finding]:
        await self.flush()
        await self.connect()
        findings = await asyncio.to_thread(self._store._retrying, partial(integrity.sound, self._store))
        job = integrity.mend_job(self._store, findings) if repair else None
        if job is not None:
            await self._run(job)
        return list(findings)

    async def remove(self, entry: StoredEntry) -> bool:
        return bool(await self._run(scanning.remove_job(entry)))

    async def sweep(self) -> int:
        """Drop now what has expired and whose grace is over; returns how many."""
        dropped = 0
        while gone := int(await self._run(self._store.sweep_job())):
            dropped += gone
        return dropped

    async def held(self, chain: Chain) -> int:
        return (await asyncio.to_thread(self._store.chain_sizes, chain))[0]

    async def finish_erasing(self, wanted: Targets) -> Mapping[str, int]:
        """Rewrite the file and cut its log off: what was deleted, now or before, stands in neither."""
        self._store._nearby.clear()
        await self._run(scrubbing.rewrite_job())
        for pause in scrubbing.PAUSES:
            if await self._run(scrubbing.cut_job()):
                break
            await asyncio.sleep(pause)  # somebody reads from it
        else:
            return {"in_use": 1, **await asyncio.to_thread(scrubbing.aside, self._store.path)}
        return await asyncio.to_thread(scrubbing.aside, self._store.path)

    async def flush(self) -> None:
        """Wait until the fills accepted so far are in the file."""
        await self._run(self._store.flush_job())

    async def doctor(self) -> list[Finding]:
        """What is wrong with this file, and what mends it."""
        return await diagnose(self)

    async def connect(self) -> None:
        """Open the file now, not on first use."""
        await self._run(self._store.ready_job(NotReady()))

    async def close(self) -> None:
        """Write what is pending and close the file. Usable again afterwards."""
        await asyncio.to_thread(self._store.close)


def _positive(value: float, parameter: str, *, zero_ok: bool = False) -> float:
    checked = seconds(value, parameter, zero_ok=zero_ok)
    if checked is None:
        raise ConfigurationError(parameter, value, "give a number of seconds")
    return checked
