"""Entries, tags and write windows in this process's memory.

The reference implementation of the consistency rules of :mod:`agent_cache.backends.base`,
small enough to be read whole: ``lookup``, ``fill``, ``begin``, ``end`` and ``move`` are the
protocol, none of them waits, and each holds one lock. Hits that skip ``lookup`` (see
``NearEntry``) take no lock: versions never repeat, so a stamp that was current under one
``generation`` is current until that object is replaced.

Serving calls, running tools and counting do not belong here.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from agent_cache.backends.base import Blocked, Finding, Found, Lookup, Missing, NewEntry, StoredEntry
from agent_cache.backends.base import Token as TokenProtocol
from agent_cache.backends.base import Window as WindowProtocol
from agent_cache.backends.eviction import EvictionChoice, EvictionPolicy, eviction_policy
from agent_cache.backends.expiring import Expiring
from agent_cache.backends.figures import Figures
from agent_cache.backends.shares import Share, shares_of
from agent_cache.backends.sweeper import SWEEPER, checked_sweep
from agent_cache.bounds import Quota, checked_entry_limit, checked_quotas, refuse_larger
from agent_cache.clock import Clock as ClockFunction
from agent_cache.clock import monotonic, nonce, seconds
from agent_cache.codecs import Stored, ToolCodec, codec_for
from agent_cache.errors import UnstorableResultError
from agent_cache.known import known_tool
from agent_cache.moving import Movable, MovableBlocking
from agent_cache.policy import checked_key, checked_maxsize
from agent_cache.recorded import StatsRow
from agent_cache.tags import CallTags, Chain, SharedTags, Tag, bucket_path, call_tags, is_call_tag

__all__ = ["MemoryBackend", "MemoryStore"]

_OVERHEAD = 400  # bytes an entry costs beside its value: measured with tracemalloc, rounded up
_FOREVER = float("inf")
_KEY_VALUE = "key-value"
_MAX_OWN = 65_536
_SWEPT_AT_ONCE = 500
_SESSION = ("session",)
_SCANNED = 64  # entries written down before others get their turn


class TagRecord:
    """A tag's version and fence, and who is writing it.

    Lives as long as an entry, a load or a window needs it. A version is a number of the store's own, handed out once.
    """

    __slots__ = ("__weakref__", "fence", "last_writer", "settles_at", "version", "writers")

    def __init__(self, fresh: int) -> None:
        self.version = fresh
        self.fence = fresh
        self.writers: dict[Window, float] = {}  # open windows, and when their lease ends
        self.settles_at = 0.0
        self.last_writer: str | None = None

    def open(self, window: Window, now: float, ends: float) -> None:
        """Mark a writer; those whose lease has ended without a word are forgotten."""
        if self.writers:
            self.writers = {other: end for other, end in self.writers.items() if end > now}
        self.writers[window] = ends

    def is_blocked(self, now: float) -> bool:
        """Whether somebody is writing it, or the last one left without saying how it went."""
        return self.settles_at > now or (bool(self.writers) and max(self.writers.values()) > now)


class Snapshot:
    """The versions and fences of some tags at one moment; entries loaded under it share it. Equal when all of them are."""

    __slots__ = ("__weakref__", "_hash", "epoch", "fences", "quiet", "records", "seen", "tags", "unfenced", "versions")

    def __init__(self, records: tuple[TagRecord, ...], epoch: bytes, tags: SharedTags | None = None) -> None:
        self.tags = tags  # alive as long as this is
        self.records = records
        self.versions = tuple([r.version for r in records])
        self.fences = tuple([r.fence for r in records])
        self.epoch = epoch
        self.seen: object = None  # the generation under which the versions were last found to be these
        self.unfenced: object = None  # the same of the fences
        self.quiet: object = (
            None  # the same, and nobody was writing: a window that opens, or settles, is another generation
        )
        self._hash = hash((self.fences, epoch))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Snapshot)
            and self.fences == other.fences
            and self.versions == other.versions
            and self.epoch == other.epoch
        )


class Entry:
    """A stored value with the snapshot it was loaded under."""

    __slots__ = (
        "base", "chain", "created", "dead", "deadline", "group", "home", "key", "load_seconds", "since", "stored", "visited",
    )  # fmt: skip

    stored: Stored
    deadline: float
    share: Share | None = None  # of the class: only entries of stores with quotas have one, and a slot for it
    cost: float = 0.0  # of the class, like share: only where somebody weighs it
    # What few entries have is of the class too, and has a slot in those that have any of it:
    grace: float = 0.0  # seconds for which it is kept beyond its deadline
    stamp: Hashable = None  # what a near copy is revalidated by
    arguments: str = ""  # for people
    origin: tuple[str, str] | None = None  # namespace and bucket, where the key tells neither

    def __init__(self, home: MemoryStore, token: Token, new: NewEntry, now: float) -> None:
        self.home = home
        self.key: bytes | str = new.key
        self.stored = new.stored
        self.base = token.base
        self.since = token.since
        self.deadline = _FOREVER if new.ttl is None else now + new.ttl
        self.created = now - new.age
        self.load_seconds = new.load_seconds
        self.group = new.group
        self.chain = new.chain
        self.visited = False
        self.dead = False

    @property
    def size(self) -> int:
        """Bytes, as estimated."""
        return self.stored.size + _OVERHEAD


class LastingEntry(Entry):
    """One that has more to it: kept beyond its freshness, a near copy, or fit to be moved though its key tells nothing."""

    __slots__ = ("arguments", "grace", "origin", "stamp")

    def __init__(self, home: MemoryStore, token: Token, new: NewEntry, now: float) -> None:
        super().__init__(home, token, new, now)
        self.grace = new.grace
        self.stamp = new.stamp
        self.arguments = new.arguments
        self.origin = (new.namespace, token.own[0][2][1]) if _is_moved_by_origin(token, new) else None


class SharedEntry(LastingEntry):
    """An entry of a store that looks at more than age: whose it is (quotas), or what it cost (eviction)."""

    __slots__ = ("cost", "share")

    def __init__(self, home: MemoryStore, token: Token, new: NewEntry, now: float) -> None:
        super().__init__(home, token, new, now)
        self.share = home._shares.get(new.namespace)
        self.cost = new.cost


def _is_moved_by_origin(token: Token, new: NewEntry) -> bool:
    """Whether its key tells neither namespace nor bucket. What dies with a session never moves."""
    return new.digest is not new.key and bool(token.own) and new.chain[:1] != _SESSION


def _has_more(token: Token, new: NewEntry) -> bool:
    """Whether an entry needs the slots of :class:`LastingEntry`."""
    return bool(new.grace or new.arguments) or new.stamp is not None or _is_moved_by_origin(token, new)


Stamp = tuple[tuple[int, ...], tuple[TagRecord, ...], int]


class Token:
    """What a load began under: a snapshot of the tags it shares with others, and the state of its own.

    ``since`` is the last version handed out when it was made: a tag of the call's own that has a later one has moved.
    """

    __slots__ = ("base", "own", "own_fence", "own_version", "since")

    def __init__(self, base: Snapshot, own: tuple[Tag, ...], own_version: int, own_fence: int, since: int) -> None:
        self.base = base
        self.own = own
        self.own_version = own_version
        self.own_fence = own_fence
        self.since = since

    @property
    def stamp(self) -> Stamp:
        """The versions, with the records: while somebody holds it to compare, they must not be minted anew."""
        return self.base.versions, self.base.records, self.own_version

    def __hash__(self) -> int:
        return hash(self.base)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self.own_fence == other.own_fence and self.base == other.base


class Window:
    """An open write: its tags' records, and what BEGIN wrote and replaced in them."""

    __slots__ = ("before", "closed", "mine", "records", "tags", "writer")

    def __init__(self, tags: Sequence[Tag], records: tuple[TagRecord, ...], mine: int, writer: str) -> None:
        self.tags = tags
        self.records = records
        self.before = tuple((r.version, r.last_writer) for r in records)
        self.mine = mine
        self.writer = writer
        self.closed = False


