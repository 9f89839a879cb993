"""What the engine needs of a backend, and the words they talk in.

A backend keeps entries under tags and hands out tokens; it decides nothing
about calls. ``Backend`` is the Protocol to implement; ``KeyValue`` is what every
backend also is for people who want a plain cache.

The consistency rules a backend must keep:

* an entry is a hit only while the versions it was loaded under are current;
* a miss hands out a token (versions and fences); a fill is accepted only while the
  token is current and no write window is open on any of its tags;
* opening a window and closing it each move the versions and fences of its tags.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeGuard, runtime_checkable

from agent_cache.clock import Clock
from agent_cache.codecs import Stored, ToolCodec
from agent_cache.errors import BackendError
from agent_cache.tags import Chain, Path, Tag

__all__ = [
    "NEAR_COPY",
    "Backend",
    "Blocked",
    "Finding",
    "Found",
    "KeyValue",
    "Lead",
    "Leading",
    "Lookup",
    "Missing",
    "NearEntry",
    "NewEntry",
    "NotStoringError",
    "Revalidating",
    "Same",
    "Scanning",
    "StoredEntry",
    "SyncBackend",
    "Taken",
    "Token",
    "Watching",
    "Window",
]


NEAR_COPY = "near-copy:"
"""How the keys begin under which a tier keeps its near copies in a key-value store: each has a stamp in it."""


class NotStoringError(BackendError):
    """The backend answers, but takes nothing new now: for a lookup, there is no token to load under."""


class Token(Protocol):
    """What a load holds: hashable, equal exactly when loads under it may be shared."""

    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def stamp(self) -> Hashable:
        """The versions alone: what an entry filled under this token is current under."""
        ...


class Window(Protocol):
    """An open write window."""

    @property
    def closed(self) -> bool: ...


class NearEntry(Protocol):
    """An entry held in this process, fit to be served without asking the backend again.

    It may be served while ``home.generation`` is the object that ``Found.generation`` says, and the clock is before
    ``deadline``.
    """

    stored: Stored
    deadline: float
    visited: bool
    load_seconds: float
    created: float

    @property
    def home(self) -> NearHome: ...


class NearHome(Protocol):
    """Where near entries live; ``generation`` is replaced by a new object whenever any version moves.

    ``hot_clock`` is compared with an entry's deadline before ``generation`` is looked at: it reads infinity
    while nothing may be served without asking. ``clock`` is the time by which entries are ``created``, whatever may be served.
    """

    generation: object
    hot_clock: Clock
    clock: Clock


@dataclass(slots=True, eq=False)
class Found:
    """A current entry. ``ttl_left``: seconds for which it is still fresh; negative only in ``Missing.kept``."""

    stored: Stored
    age: float
    ttl_left: float | None
    load_seconds: float
    near: NearEntry | None
    stamp: Hashable
    generation: object | None = field(default=None, kw_only=True)
    """Of the near entry's home, taken before it was found to be current. A near entry without it is not served again."""
    kept_for: float | None = field(default=None, kw_only=True)
    """Seconds for which a copy of it may be kept, where that is less than for ever."""


@dataclass(slots=True, eq=False)
class Missing:
    """No current entry. ``why``: ``absent``, ``stale`` (a write dropped it) or ``expired``.

    ``kept``: of an expired one, the entry, while its grace lasts. Its stamp is current: no write has dropped it.
    """

    token: Token
    why: str
    dropped_by: str | None = None
    kept: Found | None = None


@dataclass(slots=True, eq=False)
class Blocked:
    """A write window is open: load, share only with those who came before the load began, keep nothing."""

    why: str = "blocked"


Lookup = Found | Missing | Blocked


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that ``backend.doctor()`` looked at. ``level``: ``"ok"``, ``"warning"`` or ``"error"``; ``fix`` mends it."""

    level: str
    check: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.check}: {self.text}" + (f" Fix: {self.fix}" if self.fix else "")


@dataclass(slots=True, eq=False)
class Same:
    """The entry the asker holds, under the stamp it sent, is current."""


class Lead(Protocol):
    """The lease of the one process that loads a key; opaque."""


@dataclass(slots=True, eq=False)
class Taken:
    """The lead is not to be had. ``again``: look up at once (it has been filled, or the token is no longer current);
    otherwise another process is loading: wait and ask again."""

    again: bool


@dataclass(slots=True, eq=False)
class NewEntry:
    """What a fill brings. ``group`` and ``maxsize`` bound one tool's entries; ``chain`` is whose entry it is.

    ``ttl``: seconds for which it is fresh. ``grace``: seconds for which it is kept beyond that; it is a hit no more,
    but given beside the token (``Missing.kept``) while its stamp is current.
    ``lead`` is given back with the fill, stored or refused. ``stamp`` is what a near copy of another backend's
    entry is revalidated by.
    """

    key: bytes | str
    stored: Stored
    ttl: float | None
    load_seconds: float
    group: str
    maxsize: int | None
    chain: Chain
    lead: Lead | None = None
    stamp: Hashable = None
    namespace: str = ""
    """The application's, as it was configured: whose quota it counts towards. It is part of the key already."""
    grace: float = 0.0
    cost: float = 0.0
    """What the tool says that a load costs, beside the time it takes."""
    digest: bytes | None = None
    """The call's, whoever makes it; the very key where that is it."""
    age: float = 0.0
    """Seconds since it was loaded, where that is not just now: it was moved here from another store."""
    arguments: str = ""
    """The call's arguments for people to read, where that was asked for (``store_args``)."""


