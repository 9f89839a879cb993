"""The blocking surface for people: a key-value cache in the same file. Its writes are committed when they return."""

from __future__ import annotations

import fnmatch
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from agent_cache.backends.base import Found
from agent_cache.backends.disk import figures, room
from agent_cache.backends.disk.names import TagSet, text_key
from agent_cache.backends.disk.pending import Row
from agent_cache.backends.disk.reading import NotReady
from agent_cache.backends.disk.schema import FLOOR
from agent_cache.backends.disk.store import EntryStore
from agent_cache.backends.disk.tagrows import DiskToken
from agent_cache.backends.disk.writer import Job
from agent_cache.bounds import Quota, refuse_larger
from agent_cache.clock import nonce, seconds
from agent_cache.codecs import codec_for
from agent_cache.errors import UnstorableResultError
from agent_cache.moving import Movable, MovableBlocking
from agent_cache.policy import checked_items, checked_key, checked_keys, checked_pattern
from agent_cache.recorded import StatsRow

__all__ = ["DiskStore"]

log = logging.getLogger("agent_cache")
_CODEC = codec_for(Any)
_COLUMNS = "key, stamp, payload, seal, boot, created, deadline, shift, load_seconds, grace"
_LIVE = "(deadline IS NULL OR CASE WHEN boot=? THEN deadline>? ELSE deadline+shift>? END)"
_MINE = "key>=x'6b' AND key<x'6c'"
_SLICE = 500
_NO_TAGS = DiskToken(b"", b"", TagSet(()))


def _stored_key(key: object) -> bytes:
    return text_key(checked_key(key))


