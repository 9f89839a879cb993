"""The consistency protocol on Redis: look up, lead, fill, begin, end, move.

A hit is one round trip: ``MGET`` of the entry and its tags, then ``INFO replication`` for the epoch, answered by one
server in this order. Everything else is one script, one round trip (on a Cluster one for each slot concerned).
Why each rule is there is written in ARCHITECTURE.md.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Literal, cast

from agent_cache.backends.base import (
    Blocked,
    Finding,
    Found,
    Lookup,
    Missing,
    NewEntry,
    NotStoringError,
    Same,
    StoredEntry,
    Taken,
)
from agent_cache.backends.base import Lead as LeadProtocol
from agent_cache.backends.base import Token as TokenProtocol
from agent_cache.backends.base import Window as WindowProtocol
from agent_cache.backends.debts import EVERYTHING, Ledger, inherit
from agent_cache.backends.labels import label_bytes
from agent_cache.backends.packing import Packing
from agent_cache.backends.portal import PORTAL
from agent_cache.backends.redis import figures, integrity, scanning, scripts
from agent_cache.backends.redis.blueprint import blueprint_of
from agent_cache.backends.redis.bus import Bus
from agent_cache.backends.redis.doctor import diagnose, owed
from agent_cache.backends.redis.endings import NO_VERSION, Ending, ending
from agent_cache.backends.redis.keeper import Keeper, Kept
from agent_cache.backends.redis.keyvalue import KeyValueSurface
from agent_cache.backends.redis.links import Links, RefusedError
from agent_cache.backends.redis.looks import Look
from agent_cache.backends.redis.opened import Opened, Recent
from agent_cache.backends.redis.plans import MOST_AT_ONCE, Group, Plan, Plans
from agent_cache.backends.redis.records import (
    NONCE,
    EntryRecord,
    Names,
    TagRecord,
    entry_bytes,
    epoch_bytes,
    read_current,
    read_entry,
    read_tag,
    version_of,
)
from agent_cache.backends.redis.resp import Command
from agent_cache.backends.redis.sizes import SMALL
from agent_cache.backends.redis.wire import Replies
from agent_cache.bounds import checked_entry_limit, refuse_larger
from agent_cache.clock import nonce, seconds, uptime
from agent_cache.codecs import Stored, ToolCodec
from agent_cache.errors import BackendError, ConfigurationError, UnstorableResultError
from agent_cache.moving import Movable, MovableFace, Targets
from agent_cache.policy import checked_labels, checked_secret
from agent_cache.recorded import StatsRow
from agent_cache.tags import Chain, Tag

__all__ = ["RedisBackend"]

Coherence = Literal["strict", "lease"]
_PATIENCE = 2.0  # seconds for which an invalidation is tried before it counts as undeliverable
_HOUR = 3_600_000
_LONGEST = 10 * 366 * 86_400.0
_MARGIN = 1.01  # clocks of two hosts run at slightly different rates


class _Parts:
    """The looks at several slots as one."""

    def __init__(self, plan: Plan, parts: Sequence[Look]) -> None:
        self.raw: Any = None
        self.left: Any = None
        self.made: Any = None
        self.tags: list[Any] = [None] * len(plan.ids)
        for group, part in zip(plan.groups, parts, strict=True):
            if group.slot == plan.home:
                self.raw, self.left = part.raw, part.left
            for at, value in zip(group.positions, part.tags, strict=True):
                self.tags[at] = value
        epochs = [part.epoch for part in parts]
        self.epoch = epochs[0] if len(set(epochs)) == 1 else epoch_bytes(b"".join(epochs))

    def stamp(self) -> bytes | None:
        """As that of one look."""
        versions = [version_of(raw) for raw in self.tags]
        return None if None in versions else self.epoch + b"".join(cast("list[bytes]", versions))


class Token:
    """Stamp (epoch and versions) and fences."""

    __slots__ = ("_fences", "_stamp", "left_ms", "plan", "replaces")

    def __init__(self, plan: Plan, stamp: bytes, fences: tuple[bytes, ...]) -> None:
        self.plan = plan
        self.replaces = False
        """Whether what stands there cannot be read."""
        self.left_ms: int | None = None
        """For how long the expired entry that stands there was still kept."""
        self._stamp = stamp
        self._fences = fences

    @property
    def stamp(self) -> bytes:
        return self._stamp

    def expected(self, group: Group) -> bytes:
        """Versions and fences of one group's tags, as the scripts compare them."""
        start = len(self._stamp) - NONCE * len(self._fences)
        versions = [self._stamp[start + NONCE * at : start + NONCE * (at + 1)] for at in group.positions]
        return b"".join([*versions, *(self._fences[at] for at in group.positions)])

    def __hash__(self) -> int:
        return hash((self._stamp, self._fences))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self._stamp == other._stamp and self._fences == other._fences


