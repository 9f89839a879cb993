"""A near tier in the process before a far one that others share.

Read: near copy → is its stamp current? (``strict``: the far tier is asked, without the payload; ``lease``: the bus has
proven that nothing was missed) → far lookup → near copy. Write: far first, then near. The near tier is a
:class:`MemoryBackend` under tags of its own, which move with every local write and everything the bus tells, so a copy
that was fetched while a tag moved is not kept.

An optional third store keeps the near tier's copies over restarts; one of those counts only while the far tier says that
its stamp is current. What a far tier guarantees is its own business.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from agent_cache.backends.base import (
    NEAR_COPY,
    Backend,
    Finding,
    Found,
    KeyValue,
    Lead,
    Leading,
    Lookup,
    Missing,
    NewEntry,
    Revalidating,
    Same,
    StoredEntry,
    Taken,
    Token,
    Watching,
    Window,
)
from agent_cache.backends.debts import Ledger, inherit, ledger_of
from agent_cache.backends.memory import Entry, MemoryBackend, MemoryStore
from agent_cache.bounds import MAX_ENTRY_BYTES
from agent_cache.clock import uptime
from agent_cache.codecs import ToolCodec
from agent_cache.errors import AgentCacheError, ConfigurationError, UnstorableResultError
from agent_cache.moving import Movable, MovableFace, Targets
from agent_cache.recorded import StatsRow
from agent_cache.tags import EVERYONE, Chain, Tag

__all__ = ["TieredBackend"]

log = logging.getLogger("agent_cache")


class _Ear(Protocol):
    """What proves that nothing was missed: ``proven`` is the uptime up to which that is known."""

    proven: float
    lease: float
    closed: bool


class TieredToken:
    """The far tier's token, and the near tier's of the moment before it was asked."""

    __slots__ = ("far", "near")

    def __init__(self, far: Token, near: Token | None) -> None:
        self.far = far
        self.near = near

    @property
    def stamp(self) -> Hashable:
        return self.far.stamp

    def __hash__(self) -> int:
        return hash(self.far)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TieredToken) and self.far == other.far


class TieredBackend(Movable):
    """Memory before Redis or disk.

    Args:
        near: a :class:`MemoryBackend`, for this tier alone; its limits bound what is kept in the process.
        far: a backend that can revalidate: ``RedisBackend`` or ``DiskBackend``. Its ``coherence`` decides whether it is
            asked on every read (``"strict"``) or not while the bus is known to be alive (``"lease"``).
        keep: a ``DiskBackend`` that keeps the near tier's copies over restarts.

    By itself a key-value cache too: those values go to the far tier only, so every process sees the same.

    Raises:
        ConfigurationError: a near tier that is not memory, a far one that cannot revalidate.
    """

    in_process = False

    def __init__(self, near: MemoryBackend, far: Backend, *, keep: Any = None) -> None:
        if not isinstance(near, MemoryBackend):
            raise ConfigurationError("near", near, "give a MemoryBackend() of its own")
        if near.sync.quotas:
            raise ConfigurationError(
                "near", near, "copies are not counted by namespace: give the quotas to the far tier"
            )
        if not isinstance(far, Revalidating) or not isinstance(far, Leading):
            raise ConfigurationError("far", far, "give a RedisBackend or a DiskBackend")
        if keep is not None and not isinstance(keep, KeyValue):
            raise ConfigurationError("keep", keep, "give a DiskBackend")
        self.near = near
        self.far: Any = far
        self.keep: Any = keep
        self.coherence: str = getattr(far, "coherence", "strict")
        self._store: MemoryStore = near.sync
        self._ear: _Ear | None = None
        self._near_hits = self._far_hits = self._revalidated = 0
        self._bounds: dict[str, int | None] = {}
        self._keeping: set[asyncio.Task[None]] = set()
        self._face = MovableFace(self)
        tier: Any = self.far
        tier.serves_near_tier = True
        self._watched: Watching | None = far if isinstance(far, Watching) else None
        if self.coherence == "lease":
            self._store.hot_clock = self._leased_clock
        elif self._watched is not None:
            self._store.hot_clock = self._watched_clock
        _tiers.add(self)
        inherit(self)

    @property
    def outbox(self) -> Ledger | None:
        """Where what the far tier could not be told is noted."""
        return ledger_of(self.far)

    def __repr__(self) -> str:
        return f"TieredBackend({self.near!r}, {self.far!r})"

    @property
    def sync(self) -> MovableFace:
        """The same surface for code without an event loop."""
        return self._face

    async def __aenter__(self) -> TieredBackend:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect the far tier now, and in lease mode its bus."""
        await self.far.connect()
        if self.coherence == "lease":
            self._listen()

    async def close(self) -> None:
        """Close the far tier (and the one that keeps copies); what is near is forgotten."""
        self._ear = None
        self._store.clear()
        await self.far.close()
        if self.keep is not None:
            await self.keep.close()

    # -- proof ----------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._ear is None or self._ear.closed:
            held = weakref.ref(self)

            def heard(ids: Sequence[bytes]) -> None:
                tier = held()
                if tier is not None:
                    tier._moved(ids)

            def lost() -> None:
                tier = held()
                if tier is not None:
                    tier._store.clear()

            self._ear = self.far.listen(heard, lost)

    def _is_proven(self) -> bool:
        """Whether every invalidation up to a lease ago has been heard. Asked before a copy is looked at, never after."""
        ear = self._ear
        return ear is not None and uptime() < ear.proven + ear.lease

    def _leased_clock(self) -> float:
        """The near tier's time; infinity, at which everything has expired, while nothing is proven."""
        return self._store.clock() if self._is_proven() else math.inf

    def _look_out(self) -> None:
        """Where a file is watched: once anything was written to it, nothing is served at once until it is asked again."""
        if self._watched is not None and not self._watched.unchanged():
            self._store.cool()

    def _watched_clock(self) -> float:
        """The near tier's time. The generation that is compared after this is a new one if anything was written."""
        self._look_out()
        return self._store.clock()

    # -- the protocol ---------------------------------------------------------------------------------------------------

    def tag_ids(self, tags: Sequence[Tag]) -> tuple[bytes, ...]:
        ids: tuple[bytes, ...] = self.far.tag_ids(tags)
        return ids

    async def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        """A copy that is known to be current, else what the far tier says."""
        near_tags = self._near_tags(tags)
        if self.coherence == "lease":
            self._listen()
            if key is not None and self._is_proven():
                proven = self._store.lookup(key, near_tags, codec)
                if isinstance(proven, Found):
                    self._near_hits += 1
                    _as_far_said(proven)
                    return proven
        if key is None:
            now = self._store.token(near_tags)
            return self._with_token(await self.far.lookup(None, tags, codec), now)
        self._look_out()
        generation = self._store.generation  # before anything is asked: what is written after that replaces it
        copy = self._store.lookup(key, near_tags, codec)
        snapshot: Token | None = copy.token if isinstance(copy, Missing) else None  # before the far tier is asked
        stamp: Hashable = None
        if isinstance(copy, Found):
            stamp = _as_far_said(copy)
        elif self.keep is not None:
            copy, stamp = await self._kept(key, codec) or (copy, None)
        if not isinstance(copy, Found):
            return self._taken_over(key, tags, await self.far.lookup(key, tags, codec), snapshot)
        if snapshot is None:
            snapshot = self._store.token(near_tags)
        answer = await self.far.revalidate(key, tags, codec, stamp)
        if isinstance(answer, Same):
            self._revalidated += 1
            self._near_hits += 1
            if copy.near is None:  # a copy from before the restart: near again
                self._put(key, tags, snapshot, copy, stamp)
            copy.stamp = stamp
            if self.coherence == "lease" or self._watched is not None:
                copy.generation = generation
            else:
                copy.near = None
            return copy
        return self._taken_over(key, tags, answer, snapshot)

    def _taken_over(self, key: bytes, tags: Sequence[Tag], answer: Lookup, snapshot: Token | None) -> Lookup:
        if isinstance(answer, Found):
            self._far_hits += 1
            self._put(key, tags, snapshot, answer, answer.stamp)
            answer.near = None
            return answer
        return self._with_token(answer, snapshot)

    def _put(self, key: bytes, tags: Sequence[Tag], snapshot: Token | None, found: Found, stamp: Hashable) -> None:
        """Keep a copy near, unless a tag moved here since the far tier was asked."""
        if snapshot is None:
            return
        group = next((path[0][1:] for _, _, path in tags if path and path[0].startswith("#")), "")
        chain = tags[-1][1] if tags else EVERYONE
        maxsize = self._bounds.get(group)
        ttl = found.ttl_left if found.kept_for is None else found.kept_for
        near_stamp = (stamp, found.ttl_left is not None)
        age = max(0.0, found.age)  # a copy is as old as what it is a copy of
        new = NewEntry(key, found.stored, ttl, found.load_seconds, group, maxsize, chain, None, near_stamp, age=age)
        self._keep_near(snapshot, new)

    def _keep_near(self, token: Token, new: NewEntry) -> None:
        """A copy that is too large for the near tier is not kept there."""
        if new.stored.size > self._store.max_entry_bytes:
            return
        try:
            self._store.fill(token, new)
        except UnstorableResultError as error:
            log.debug("a copy is not kept near: %s", error)

    @property
    def max_entry_bytes(self) -> int:
        """Bytes of a written value; larger ones are not stored. The far tier's."""
        limit: int = getattr(self.far, "max_entry_bytes", MAX_ENTRY_BYTES)
        return limit

    def bound_group(self, group: str, maxsize: int | None) -> None:
        """How many near copies one tool may have; the far tier is not bounded by tool."""
        self._bounds[group] = maxsize

    def _near_tags(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        """The near tier's tags: what the bus calls them."""
        return cast(Sequence[Tag], self.far.tag_ids(tags))

    @staticmethod
    def _with_token(answer: Lookup, snapshot: Token | None) -> Lookup:
        if isinstance(answer, Missing):
            answer.token = TieredToken(answer.token, snapshot)
        return answer

    async def fill(self, token: Token, entry: NewEntry) -> bool:
        """Far, then near; what the far tier refuses is not kept near either."""
        mine = cast(TieredToken, token)
        if not await self.far.fill(mine.far, entry):
            return False
        cap = getattr(self.far, "max_ttl", None)
        ttl = entry.ttl if cap is None else cap if entry.ttl is None else min(entry.ttl, cap)
        if mine.near is not None:
            self._keep_near(
                mine.near,
                replace(entry, stamp=(mine.far.stamp, entry.ttl is not None), lead=None, ttl=ttl, grace=0.0),
            )
        if self.keep is not None:
            self._keep_copy(cast(bytes, entry.key), mine.far.stamp, entry, ttl)
        return True

    async def lead(self, key: bytes, tags: Sequence[Tag], token: Token) -> Lead | Taken:
        lead: Lead | Taken = await self.far.lead(key, tags, cast(TieredToken, token).far)
        return lead

    def release(self, lead: Lead) -> None:
        self.far.release(lead)

    async def begin(self, tags: Sequence[Tag], writer: str) -> Window:
        """Open the far tier's window; nothing near survives it."""
        try:
            window: Window = await self.far.begin(tags, writer)
            return window
        finally:  # a read that the far tier answered before may have put its copy near meanwhile
            self.forget(tags, writer)

    async def end(
        self, window: Window, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        """Far, then near: of the tags a narrowed write turns out to have written, the window's went when it was opened."""
        try:
            await self.far.end(window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)
        finally:
            if narrowed is not None:
                self.forget(narrowed, "a write")

    async def move(self, tags: Sequence[Tag], writer: str) -> None:
        self.forget(tags, writer)
        try:
            await self.far.move(tags, writer)
        finally:
            self.forget(tags, writer)

    async def drop_chain(self, chain: Chain) -> None:
        self._store.drop_chain(chain)
        await self.far.drop_chain(chain)

    def abandon(self, window: Window) -> None:
        self.far.abandon(window)

    def forget(self, tags: Sequence[Tag], writer: str) -> None:
        """Drop the near copies under these tags; the far tier is owed as much."""
        self._store.move_known(self._near_tags(tags), writer)

    def _moved(self, ids: Sequence[bytes]) -> None:
        """The bus said so."""
        self._store.move_known(cast(Sequence[Tag], ids), "a write")

    # -- copies that outlive the process --------------------------------------------------------------------------------

    def _keep_copy(self, key: bytes, stamp: Hashable, entry: NewEntry, ttl: float | None) -> None:
        """Written behind; losing one is a miss."""

        ends = None if ttl is None else self._store.clock() + ttl

        async def keep() -> None:
            try:
                left = None if ends is None else ends - self._store.clock()
                if left is not None and left <= 0:
                    return
                until = None if left is None else time.time() + left
                await self.keep.set(
                    NEAR_COPY + key.hex(),
                    (stamp, entry.stored.payload(), until, entry.load_seconds, entry.ttl is not None),
                    left,
                )
            except AgentCacheError as error:
                log.debug("a copy was not kept over restarts: %s", error)

        task = asyncio.get_running_loop().create_task(keep())
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _kept(self, key: bytes, codec: ToolCodec) -> tuple[Found, Hashable] | None:
        """A copy from before the restart, and its stamp: whether that is current is for the far tier to say."""
        try:
            kept = await self.keep.get(NEAR_COPY + key.hex())
            if kept is None:
                return None
            stamp, payload, until, load_seconds, has_ttl = kept
            stored = codec.thaw_payload(payload)
            left = None if until is None else until - time.time()
            if left is not None and left <= 0:
                return None
            shown = left if has_ttl else None
            return Found(stored, 0.0, shown, float(load_seconds), None, stamp, kept_for=left), stamp
        except (AgentCacheError, TypeError, ValueError) as error:
            log.debug("a kept copy cannot be used: %s", error)
            return None

    # -- a plain key-value cache: the far tier's --------------------------------------------------------------------------

    async def get(self, key: str, default: Any = None) -> Any:
        """The far tier's value; ``default`` when there is none or it has expired."""
        return await self.far.get(key, default)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        await self.far.set(key, value, ttl)

    async def delete(self, key: str) -> bool:
        return bool(await self.far.delete(key))

    async def exists(self, key: str) -> bool:
        return bool(await self.far.exists(key))

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        values: dict[str, Any] = await self.far.get_many(keys)
        return values

    async def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        await self.far.set_many(items, ttl)

    async def delete_pattern(self, pattern: str) -> int:
        return int(await self.far.delete_pattern(pattern))

    async def count(self) -> int:
        return int(await self.far.count())

    async def keys(self) -> AsyncIterator[str]:
        async for key in self.far.keys():
            yield key

    async def clear(self) -> None:
        """Drop every entry in all tiers. Loads under way are not kept."""
        self._store.clear()
        await self.far.clear()
        self._store.clear()
        if self.keep is not None:
            await self.keep.delete_pattern(NEAR_COPY + "*")

    async def stats(self) -> dict[str, Any]:
        """The far tier's, and beside them ``near_hits`` (``revalidated`` of those after asking), ``far_hits`` and ``near``."""
        far: dict[str, Any] = await self.far.stats()
        return {
            **far,
            "backend": f"tiered over {far['backend']}",
            "coherence": self.coherence,
            "near_hits": self._near_hits,
            "revalidated": self._revalidated,
            "far_hits": self._far_hits,
            "near": self._store.stats(),
            "proven": self._is_proven() if self.coherence == "lease" else None,
        }

    async def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        await self.far.add_stats(minute, sums, now=now)

    async def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        found: list[StatsRow] = await self.far.recorded_stats(since, until, now=now)
        return found

    def scan(self, *, payloads: bool = False) -> AsyncIterator[StoredEntry]:
        """The far tier's entries: what is near is a copy of them."""
        found: AsyncIterator[StoredEntry] = self.far.scan(payloads=payloads)
        return found

    async def check_store(self, *, repair: bool) -> list[Finding]:
        """All tiers'."""
        found: list[Finding] = await self.far.check_store(repair=repair) + self._store.check(repair=repair)
        return found + (await self.keep.check_store(repair=repair) if self.keep is not None else [])

    async def remove(self, entry: StoredEntry) -> bool:
        """Take it out of the far tier, and the copy that is near here."""
        gone = bool(await self.far.remove(entry))
        for copy in self._store.stored([entry.key], payloads=False):
            self._store.remove(copy)
        if self.keep is not None and isinstance(entry.key, bytes):
            await self.keep.delete(NEAR_COPY + entry.key.hex())
        return gone

    async def held(self, chain: Chain) -> int:
        return int(await self.far.held(chain))

    async def forget_tags(self, tags: Sequence[Tag]) -> None:
        await self.far.forget_tags(tags)

    async def finish_erasing(self, wanted: Targets) -> Mapping[str, int]:
        """All tiers: no copy of theirs is near, nor any that is dead; of those kept over restarts none at all."""
        self._store.drop_unserved(wanted.owns)
        left: Counter[str] = Counter(await self.far.finish_erasing(wanted))
        if self.keep is not None:
            await self.keep.delete_pattern(NEAR_COPY + "*")
            left.update(await self.keep.finish_erasing(wanted))
        return left

    async def doctor(self) -> list[Finding]:
        """What the far tier's doctor says, and the keeping one's."""
        found: list[Finding] = await self.far.doctor()
        return found + (await self.keep.doctor() if hasattr(self.keep, "doctor") else [])


def _as_far_said(copy: Found) -> Hashable:
    """Give a near copy the far tier's stamp, and its ttl only if it has one (a copy has one because a store forgets)."""
    stamp, has_ttl = cast("tuple[Hashable, bool]", cast(Entry, copy.near).stamp)
    copy.stamp = stamp
    if not has_ttl:
        copy.ttl_left = None
    return stamp


_tiers: weakref.WeakSet[TieredBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for tier in list(_tiers):
        tier._ear = None  # a child hears nothing of what its parent hears


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
