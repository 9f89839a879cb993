"""The blocking surface for tools' entries: lookups on the caller's thread, everything that writes on the writer's."""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, cast
from weakref import WeakSet

from agent_cache.backends.base import Blocked, Found, Lookup, Missing, NewEntry, Same, Taken
from agent_cache.backends.base import Lead as LeadProtocol
from agent_cache.backends.base import Token as TokenProtocol
from agent_cache.backends.base import Window as WindowProtocol
from agent_cache.backends.disk import clocks, files, room, tagrows
from agent_cache.backends.disk.files import Handle, Identity, Replaced
from agent_cache.backends.disk.leases import DiskLead, DiskWindow, Held
from agent_cache.backends.disk.names import Names, TagSet, tool_key
from agent_cache.backends.disk.pending import Pending, Row
from agent_cache.backends.disk.schema import FLOOR, lookup_sql, tags_sql
from agent_cache.backends.disk.tagrows import DiskToken, Ending, Snapshot
from agent_cache.backends.disk.writer import Job, Writer
from agent_cache.clock import Clock, nonce
from agent_cache.codecs import ToolCodec
from agent_cache.errors import BackendError, UnstorableResultError
from agent_cache.tags import Chain, Tag

__all__ = ["EntryStore", "NotReady"]

log = logging.getLogger("agent_cache")
_MAX_PAYLOAD = 64 * 1024 * 1024
_BATCH, _SWEEP_EVERY, _TOUCHED = 64, 10.0, 4_096
_COUNTERS = ("hits", "misses", "evictions", "dropped_fills", "refused_fills", "undecodable", "forged", "lost_markers")


class NotReady(Exception):  # noqa: N818 - a signal within this package
    """The file has to be opened, or set aside, by the writer thread first."""

    def __init__(self, damaged: Identity | None = None, *, foreign: bool = False) -> None:
        super().__init__()
        self.damaged = damaged
        self.foreign = foreign