class Members:
    """The entries of one chain; those that died are passed over, and let go once they are more than half of it."""

    __slots__ = ("_entries", "_live")

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._live = 0

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._live += 1

    def lost_one(self) -> int:
        """One of them is dead now; how many are left."""
        self._live -= 1
        if len(self._entries) > 64 and self._live * 2 < len(self._entries):
            self._entries = self.living()
        return self._live

    def living(self) -> list[Entry]:
        return [entry for entry in self._entries if not entry.dead]


class MemoryStore(MovableBlocking):
    """The blocking surface: the protocol, and a plain key-value cache beside it. See :class:`MemoryBackend`."""

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
            limit = min(limit, max(0, self.max_bytes - _OVERHEAD))
        self.max_entry_bytes = limit
        self.default_ttl = seconds(default_ttl, "default_ttl")
        self.settle = seconds(settle, "settle", zero_ok=True) or 0.0
        self.write_lease = seconds(write_lease, "write_lease") or _FOREVER
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
                        kept = _found(entry, now, own_version)
                else:
                    entry.visited = True
                    return _found(entry, now, own_version, entry, generation)
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
            kind = self._entry_type if plain or not _has_more(mine, entry) else self._lasting_type
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
        if self._expiring is not None and (ends := entry.deadline + entry.grace) != _FOREVER:
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
        if self._expiring is not None and entry.deadline + entry.grace != _FOREVER:
            self._expiring.forget()
        entry.deadline = -_FOREVER
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

    # -- a plain key-value cache; its keys are text, a tool's are digests ----------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The value, the caller's own; ``default`` when there is none or it has expired."""
        with self._lock:
            entry = self._live(key)
            if entry is None:
                self._misses += 1
                return default
            self._hits += 1
            entry.visited = True
            stored = entry.stored
        return stored.fresh()

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store a copy. ``ttl`` in seconds; without one the backend's ``default_ttl``.

        Raises:
            UnstorableResultError: the value would not come back equal, or is too large.
        """
        stored = self._codec.freeze(value)
        refuse_larger(stored.size, self.max_entry_bytes)
        lives = seconds(ttl, "ttl") if ttl is not None else self.default_ttl
        with self._lock:
            token = Token(Snapshot((), self._epoch), (), 0, 0, self._last)
            new = NewEntry(checked_key(key), stored, lives, 0.0, _KEY_VALUE, None, ())
            if not self._insert(self._entry_type(self, token, new, self.clock()), None):
                raise UnstorableResultError("too_large", f"{stored.size} bytes, more than its quota has room for")
        if self._is_to_be_swept:
            self._ask_to_be_swept()

    def delete(self, key: str) -> bool:
        """Remove one key; tells whether it was there."""
        with self._lock:
            entry = self._live(key)
            if entry is not None:
                self._remove(entry)
            return entry is not None

    def exists(self, key: str) -> bool:
        with self._lock:
            return self._live(key) is not None

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of ``keys`` that are there."""
        missing = object()
        found = {key: self.get(key, missing) for key in keys}
        return {key: value for key, value in found.items() if value is not missing}

    def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        for key, value in items.items():
            self.set(key, value, ttl)

    def keys(self) -> list[str]:
        with self._lock:
            return [key for key in list(self._entries) if isinstance(key, str) and self._live(key) is not None]

    def delete_pattern(self, pattern: str) -> int:
        """Remove keys matching a glob (``*``, ``?``, ``[abc]``; ``[*]`` is a literal star); returns how many."""
        return sum(self.delete(key) for key in self.keys() if fnmatch.fnmatchcase(key, pattern))

    def count(self) -> int:
        return len(self.keys())

    def clear(self) -> None:
        """Drop every entry, tools' and key-value ones. Loads under way are not kept."""
        with self._lock:
            self._epoch = nonce()
            for entry in list(self._entries.values()):
                self._remove(entry)
            self.generation = object()

    # -- looking through it; for people and for moving entries -----------------------------------------------------------

    def _twin(self) -> Movable:
        return MemoryBackend.over(self)

    def stored_keys(self) -> list[bytes | str]:
        """The keys of all entries, tools' and key-value ones."""
        with self._lock:
            return list(self._entries)

    def stored(self, keys: Iterable[bytes | str], *, payloads: bool) -> list[StoredEntry]:
        """What is stored under some of them. Serves nothing and counts nothing."""
        with self._lock:
            held = [entry for key in keys if (entry := self._entries.get(key)) is not None]
            names: dict[int, Tag] = {}
            if any(entry.base.tags is None and entry.base.records for entry in held):
                names = {id(record): tag for tag, record in self._records.items()}
            found = [(entry.stored, self._described(entry, names)) for entry in held]
        return [_with_payload(stored, each) for stored, each in found] if payloads else [each for _, each in found]

    def _described(self, entry: Entry, names: Mapping[int, Tag]) -> StoredEntry:
        now = self.clock()
        tags = _tags_of(entry, names)
        known = known_tool(entry.group)
        return StoredEntry(
            entry.key,
            entry.size,
            max(0.0, now - entry.created),
            None if entry.deadline == _FOREVER else max(0.0, entry.deadline - now),
            entry.load_seconds,
            now < entry.deadline and self._is_current(entry, self._own_state(tags or ())[0]),
            entry.group if isinstance(entry.key, bytes) else "",
            "" if known is None else known.name,
            "" if known is None else known.resource,
            "" if entry.origin is None else entry.origin[0],
            tags,
            grace=entry.grace,
            where=entry,
            arguments=entry.arguments,
        )

    def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        self._figures.add(minute, sums, now)

    def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        return self._figures.rows(since, until, now)

    def check(self, *, repair: bool) -> list[Finding]:
        """Whether bounds and sums hold. Repair: begin empty."""
        with self._lock:
            wrong = [text for text, holds in self._sums() if not holds]
            if wrong and repair:
                self._start_empty()
        if wrong:
            return [Finding("error", "sums", "; ".join(wrong), "integrity_check(repair=True) empties it; report it")]
        return [Finding("ok", "sums", "entries, bytes and bounds add up")]

    def _sums(self) -> Iterator[tuple[str, bool]]:
        entries = list(self._entries.values())
        yield "an entry that is gone is still there", not any(entry.dead for entry in entries)
        yield "an entry stands under another's key", all(held.key == key for key, held in self._entries.items())
        yield "the bytes are counted wrongly", self._bytes == sum(entry.size for entry in entries)
        yield "the eviction's order holds other entries", self._ring.live == len(entries)
        yield "there are more entries than max_size", self.max_size is None or len(entries) <= self.max_size
        yield "there are more bytes than max_bytes", self.max_bytes is None or self._bytes <= self.max_bytes
        chained = Counter(entry.chain for entry in entries if entry.chain)
        yield "a chain's entries are counted wrongly", chained == {c: len(m.living()) for c, m in self._chains.items()}

    def remove(self, entry: StoredEntry) -> bool:
        """Take one entry that was scanned out, if it is still the one that stands there."""
        with self._lock:
            held = self._entries.get(entry.key)
            if held is None or held is not entry.where:
                return False
            self._remove(held)
            return True

    def stats(self) -> dict[str, Any]:
        """``entries``, ``bytes`` (estimated), ``evictions``, the key-value surface's ``hits`` and ``misses``, and for each
        namespace with a quota what it takes up (``quotas``)."""
        entries, size, evictions = self.sizes()
        with self._lock:
            quotas = {name: share.figures() for name, share in self._shares.items()}
        return {
            "backend": "memory",
            "entries": entries,
            "bytes": size,
            "evictions": evictions,
            "hits": self._hits,
            "misses": self._misses,
            "quotas": quotas,
        }

    def _live(self, key: str) -> Entry | None:
        entry = self._entries.get(checked_key(key))
        if entry is not None and self.clock() >= entry.deadline:
            self._remove(entry)
            return None
        return entry