class SyncBackend(Protocol):
    """The engine's surface for ``def`` tools: the same methods, blocking."""

    def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup: ...
    def fill(self, token: Token, entry: NewEntry) -> bool: ...
    def begin(self, tags: Sequence[Tag], writer: str) -> Window: ...
    def end(self, window: Window, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None) -> None: ...
    def move(self, tags: Sequence[Tag], writer: str) -> None: ...
    def drop_chain(self, chain: Chain) -> None: ...
    def chain_sizes(self, chain: Chain) -> tuple[int, int]: ...


class Backend(Protocol):
    """Storage with tags. Every method may raise :class:`~agent_cache.BackendError`; the engine survives it.

    Attributes:
        in_process: every method returns without waiting for anything, so it needs no shield against cancellation; on the
            way of a read and of a load the methods of ``sync`` are called, for ``async def`` tools too.
        sync: the blocking twin.

    One that has ``max_entry_bytes`` (bytes of a value, in its written form unless ``in_process``) is not handed larger
    results; others take up to 64 MiB.

    A backend that other processes share is :class:`Leading` too; one that can stand behind a near tier is
    :class:`Revalidating`.
    """

    in_process: bool

    @property
    def sync(self) -> SyncBackend: ...
    async def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        """The current entry under ``key``; without one, the token to load under. ``key=None`` asks for a token only."""
        ...

    async def fill(self, token: Token, entry: NewEntry) -> bool:
        """Store, unless a tag of the token has moved or is being written. Returns whether it was stored.

        Raises:
            UnstorableResultError: it would never fit (a quota, all there is room for).
        """
        ...

    async def begin(self, tags: Sequence[Tag], writer: str) -> Window:
        """Open a write window: move the tags, refuse fills under them until it is closed."""
        ...

    async def end(
        self, window: Window, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        """Close it: move the tags again. ``unknown``: go on refusing fills for the settle time (seconds).

        ``no_effect``: restore each version that this window's begin wrote and nobody else has moved, while its marker
        stands; fences move all the same.

        ``narrowed``: what was written after all, where only the result said it. In one step that nobody sees in between:
        first move those of them that are not the window's (versions and fences), then end the window, and restore, as
        above, its tags that are not among them. None: the window's tags are what was written.
        """
        ...

    async def move(self, tags: Sequence[Tag], writer: str) -> None:
        """A window of no length: what was there is gone, loads under way are not kept."""
        ...

    async def drop_chain(self, chain: Chain) -> None:
        """Delete the entries of one chain (a session that ended)."""
        ...


@runtime_checkable
class Leading(Protocol):
    """Single-flight between processes: a lease, on which safety never rests. ``sync`` has the same methods, blocking."""

    async def lead(self, key: bytes, tags: Sequence[Tag], token: Token) -> Lead | Taken:
        """Become the one that loads ``key``; the lease is renewed until :meth:`release` or the fill that brings it."""
        ...

    def release(self, lead: Lead) -> None:
        """Give the lead back without a fill. Does not wait, never raises; on ``sync`` as well."""
        ...

    def abandon(self, window: Window) -> None:
        """Close the window of a write that was torn away (its loop was closed), as of unknown outcome. Does not wait."""
        ...


_leading: dict[type, bool] = {}


def is_leading(backend: Backend) -> TypeGuard[Leading]:
    """Whether it is a :class:`Leading` one; asked on every miss, so the answer is kept by class."""
    kind = type(backend)
    known = _leading.get(kind)
    if known is None:
        known = _leading[kind] = not backend.in_process and isinstance(backend, Leading)
    return known


@runtime_checkable
class Revalidating(Protocol):
    """What a far tier must also do. ``sync`` has ``revalidate``, blocking."""

    def tag_ids(self, tags: Sequence[Tag]) -> tuple[bytes, ...]:
        """How its bus and its records name these tags."""
        ...

    async def revalidate(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Hashable) -> Lookup | Same:
        """:meth:`Backend.lookup`, for one who holds an entry loaded under ``stamp`` (a ``Found.stamp`` or
        ``Token.stamp`` of this backend): ``Same`` while that is current, without its payload."""
        ...


@runtime_checkable
class Watching(Protocol):
    """A far tier on this host that can tell cheaply, without waiting, that no tag was changed."""

    def unchanged(self) -> bool:
        """Whether no tag was changed by anybody since this thread asked the last time; the first time: no."""
        ...


@dataclass(slots=True, frozen=True, eq=False)
class StoredEntry:
    """One stored entry as a scan finds it. Sizes in bytes, times in seconds."""

    key: bytes | str
    """A digest for a tool's entry, the caller's own text for a key-value one."""
    size: int
    age: float | None
    """None where a store does not know."""
    ttl_left: float | None
    """None: no ttl; 0: over."""
    load_seconds: float = 0.0
    is_current: bool | None = None
    """Whether it would be served: no write has dropped it, it has not expired. None where its tags are not known."""
    group: str = ""
    tool: str = ""
    """Module and name of the tool, if the store or this process knows."""
    resource: str = ""
    namespace: str = ""
    tags: tuple[Tag, ...] | None = None
    """What it was loaded under; None where the store does not know (see ``labels``)."""
    payload: bytes | None = None
    """Its written form, where the scan was asked for payloads and there is one."""
    grace: float = 0.0
    """Seconds for which it is kept beyond its freshness."""
    problem: str = ""
    """Why nothing can be made of it, or of its payload; empty for a sound one."""
    where: Any = None
    """The backend's own."""
    arguments: str = ""
    """Of its call, where they are kept (``configure(store_args=True)``)."""

    @property
    def is_tool(self) -> bool:
        """Whether a tool's call made it; else it is a key-value entry."""
        return isinstance(self.key, bytes)

    @property
    def name(self) -> str:
        """The key as people see it."""
        return self.key.hex() if isinstance(self.key, bytes) else self.key

    @property
    def chain(self) -> Chain:
        """Whose it is: the identity it is scoped to, widest field first; ``()`` for everyone's."""
        return self.tags[-1][1] if self.tags else ()

    def later(self, passed: float) -> StoredEntry:
        """As it is ``passed`` seconds after it was read."""
        if passed <= 0:
            return self
        left = None if self.ttl_left is None else max(0.0, self.ttl_left - passed)
        return replace(
            self,
            age=None if self.age is None else self.age + passed,
            ttl_left=left,
            is_current=False if left == 0 and self.is_current else self.is_current,
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """The resources it was read from."""
        found = [path for kind, _, path in self.tags or () if kind == "any" and path[:1] and path[0][:1] != "#"]
        return tuple(dict.fromkeys(found))


@runtime_checkable
class Scanning(Protocol):
    """A backend that can be looked through: for people and for moving entries, never on the way of a call.

    What is stored or dropped meanwhile may be found or not; everything else is found once.
    """

    def scan(self, *, payloads: bool = False) -> AsyncIterator[StoredEntry]:
        """Every stored entry of this backend (on Redis: of its prefix), tools' and key-value ones, in no order.

        Read in bounded batches, so that others go on meanwhile; ages and ttls are those of the moment an entry is handed
        out. With ``payloads`` each carries its written form.
        """
        ...

    async def remove(self, entry: StoredEntry) -> bool:
        """Take one entry that was scanned out of the store; tells whether it was there.

        No invalidation: copies elsewhere, and loads under way, are not reached. Move its tags for that.
        """
        ...


@runtime_checkable
class KeyValue(Protocol):
    """A plain key-value cache. A stored ``None`` is a value; ``default`` tells a miss. ``ttl`` in seconds."""

    async def get(self, key: str, default: Any = None) -> Any: ...
    async def set(self, key: str, value: Any, ttl: float | None = None) -> None: ...
    async def delete(self, key: str) -> bool: ...
    async def exists(self, key: str) -> bool: ...
    async def clear(self) -> None: ...
    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]: ...
    async def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None: ...
    async def delete_pattern(self, pattern: str) -> int: ...
    async def count(self) -> int: ...
    async def stats(self) -> dict[str, Any]: ...
    async def close(self) -> None: ...
    def keys(self) -> AsyncIterator[str]: ...
    async def __aenter__(self) -> KeyValue: ...
    async def __aexit__(self, *_: object) -> None: ...
