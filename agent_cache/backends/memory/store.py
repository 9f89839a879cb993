"""The protocol on entries in memory, and who makes room for them.

Small enough to be read whole: ``lookup``, ``fill``, ``begin``, ``end`` and ``move`` are the protocol, none of them waits, and
each holds one lock. Hits that skip ``lookup`` (see ``NearEntry``) take no lock: versions never repeat, so a stamp that was
current under one ``generation`` is current until that object is replaced.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from agent_cache.backends.base import Blocked, Lookup, Missing, NewEntry
from agent_cache.backends.base import Token as TokenProtocol
from agent_cache.backends.base import Window as WindowProtocol
from agent_cache.backends.eviction import EvictionChoice, EvictionPolicy, eviction_policy
from agent_cache.backends.expiring import Expiring
from agent_cache.backends.figures import Figures
from agent_cache.backends.memory.records import (
    FOREVER,
    OVERHEAD,
    Entry,
    LastingEntry,
    Members,
    SharedEntry,
    Snapshot,
    TagRecord,
    Token,
    Window,
    found,
    has_more,
)
from agent_cache.backends.shares import Share, shares_of
from agent_cache.backends.sweeper import SWEEPER, checked_sweep
from agent_cache.bounds import Quota, checked_entry_limit, checked_quotas, refuse_larger
from agent_cache.clock import Clock as ClockFunction
from agent_cache.clock import nonce, seconds
from agent_cache.codecs import Stored, ToolCodec, codec_for
from agent_cache.errors import UnstorableResultError
from agent_cache.moving import MovableBlocking
from agent_cache.policy import checked_maxsize
from agent_cache.tags import CallTags, Chain, SharedTags, Tag, is_call_tag

__all__ = ["EntryStore", "evictions_ever", "live_stores"]

_MAX_OWN = 65_536
_SWEPT_AT_ONCE = 500


class EntryStore(MovableBlocking):
    """Tools' entries, blocking."""

    def __init__(
        self,
        max_size: int | None,
        max_bytes: int | None,
        default_ttl: float | None,
        settle: float,
        write_lease: float | None,
        clock: ClockFunction,
        eviction: EvictionChoice = "adaptive",
        quotas: Mapping[str, Quota] | None = None,
        max_entry_bytes: int | None = None,
        sweep: float | None = 60.0,
    ) -> None:
        self.eviction: EvictionChoice = eviction
        self.sweep_every = checked_sweep(sweep)
        self.quotas = checked_quotas(quotas)
        weighs = bool(self.quotas) or eviction == "cost" or not isinstance(eviction, str)
        self._entry_type: type[Entry] = SharedEntry if weighs else Entry
        self._lasting_type: type[Entry] = SharedEntry if weighs else LastingEntry
        self.max_size = checked_maxsize(max_size, "max_size")
        self.max_bytes = checked_maxsize(max_bytes, "max_bytes")
        limit = checked_entry_limit(max_entry_bytes)
        if self.max_bytes is not None:
            limit = min(limit, max(0, self.max_bytes - OVERHEAD))
        self.max_entry_bytes = limit
        self.default_ttl = seconds(default_ttl, "default_ttl")
        self.settle = seconds(settle, "settle", zero_ok=True) or 0.0
        self.write_lease = seconds(write_lease, "write_lease") or FOREVER
        self.clock = clock
        self.hot_clock = clock
        self._codec = codec_for(Any)
        self._figures = Figures()
        self._start_empty()
        _stores.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.RLock()  # reentrant: a collected coroutine may close its window inside our own call
        self._epoch = nonce()
        self._last = 0  # the last version handed out; they are compared by identity or order, and never repeat
        self._records: weakref.WeakValueDictionary[Tag, TagRecord] = weakref.WeakValueDictionary()
        self._held: dict[Tag, weakref.ref[TagRecord]] = cast(
            Any, self._records
        ).data  # to look at, at a third of the price
        self._own: dict[Tag, TagRecord] = {}  # of calls' own tags: only those that were ever moved
        self._floor = 0  # the version and fence of an own tag without a record
        self._snapshots: weakref.WeakValueDictionary[SharedTags, Snapshot] = weakref.WeakValueDictionary()
        self._held_snapshots: dict[SharedTags, weakref.ref[Snapshot]] = cast(Any, self._snapshots).data  # as above
        self._settling: list[tuple[float, tuple[TagRecord, ...]]] = []
        self._entries: dict[bytes | str, Entry] = {}
        self._ring: EvictionPolicy[Entry] = eviction_policy(
            self.eviction, self.max_size, bytes_are_short=self.max_bytes is not None
        )
        self._groups: dict[str, EvictionPolicy[Entry]] = {}
        self._shares: dict[str, Share] = shares_of(self.quotas, self.eviction)
        self._chains: dict[Chain, Members] = {}
        self._expiring: Expiring[Entry] | None = None if self.sweep_every is None else Expiring(self.sweep_every)
        self._is_swept = False  # whether the sweeper knows of this store
        self._is_to_be_swept = False
        self._bytes = 0
        self._evictions = 0
        self._hits = self._misses = 0
        self.generation = object()

    # -- the protocol ---------------------------------------------------------------------------------------------

    def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        """A current entry, or the token to load under, or word that a write is running."""
        now = self.clock()
        with self._lock:
            generation = self.generation
            entry = self._entries.get(key) if key is not None else None
            why, dropped_by, kept = "absent", None, None
            if entry is not None and self._is_under(entry, tags):
                own_version = self._own_state(tags)[0]
                if not self._is_current(entry, own_version):
                    why, dropped_by = "stale", self._dropped_by(entry, tags)
                elif now >= entry.deadline:
                    why = "expired"
                    if now < entry.deadline + entry.grace:
                        entry.visited = True
                        kept = found(entry, now, own_version)
                else:
                    entry.visited = True
                    return found(entry, now, own_version, entry, generation)
            token = self._token(tags)
            if (self._own or token.base.quiet is not self.generation) and self._is_blocked(token, now):
                return Blocked()
            return Missing(token, why, dropped_by, kept)

    def token(self, tags: Sequence[Tag]) -> Token:
        """The token of now, write windows or not: a fill under it is refused while one is open all the same."""
        with self._lock:
            return self._token(tags)

    def fill(self, token: TokenProtocol, entry: NewEntry) -> bool:
        """Store, if the token still holds.

        Raises:
            UnstorableResultError: it would not fit if it were alone.
        """
        now = self.clock()
        with self._lock:
            mine: Any = token
            if not self._accepts(mine, now):
                return False
            if entry.stored.size > self.max_entry_bytes:
                refuse_larger(entry.stored.size, self.max_entry_bytes)
            plain = entry.digest is entry.key and entry.stamp is None and not entry.grace and not entry.arguments
            kind = self._entry_type if plain or not has_more(mine, entry) else self._lasting_type
            if not self._insert(kind(self, mine, entry, now), entry.maxsize):
                text = f"{entry.stored.size} bytes, more than there is room for (max_bytes, or the namespace's quota)"
                raise UnstorableResultError("too_large", text)
        if self._is_to_be_swept:
            self._ask_to_be_swept()
        return True

    def begin(self, tags: Sequence[Tag], writer: str) -> Window:
        """Open a window: versions and fences move, fills are refused until it is closed."""
        with self._lock:
            self._forget_settled()
            records = self._written(tags)
            fresh = self._fresh()
            window = Window(tags, records, fresh, writer)
            now = self.clock()
            for record in records:
                record.open(window, now, now + self.write_lease)
            self._move(records, fresh, writer)  # after they are marked: its new generation says both
            return window

    def end(
        self, window: WindowProtocol, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        """Close a window: versions and fences move again, or versions go back where the write changed nothing.

        ``narrowed``: what it turned out to have written; that moves first, the rest of the window's tags go back.
        """
        mine = cast(Window, window)
        with self._lock:
            if mine.closed:
                return
            mine.closed = True
            self._written(mine.tags)  # a write that outlived its lease may have been forgotten here
            written: frozenset[Tag] | None = frozenset() if no_effect else None
            children: tuple[TagRecord, ...] = ()
            if narrowed is not None and not no_effect and not unknown:
                written = frozenset(narrowed)
                children = self._written([tag for tag in narrowed if tag not in mine.tags])
            fresh, now = self._fresh(), self.clock()
            if children:
                self._move(children, fresh, mine.writer)
            for tag, record, (before, writer) in zip(mine.tags, mine.records, mine.before):  # noqa: B905 - one of each
                marked = record.writers.pop(mine, 0.0) > now
                restored = written is not None and tag not in written and marked and record.version is mine.mine
                self._move_one(record, fresh, mine.writer)
                if restored:
                    record.version = before
                    record.last_writer = writer
            if unknown and self.settle:
                until = self.clock() + self.settle
                for record in mine.records:
                    record.settles_at = max(record.settles_at, until)
                self._settling.append((until, mine.records))
            self.generation = object()

    def move(self, tags: Sequence[Tag], writer: str) -> None:
        """A window of no length."""
        with self._lock:
            self._forget_settled()
            self._move(self._written(tags), self._fresh(), writer)

    def move_known(self, tags: Sequence[Tag], writer: str) -> None:
        """:meth:`move` those tags that something here depends on; the others have no record, and need none."""
        with self._lock:
            known = self._records
            records = [record for tag in tags if (record := known.get(tag)) is not None]
            if records:
                self._move(records, self._fresh(), writer)

    def put(self, moved: Sequence[Tag], tags: Sequence[Tag], entry: NewEntry, writer: str) -> bool:
        """Store by hand, in one step: move ``moved``, then fill under what ``tags`` are now. No load comes in between."""
        with self._lock:
            self.move(moved, writer)
            return self.fill(self._token(tags), entry)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Give up the room of entries nobody can reach any more."""
        with self._lock:
            for entry in [self._entries[key] for key in keys if key in self._entries]:
                self._remove(entry)

    def drop_group(self, group: str) -> None:
        """Give up the room of all entries of one tool."""
        with self._lock:
            for entry in [entry for entry in self._entries.values() if entry.group == group]:
                self._remove(entry)

    def group_sizes(self, group: str) -> tuple[int, int]:
        """Entries of one tool that have not expired, and their bytes (estimated)."""
        now = self.clock()
        with self._lock:
            mine = [entry for entry in self._entries.values() if entry.group == group and now < entry.deadline]
            return len(mine), sum(entry.size for entry in mine)

    def cool(self) -> None:
        """Let nothing be served at once any more that was found to be current before."""
        self.generation = object()

    def drop_chain(self, chain: Chain) -> None:
        """Delete the entries of one chain."""
        with self._lock:
            members = self._chains.pop(chain, None)
            for entry in members.living() if members is not None else ():
                self._remove(entry)
            if chain:  # loads still under way for it are not kept
                self._move(self._records_of([("all", chain, ())]), self._fresh(), "the end of the session")

    def drop_unserved(self, owns: Callable[[Chain], bool]) -> None:
        """Give up the entries of these chains, and all that a write has dropped."""
        with self._lock:
            for chain in [chain for chain in self._chains if owns(chain)]:
                self.drop_chain(chain)
            for entry in [entry for entry in self._entries.values() if not self._holds(entry.base)]:
                self._remove(entry)

    # -- the rules, one small method each ---------------------------------------------------------------------------

    def _is_current(self, entry: Entry, own_version: int) -> bool:
        """The stamp check: every version is the one the load began under."""
        return own_version <= entry.since and self._holds(entry.base)

    def _is_under(self, entry: Entry, tags: Sequence[Tag]) -> bool:
        """Whether it depends on what its asker does: one that was moved here may be from when the tool read something else."""
        if not isinstance(tags, CallTags) or entry.base.tags is tags.shared:
            return True
        asked = tags if entry.base.tags is None else tags.shared.tags  # plain tags: the call's own are among them
        return entry.base.records == self._records_of(asked)

    def _holds(self, base: Snapshot) -> bool:
        generation = self.generation  # before anything is compared: a collected coroutine may move tags in between
        if base.seen is generation:
            return True
        for record, version in zip(base.records, base.versions, strict=True):
            if record.version is not version:
                return False
        if base.epoch is not self._epoch:
            return False
        base.seen = generation
        return True

    def _is_unfenced(self, base: Snapshot) -> bool:
        """Whether no fence has moved: a write without effect restores versions, fences never go back."""
        generation = self.generation  # as in _holds
        if base.unfenced is generation:
            return True
        if any(record.fence is not fence for record, fence in zip(base.records, base.fences, strict=True)):
            return False
        base.unfenced = generation
        return True

    def _accepts(self, token: Token, now: float) -> bool:
        """The token check: no version or fence has moved since, and nobody is writing."""
        base, generation = token.base, self.generation
        if base.quiet is generation and base.unfenced is generation and base.seen is generation and not self._own:
            return self._floor <= token.since  # looked at before, and nothing has moved since
        if self._own_state(token.own)[1] > token.since or not self._holds(base):
            return False
        return self._is_unfenced(base) and not self._is_blocked(token, now)

    def _is_blocked(self, token: Token, now: float) -> bool:
        base, generation = token.base, self.generation  # before anything is looked at, as in _holds
        if base.quiet is not generation:
            for record in base.records:
                if (record.writers or record.settles_at) and record.is_blocked(now):
                    return True
            base.quiet = generation  # what is over does not come back, and what blocks anew is another generation
        own = self._own
        return bool(own) and any(tag in own and own[tag].is_blocked(now) for tag in token.own)

    def _fresh(self) -> int:
        self._last += 1
        return self._last

    def _move(self, records: Iterable[TagRecord], fresh: int, writer: str) -> None:
        for record in records:
            self._move_one(record, fresh, writer)
        self.generation = object()  # after the versions: a hit that still sees the old one began before us

    def _move_one(self, record: TagRecord, fresh: int, writer: str) -> None:
        record.version = fresh
        record.fence = fresh
        record.last_writer = writer

    # -- room ---------------------------------------------------------------------------------------------------------

    def _token(self, tags: Sequence[Tag]) -> Token:
        if not isinstance(tags, CallTags):
            return Token(Snapshot(self._records_of(tags), self._epoch), (), self._floor, self._floor, self._last)
        shared = tags.shared
        found = self._held_snapshots.get(shared)
        base = None if found is None else found()
        generation = self.generation  # before the versions are read, as in _holds
        if base is None or not (
            (base.seen is generation and base.unfenced is generation) or (self._holds(base) and self._is_unfenced(base))
        ):
            base = self._snapshots[shared] = Snapshot(self._records_of(shared.tags), self._epoch, shared)
            base.seen = base.unfenced = generation
        if not self._own:
            return Token(base, tags.own, self._floor, self._floor, self._last)
        return Token(base, tags.own, *self._own_state(tags), self._last)

    def _own_state(self, tags: Sequence[Tag]) -> tuple[int, int]:
        """The highest version and the highest fence of the call's own tags."""
        version = fence = self._floor
        own = self._own
        if own:
            for tag in tags.own if isinstance(tags, CallTags) else tags:
                record = own.get(tag)
                if record is not None:
                    version, fence = max(version, record.version), max(fence, record.fence)
        return version, fence

    def _records_of(self, tags: Sequence[Tag]) -> tuple[TagRecord, ...]:
        held = self._held
        records = []
        for tag in tags:
            found = held.get(tag)
            record = None if found is None else found()
            if record is None:
                record = self._records[tag] = TagRecord(self._fresh())
            records.append(record)
        return tuple(records)

    def _written(self, tags: Sequence[Tag]) -> tuple[TagRecord, ...]:
        """The records of tags that are about to move. Those of calls' own tags are kept from now on."""
        if len(self._own) >= _MAX_OWN:  # before ours are in it: what is about to move must not be forgotten
            self._raise_floor()
        for tag in tags:
            if is_call_tag(tag) and tag not in self._own:
                record = self._records.get(tag)
                if record is None:
                    record = self._records[tag] = TagRecord(self._floor)
                self._own[tag] = record
        return self._records_of(tags)

    def _raise_floor(self) -> None:
        """Forget half of the calls' own tags, those moved longest ago; what was loaded before the last of them is stale."""
        now = self.clock()
        free = [tag for tag, record in self._own.items() if not record.is_blocked(now)]
        free.sort(key=lambda tag: self._own[tag].fence)
        for tag in free[: len(free) // 2]:
            self._floor = max(self._floor, self._own.pop(tag).fence)
        self.generation = object()

    def _forget_settled(self) -> None:
        if self._settling:
            now = self.clock()
            self._settling = [held for held in self._settling if held[0] > now]

    def _dropped_by(self, entry: Entry, tags: Sequence[Tag]) -> str | None:
        for record, version in zip(entry.base.records, entry.base.versions, strict=True):
            if record.version is not version:
                return record.last_writer
        for tag in tags:
            record_of_own = self._own.get(tag)
            if record_of_own is not None and record_of_own.version > entry.since:
                return record_of_own.last_writer
        return "clear"

    def _insert(self, entry: Entry, maxsize: int | None) -> bool:
        """Take an entry in and make room; False if it alone is larger than all there is."""
        size, share = entry.size, entry.share
        if self.max_bytes is not None and size > self.max_bytes:
            return False
        if share is not None and not share.fits(size):
            return False
        old = self._entries.get(entry.key)
        if old is not None:
            entry.visited = old.visited  # what was asked for often is no newcomer because it was written
            self._remove(old)
        self._entries[entry.key] = entry
        self._bytes += size
        if self._expiring is not None and (ends := entry.deadline + entry.grace) != FOREVER:
            self._expiring.add(entry, ends)
            if not self._is_swept:
                self._is_to_be_swept = True
        if entry.chain:
            members = self._chains.get(entry.chain)
            if members is None:
                members = self._chains[entry.chain] = Members()
            members.add(entry)
        if maxsize is not None:
            group = self._groups.get(entry.group)
            if group is None:
                # A session's own answers are asked for again soon or not at all: recency is all there is to know.
                choice = "clock" if entry.chain[:1] == ("session",) else self.eviction
                group = self._groups[entry.group] = eviction_policy(choice, maxsize)
            self._evict(group.add(entry), group)
        if share is not None:
            self._evict(cast("Entry | None", share.add(entry)), share)
        self._evict(self._ring.add(entry), self._ring)
        for victim in share.over() if share is not None else ():
            self._evict(cast(Entry, victim), share)
        while self.max_bytes is not None and self._bytes > self.max_bytes:
            self._evict(self._ring.evict(), self._ring)
        return True

    def _evict(self, victim: Entry | None, by: EvictionPolicy[Entry] | Share | None) -> None:
        if victim is not None:
            self._evictions += 1
            evictions_ever[0] += 1
            self._remove(victim, out_of=by)

    def _remove(self, entry: Entry, out_of: EvictionPolicy[Entry] | Share | None = None) -> None:
        """Take an entry out of everything but the ring it already left."""
        entry.dead = True
        if self._expiring is not None and entry.deadline + entry.grace != FOREVER:
            self._expiring.forget()
        entry.deadline = -FOREVER
        self._bytes -= entry.size  # before the value goes
        share = entry.share
        if share is not None:
            share.lost(entry.size, by_share=share is out_of)
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
        members = self._chains.get(entry.chain)
        if members is not None and not members.lost_one():
            del self._chains[entry.chain]
        group = self._groups.get(entry.group)
        for ring in (self._ring, group):
            if ring is not None and ring is not out_of:
                ring.forget()
        if group is not None and not group.live:
            del self._groups[entry.group]
        entry.stored = _GONE

    # -- what has expired ---------------------------------------------------------------------------------------------

    def _ask_to_be_swept(self) -> None:
        """Not under the lock: the sweeper has one of its own."""
        with self._lock:
            self._is_to_be_swept, self._is_swept = False, True
        SWEEPER.watch(self)

    def sweep_step(self) -> float | None:
        """Drop some of what has expired; seconds until the next step, None where nothing is left that expires."""
        with self._lock:
            expiring = self._expiring
            if expiring is None or not expiring.live:
                self._is_swept = False
                return None
            found, some_are_left = expiring.over(self.clock(), _SWEPT_AT_ONCE)
            for entry in found:
                self._remove(entry)
            return 0.0 if some_are_left else self.sweep_every

    def sweep(self) -> int:
        """Drop now what has expired and whose grace is over; returns how many."""
        with self._lock:
            now = self.clock()
            over = [entry for entry in self._entries.values() if now >= entry.deadline + entry.grace]
            for entry in over:
                self._remove(entry)
            return len(over)

    def sizes(self) -> tuple[int, int, int]:
        """Entries, bytes (estimated), evictions so far."""
        with self._lock:
            return len(self._entries), self._bytes, self._evictions

    def chain_sizes(self, chain: Chain) -> tuple[int, int]:
        """Entries and bytes (estimated) of one chain."""
        with self._lock:
            members = self._chains.get(chain)
            mine = members.living() if members is not None else []
            return len(mine), sum(entry.size for entry in mine)


evictions_ever = [0]
"""Entries evicted in this process, in backends long gone too."""
_GONE: Stored = codec_for(Any).freeze(None)
_stores: weakref.WeakSet[EntryStore] = weakref.WeakSet()


def _after_fork() -> None:
    """A child's memory is not its parent's: what the parent writes from now on is never heard here."""
    for store in list(_stores):
        store._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def live_stores() -> list[EntryStore]:
    """All memory backends of this process that are in use."""
    return list(_stores)