class DiskStore(EntryStore, MovableBlocking):
    """Everything, blocking."""

    default_ttl: float | None = None
    twin: Callable[[DiskStore], Movable]
    """Makes the asynchronous surface of this store."""

    def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        self._do(figures.add_job(minute, sums, now))

    def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        found: list[StatsRow] = self._retrying(partial(figures.rows, self, since, until, now))
        return found

    def _twin(self) -> Movable:
        return self.twin(self)

    def _now(self) -> tuple[bytes, float, float]:
        return self._boot, self.clock(), self.wall()

    def get_now(self, keys: list[str]) -> dict[str, Any]:
        """Those that are there. Raises NotReady."""
        names = {_stored_key(key): key for key in keys}
        if len(names) == 1 and (near := self._nearby.entries.get(next(iter(names)))) is not None:
            again = self._current(near, _NO_TAGS.tags, _CODEC)
            if again is not None:
                try:
                    value = again.stored.fresh()
                    self._count("hits")
                    return {keys[0]: value}
                except UnstorableResultError as error:
                    log.debug("a value cannot be read again: %s", error)  # counted below
        state = self._glance()
        stored, found, raw = list(names), {}, []
        for at in range(0, len(stored), _SLICE):
            part = stored[at : at + _SLICE]
            sql = f"SELECT {_COLUMNS} FROM entries WHERE key IN ({','.join('?' * len(part))})"  # noqa: S608
            raw += self._select(sql, part)
        for row in raw:
            hit = self._near_hit(row[0], row[1:], _CODEC, _NO_TAGS.tags, state)
            if isinstance(hit, Found):
                try:
                    found[names[row[0]]] = hit.stored.fresh()
                except UnstorableResultError:
                    self._count("undecodable")
        if stored:
            self._same_file()
            self._touched.update(_stored_key(key) for key in found)
        self._count("hits", len(found))
        self._count("misses", len(stored) - len(found))
        return found

    def written(self, items: Mapping[str, Any]) -> dict[str, bytes]:
        """Values as payloads; of now, whatever becomes of them. Raises UnstorableResultError."""
        payloads = {key: _CODEC.freeze(value).payload() for key, value in checked_items(items).items()}
        for payload in payloads.values():
            refuse_larger(len(payload), self.max_entry_bytes)
        return payloads

    def set_job(self, payloads: Mapping[str, bytes], ttl: float | None) -> Job:
        """``payloads``: as they are to be stored."""
        lives = seconds(ttl, "ttl") if ttl is not None else self.default_ttl
        rows: list[Row] = []
        group = self._names.group("")
        for key, payload in payloads.items():
            rows.append(self.row_of(_stored_key(key), payload, lives, 0.0, _NO_TAGS, group))

        def work(db: sqlite3.Connection) -> int:
            for row in rows:
                if row.size <= self.max_bytes:
                    self.put(db, [row])
                else:
                    db.execute("DELETE FROM entries WHERE key=?", (row.key,))
                    self._count("dropped_fills")
            gone = self.make_room(db)
            self._count("evictions", gone)
            return gone

        return Job(work)

    def delete_job(self, key: str) -> Job:
        stored = _stored_key(key)

        def work(db: sqlite3.Connection) -> bool:
            sql = f"SELECT 1 FROM entries WHERE key=? AND {_LIVE}"  # noqa: S608
            there = db.execute(sql, (stored, *self._now())).fetchone() is not None
            db.execute("DELETE FROM entries WHERE key=?", (stored,))
            return there

        return Job(work)

    def exists_now(self, key: str) -> bool:
        sql = f"SELECT 1 FROM entries WHERE key=? AND {_LIVE}"  # noqa: S608
        there = bool(self._select(sql, (_stored_key(key), *self._now())))
        if there:
            self._same_file()
        return there

    def clear_job(self) -> Job:
        def work(db: sqlite3.Connection) -> None:
            self._pending.drop(None, everything=True)
            db.execute("DELETE FROM entries")
            db.execute("UPDATE tags SET fence=? WHERE id=?", (nonce(), FLOOR))

        return Job(work, durable=True, after=self._cool)

    def page_now(self, after: bytes) -> list[bytes]:
        """Keys of this surface beyond ``after``, some of them."""
        sql = f"SELECT key FROM entries WHERE key>? AND {_MINE} AND {_LIVE} ORDER BY key LIMIT {_SLICE}"  # noqa: S608
        return [row[0] for row in self._select(sql, (after, *self._now()))]

    def delete_pattern_job(self, pattern: str) -> Job:
        glob = checked_pattern(pattern)

        def work(db: sqlite3.Connection) -> int:
            sql = f"SELECT key FROM entries WHERE {_MINE} AND {_LIVE}"  # noqa: S608
            keys = [(key,) for (key,) in db.execute(sql, self._now()) if fnmatch.fnmatchcase(text_of(key), glob)]
            db.executemany("DELETE FROM entries WHERE key=?", keys)
            return len(keys)

        return Job(work)

    def count_now(self) -> int:
        sql = f"SELECT count(*) FROM entries WHERE {_MINE} AND {_LIVE}"  # noqa: S608
        return int(self._select(sql, self._now())[0][0])

    def stats_now(self) -> dict[str, Any]:
        entries, size = self._select("SELECT total(entries), total(bytes) FROM groups", ())[0]
        pending = list(self._pending.rows.values())
        return {
            "backend": "disk",
            "path": self.path,
            "entries": int(entries) + len(pending),
            "bytes": int(size) + sum(row.size for row in pending),
            "pending": len(pending),
            "quotas": {name: self._share_now(name, quota) for name, quota in self.quotas.items()},
            **self._counts,
        }

    def _share_now(self, name: str, quota: Quota) -> dict[str, int | None]:
        where, limits = room.within(self._names.space(name), "name")
        sql = f"SELECT total(entries), total(bytes) FROM groups WHERE {where}"  # noqa: S608
        entries, size = self._select(sql, limits)[0]
        return {
            "entries": int(entries), "bytes": int(size), "max_entries": quota.entries, "max_bytes": quota.bytes,
        }  # fmt: skip

    # -- blocking

    def get(self, key: str, default: Any = None) -> Any:
        """The value, the caller's own; ``default`` when there is none or it has expired."""
        return self._retrying(lambda: self.get_now([key])).get(key, default)

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self.set_many({key: value}, ttl)

    def delete(self, key: str) -> bool:
        return bool(self._do(self.delete_job(key)))

    def exists(self, key: str) -> bool:
        return bool(self._retrying(lambda: self.exists_now(key)))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        wanted = checked_keys(keys)
        found: dict[str, Any] = self._retrying(lambda: self.get_now(wanted))
        return found

    def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        packing = self.packing
        self._do(self.set_job({key: packing.now(payload) for key, payload in self.written(items).items()}, ttl))

    def keys(self) -> list[str]:
        found: list[str] = []
        after = b"j\xff"
        while page := self._retrying(partial(self.page_now, after)):
            found += [text_of(key) for key in page]
            after = page[-1]
        return found

    def delete_pattern(self, pattern: str) -> int:
        """Remove keys matching a glob (``*``, ``?``, ``[abc]``; ``[*]`` is a literal star); returns how many."""
        return int(self._do(self.delete_pattern_job(pattern)))

    def count(self) -> int:
        return int(self._retrying(self.count_now))

    def clear(self) -> None:
        """Drop every entry, tools' and key-value ones. Loads under way are not kept."""
        self._do(self.clear_job())

    def stats(self) -> dict[str, Any]:
        """``entries``, ``bytes`` (in the file, estimated), ``evictions``, key-value ``hits`` and ``misses``, and more."""
        found: dict[str, Any] = self._retrying(self.stats_now)
        return found

    def flush(self) -> None:
        """Wait until the fills accepted so far are in the file."""
        self._do(self.flush_job())

    def connect(self) -> None:
        """Open the file now, not on first use."""
        self._do(self.ready_job(NotReady()))


def text_of(key: bytes) -> str:
    return key[1:].decode("utf-8", "surrogatepass")