class EntryStore:
    """See :class:`~agent_cache.backends.disk.backend.DiskBackend`."""

    def __init__(
        self,
        path: str,
        max_bytes: int,
        *,
        settle: float,
        write_lease: float,
        lead_lease: float,
        clock: Clock,
        wall: Clock,
        secret: bytes | None,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.settle = settle
        self.write_lease = write_lease
        self.lead_lease = lead_lease
        self.clock = clock
        self.wall = wall
        self.tag_limit = room.TAG_LIMIT
        self._names = Names(secret)
        self._set_boot(clocks.boot_id())
        self._start()
        _stores.add(self)

    def _set_boot(self, boot: bytes) -> None:
        self._boot, self._boot_text = boot, boot.hex()

    def _start(self) -> None:
        self._held = Held()
        self._pending = Pending()
        self._touched: set[bytes] = set()
        self._readers: WeakSet[Handle] = WeakSet()
        self._local = threading.local()
        self._ready: Identity | None = None
        self._counts: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._tick = 0
        self._swept = time.monotonic()
        self._grudge = ""
        self._writer = Writer(self.path, self)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _reader(self) -> Handle:
        handle: Handle | None = getattr(self._local, "handle", None)
        if handle is not None and handle.pid == os.getpid() and handle.identity == self._ready:
            return handle
        ready = self._ready
        if ready is None:
            raise NotReady
        try:
            handle = files.connect(self.path, ready, writer=False)
        except Replaced:
            raise NotReady from None
        self._local.handle = handle
        self._readers.add(handle)
        return handle

    def _select(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows, fetched to the end: no read transaction is left open."""
        handle = None
        try:
            handle = self._reader()
            with handle.lock:
                return handle.db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            if handle is not None and handle.pid == -1:  # closed meanwhile
                raise NotReady from None
            if files.is_damage(error):
                raise NotReady(handle.identity if handle else self._ready) from error
            self._ready = None  # opened anew next time: whatever it was may be over
            raise files.explained(self.path, error) from error

    def _same_file(self) -> None:
        """After a select: is this still the file at the path?"""
        try:
            if files.identity(self.path) == self._local.handle.identity:
                return
        except Replaced:
            pass
        self._ready = None
        raise NotReady

    def ready_job(self, wanted: NotReady) -> Job:
        """What the writer thread has to do about it."""
        if wanted.foreign:
            tick = self._next_tick()
            return Job(lambda db: tagrows.forget_other_boots(db, self._boot_text, tick), durable=True)

        def look(db: sqlite3.Connection) -> None:
            tagrows.floor_of(db)

        return Job(look, plain=True, damaged=wanted.damaged)

    def _retrying(self, work: Callable[[], Any]) -> Any:
        for _ in range(5):
            try:
                return work()
            except NotReady as wanted:
                self._do(self.ready_job(wanted))
        raise BackendError(f"disk cache {self.path}: the file is replaced again and again; give it a path of its own")

    def _snapshot(self, tags: TagSet, rows: list[Any], seen: object = None) -> Snapshot:
        try:
            found = tagrows.snapshot_of(tags, rows, self.clock(), self._boot_text, seen)
        except (TypeError, ValueError, KeyError, IndexError):
            raise NotReady(self._local.handle.identity) from None
        if found.foreign:
            raise NotReady(foreign=True)
        return found

    def lookup_now(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        """Raises NotReady where the writer thread has to open the file first."""
        names = self._names.of(tags)
        if key is None:
            seen = self._seen()
            rows = self._select(_tags_sql(names), (FLOOR, *names.unique))
            found = self._snapshot(names, rows, seen)
            return Blocked() if found.blocked else Missing(found.token, "absent")
        stored_key = tool_key(key)
        pending = self._pending.rows.get(stored_key)  # before the select: it may land in between
        seen = self._seen()
        rows = self._select(lookup_sql(names.marks), (stored_key, FLOOR, *names.unique))
        self._same_file()
        row = rows.pop(0) if rows and rows[0][0] is None else None
        found = self._snapshot(names, rows, seen)
        why, dropped_by = "absent", None
        if pending is not None:
            if pending.stamp == found.token.stamp:
                row = _as_row(pending)
            elif row is None:
                why, dropped_by = "stale", found.dropped_by(pending.stamp)
        if row is not None:
            if row[1] != found.token.stamp:
                why, dropped_by = "stale", found.dropped_by(row[1])
            else:
                hit = self._hit(stored_key, row, codec, names.digest)
                if isinstance(hit, Found):
                    self._touched.add(stored_key)
                    return hit
                why = hit
        return Blocked() if found.blocked else Missing(found.token, why, dropped_by)

    def _hit(self, key: bytes, row: Sequence[Any], codec: ToolCodec, digest: bytes) -> Found | str:
        _, stamp, payload, seal, boot, created, deadline, shift, load_seconds = row
        if payload is None:
            self._count("undecodable")
            return "absent"
        now = self.clock() if boot == self._boot else self.wall() - shift
        if deadline is not None and now >= deadline:
            return "expired"
        if self._names.sealed and not self._names.holds(
            seal, key, digest, stamp, boot, repr((created, deadline, shift, load_seconds)).encode(), payload
        ):
            self._count("forged")
            return "absent"
        try:
            stored = codec.thaw_payload(payload)
        except UnstorableResultError:
            self._count("undecodable")
            return "absent"
        return Found(
            stored, max(0.0, now - created), None if deadline is None else deadline - now, load_seconds, None, stamp
        )

    def revalidate_now(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Hashable) -> Lookup | Same:
        names = self._names.of(tags)
        found = self._snapshot(names, self._select(_tags_sql(names), (FLOOR, *names.unique)))
        if found.token.stamp == stamp:
            self._same_file()
            self._touched.add(tool_key(key))
            return Same()
        return self.lookup_now(key, tags, codec)

    def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        found: Lookup = self._retrying(lambda: self.lookup_now(key, tags, codec))
        return found

    def revalidate(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Hashable) -> Lookup | Same:
        found: Lookup | Same = self._retrying(lambda: self.revalidate_now(key, tags, codec, stamp))
        return found

    def unchanged(self) -> bool:
        """Whether nothing at all was committed to the file, by anybody, since this thread asked the last time.

        Costs a few microseconds (``PRAGMA data_version`` and a ``stat``). The first time the answer is no.
        """
        handle: Handle | None = None
        try:
            handle = self._reader()
            with handle.lock:
                now: int = handle.db.execute("PRAGMA data_version").fetchone()[0]
                same, handle.seen, handle.told = now == handle.seen, now, now
            found = os.stat(self.path)  # noqa: PTH116 - on the way of every near hit
        except (NotReady, OSError, sqlite3.Error):
            if handle is not None:
                handle.seen = None
            return False
        return same and (found.st_dev, found.st_ino) == handle.identity

    def tag_ids(self, tags: Sequence[Tag]) -> tuple[bytes, ...]:
        return self._names.of(tags).ids

    # -- filling ------------------------------------------------------------------------------------------------------

    def row_of(self, key: bytes, payload: bytes, ttl: float | None, load_seconds: float, token: DiskToken) -> Row:
        now = self.clock()
        deadline, shift = None if ttl is None else now + ttl, self.wall() - now
        times = repr((now, deadline, shift, load_seconds)).encode()
        seal = self._names.seal(key, token.tags.digest, token.stamp, self._boot, times, payload)
        size = room.cost(len(payload), len(token.stamp))
        group = self._names.group("")
        return Row(
            key, group, None, size, token.stamp, self._boot, now, deadline, shift, load_seconds, seal, payload, token
        )

    def fill_now(self, token: TokenProtocol, entry: NewEntry) -> bool:
        kept = False
        try:
            kept = self._fill(cast(DiskToken, token), entry)
        except NotReady:  # asked again at once
            kept = True
            raise
        finally:
            if not kept and entry.lead is not None:
                self.release(entry.lead)
        return kept

    def _fill(self, token: DiskToken, entry: NewEntry) -> bool:
        payload = entry.stored.payload()
        if len(payload) > _MAX_PAYLOAD:
            raise UnstorableResultError("too_large", f"{len(payload)} bytes, limit {_MAX_PAYLOAD}")
        row = self.row_of(tool_key(entry.key), payload, entry.ttl, float(entry.load_seconds), token)
        if row.size > self.max_bytes:
            self._count("dropped_fills")
            return False
        row.group, row.chain = self._names.group(entry.group), self._names.chain(entry.chain)
        row.maxsize, row.lead = entry.maxsize, cast("DiskLead | None", entry.lead)
        if (
            token.seen is None or token.seen != self._version()
        ):  # else nobody committed anything since it was handed out
            found = self._snapshot(token.tags, self._select(_tags_sql(token.tags), (FLOOR, *token.tags.unique)))
            if found.blocked or found.token != token:
                self._count("refused_fills")
                return False
        if not self._pending.add(row):
            self._count("dropped_fills")
            return False
        self._writer.poke()
        return True

    def _seen(self) -> tuple[Handle, int] | None:
        """This thread's connection and the last version of the file it told; asked before a select, not after."""
        handle: Handle | None = getattr(self._local, "handle", None)
        return None if handle is None or handle.told is None else (handle, handle.told)

    def _version(self) -> tuple[Handle, int]:
        """The same as :meth:`_seen` by now: if it has not changed, nothing was committed in between, by anybody."""
        handle = self._reader()
        try:
            with handle.lock:
                handle.told = handle.db.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            raise NotReady from None
        return handle, cast(int, handle.told)

    def fill(self, token: TokenProtocol, entry: NewEntry) -> bool:
        return bool(self._retrying(lambda: self.fill_now(token, entry)))

    # -- invalidating -------------------------------------------------------------------------------------------------

    def begin_job(self, tags: Sequence[Tag], writer: str) -> Job:
        window = DiskWindow(self._names.of(tags).ids, writer)
        tick = self._next_tick()

        def work(db: sqlite3.Connection) -> DiskWindow:
            tagrows.begin(db, window, self.clock(), self.write_lease, self._boot_text, tick)
            return window

        def after() -> None:
            window.renew_at = self.clock() + self.write_lease / 3
            self._held.windows.add(window)

        return Job(work, durable=True, after=after, ids=window.ids)

    def end_job(self, window: WindowProtocol, *, unknown: bool, no_effect: bool) -> Job | None:
        """None: nothing to do, it is closed, or is the parent process's."""
        mine = cast(DiskWindow, window)
        if mine.closed:
            return None
        mine.closed = True
        self._held.windows.discard(
            mine
        )  # no longer renewed: if this cannot be delivered the marker ends with its lease
        if mine.pid != os.getpid():
            return None
        how, tick = Ending(self.settle if unknown else 0.0, no_effect), self._next_tick()
        return Job(
            lambda db: tagrows.end(db, mine, how, self.clock(), self._boot_text, tick), durable=True, stubborn=True
        )

    def abandon(self, window: WindowProtocol) -> None:
        """Does not wait."""
        job = self.end_job(window, unknown=True, no_effect=False)
        if job is not None:
            self._writer.submit(job)

    def move_job(self, tags: Sequence[Tag], writer: str) -> Job:
        ids, tick = self._names.of(tags).ids, self._next_tick()
        return Job(lambda db: tagrows.move(db, ids, writer, tick), durable=True, ids=ids)

    def drop_chain_job(self, chain: Chain) -> Job:
        name, tick = self._names.chain(chain), self._next_tick()
        ids = self._names.of((("all", chain, ()),)).ids

        def work(db: sqlite3.Connection) -> None:
            for row in self._pending.drop(name):
                if row.lead is not None:
                    self._drop_lead(db, row.lead)
            if name is not None:
                db.execute("DELETE FROM entries WHERE chain=?", (name,))
                tagrows.move(db, ids, "the end of the session", tick)

        return Job(work, durable=True)

    def begin(self, tags: Sequence[Tag], writer: str) -> WindowProtocol:
        window: DiskWindow = self._do(self.begin_job(tags, writer))
        return window

    def end(self, window: WindowProtocol, *, unknown: bool, no_effect: bool) -> None:
        job = self.end_job(window, unknown=unknown, no_effect=no_effect)
        if job is not None:
            self._do(job)

    def move(self, tags: Sequence[Tag], writer: str) -> None:
        self._do(self.move_job(tags, writer))

    def drop_chain(self, chain: Chain) -> None:
        self._do(self.drop_chain_job(chain))

    def chain_sizes(self, chain: Chain) -> tuple[int, int]:
        """Entries and bytes of one chain."""
        name = self._names.chain(chain)
        sql = "SELECT key, size FROM entries WHERE chain=?"
        sizes: dict[bytes, int] = dict(self._retrying(lambda: self._select(sql, (name,))))
        sizes.update({row.key: row.size for row in list(self._pending.rows.values()) if row.chain == name})
        return len(sizes), sum(sizes.values())

    # -- leads --------------------------------------------------------------------------------------------------------

    def lead_job(self, key: bytes, tags: Sequence[Tag], token: TokenProtocol) -> Job:
        mine, stored_key = cast(DiskToken, token), tool_key(key)
        lead = DiskLead(stored_key, nonce(), 0.0)

        def work(db: sqlite3.Connection) -> DiskLead | Taken:
            now = self.clock()
            found = tagrows.read_tags(db, mine.tags, now, self._boot_text)
            if found.blocked or found.token != mine:
                return Taken(again=True)
            pending = self._pending.rows.get(stored_key)
            if pending is not None and pending.stamp == mine.stamp:
                return Taken(again=True)
            sql = "SELECT 1 FROM entries WHERE key=? AND stamp=? AND (deadline IS NULL OR"
            sql += " CASE WHEN boot=? THEN deadline>? ELSE deadline+shift>? END)"
            if db.execute(sql, (stored_key, mine.stamp, self._boot, now, self.wall())).fetchone():
                return Taken(again=True)
            sql = "SELECT 1 FROM leads WHERE key=? AND token=? AND boot=? AND expires>?"
            if db.execute(sql, (stored_key, mine.whole, self._boot, now)).fetchone():
                return Taken(again=False)
            values = (stored_key, mine.whole, lead.holder, self._boot, now + self.lead_lease)
            db.execute("INSERT OR REPLACE INTO leads VALUES (?,?,?,?,?)", values)
            lead.renew_at = now + self.lead_lease / 3
            return lead

        def after() -> None:
            if lead.renew_at:
                self._held.leads.add(lead)

        return Job(work, after=after)

    def lead(self, key: bytes, tags: Sequence[Tag], token: TokenProtocol) -> LeadProtocol | Taken:
        lead: LeadProtocol | Taken = self._do(self.lead_job(key, tags, token))
        return lead

    def release(self, lead: LeadProtocol) -> None:
        """Does not wait, never raises."""
        mine = cast(DiskLead, lead)
        if mine in self._held.leads:
            self._held.leads.discard(mine)
            self._writer.submit(Job(lambda db: self._drop_lead(db, mine)))

    def _drop_lead(self, db: sqlite3.Connection, lead: DiskLead) -> None:
        self._held.leads.discard(lead)
        db.execute("DELETE FROM leads WHERE key=? AND holder=?", (lead.key, lead.holder))

    # -- what the writer thread asks for --------------------------------------------------------------------------------

    def open_file(self) -> Identity:
        which = files.prepare(self.path, self._names)
        if which != self._ready:
            handle = files.connect(self.path, which, writer=True)
            try:
                handle.db.execute("PRAGMA synchronous=FULL")
                marked = handle.db.execute("SELECT 1 FROM tags WHERE markers IS NOT NULL LIMIT 1").fetchone()
                if marked:
                    handle.db.execute("BEGIN IMMEDIATE")
                    tagrows.forget_other_boots(handle.db, self._boot_text, self._next_tick())
                    handle.db.execute("COMMIT")
            finally:
                handle.close()
            self._ready = which
        return which

    def due_in(self) -> float | None:
        due = self._held.next_due()
        return None if due is None else max(0.0, due - self.clock())

    def waiting(self, ids: Collection[bytes] = ()) -> bool:
        if ids:
            return bool(self._pending.rows) and bool(self._pending.batch(1, ids))
        return bool(self._pending.rows)

    def renew(self) -> Job | None:
        now = self.clock()
        windows = [w for w in self._held.windows.copy() if w.renew_at <= now and not w.closed]
        leads = [lead for lead in self._held.leads.copy() if lead.renew_at <= now]
        if not windows and not leads:
            return None
        tick = self._next_tick()
        for window in windows:  # tried again in a third of the lease whatever comes of it
            window.renew_at = now + self.write_lease / 3
        for lead in leads:
            lead.renew_at = now + self.lead_lease / 3

        def work(db: sqlite3.Connection) -> None:
            for window in windows:
                if not window.closed and not tagrows.renew(db, window, now, self.write_lease, self._boot_text, tick):
                    self._count("lost_markers")
            for lead in leads:
                sql = "UPDATE leads SET expires=? WHERE key=? AND holder=?"
                db.execute(sql, (now + self.lead_lease, lead.key, lead.holder))

        return Job(work, durable=bool(windows))

    def write_batch(self, db: sqlite3.Connection, ids: Collection[bytes]) -> Callable[[], None] | None:
        """One batch into the file, each entry if its token still holds."""
        rows = self._pending.batch(_BATCH, ids)
        if not rows:
            return None
        now, refused, groups = self.clock(), 0, {}
        for row in rows:
            if row.lead is not None:
                db.execute("DELETE FROM leads WHERE key=? AND holder=?", (row.lead.key, row.lead.holder))
            found = tagrows.read_tags(db, row.token.tags, now, self._boot_text)
            if found.blocked or found.token != row.token:
                refused += 1
                continue
            self.put(db, row)
            if row.maxsize is not None:
                groups[row.group] = row.maxsize
        gone = sum(room.evict_group(db, group, maxsize) for group, maxsize in groups.items())
        gone += self.make_room(db)

        def done() -> None:
            for row in rows:
                if row.lead is not None:
                    self._held.leads.discard(row.lead)
            self._pending.done(rows)
            self._count("refused_fills", refused)
            self._count("evictions", gone)

        return done

    def put(self, db: sqlite3.Connection, row: Row) -> None:
        db.execute("DELETE FROM entries WHERE key=?", (row.key,))
        values = (
            row.key, row.group, row.chain, row.size, self._next_tick(), row.stamp, row.boot, row.created, row.deadline,
            row.shift, row.load_seconds, row.seal, row.payload,
        )  # fmt: skip
        db.execute("INSERT INTO entries VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?)", values)

    def make_room(self, db: sqlite3.Connection) -> int:
        held = db.execute("SELECT total(bytes) FROM groups").fetchone()[0]
        if held <= self.max_bytes:
            return 0
        self._touch(db)
        return room.evict(db, self.max_bytes)

    def _touch(self, db: sqlite3.Connection) -> None:
        touched, self._touched = self._touched, set()
        room.touch(db, list(touched), self._next_tick())

    def give_up(self, error: Exception) -> None:
        rows = self._pending.batch(1 << 30)
        self._pending.done(rows)
        self._count("dropped_fills", len(rows))
        for row in rows:
            if row.lead is not None:
                self._held.leads.discard(row.lead)
        if str(error) != self._grudge:
            self._grudge = str(error)
            log.warning("%s; %d results were not kept", error, len(rows))

    def tidy(self, db: sqlite3.Connection, *, idle: bool) -> None:
        now = time.monotonic()
        if idle or now - self._swept > _SWEEP_EVERY or len(self._touched) > _TOUCHED:
            self._swept = now
            db.execute("BEGIN IMMEDIATE")
            self.upkeep(db)
            db.execute("COMMIT")
        room.shrink(db, self.path)

    def upkeep(self, db: sqlite3.Connection) -> None:
        """Expired entries, dead leads, tags beyond the limit; and who was used."""
        self._touch(db)
        room.sweep(db, self.clock(), self.wall(), self._boot)
        room.reap_tags(db, self.tag_limit)

    # -- life -----------------------------------------------------------------------------------------------------------

    def _do(self, job: Job) -> Any:
        return self._writer.submit(job).result()

    def _count(self, what: str, times: int = 1) -> None:
        self._counts[what] += times

    def _next_tick(self) -> int:
        self._tick = max(self._tick + 1, int(self.wall() * 1_000_000))
        return self._tick

    def flush_job(self) -> Job:
        return Job(lambda _db: None, fills=True)

    def upkeep_job(self) -> Job:
        return Job(self.upkeep)

    def close(self, patience: float = 10.0) -> None:
        """Write what is pending and close the file. Usable again afterwards."""
        self._writer.stop(patience)
        self._ready = None
        for handle in list(self._readers):
            with handle.lock:
                handle.close()

    def after_fork(self) -> None:
        """In the child: leave alone what is the parent's."""
        writing = self._writer.handle
        for handle in [*self._readers, *([writing] if writing is not None else [])]:
            _inherited.append(handle)
            handle.leak()
        self._start()


def _tags_sql(names: TagSet) -> str:
    return tags_sql(names.marks)


def _as_row(row: Row) -> tuple[Any, ...]:
    return (
        None, row.stamp, row.payload, row.seal, row.boot, row.created, row.deadline, row.shift, row.load_seconds,
    )  # fmt: skip


_stores: WeakSet[EntryStore] = WeakSet()
_inherited: list[Handle] = []


_FORK_PATIENCE = 1.0  # seconds that a fork waits for SQLite to be left by other threads
_kept_out: list[Any] = []


def _before_fork() -> None:
    """Keep other threads out of SQLite: what it has locked in that moment would stay locked in the child."""
    for store in list(_stores):
        locks: list[Any] = [store._writer.busy, *(handle.lock for handle in list(store._readers))]
        _kept_out.extend(lock for lock in locks if lock.acquire(timeout=_FORK_PATIENCE))


def _forked() -> None:
    while _kept_out:
        _kept_out.pop().release()


def _after_fork() -> None:
    _kept_out.clear()
    files.after_fork()
    for store in list(_stores):
        store.after_fork()


def _at_exit() -> None:
    """Best effort: what is pending goes into the file."""
    for store in list(_stores):
        try:
            store.close(2.0)
        except Exception as error:  # noqa: BLE001 - the process ends
            log.debug("closing a cache file at exit: %s", error)


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_forked, after_in_child=_after_fork)
