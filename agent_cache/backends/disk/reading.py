"""Looking entries up, on the thread of whoever asks: in what was read a moment ago, else in the file.

What belongs here: connections that read, one of them for each thread, and what a lookup makes of the rows. Opening the
file, and whatever is written, is the writer thread's (:mod:`.store`): who needs that raises :class:`NotReady`.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakSet

from agent_cache.backends.base import Blocked, Found, Lookup, Missing, Same
from agent_cache.backends.disk import clocks, files
from agent_cache.backends.disk.files import Handle, Identity, Replaced
from agent_cache.backends.disk.names import Names, TagSet, tool_key
from agent_cache.backends.disk.nearby import Near, Nearby
from agent_cache.backends.disk.pending import Pending, Row
from agent_cache.backends.disk.schema import lookup_sql, tags_sql
from agent_cache.backends.disk.tagrows import DiskToken, Known, Versions
from agent_cache.backends.disk.watch import State, Watch
from agent_cache.clock import Clock
from agent_cache.codecs import Stored, ToolCodec
from agent_cache.errors import BackendError, UnstorableResultError
from agent_cache.tags import Tag

__all__ = ["NotReady", "Reading", "Rounds"]

_COUNTERS = ("hits", "misses", "evictions", "dropped_fills", "refused_fills", "undecodable", "forged", "lost_markers")


class NotReady(Exception):  # noqa: N818 - a signal within this package
    """The file has to be opened, or set aside, by the writer thread first. ``busy``: what to raise if that does not help."""

    def __init__(
        self, damaged: Identity | None = None, *, foreign: bool = False, busy: Exception | None = None
    ) -> None:
        super().__init__()
        self.damaged = damaged
        self.foreign = foreign
        self.busy = busy


class Rounds:
    """How often one who found the file not ready asks again. ``locked``: how often while another connection keeps it locked;
    each time that holds up the thread a little."""

    def __init__(self, path: str, locked: int) -> None:
        self._path = path
        self._left = 5
        self._locked_left = locked

    def another(self, wanted: NotReady) -> None:
        """Raises BackendError: there is none."""
        self._left -= 1
        self._locked_left -= wanted.busy is not None
        if wanted.busy is not None and not (self._left and self._locked_left):
            raise wanted.busy from None
        if not self._left:
            text = "the file is replaced again and again; give it a path of its own"
            raise BackendError(f"disk cache {self._path}: {text}") from None


class Reading:
    """What a store does without its writer thread."""

    max_entry_bytes: int
    """Bytes of a written value, not compressed; larger ones are not stored, and not taken out of a compressed one."""

    def __init__(self, path: str, clock: Clock, wall: Clock, names: Names) -> None:
        self.path = path
        self.clock = clock
        self.wall = wall
        self._names = names
        self._set_boot(clocks.boot_id())
        self._start()

    def _set_boot(self, boot: bytes) -> None:
        self._boot, self._boot_text = boot, boot.hex()

    def _start(self) -> None:
        self._pending = Pending()
        self._touched: set[bytes] = set()
        self._readers: WeakSet[Handle] = WeakSet()
        self._local = threading.local()
        self._ready: Identity | None = None
        self._watch: Watch | None = None
        self._nearby = Nearby()
        self._counts: dict[str, int] = dict.fromkeys(_COUNTERS, 0)

    def _count(self, what: str, times: int = 1) -> None:
        self._counts[what] += times

    def _reader(self) -> Handle:
        handle: Handle | None = getattr(self._local, "handle", None)
        if handle is not None and handle.pid == os.getpid() and handle.identity == self._ready:
            return handle
        ready = self._ready
        if ready is None:
            raise NotReady
        try:
            handle = files.connect(self.path, ready, writer=False)
        except (Replaced, files.Opening):  # waiting is for the writer thread
            raise NotReady from None
        except files.Damaged:
            raise NotReady(ready) from None
        self._local.handle = handle
        self._readers.add(handle)
        return handle

    def _select(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows, fetched to the end: no read transaction is left open."""
        handle = None
        try:
            handle = self._reader()
            with handle.lock:
                return handle.cursor.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error, handle) from error

    def _failed(self, error: sqlite3.Error, handle: Handle | None) -> Exception:
        """What to raise for it."""
        if handle is not None and handle.pid == -1:  # closed meanwhile
            return NotReady()
        if files.is_damage(error):
            return NotReady(handle.identity if handle else self._ready)
        self._ready = None  # opened anew next time: whatever it was may be over
        told = files.explained(self.path, error)
        return NotReady(busy=told) if files.is_busy(error) else told

    def _watching(self) -> Watch:
        watch = self._watch
        if watch is None or self._ready is None:
            raise NotReady
        return watch

    def _look(self) -> State:
        """The state of the file, which is the one at the path."""
        return self._asked(Watch.look)

    def _glance(self) -> State:
        """The state of the file that is open. Whether it is the one at the path is asked after the select, or later."""
        return self._asked(Watch.glance)

    def _asked(self, question: Callable[[Watch], State]) -> State:
        watch = self._watching()
        try:
            state = question(watch)
        except (Replaced, ValueError, FileNotFoundError, NotADirectoryError):
            self._ready = None
            raise NotReady from None
        except OSError as error:
            raise BackendError(f"disk cache {self.path}: {error.strerror}; make it accessible") from error
        except sqlite3.Error as error:
            raise self._failed(error, watch.handle) from error
        if state.known.mark is None:
            raise NotReady(watch.handle.identity)
        return state

    def _same_file(self) -> None:
        """After a select: is this still the file at the path?"""
        try:
            if files.identity(self.path) == self._local.handle.identity:
                return
        except Replaced:
            pass
        self._ready = None
        raise NotReady

    def _fetch(self, key: bytes | None, names: TagSet, known: Known) -> tuple[Sequence[Any], Versions, Known]:
        """The entry's columns (after three of the floor) and the tags, as of one moment, in one statement.

        Only those tags are asked for that are not known; if any was changed meanwhile, all of them.
        """
        last = names.last
        made: Versions | None = last[1] if last is not None and last[0] is known else None
        rows = known.rows
        asked: Sequence[bytes] = () if made is not None else [name for name in names.ids if name not in rows]
        found = self._ask_for(key, asked)
        try:
            floor = found[0]
            if known.mark != (floor[0], floor[1]):
                asked, made = names.ids, None
                found = self._ask_for(key, asked)
                floor = found[0]
                known = Known.of(floor)
                rows = known.rows
            if made is None:
                known.learn(rows, asked, found[1:])
                made = Versions(names, known, rows)
                names.last = known, made
            if made.marked and made.foreign(self._boot_text):
                raise NotReady(foreign=True)
        except (TypeError, ValueError, KeyError, IndexError):
            raise NotReady(self._local.handle.identity) from None
        return floor, made, known

    def _ask_for(self, key: bytes | None, tags: Sequence[bytes]) -> list[Any]:
        if key is None:
            return self._select(tags_sql(len(tags)), tags)
        return self._select(lookup_sql(len(tags)), (key, *tags))

    def _blocked(self, versions: Versions) -> bool:
        return versions.marked and versions.blocked(self.clock(), self._boot_text)

    def token_now(self, tags: Sequence[Tag]) -> Lookup:
        """What a load holds. Raises NotReady."""
        names = self._names.of(tags)
        _, versions, known = self._fetch(None, names, self._glance().known)
        self._same_file()
        if self._blocked(versions):
            return Blocked()
        return Missing(DiskToken(versions.stamp, versions.fences, names, known), "absent")

    def _names_of(self, near: Near | None, tags: Sequence[Tag]) -> TagSet:
        """What these tags are called in the file; known already where an entry under the very same was read before."""
        return near.names if near is not None and near.names.tags == tags else self._names.of(tags)

    def _current(self, near: Near, names: TagSet, codec: ToolCodec) -> Found | None:
        """One of those that were read a moment ago, unless anything was committed since. Raises NotReady."""
        if near.codec is not codec or near.names is not names:
            return None
        stored = near.stored
        state, now = self._look(), self.clock()
        if near.state is not state or now >= near.deadline:
            return None
        self._touched.add(near.key)
        return _found(near, stored, now, state.known)

    def lookup_now(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        """What is in the file, or on its way there. Raises NotReady where the writer thread has to open it first."""
        if key is None:
            return self.token_now(tags)
        stored_key = tool_key(key)
        return self._read_now(stored_key, self._names_of(self._nearby.entries.get(stored_key), tags), codec)

    def found_now(self, key: bytes | None, tags: Sequence[Tag], codec: ToolCodec) -> Lookup:
        """An entry that was read a moment ago, if nothing was committed since; else :meth:`lookup_now`."""
        if key is None:
            return self.token_now(tags)
        stored_key = tool_key(key)
        near = self._nearby.entries.get(stored_key)
        if near is None:
            return self._read_now(stored_key, self._names.of(tags), codec)
        names = self._names_of(near, tags)
        return self._current(near, names, codec) or self._read_now(stored_key, names, codec)

    def _read_now(self, stored_key: bytes, names: TagSet, codec: ToolCodec) -> Lookup:
        pending = self._pending.rows.get(stored_key)  # before the select: it may land in between
        state = self._glance()
        row, versions, known = self._fetch(stored_key, names, state.known)
        self._same_file()
        return self._sorted_out(stored_key, row[3:], pending, versions, codec, state if known is state.known else None)

    def _sorted_out(
        self,
        key: bytes,
        row: Sequence[Any],
        pending: Row | None,
        versions: Versions,
        codec: ToolCodec,
        state: State | None,
    ) -> Lookup:
        """What was read: a hit, or why not, with a token."""
        why, dropped_by, kept = "absent", None, None
        stamp = versions.stamp
        if pending is not None:
            if pending.stamp == stamp:
                row, state = pending.columns, None
            elif row[0] is None:
                why, dropped_by = "stale", versions.dropped_by(pending.stamp)
        readable = True
        if row[0] is not None:
            if row[0] == stamp:
                hit = self._near_hit(key, row, codec, versions.tags, state)
                if hit is not None:
                    self._touched.add(key)
                    if hit.ttl_left is None or hit.ttl_left > 0:
                        return hit
                    kept = hit
                readable = kept is not None or self._is_over(row)
                why = "expired" if readable else "absent"
            else:
                why, dropped_by = "stale", versions.dropped_by(row[0])
        if self._blocked(versions):
            return Blocked()
        known = versions.known
        token = DiskToken(stamp, versions.fences, versions.tags, known, (state, key) if readable and state else None)
        return Missing(token, why, dropped_by, kept)

    def _near_hit(
        self, key: bytes, row: Sequence[Any], codec: ToolCodec, names: TagSet, state: State | None
    ) -> Found | None:
        """A hit, decoded now or a moment ago; kept for the next one. See :meth:`_hit`."""
        watch = self._watch
        if state is None or watch is None or row[3] != self._boot:
            return self._hit(key, row, codec, names.digest)
        near = self._nearby.entries.get(key)
        if near is not None and near.names is names and near.codec is codec and near.home is watch and near.row == row:
            stored, now = near.stored, self.clock()
            if now < near.deadline:
                near.state = state
                return _found(near, stored, now, state.known)
        hit = self._hit(key, row, codec, names.digest)
        if hit is not None and (hit.ttl_left is None or hit.ttl_left > 0):
            near = Near(watch, key, names, codec, row, hit.stored)
            near.state = state
            self._nearby.add(near)
            hit.near, hit.generation = near, state.known
        return hit

    def _is_over(self, row: Sequence[Any]) -> bool:
        """Whether it has expired, and its grace as well."""
        _, payload, _, boot, _, deadline, shift, _, grace = row
        now = self.clock() if boot == self._boot else self.wall() - shift
        return payload is not None and deadline is not None and now >= deadline + grace

    def _hit(self, key: bytes, row: Sequence[Any], codec: ToolCodec, digest: bytes) -> Found | None:
        """What stands there, fresh or in its grace (``ttl_left`` tells); None if it is over, or not to be read."""
        stamp, payload, seal, boot, created, deadline, shift, load_seconds, grace = row
        if payload is None:
            self._count("undecodable")
            return None
        now = self.clock() if boot == self._boot else self.wall() - shift
        if deadline is not None and now >= deadline + grace:
            return None
        if self._names.sealed and not self._names.holds(
            seal, key, digest, stamp, boot, repr((created, deadline, shift, load_seconds, grace)).encode(), payload
        ):
            self._count("forged")
            return None
        try:
            stored = codec.thaw_payload(payload, self.max_entry_bytes)
        except UnstorableResultError:
            self._count("undecodable")
            return None
        return Found(
            stored, max(0.0, now - created), None if deadline is None else deadline - now, load_seconds, None, stamp
        )

    def revalidate_now(self, key: bytes, tags: Sequence[Tag], codec: ToolCodec, stamp: Hashable) -> Lookup | Same:
        names = self._names.of(tags)
        _, versions, _ = self._fetch(None, names, self._glance().known)
        if versions.stamp == stamp:
            self._same_file()
            self._touched.add(tool_key(key))
            return Same()
        return self.lookup_now(key, tags, codec)

    def unchanged(self) -> bool:
        """Whether no tag was changed, by anybody, since this thread asked the last time.

        Costs a microsecond or two (reading 48 bytes, and a ``stat``). The first time the answer is no.
        """
        local = self._local
        try:
            known = self._look().known
        except (NotReady, BackendError):
            local.seen = None
            return False
        same = getattr(local, "seen", None) is known
        local.seen = known
        return same

    def forget(self, _tags: Sequence[Tag], _writer: str) -> None:
        """Serve nothing without asking any more: an invalidation could not be delivered."""
        watch = self._watch
        if watch is not None:
            watch.cool()

    def tag_ids(self, tags: Sequence[Tag]) -> tuple[bytes, ...]:
        return self._names.of(tags).ids

    def _cool(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.cool()


def _found(near: Near, stored: Stored, now: float, generation: object) -> Found:
    deadline = near.deadline
    return Found(
        stored,
        max(0.0, now - near.created),
        None if deadline == math.inf else deadline - now,
        near.load_seconds,
        near,
        near.row[0],
        generation=generation,
    )