class Window:
    """An open write window; ``nonces``: of each group, of all attempts to open it, the one that did last."""

    __slots__ = ("__weakref__", "announced", "before", "closed", "due", "every", "nonces", "plan", "since", "writer")

    def __init__(self, plan: Plan, writer: bytes, every: float) -> None:
        self.plan = plan
        self.writer = writer
        self.every = every
        self.due = 0.0
        self.nonces: dict[Group, list[bytes]] = {}
        self.before: dict[Group, list[bytes]] = {}
        self.closed = False
        self.since = 0.0
        """When the answer to the last change of its tags' versions came, by uptime."""
        self.announced = 0.0
        """Seconds for which some near tier may serve without asking."""


class Lead:
    """The lease of one load."""

    __slots__ = ("__weakref__", "due", "every", "key", "slot", "who")

    def __init__(self, slot: bytes, key: bytes, who: bytes, every: float) -> None:
        self.slot = slot
        self.key = key
        self.who = who
        self.every = every
        self.due = 0.0


class RedisBackend(KeyValueSurface, Movable):
    """Entries shared by every process that uses this Redis and prefix.

    Args:
        url: ``redis://[user:password@]host:port/db``, ``rediss://…``, ``unix:///path``,
            ``redis+cluster://host:port[,host:port]`` or ``redis+sentinel://host:port[,host:port]/service/db``;
            redis-py's options behind ``?``.
        host, port, db, password: in place of the url's.
        prefix: of every key; ``clear()`` touches no other.
        connect_timeout: seconds in which a connection must be made.
        socket_timeout: seconds for one command of the key-value cache's maintenance; kept for redis-py's sake.
        op_timeout: seconds in which an established connection must answer a read or a fill, else the tool runs and
            the breaker opens. Invalidations are tried for at least 2 seconds.
        max_connections: for redis-py's sake; one connection for each event loop and server is used.
        max_ttl: seconds an entry is kept at most; the ttl of those that have none.
        client: a ``redis.asyncio.Redis`` or ``RedisCluster`` to take address, credentials and TLS from. It is not
            used otherwise and never closed.
        coherence: ``"strict"``: a near tier asks "still current?" before it serves. ``"lease"``: it serves without
            asking while it has proof that it has heard every invalidation up to ``lease`` seconds ago, and writes
            return no earlier than that after they began to invalidate. All processes should say the same.
        lease: seconds; see coherence.
        lease_wait: ``"overlapped"`` (the wait runs beside the tool) or ``"before"`` (the tool starts after it: then
            nobody is served an older answer from the moment the write takes effect).
        default_ttl: seconds for key-value entries without one of their own; None = for ever.
        settle: seconds for which a resource is not cached after a write with unknown outcome.
        write_lease: seconds after which a writer that says nothing any more is given up; renewed while it runs.
        lead_lease: seconds after which another process may load what a dead one was loading.
        epoch: where ``INFO replication`` is not allowed: a text that you change whenever data may have been lost.
        max_entry_bytes: a larger value (written, before compression) is returned to its callers and not stored; None =
            64 MiB. How much Redis keeps in all is its own to bound: ``maxmemory``, and ``max_ttl`` here.
        compress: True = payloads from 2 KiB on are compressed (zlib); a number = from so many bytes on. What was stored the
            other way is read all the same.
        outbox: the path of a file of this process's host. Invalidations that cannot be delivered are noted there before the
            write goes on, and the next backend that is made with the file delivers them before anything is read through it:
            they outlive the process. Several processes may share it. None = they are kept in memory.
        secret: entries are authenticated and names keyed with it; else with ``configure(secret=...)`` if given.
        labels: whether entries carry their tool's name and the paths of their resources in readable form, so that they
            can be listed and exported; None = yes, unless there is a secret.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    in_process = False

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        host: str | None = None,
        port: int | None = None,
        db: int | None = None,
        password: str | None = None,
        prefix: str = "ac:",
        connect_timeout: float | timedelta = 5,
        socket_timeout: float | timedelta = 5,
        op_timeout: float | timedelta = 0.25,
        max_connections: int | None = None,
        max_ttl: float | timedelta = 86_400,
        client: Any = None,
        coherence: Coherence = "strict",
        lease: float | timedelta = 0.2,
        lease_wait: Literal["overlapped", "before"] = "overlapped",
        default_ttl: float | timedelta | None = None,
        settle: float | timedelta = 5,
        write_lease: float | timedelta = 30,
        lead_lease: float | timedelta = 3,
        epoch: str | None = None,
        secret: str | bytes | None = None,
        labels: bool | None = None,
        max_entry_bytes: int | None = None,
        compress: bool | int = False,
        outbox: str | os.PathLike[str] | None = None,
    ) -> None:
        if coherence not in ("strict", "lease"):
            raise ConfigurationError("coherence", coherence, "give 'strict' or 'lease'")
        if lease_wait not in ("overlapped", "before"):
            raise ConfigurationError("lease_wait", lease_wait, "give 'overlapped' or 'before'")
        if not isinstance(prefix, str) or not prefix or set(prefix) & set("{}"):
            raise ConfigurationError("prefix", prefix, "give a text that is not empty and has no braces, such as 'ac:'")
        given = {"host": host, "port": port, "db": db, "password": password}
        blueprint = blueprint_of(url, given, client)
        if blueprint.kind == "cluster" and coherence == "lease":
            raise ConfigurationError("coherence", coherence, "a Redis Cluster has 'strict' only in this version")
        self._seal = checked_secret(secret) or None
        if epoch is not None and not isinstance(epoch, str):
            raise ConfigurationError(
                "epoch", epoch, "give a text, another one whenever data may have been lost, or None"
            )
        self.max_ttl = _positive(max_ttl, "max_ttl")
        """Seconds an entry is kept at most."""
        self.max_entry_bytes = checked_entry_limit(max_entry_bytes)
        """Bytes of a written value; larger ones are not stored."""
        self._settle = seconds(settle, "settle", zero_ok=True) or 0.0
        self._write_lease = _positive(write_lease, "write_lease")
        self._lead_lease = _positive(lead_lease, "lead_lease")
        _positive(socket_timeout, "socket_timeout")
        self.coherence: Coherence = coherence
        self.lease = _positive(lease, "lease")
        self._waits_before = lease_wait == "before"
        links = Links(
            blueprint,
            connect_timeout=_positive(connect_timeout, "connect_timeout"),
            op_timeout=_positive(op_timeout, "op_timeout"),
            epoch=None if epoch is None else epoch_bytes(epoch),
        )
        names, lives = Names(prefix, self._seal or b""), seconds(default_ttl, "default_ttl")
        super().__init__(links, names, lives, self._seal, self.max_entry_bytes, Packing(compress))
        self.serves_near_tier = False
        """Whether copies are kept near, so that it matters how long an entry still lives."""
        self.labels = checked_labels(labels, sealed=self._seal is not None)
        """Whether entries carry their names and paths."""
        self._patience = _PATIENCE
        self._skew_ms = 0  # tests let time pass with it
        self._keep_ms = round(self.max_ttl * 1000) + _HOUR
        self._is_closed = False
        self._recent = Recent()
        self._plans = Plans(self._names, sharded=links.sharded)
        self._keeper = Keeper(self._renew)
        self._bus: Bus | None = None
        self._face = MovableFace(self)
        self.outbox: Ledger | None = None
        """Where what could not be delivered is noted."""
        if outbox is not None:
            from agent_cache.backends.redis.ledger import LedgerFile  # SQLite, for those who ask for it

            self.outbox = LedgerFile(outbox, f"{blueprint.address()} {prefix}", self._write_lease)
        inherit(self)
        held = weakref.ref(self)
        links.is_idle = lambda: (backend := held()) is None or backend._is_closed
        weakref.finalize(self, links.stop)
        if not _backends:
            PORTAL.at_exit(_close_all)
        _backends.add(self)

    def __repr__(self) -> str:
        return f"RedisBackend({self._links.where!r}, prefix={self._names.prefix.decode()!r}, {self.coherence})"

    @property
    def sync(self) -> MovableFace:
        """The same surface for code without an event loop."""
        return self._face

    async def __aenter__(self) -> RedisBackend:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect now rather than on first use.

        Raises:
            BackendError: it cannot be reached, or is not fit to be used; the text says what to do.
        """
        self._is_closed = False
        for slot in await self._links.primaries():
            await self._links.ask_patiently(slot, lambda: [("PING",)], 0.0, wants_epoch=True)

    async def close(self) -> None:
        """Close this event loop's connections (and those of ours in the background). Usable again afterwards."""
        self._is_closed = True
        self._recent.clear()
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()
        await self._links.close()

    # -- the protocol ---------------------------------------------------------------------------------------------

    def tag_ids(self, tags: Sequence[Tag]) -> tuple[bytes, ...]:
        """How the bus names these tags."""
        return self._plans.of(tags).ids

    async def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        """A current entry, or the token to load under, or word that a write is running."""
        plan = self._plans.of(tags)
        self._is_closed = False
        only = plan.only
        wants_left = self.serves_near_tier or codec.lasting
        seen: Look | _Parts
        while True:
            if only is None:
                seen = await self._read_all(key, plan, wants_left=wants_left)
            else:
                entry_key = None if key is None else self._names.entry(only.slot, key)
                seen = await self._links.look(only, entry_key, wants_left=wants_left)
            opened: Opened | None = seen.made
            if opened is None or opened.codec is not codec:
                opened = self._opened(seen, key, plan, codec)
            if opened.stored is None:
                return await self._missed(seen, opened, plan)
            found = self._found(opened.stored, opened.entry, seen.left)
            if not cast(EntryRecord, opened.entry).grace:
                return found
            if wants_left:
                break
            wants_left = True  # whether it is fresh only the server can say
        return found if cast(float, found.ttl_left) > 0 else await self._missed(seen, opened, plan, found)

    def _opened(self, seen: Look | _Parts, key: bytes | None, plan: Plan, codec: ToolCodec) -> Opened:
        """What was read, opened once for all who read it in one batch."""
        raw, stamp = seen.raw, seen.stamp()
        known = None if raw is None or key is None else self._recent.get(key, raw, plan, codec, stamp)
        if known is not None:
            seen.made = known
            return known
        opened = seen.made = Opened(raw, plan, codec, stamp)
        if raw is None or key is None:
            return opened
        entry = read_current(raw, stamp) if stamp is not None and self._seal is None else None
        if entry is None:
            entry = read_entry(raw, self._seal, self._bound(key, plan))
        opened.entry = entry
        if entry is None:
            self._corrupt += 1
        elif entry.stamp == stamp:
            try:
                opened.stored = codec.thaw_payload(entry.payload, self.max_entry_bytes)
            except UnstorableResultError:
                self._corrupt += 1
            else:
                if not self.serves_near_tier:
                    self._recent.put(key, opened)
        return opened

    async def _missed(self, seen: Look | _Parts, opened: Opened, plan: Plan, expired: Found | None = None) -> Lookup:
        """No hit: why, and what there is in its place."""
        why, dropped_by, entry = "absent" if expired is None else "expired", None, opened.entry
        records = [read_tag(each) for each in seen.tags]
        if entry is not None and entry.stamp != opened.stamp:
            why, dropped_by = "stale", _dropped_by(entry, seen.epoch, records)
        token = await self._token(plan, records, seen.epoch)
        if token is None:
            return Blocked()
        token.replaces = seen.raw is not None and why == "absent"
        if expired is not None:
            token.left_ms = seen.left
            if token.stamp != expired.stamp or seen.left <= 0:  # written, or over, in this very moment
                expired = None
        return Missing(token, why, dropped_by, expired)

    async def revalidate(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Hashable) -> Lookup | Same:
        """Ask whether a stamp is current, without its payload; if it is not, look up."""
        plan = self._plans.of(tags)
        only = plan.only
        seen = await self._read_all(None, plan) if only is None else await self._links.look(only, None)
        if stamp is not None and seen.stamp() == stamp:
            return Same()
        return await self.lookup(key, tags, codec)

    async def fill(self, token: TokenProtocol, entry: NewEntry) -> bool:
        """Store, if the token still holds; gives the lead back in the same script."""
        mine, key = cast(Token, token), cast(bytes, entry.key)
        plan = mine.plan
        lead = cast("Lead | None", entry.lead)
        payload = entry.stored.payload()
        refuse_larger(len(payload), self.max_entry_bytes)
        if self._packing.least is not None:
            payload = await self._packing.aside(payload)
        if lead is not None:
            self._keeper.drop(lead)
        ttl = self.max_ttl if entry.ttl is None else min(entry.ttl, self.max_ttl)
        shown = ttl + entry.age if entry.ttl is not None else 0.0
        grace = min(entry.grace, self.max_ttl - ttl) if entry.grace else 0.0
        blob = entry_bytes(
            mine.stamp,
            self._wall() - entry.age,
            shown,
            entry.load_seconds,
            payload,
            self._seal,
            self._bound(key, plan),
            grace,
            label_bytes(plan.tags, entry) if self.labels else b"",
        )
        kept = ttl + grace
        others = [group for group in plan.groups if group.slot != plan.home]
        if others:  # on other slots: checked there first, the stamp covers what comes after
            checks = [self._filling(mine, group, key, None, b"", kept) for group in others]
            replies = await asyncio.gather(*(self._links.ask(g.slot, [c]) for g, c in zip(others, checks, strict=True)))
            if not all(reply.values[0] == 1 for reply in replies):
                if lead is not None:
                    self.release(lead)
                return False
        command = self._filling(mine, plan.at_home, key, lead, blob, kept)
        if len(blob) <= SMALL:
            filled = await self._links.ask(plan.home, [command])
        else:
            filled = await self._sizes.sent(len(blob), partial(self._links.ask, plan.home, [command]))
        return bool(filled.values[0] == 1)

    def _filling(self, token: Token, group: Group, key: bytes, lead: Lead | None, blob: bytes, ttl: float) -> Command:
        names, who, expected = self._names, lead.who if lead is not None else b"", token.expected(group)
        held = lead.key if lead is not None else names.lead(group.slot, key, expected)
        keys = (names.entry(group.slot, key), held, *group.keys)
        px = max(1, round(ttl * 1000))
        return (scripts.FILL, len(keys), *keys, self._skew_ms, self._keep_ms, who, expected, blob, px)

    async def lead(self, key: bytes, tags: Sequence[Tag], token: TokenProtocol) -> Lead | Taken:
        """Become the one process that loads; the lease is renewed until the fill, or :meth:`release`."""
        mine = cast(Token, token)
        slot, home = mine.plan.home, mine.plan.at_home
        expected = mine.expected(home)
        lead = Lead(slot, self._names.lead(slot, key, expected), nonce(), self._lead_lease / 3)
        keys = (self._names.entry(slot, key), lead.key, *home.keys)
        lease = round(self._lead_lease * 1000)
        script = (scripts.LEAD, len(keys), *keys, self._skew_ms, self._keep_ms, lead.who, lease)
        try:
            replies = await self._links.ask(
                slot,
                [
                    (
                        *script,
                        expected,
                        b"" if mine.replaces else mine.stamp,
                        b"" if mine.left_ms is None else mine.left_ms,
                    )
                ],
            )
        except asyncio.CancelledError:
            self.release(lead)  # it may have been granted
            raise
        if replies.values[0] != 1:
            return Taken(again=replies.values[0] == 2)
        self._keeper.keep(lead)
        return lead

    def release(self, lead: LeadProtocol) -> None:
        """Give a lead back without a fill; does not wait."""
        mine = cast(Lead, lead)
        self._keeper.drop(mine)
        self._deliver(lambda: self._let_go(mine), self._lead_lease)

    def _deliver(self, work: Callable[[], Awaitable[None]], give_up_after: float) -> None:
        """In the background; a backend that was closed meanwhile keeps no connection for it."""

        async def delivering() -> None:
            await work()
            if self._is_closed:
                await self._links.close_here()

        self._keeper.deliver(delivering, give_up_after)

    async def _let_go(self, lead: Lead) -> None:
        await self._links.ask(lead.slot, [(scripts.RELEASE, 1, lead.key, lead.who)])

    async def begin(self, tags: Sequence[Tag], writer: str) -> WindowProtocol:
        """Open a window, trying for at least two seconds; in lease mode with ``lease_wait="before"`` wait it out."""
        plan = self._plan(tags)
        self._is_closed = False
        window = Window(plan, _short(writer), self._write_lease / 3)
        opened = await asyncio.gather(*(self._begin_in(window, group) for group in plan.groups), return_exceptions=True)
        failed = next((error for error in opened if error is not None), None)
        if failed is not None:  # on some slots, or without an answer: it must not block others for a whole lease
            window.closed = True
            undone = ending(0, plan, no_effect=True, narrowed=None)
            self._deliver(lambda: self._close(window, undone), self._write_lease)
            raise failed
        window.since = uptime()
        self._keeper.keep(window)
        if self._waits_before:
            await self._wait_out(window)
        return window

    async def _begin_in(self, window: Window, group: Group) -> None:
        attempts = window.nonces.setdefault(group, [])

        def commands() -> list[Command]:
            attempts.append(nonce())
            return [self._opening(scripts.BEGIN, window, group, attempts[-1], self._announcement())]

        replies = await self._change(window, group, commands, self._patience)
        reply = replies.values[0] or [b""]
        if not isinstance(reply, list):
            raise BackendError(f"Redis at {self._links.where}: a script was answered with nonsense")
        window.announced = max(window.announced, _as_seconds(reply[0]))
        window.before[group] = [version or NO_VERSION for version in reply[1:]]

    async def _change(
        self, window: Window, group: Group, commands: Callable[[], list[Command]], patience: float
    ) -> Replies:
        """Carry an invalidation through; on a Redis that is too full to note it, by forgetting the tags."""
        try:
            return await self._links.ask_patiently(group.slot, commands, patience)
        except RefusedError as error:
            if error.kind != "OutOfMemoryError":
                raise
            said = (self._names.bus, self._ids(window.plan, group), self._announcement())
            forget = (scripts.FORGET, len(group.keys), *group.keys, *said)
            forgot = await self._links.ask_patiently(group.slot, lambda: [forget], patience)
            if isinstance(forgot.values[0], list):
                window.announced = max(window.announced, _as_seconds(forgot.values[0][0]))
            return replace(forgot, values=[b""])

    def _announcement(self) -> bytes:
        return b"" if self._links.sharded else self._names.leases

    def _opening(self, script: Any, window: Window, group: Group, mark: bytes, last: bytes) -> Command:
        lease = round(self._write_lease * 1000)
        said = (window.writer, self._names.bus, self._ids(window.plan, group), lease, last)
        return (script, len(group.keys), *group.keys, self._skew_ms, self._keep_ms, mark, *said)

    async def _renew(self, kept: Kept) -> None:
        """On the portal, every third of a lease."""
        if isinstance(kept, Lead):
            lease = round(self._lead_lease * 1000)
            await self._links.ask(kept.slot, [(scripts.PROLONG, 1, kept.key, kept.who, lease)])
            return
        window = cast(Window, kept)
        for group in window.plan.groups:
            if window.closed:
                return
            mark = window.nonces[group][-1]

            def commands(group: Group = group, mark: bytes = mark) -> list[Command]:
                return [self._opening(scripts.RENEW, window, group, mark, nonce())]

            replies = await self._change(window, group, commands, self._patience)
            if replies.values[0] == 1:
                window.since = uptime()
                window.before.clear()  # versions were lost in between: nothing can be restored
        if window.closed:  # ended meanwhile, perhaps before this renewal arrived: its marker must not stay
            await self._close(window, Ending())

    async def end(
        self, window: WindowProtocol, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        """Close a window; in lease mode return no earlier than every near tier has heard of it or lost its lease.

        Raises:
            BackendError: it could not be delivered in two seconds. It goes on being tried; until then, and no longer
                than the write lease, the marker keeps others from storing what they load.
        """
        mine = cast(Window, window)
        if mine.closed:
            return
        mine.closed = True
        self._keeper.drop(mine)
        settle = round(self._settle * 1000) if unknown else 0
        written = None if narrowed is None else self._plans.of(narrowed)
        how = ending(settle, mine.plan, no_effect=no_effect, narrowed=written)
        try:
            await self._close(mine, how, patience=self._patience)
        except BackendError:
            self._deliver(lambda: self._close(mine, how), 2 * self._write_lease)
            raise
        finally:
            await self._wait_out(mine)

    def abandon(self, window: WindowProtocol) -> None:
        """Close a window whose write was interrupted, with unknown outcome and without waiting."""
        mine = cast(Window, window)
        if not mine.closed:
            mine.closed = True
            self._keeper.drop(mine)
            how = Ending(round(self._settle * 1000))
            self._deliver(lambda: self._close(mine, how), 2 * self._write_lease)

    async def _close(self, window: Window, how: Ending, *, patience: float = 0.0) -> None:
        await asyncio.gather(
            *(self._end_in(window, group, how, patience) for group in window.plan.groups if window.nonces.get(group))
        )

    async def _end_in(self, window: Window, group: Group, how: Ending, patience: float) -> None:
        before = how.restored(window.plan, group, window.before.get(group, ()))
        beside, ids = how.beside.get(group.slot, ((), b""))
        keys, marks = (*group.keys, *beside), b"".join(window.nonces[group])
        ids = self._ids(window.plan, group) + ids
        head = (scripts.END, len(keys), *keys, self._skew_ms, self._keep_ms, marks, window.writer, self._names.bus, ids)

        def commands() -> list[Command]:  # one that was carried out unheard may be long followed by other writes
            return [(*head, nonce(), how.settle, before, len(beside))]

        replies = await self._change(window, group, commands, patience)
        if replies.values[0] != 0:
            window.since = uptime()

    async def _wait_out(self, window: Window) -> None:
        """Until no near tier can still serve what was current before the window's tags last moved."""
        longest = max(window.announced, self.lease if self.coherence == "lease" else 0.0)
        left = window.since + longest * _MARGIN - uptime()
        if left > 0 and longest:
            await asyncio.sleep(left)

    async def move(self, tags: Sequence[Tag], writer: str) -> None:
        """A window of no length."""
        plan = self._plan(tags)
        window = Window(plan, _short(writer), 0)

        async def move_in(group: Group) -> None:
            def commands() -> list[Command]:
                said = (window.writer, self._names.bus, self._ids(plan, group), self._announcement())
                return [(scripts.MOVE, len(group.keys), *group.keys, self._skew_ms, self._keep_ms, nonce(), *said)]

            replies = await self._change(window, group, commands, self._patience)
            window.announced = max(window.announced, _as_seconds(replies.values[0]))

        await asyncio.gather(*(move_in(group) for group in plan.groups))
        window.since = uptime()
        await self._wait_out(window)

    async def drop_chain(self, chain: Chain) -> None:
        """Make the entries of one chain unreachable, in one step; they expire."""
        await self.move([("all", chain, ())], "the end of the session")

    async def clear(self) -> None:
        """Drop every entry under the prefix, tools' and key-value ones. Loads under way are not kept."""
        await self.move(EVERYTHING, "clear")
        await self._drop_everything()

    async def stats(self) -> dict[str, Any]:
        """``entries`` of the key-value cache and its ``hits`` and ``misses`` here, ``corrupt`` records met, ``round_trips``
        made by this process, ``down`` (why, or None)."""
        return {
            "backend": "redis",
            "where": self._links.where,
            "entries": await self.count(),
            "bytes": 0,
            "evictions": 0,
            "hits": self._hits,
            "misses": self._misses,
            "corrupt": self._corrupt,
            "round_trips": self._links.round_trips,
            "down": self._links.down,
            "coherence": self.coherence,
            "backplane": self._bus.state() if self._bus is not None else None,
        }

    async def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        await figures.add(self._links, self._names.prefix, minute, sums, now)

    async def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        return await figures.rows(self._links, self._names.prefix, since, until, now)

    async def scan(self, *, payloads: bool = False) -> AsyncIterator[StoredEntry]:
        """See :class:`~agent_cache.backends.base.Scanning`."""
        async for entry in scanning.scan(self, payloads=payloads):
            yield entry

    async def check_store(self, *, repair: bool) -> list[Finding]:
        return await integrity.check(self, repair=repair)

    async def remove(self, entry: StoredEntry) -> bool:
        return bool(await self._unlink([entry.where]))

    async def forget_tags(self, tags: Sequence[Tag]) -> None:
        """A record that is missing is minted anew, under another version: what depended on it stays unreachable."""
        await self._unlink([self._names.tag(tag).key for tag in tags])

    async def finish_erasing(self, wanted: Targets) -> Mapping[str, int]:
        """The tags of their chains, and what this process keeps opened."""
        await self.forget_tags([("all", chain, ()) for chain in wanted.chains])
        self._recent.clear()
        return {}

    async def doctor(self) -> list[Finding]:
        """What is wrong with this Redis, and what mends it; the password is in none of it."""
        found = await diagnose(self._links, self._names, self._bus, coherence=self.coherence, lease=self.lease)
        return found if self.outbox is None else [*found, await asyncio.to_thread(owed, self.outbox)]

    def listen(self, heard: Callable[[Sequence[bytes]], None], lost: Callable[[], None]) -> Bus:
        """Hear of every invalidation from now on: the tags' ids, or that some may have been missed.

        For a near tier; both are called on another thread.
        """
        if self._links.sharded:
            raise ConfigurationError("coherence", self.coherence, "a Redis Cluster has 'strict' only in this version")
        if self._bus is None:
            self._bus = Bus(self._links.blueprint, self._names, self.lease)
            weakref.finalize(self, self._bus.stop)
        self._bus.add(heard, lost)
        return self._bus

    # -- the pieces ---------------------------------------------------------------------------------------------------

    def _plan(self, tags: Sequence[Tag]) -> Plan:
        """Of what is written."""
        return self._plans.of(tags) if len(tags) <= MOST_AT_ONCE else self._plans.in_parts(tags)

    @staticmethod
    def _ids(plan: Plan, group: Group) -> bytes:
        return b"".join([plan.ids[at] for at in group.positions])

    async def _read_all(self, key: bytes | None, plan: Plan, *, wants_left: bool = False) -> _Parts:
        """An entry and its tags that stand in several slots."""
        asked: list[Awaitable[Look]] = []
        for group in plan.groups:
            entry = self._names.entry(group.slot, key) if key is not None and group.slot == plan.home else None
            asked.append(self._links.look(group, entry, wants_left=entry is not None and wants_left))
        return _Parts(plan, await asyncio.gather(*asked))

    async def _token(self, plan: Plan, records: list[TagRecord | None], epoch: bytes) -> Token | None:
        """The token to load under; None while somebody writes. Records that are missing are minted."""
        versions = [record.version if record is not None else b"" for record in records]
        fences = [record.fence if record is not None else b"" for record in records]
        unclear = [group for group in plan.groups if not all(_is_free(records[at]) for at in group.positions)]
        if unclear:
            asked = [self._links.ask_anew(group.slot, partial(self._minting, group)) for group in unclear]
            try:
                replies = await asyncio.gather(*asked)
            except RefusedError as error:  # full, or forbidden: what is there can be read all the same
                raise NotStoringError(str(error)) from error
            for group, reply in zip(unclear, replies, strict=True):
                answer = reply.values[0]
                if not isinstance(answer, bytes):
                    return None
                if len(plan.groups) == 1:
                    epoch = reply.epoch or b""
                count = len(group.positions)
                for number, at in enumerate(group.positions):
                    versions[at] = answer[NONCE * number : NONCE * (number + 1)]
                    fences[at] = answer[NONCE * (count + number) : NONCE * (count + number + 1)]
        return Token(plan, epoch + b"".join(versions), tuple(fences))

    def _minting(self, group: Group) -> list[Command]:
        return [(scripts.TOKEN, len(group.keys), *group.keys, self._skew_ms, self._keep_ms, nonce())]

    def _found(self, stored: Stored, entry: EntryRecord | None, left_ms: Any) -> Found:
        entry = cast(EntryRecord, entry)
        age = time.time() + self._skew_ms / 1000 - entry.created
        if age < 0.0:
            age = 0.0
        left = None
        if entry.ttl:
            left = entry.ttl - age if entry.ttl > age else 0.0
        kept_for = None if left_ms is None else max(0.001, left_ms / 1000)  # by the server's clock
        if entry.grace and left_ms is not None:
            left = left_ms / 1000 - entry.grace
            kept_for = max(0.001, left)
        return Found(stored, age, left, entry.load_seconds, None, entry.stamp, kept_for=kept_for)

    def _bound(self, key: bytes, plan: Plan) -> bytes:
        """What an entry's authentication is bound to beside what it says itself."""
        return b"".join((key, *plan.ids)) if self._seal is not None else b""

    def _wall(self) -> float:
        return time.time() + self._skew_ms / 1000

    def _start_anew(self) -> None:
        self._links.start_anew()
        self._keeper.start_anew()
        self._bus = None


def _short(writer: str) -> bytes:
    """A writer's name as it is kept with a tag."""
    return writer.encode("utf-8", "replace")[:200]


def _is_free(record: TagRecord | None) -> bool:
    return record is not None and record.free


def _dropped_by(entry: EntryRecord, epoch: bytes, records: Sequence[TagRecord | None]) -> str:
    """Who dropped a stale entry, for people."""
    if entry.stamp[: len(epoch)] != epoch:
        return "a restart or failover of Redis"
    for at, record in enumerate(records):
        start = len(epoch) + NONCE * at
        if record is None:
            return "the loss of a tag (evicted or deleted)"
        if entry.stamp[start : start + NONCE] != record.version:
            return record.last_writer or "the loss of a tag (evicted or deleted)"
    return "a change of its tags"


def _as_seconds(announced: object) -> float:
    """What lease-mode readers announced, in seconds; whatever is not a number of theirs counts as a second."""
    if not announced:
        return 0.0
    try:
        return min(60.0, max(0.0, float(cast(Any, announced))))
    except (TypeError, ValueError):
        return 1.0


def _positive(value: float | timedelta, parameter: str) -> float:
    checked = seconds(value, parameter)
    if checked is None or checked > _LONGEST:
        raise ConfigurationError(parameter, value, "give a positive number of seconds, ten years at most")
    return checked


_backends: weakref.WeakSet[RedisBackend] = weakref.WeakSet()


async def _close_all() -> None:
    """On the portal, when the process ends."""
    for backend in list(_backends):
        await backend._links.close_here()


def _after_fork() -> None:
    if _backends:
        PORTAL.at_exit(_close_all)
    for backend in list(_backends):
        backend._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