def _found(
    entry: Entry, now: float, own_version: int, near: Entry | None = None, generation: object | None = None
) -> Found:
    return Found(
        entry.stored,
        now - entry.created,
        None if entry.deadline == _FOREVER else entry.deadline - now,
        entry.load_seconds,
        near,
        (entry.base.versions, entry.base.records, own_version),
        generation=generation,
    )


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
        keys = self._store.stored_keys()
        for at in range(0, len(keys), _SCANNED):
            for entry in self._store.stored(keys[at : at + _SCANNED], payloads=payloads):
                yield entry
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


def _tags_of(entry: Entry, names: Mapping[int, Tag]) -> tuple[Tag, ...] | None:
    """What an entry was loaded under, as far as that is known here."""
    shared = entry.base.tags
    if shared is None:
        found = [names.get(id(record)) for record in entry.base.records]
        return tuple(tag for tag in found if type(tag) is tuple) if found and None not in found else None
    if entry.origin is not None:
        return call_tags(shared, (f"#{entry.group}", entry.origin[1]))
    if isinstance(entry.key, str):
        return None
    if entry.chain:
        return shared.tags  # without the call's own: the key does not tell it
    return call_tags(shared, bucket_path(entry.group, entry.key))


def _with_payload(stored: Stored, entry: StoredEntry) -> StoredEntry:
    try:
        return replace(entry, payload=stored.payload(keep=False))
    except UnstorableResultError as error:
        return replace(entry, problem=f"no written form: {error}")


evictions_ever = [0]
"""Entries evicted in this process, in backends long gone too."""
_GONE: Stored = codec_for(Any).freeze(None)
_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _after_fork() -> None:
    """A child's memory is not its parent's: what the parent writes from now on is never heard here."""
    for store in list(_stores):
        store._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def live_stores() -> list[MemoryStore]:
    """All memory backends of this process that are in use."""
    return list(_stores)


__all__ += ["evictions_ever", "live_stores"]
