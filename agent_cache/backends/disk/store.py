"""The blocking surface for tools' entries: fills and leads on the caller's thread, what is committed on the writer's."""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from agent_cache.backends.base import Lead as LeadProtocol
from agent_cache.backends.base import Lookup, NewEntry, Same, Taken
from agent_cache.backends.base import Token as TokenProtocol
from agent_cache.backends.base import Window as WindowProtocol
from agent_cache.backends.disk import files, room, tagrows
from agent_cache.backends.disk.files import Identity
from agent_cache.backends.disk.leadtable import LeadTable
from agent_cache.backends.disk.leases import DiskLead, DiskWindow, Held
from agent_cache.backends.disk.names import Names, tool_key
from agent_cache.backends.disk.pending import Row
from agent_cache.backends.disk.reading import NotReady, Reading, Rounds
from agent_cache.backends.disk.schema import delete_sql, insert_sql
from agent_cache.backends.disk.tagrows import DiskToken, Ending
from agent_cache.backends.disk.watch import Watch
from agent_cache.backends.disk.writer import Job, Writer
from agent_cache.backends.labels import MOST_BYTES, label_bytes
from agent_cache.backends.packing import Packing
from agent_cache.backends.sweeper import SWEEPER, checked_sweep
from agent_cache.bounds import Quota, refuse_larger
from agent_cache.clock import Clock, nonce
from agent_cache.codecs import ToolCodec
from agent_cache.errors import BackendError, UnstorableResultError
from agent_cache.tags import Chain, Tag

__all__ = ["EntryStore"]

log = logging.getLogger("agent_cache")
_BATCH, _SWEEP_EVERY, _TOUCHED = 48, 10.0, 4_096
_BEHIND = 1_024  # pending entries: then the writer thread gives way to nobody
_CUT_AGAIN = 1.0  # seconds between tries to cut off a log that somebody reads from
_LABELS, _RELEASES = 12, 8  # so many are made, or given back, before it does
_PORTIONS = (16, 4, 1)
_LABEL = MOST_BYTES + 16  # with a seal


