"""What is kept: tags, snapshots of them, entries, tokens of loads, windows of writes. No decisions but a record's own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from agent_cache.backends.base import Found, NewEntry
from agent_cache.backends.shares import Share
from agent_cache.codecs import Stored
from agent_cache.tags import SharedTags, Tag

if TYPE_CHECKING:
    from agent_cache.backends.memory.store import EntryStore

__all__ = [
    "FOREVER",
    "OVERHEAD",
    "Entry",
    "LastingEntry",
    "Members",
    "SharedEntry",
    "Snapshot",
    "Stamp",
    "TagRecord",
    "Token",
    "Window",
    "found",
    "has_more",
]

OVERHEAD = 400  # bytes an entry costs beside its value: measured with tracemalloc, rounded up
FOREVER = float("inf")
_SESSION = ("session",)


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

    def __init__(self, home: EntryStore, token: Token, new: NewEntry, now: float) -> None:
        self.home = home
        self.key: bytes | str = new.key
        self.stored = new.stored
        self.base = token.base
        self.since = token.since
        self.deadline = FOREVER if new.ttl is None else now + new.ttl
        self.created = now - new.age
        self.load_seconds = new.load_seconds
        self.group = new.group
        self.chain = new.chain
        self.visited = False
        self.dead = False

    @property
    def size(self) -> int:
        """Bytes, as estimated."""
        return self.stored.size + OVERHEAD


class LastingEntry(Entry):
    """One that has more to it: kept beyond its freshness, a near copy, or fit to be moved though its key tells nothing."""

    __slots__ = ("arguments", "grace", "origin", "stamp")

    def __init__(self, home: EntryStore, token: Token, new: NewEntry, now: float) -> None:
        super().__init__(home, token, new, now)
        self.grace = new.grace
        self.stamp = new.stamp
        self.arguments = new.arguments
        self.origin = (new.namespace, token.own[0][2][1]) if _is_moved_by_origin(token, new) else None


class SharedEntry(LastingEntry):
    """An entry of a store that looks at more than age: whose it is (quotas), or what it cost (eviction)."""

    __slots__ = ("cost", "share")

    def __init__(self, home: EntryStore, token: Token, new: NewEntry, now: float) -> None:
        super().__init__(home, token, new, now)
        self.share = home._shares.get(new.namespace)
        self.cost = new.cost


def _is_moved_by_origin(token: Token, new: NewEntry) -> bool:
    """Whether its key tells neither namespace nor bucket. What dies with a session never moves."""
    return new.digest is not new.key and bool(token.own) and new.chain[:1] != _SESSION


def has_more(token: Token, new: NewEntry) -> bool:
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


def found(
    entry: Entry, now: float, own_version: int, near: Entry | None = None, generation: object | None = None
) -> Found:
    return Found(
        entry.stored,
        now - entry.created,
        None if entry.deadline == FOREVER else entry.deadline - now,
        entry.load_seconds,
        near,
        (entry.base.versions, entry.base.records, own_version),
        generation=generation,
    )