class EntryStore(Reading):
    """See :class:`~agent_cache.backends.disk.backend.DiskBackend`."""

    def __init__(
        self,
        path: str,
        max_bytes: int,
        *,
        max_size: int | None,
        quotas: Mapping[str, Quota],
        max_entry_bytes: int,
        compress: bool | int,
        sweep: float | None,
        settle: float,
        write_lease: float,
        lead_lease: float,
        clock: Clock,
        wall: Clock,
        secret: bytes | None,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_size = max_size
        self.quotas = quotas
        self.max_entry_bytes = max_entry_bytes
        self.packing = Packing(compress)
        self.sweep_every = checked_sweep(sweep)
        self.settle = settle
        self.write_lease = write_lease
        self.lead_lease = lead_lease
        self.tag_limit = room.TAG_LIMIT
        self.labels = secret is None
        """Whether entries carry their names and paths."""
        names = Names(secret)
        super().__init__(path, clock, wall, names)
        self._limits: list[tuple[bytes | None, Quota]] = [(None, Quota(max_size, max_bytes))]
        self._limits += [(names.space(name), quota) for name, quota in quotas.items()]
        _stores.add(self)

    def _start(self) -> None:
        super()._start()
        self._held = Held()
        self._leads: LeadTable | None = None
        self._tick = 0
        self._swept = time.monotonic()
        self._is_swept = False  # whether the sweeper knows of this store
        self._can_expire = True
        self._grudge = ""
        self._real = self.path
        self._log, self._cut_at = 0, 0.0
        self._reaping = False
        self._writer = Writer(self.path, self)

    # -- reading ------------------------------------------------------------------------------------------------------

    def ready_job(self, wanted: NotReady) -> Job:
        """What the writer thread has to do about it."""
        if wanted.foreign:
            tick = self._next_tick()
            return Job(lambda db: tagrows.forget_other_boots(db, self._boot_text, tick), durable=True)

        def look(db: sqlite3.Connection) -> None:
            tagrows.floor_of(db)
            handle = self._writer.handle
            if self._ready is None and handle is not None:  # a reader failed; the writer's connection is sound
                self._be_ready(handle.identity)

        return Job(look, plain=True, damaged=wanted.damaged)

    def _retrying(self, work: Callable[[], Any]) -> Any:
        rounds = Rounds(self.path, locked=5)
        while True:
            try:
                return work()
            except NotReady as wanted:
                rounds.another(wanted)
                self._do(self.ready_job(wanted))

    def lookup(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        found: Lookup = self._retrying(lambda: self.found_now(key, tags, codec))
        return found

    def revalidate(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Hashable) -> Lookup | Same:
        found: Lookup | Same = self._retrying(lambda: self.revalidate_now(key, tags, codec, stamp))
        return found

    # -- filling ------------------------------------------------------------------------------------------------------

    def row_of(
        self,
        key: bytes,
        payload: bytes,
        ttl: float | None,
        load_seconds: float,
        token: DiskToken,
        group: bytes,
        grace: float = 0.0,
        age: float = 0.0,
    ) -> Row:
        now = self.clock()
        deadline, shift = None if ttl is None else now + ttl, self.wall() - now
        created = now - age
        seal = None
        if self._names.sealed:
            times = repr((created, deadline, shift, load_seconds, grace)).encode()
            seal = self._names.seal(key, token.tags.digest, token.stamp, self._boot, times, payload)
        size = room.cost(len(payload), len(token.stamp))
        columns = (token.stamp, payload, seal, self._boot, created, deadline, shift, load_seconds, grace)
        return Row(key, size, group, token, columns)

    def sealed_label(self, row: Row, label: bytes) -> bytes:
        """With a secret it is authenticated by itself: no lookup reads it."""
        seal = self._names.seal(row.key, row.stamp, label)
        return label if seal is None or not label else seal + label

    def fill_now(self, token: TokenProtocol, entry: NewEntry, packed: bytes | None = None) -> bool:
        """``packed``: the payload as it is to be stored, where that was made elsewhere. Raises NotReady."""
        mine: Any = token
        kept = False
        try:
            kept = self._fill(mine, entry, packed)
        except NotReady:  # asked again at once
            kept = True
            raise
        finally:
            if not kept and entry.lead is not None:
                self.release(entry.lead)
        return kept

    def _fill(self, token: DiskToken, entry: NewEntry, packed: bytes | None) -> bool:
        payload = entry.stored.payload()
        if len(payload) > self.max_entry_bytes:
            refuse_larger(len(payload), self.max_entry_bytes)
        if packed is not None:
            payload = packed
        elif self.packing.least is not None:
            payload = self.packing.now(payload)
        names, space, seconds = self._names, entry.namespace, float(entry.load_seconds)
        group = names.group(entry.group, space) if space else names.group(entry.group)
        grace, age = float(entry.grace) if entry.grace else 0.0, float(entry.age) if entry.age else 0.0
        row = self.row_of(tool_key(entry.key), payload, entry.ttl, seconds, token, group, grace, age)
        room_for_it = self.max_bytes
        if self.quotas and (quota := self.quotas.get(space)) is not None and quota.bytes is not None:
            room_for_it = min(quota.bytes, room_for_it)
        if self.labels:
            row.entry = entry
            if row.size + _LABEL > room_for_it:
                self._label(row)
        if row.size > room_for_it:
            raise UnstorableResultError(
                "too_large", f"{row.size} bytes in the file, and there is room for {room_for_it}"
            )
        if entry.chain:
            row.chain = names.chain(entry.chain)
        lead: Any = entry.lead
        row.maxsize, row.lead = entry.maxsize, lead
        if not self._holds(token):
            self._count("refused_fills")
            return False
        if not self._pending.add(row):
            self._count("dropped_fills")
            return False
        self._writer.poke()
        return True

    def _label(self, row: Row) -> None:
        """On the writer thread, so that no caller waits for it; at once where its bytes may be too many."""
        entry, row.entry = row.entry, None
        if entry is not None:
            row.label = self.sealed_label(row, label_bytes(row.token.tags.tags, entry))
            row.size += len(row.label)

    def _holds(self, token: DiskToken) -> bool:
        """Whether a fill may come of it, as far as can be told now; the writer thread has the last word."""
        known = self._glance().known
        if token.known is not None and token.known.mark == known.mark:
            return True  # no tag was changed since it was handed out
        _, versions, _ = self._fetch(None, token.tags, known)
        return versions.of(token) and not self._blocked(versions)

    def fill(self, token: TokenProtocol, entry: NewEntry) -> bool:
        try:
            return self.fill_now(token, entry)
        except NotReady:
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
            self._cool()

        return Job(work, durable=True, after=after, ids=window.ids)

    def end_job(
        self, window: WindowProtocol, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> Job | None:
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
        written = None if narrowed is None or unknown else self._names.of(narrowed).ids
        how, tick = Ending(self.settle if unknown else 0.0, no_effect, written), self._next_tick()
        return Job(
            lambda db: tagrows.end(db, mine, how, self.clock(), self._boot_text, tick),
            durable=True,
            stubborn=True,
            after=self._cool,
        )

    def abandon(self, window: WindowProtocol) -> None:
        """Does not wait."""
        job = self.end_job(window, unknown=True, no_effect=False)
        if job is not None:
            self._writer.submit(job)

    def move_job(self, tags: Sequence[Tag], writer: str) -> Job:
        ids, tick = self._names.of(tags).ids, self._next_tick()
        return Job(lambda db: tagrows.move(db, ids, writer, tick), durable=True, ids=ids, after=self._cool)

    def drop_chain_job(self, chain: Chain) -> Job:
        name, tick = self._names.chain(chain), self._next_tick()
        ids = self._names.of((("all", chain, ()),)).ids

        def work(db: sqlite3.Connection) -> None:
            for row in self._pending.drop(name):
                if row.lead is not None:
                    self.release(row.lead)
            if name is not None:
                db.execute("DELETE FROM entries WHERE chain=?", (name,))
                tagrows.move(db, ids, "the end of the session", tick)

        return Job(work, durable=True, after=self._cool)

    def begin(self, tags: Sequence[Tag], writer: str) -> WindowProtocol:
        window: DiskWindow = self._do(self.begin_job(tags, writer))
        return window

    def end(
        self, window: WindowProtocol, *, unknown: bool, no_effect: bool, narrowed: Sequence[Tag] | None = None
    ) -> None:
        job = self.end_job(window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)
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

    def lead_now(self, key: bytes, token: TokenProtocol) -> DiskLead | Taken:
        """Take the lead at once. Raises NotReady.

        Whoever had it before gave it back after its entry was in the file: so once it is ours, no entry means that
        none was loaded.
        """
        mine: Any = token
        stored_key = tool_key(key)
        if self._is_pending(stored_key, mine):
            return Taken(again=True)
        lead = DiskLead(self._names.lead(stored_key, mine.whole), nonce())
        now = self.clock()
        lead.renew_at = now + self.lead_lease / 3
        try:
            if not self._take(lead, now):
                return Taken(again=not self._holds(mine))
            if mine.missed != (self._glance(), stored_key) and self._is_loaded(stored_key, mine, now):
                self._give_back(lead)
                return Taken(again=True)
            table = self._leads
            self._held.leads.add(lead, None if table is None else partial(table.drop, lead.what, lead.holder))
            self._writer.wake_within(self.lead_lease / 3)
        except BaseException:  # a signal's as well, which may come anywhere in it
            self._held.leads.discard(lead)
            self._give_back(lead)
            raise
        return lead

    def _is_pending(self, key: bytes, token: DiskToken) -> bool:
        pending = self._pending.rows.get(key)
        return pending is not None and pending.stamp == token.stamp

    def _is_loaded(self, key: bytes, token: DiskToken, now: float) -> bool:
        """Whether there is no use in loading under this token: it no longer holds, or the entry is there."""
        row, versions, _ = self._fetch(key, token.tags, self._glance().known)
        if not versions.of(token) or self._blocked(versions):
            return True
        stamp, _, _, boot, _, deadline, shift, _, _ = row[3:]
        if stamp != token.stamp:
            return self._is_pending(key, token)
        return deadline is None or (now if boot == self._boot else self.wall() - shift) < deadline

    def _take(self, lead: DiskLead, now: float) -> bool:
        """Raises NotReady, BackendError."""
        self._watching()
        table = self._leads
        if table is None:
            raise BackendError(f"disk cache {self.path}-leads: it cannot be opened; make it writable")
        try:
            return table.take(lead.what, lead.holder, self._boot, now, self.lead_lease)
        except OSError as error:
            raise BackendError(f"disk cache {self.path}-leads: {error.strerror}; make it writable") from error

    def _give(self, lead: DiskLead, *, last: bool = False) -> bool:
        """False: somebody else is at this part of the table. ``last``: then its note, if any, ends with its lease."""
        table = self._leads
        if table is None:
            return True
        try:
            if table.give(lead.what, lead.holder):
                return True
        except OSError as error:
            log.debug("a lead ends with its lease: %s", error)
            last = True
        if last:
            table.drop(lead.what, lead.holder)
        return last

    def _give_back(self, lead: DiskLead) -> None:
        """Does not wait, never raises."""
        if not self._give(lead):
            job = Job(lambda _db: None)
            job.future.add_done_callback(lambda _: self._give(lead, last=True))  # whatever becomes of the file
            self._writer.submit(job)

    def lead(self, key: bytes, _tags: Sequence[Tag], token: TokenProtocol) -> LeadProtocol | Taken:
        lead: LeadProtocol | Taken = self._retrying(lambda: self.lead_now(key, token))
        return lead

    def release(self, lead: LeadProtocol) -> None:
        """Does not wait, never raises."""
        mine = cast(DiskLead, lead)
        if self._held.leads.discard(mine):
            self._give_back(mine)

    # -- what the writer thread asks for --------------------------------------------------------------------------------

    def open_file(self) -> Identity:
        which = files.prepare(self.path, self._names)
        self._real = files.real(self.path)
        if which != self._ready:
            try:
                self._look_at_markers(which)
            except (ValueError, TypeError, LookupError) as error:
                files.set_aside(self.path, which, f"a write's marker cannot be read: {type(error).__name__}")
                which = files.prepare(self.path, self._names)
        if which != self._ready:
            self._be_ready(which)
        return which

    def _look_at_markers(self, which: Identity) -> None:
        """Those of another boot end now. Raises ValueError, TypeError or LookupError for what is no marker."""
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

    def _be_ready(self, which: Identity) -> None:
        """On the writer thread: from now on readers may open it."""
        watch = Watch(self.path, files.connect(self.path, which, writer=False, patient=True), self.clock)
        table, known = self._leads, files.real(self.path) + "-leads"
        if table is None or not table.is_at(known):  # else it is kept: what was had is had still
            table = self._table_at(known)
        self._stop_watching(table)
        self._watch, self._leads, self._ready = watch, table, which

    def _table_at(self, path: str) -> LeadTable | None:
        try:
            return LeadTable(path)
        except OSError as error:
            log.debug("disk cache %s: every process loads for itself: %s", self.path, error)
            return None

    def _follow_table(self) -> None:
        """To the table that others use by now, if ours was deleted; what was had through it may be had by them too."""
        table, path = self._leads, self._real + "-leads"
        if self._watch is not None and (table is None or not table.is_at(path)):
            self._leads = self._table_at(path)
            if table is not None:
                table.close()

    def _stop_watching(self, keep: LeadTable | None = None) -> None:
        watch, self._watch = self._watch, None
        table, self._leads = self._leads, keep
        if watch is not None:
            watch.close()
        if table is not None and table is not keep:
            table.close()
        self._nearby.clear()

    def due_in(self) -> float | None:
        due = self._held.next_due()
        return None if due is None else max(0.0, due - self.clock())

    def waiting(self, ids: Collection[bytes] = ()) -> bool:
        if ids:
            return bool(self._pending.rows) and bool(self._pending.batch(1, ids))
        return bool(self._pending.rows)

    def backlog(self) -> bool:
        """Whether there is a batch to be written without waiting for more."""
        return len(self._pending.rows) >= _BATCH

    def renew(self) -> Job | None:
        now = self.clock()
        windows = [w for w in self._held.windows if w.renew_at <= now and not w.closed]
        for lead in [lead for lead in self._held.leads if lead.renew_at <= now]:
            lead.renew_at = now + self.lead_lease / 3
            self._renew_lead(lead, now)
        if not windows:
            return None
        tick = self._next_tick()
        for window in windows:  # tried again in a third of the lease whatever comes of it
            window.renew_at = now + self.write_lease / 3

        def work(db: sqlite3.Connection) -> None:
            for window in windows:
                if not window.closed and not tagrows.renew(db, window, now, self.write_lease, self._boot_text, tick):
                    self._count("lost_markers")

        return Job(work, durable=True)

    def _renew_lead(self, lead: DiskLead, now: float) -> None:
        table = self._leads
        try:
            if table is not None and lead in self._held.leads:
                table.renew(lead.what, lead.holder, self._boot, now, self.lead_lease)
        except OSError as error:
            log.debug("a lead ends with its lease: %s", error)

    def is_behind(self) -> bool:
        return len(self._pending.rows) > _BEHIND

    def make_batch(self, ids: Collection[bytes], give_way: Callable[[], None]) -> None:
        """Before the transaction: what can be made while nobody waits for the file."""
        for number, row in enumerate(self._pending.batch(_BATCH, ids), 1):
            self._label(row)
            if not number % _LABELS:
                give_way()

    def write_batch(
        self, db: sqlite3.Connection, ids: Collection[bytes], give_way: Callable[[], None]
    ) -> Callable[[], None] | None:
        """One batch into the file, each entry if its token still holds."""
        rows = self._pending.batch(_BATCH, ids)
        if not rows:
            return None
        now, mark = self.clock(), tagrows.mark_of(db)
        good = [
            row
            for row in rows
            if (row.token.known is not None and row.token.known.mark == mark)
            or tagrows.holds(db, row.token, now, self._boot_text)
        ]
        for row in good:
            self._label(row)  # who came after the others were made
        self.put(db, good, give_way)
        groups = {row.group: row.maxsize for row in good if row.maxsize is not None}
        gone = sum(room.evict_group(db, group, maxsize) for group, maxsize in groups.items())
        gone += self.make_room(db)

        def done() -> None:
            self._pending.done(rows)
            self._grudge = ""
            for number, row in enumerate(rows, 1):
                if row.lead is not None:
                    self.release(row.lead)
                if not number % _RELEASES:
                    give_way()
            self._count("refused_fills", len(rows) - len(good))
            self._count("evictions", gone)

        return done

    def put(self, db: sqlite3.Connection, rows: Sequence[Row], give_way: Callable[[], None] | None = None) -> None:
        """Store them, each in the place of what is there. Few statements: every one hands the interpreter over."""
        at = 0
        for many in _PORTIONS:
            while len(rows) - at >= many:
                some = rows[at : at + many]
                at += many
                db.execute(delete_sql(many), [row.key for row in some])
                if give_way is not None:
                    give_way()
                tick = self._next_tick()
                db.execute(insert_sql(many), [value for row in some for value in row.values(tick)])
                if give_way is not None:
                    give_way()

    def make_room(self, db: sqlite3.Connection) -> int:
        over = [(quota, space) for space, quota in self._limits if room.is_over(db, quota, space)]
        if not over:
            return 0
        self._touch(db)
        return sum(room.evict(db, quota, space) for quota, space in reversed(over))

    def _touch(self, db: sqlite3.Connection) -> None:
        touched, self._touched = self._touched, set()
        touched.update(self._nearby.visited())
        room.touch(db, list(touched), self._next_tick())

    def give_up(self, error: Exception) -> None:
        rows = self._pending.batch(1 << 30)
        self._pending.done(rows)
        self._count("dropped_fills", len(rows))
        for row in rows:
            if row.lead is not None:
                self.release(row.lead)
        if str(error) != self._grudge:
            self._grudge = str(error)
            log.warning("%s; %d results were not kept", error, len(rows))

    def tidy(self, db: sqlite3.Connection, *, idle: bool) -> None:
        if not idle and not self._is_swept and self.sweep_every is not None:
            self._is_swept = self._can_expire = True
            SWEEPER.watch(self)
        now = time.monotonic()
        if idle or self._reaping or now - self._swept > _SWEEP_EVERY or len(self._touched) > _TOUCHED:
            self._swept = now
            self._follow_table()
            db.execute("BEGIN IMMEDIATE")
            self.upkeep(db)
            db.execute("COMMIT")
        if now >= self._cut_at:
            self._log = room.shrink(db, self._real)
            self._cut_at = now + _CUT_AGAIN if self._log else 0.0

    def full(self) -> Exception | None:
        """Why nothing may be stored for now. What is written is on the disk all the same."""
        if self._log < room.LOG_LIMIT:
            return None
        fix = "end whatever keeps it open for reading (another program, or a process that was stopped)"
        return BackendError(f"disk cache {self.path}: its log cannot be cut off while somebody reads from it; {fix}")

    def upkeep(self, db: sqlite3.Connection) -> None:
        """Expired entries, dead leads, tags beyond the limit; and who was used."""
        self._touch(db)
        if self.sweep_every is not None:
            room.sweep(db, self.clock(), self.wall(), self._boot)
        self._reaping = room.reap_tags(db, self.tag_limit, going_on=self._reaping)

    # -- life -----------------------------------------------------------------------------------------------------------

    def _do(self, job: Job) -> Any:
        return self._writer.submit(job).result()

    def _next_tick(self) -> int:
        self._tick = max(self._tick + 1, int(self.wall() * 1_000_000))
        return self._tick

    def flush_job(self) -> Job:
        return Job(lambda _db: None, fills=True)

    def sweep_step(self) -> float | None:
        """Have some of what has expired dropped; seconds until the next look, None where nothing is left that expires."""
        if not self._can_expire or self._ready is None:  # a file that is closed is not opened for this
            self._is_swept = False
            return None
        self._writer.submit(self.sweep_job())
        return self.sweep_every

    def sweep_job(self) -> Job:
        def work(db: sqlite3.Connection) -> int:
            gone = room.sweep(db, self.clock(), self.wall(), self._boot)
            self._can_expire = room.can_expire(db)
            return gone

        return Job(work)

    def sweep(self) -> int:
        """Drop now what has expired and whose grace is over; returns how many."""
        dropped = 0
        while gone := self._do(self.sweep_job()):
            dropped += gone
        return dropped

    def upkeep_job(self) -> Job:
        return Job(self.upkeep)

    def close(self, patience: float = 10.0) -> None:
        """Write what is pending and close the file. Usable again afterwards."""
        SWEEPER.forget(self)
        self._writer.stop(patience)
        SWEEPER.forget(self)  # the thread's last round may have asked for it again
        self._is_swept = False
        self._ready = None
        self._stop_watching()
        for handle in list(self._readers):
            with handle.lock:
                handle.close()

    def before_fork(self) -> None:
        """The connections are about to be closed."""
        self._ready = None
        if self._watch is not None:
            self._watch.leave()

    def after_fork(self) -> None:
        """In the child: leave alone what is the parent's."""
        if self._leads is not None:
            self._leads.close()
        self._start()


_stores: WeakSet[EntryStore] = WeakSet()
_FORK_PATIENCE = 5.0  # seconds that a fork waits for SQLite to be left by other threads
_kept_out: list[Any] = []


def _before_fork() -> None:
    """Keep other threads out of SQLite, and close what is open: the parent opens it again when it needs it."""
    stopped = True
    for store in list(_stores):
        if store._writer.busy.acquire(timeout=_FORK_PATIENCE):
            _kept_out.append(store._writer.busy)
            store._writer.drop_handle()
        else:
            stopped = False
        store.before_fork()
    _kept_out.extend(files.before_fork(_FORK_PATIENCE, writers=stopped))


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
