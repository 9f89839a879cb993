"""The consistency rules on tag rows: plain functions over one connection, inside a transaction of the caller's.

What belongs here: versions, fences, markers, stamps, tokens. What does not: threads, files, entries' room.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agent_cache.backends.disk.leases import DiskWindow
from agent_cache.backends.disk.names import TagSet
from agent_cache.backends.disk.schema import FLOOR, FLOOR_SQL, tags_sql
from agent_cache.clock import nonce

__all__ = [
    "DiskToken",
    "Known",
    "Mark",
    "Rows",
    "Versions",
    "begin",
    "end",
    "holds",
    "is_open",
    "mark_of",
    "move",
    "renew",
]

Marker = list[Any]
"""``[window, expires, boot]``"""
_MOST_KNOWN = 20_000


Rows = dict[bytes, Sequence[Any] | None]
Mark = tuple[bytes, int] | None
"""Of which file, and how often any of its tags had changed: while it is the same, every tag is."""


class Known:
    """What is known of the tags while they are as they were under one mark. Grows as they are asked for."""

    __slots__ = ("absent", "mark", "rows")

    def __init__(self, mark: Mark, absent: bytes) -> None:
        self.mark = mark
        self.absent = absent
        self.rows: Rows = {}

    @classmethod
    def nothing(cls) -> Known:
        return cls(None, b"")

    @classmethod
    def of(cls, floor: Sequence[Any] | None) -> Known:
        """Out of the floor's row ``(file, moved, version, …)``; there is none in a damaged file."""
        return cls.nothing() if floor is None else cls((floor[0], floor[1]), floor[2])

    def learn(self, rows: Rows, asked: Iterable[bytes], found: Iterable[Sequence[Any]]) -> None:
        """Add ``(id, version, fence, markers, writer, …)`` to ``rows``, which are ours; those without a row too."""
        if len(rows) > _MOST_KNOWN:
            self.rows = {}  # who is at work with the old ones goes on with them
        fresh: Rows = dict.fromkeys(asked)
        for row in found:
            fresh[row[0]] = row
        rows.update(fresh)  # at once: nobody may take a tag that has a row for one without


class DiskToken:
    """Stamp and fences of a load, under which tags. Equal exactly when both are."""

    __slots__ = ("fences", "known", "missed", "stamp", "tags")

    def __init__(
        self, stamp: bytes, fences: bytes, tags: TagSet, known: Known | None = None, missed: object = None
    ) -> None:
        self.stamp = stamp
        self.fences = fences
        self.tags = tags
        self.known = known
        """The tags when it was handed out: while they are these it holds."""
        self.missed = missed
        """In which state of the file there was no entry to go with it; None: that is not known."""

    @property
    def whole(self) -> bytes:
        return self.stamp + self.fences

    def __hash__(self) -> int:
        return hash((self.stamp, self.fences))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DiskToken) and self.stamp == other.stamp and self.fences == other.fences


class Versions:
    """The tags of one set under one mark."""

    __slots__ = ("_rows", "fences", "known", "marked", "stamp", "tags")

    def __init__(self, tags: TagSet, known: Known, rows: Rows) -> None:
        assert known.mark is not None  # noqa: S101 - a damaged file was told before
        absent = known.absent
        self.tags = tags
        self.known = known
        self._rows = [rows[name] for name in tags.ids]
        self.marked = False
        """Whether any tag has a marker, alive or not."""
        if not any(self._rows):  # as most sets of tags are: never written to
            versions = self.fences = absent * len(tags.ids)
        else:
            versions = b"".join([absent if row is None else row[1] for row in self._rows])
            self.fences = b"".join([absent if row is None else row[2] for row in self._rows])
            self.marked = any(row[3] for row in self._rows if row is not None)
        self.stamp = known.mark[0] + tags.digest + versions

    def blocked(self, now: float, boot: str) -> bool:
        return any(row is not None and is_open(row[3], now, boot) for row in self._rows)

    def foreign(self, boot: str) -> bool:
        """A marker of another boot is there: its tags have to be moved before anything is believed."""
        return any(mark[2] != boot for row in self._rows if row is not None for mark in markers_of(row[3]))

    def of(self, token: DiskToken) -> bool:
        return self.stamp == token.stamp and self.fences == token.fences

    def dropped_by(self, stamp: bytes) -> str | None:
        """Who moved the first tag in which ``stamp`` differs."""
        now = self.stamp
        if len(stamp) != len(now) or stamp[:20] != now[:20]:
            return "clear"
        for index, row in enumerate(self._rows):
            at = 20 + 12 * index
            if stamp[at : at + 12] != now[at : at + 12]:
                return None if row is None else row[4]
        return None


def markers_of(text: str | None) -> list[Marker]:
    return json.loads(text) if text else []


def _written(markers: list[Marker]) -> str | None:
    return json.dumps(markers) if markers else None


def is_open(text: str | None, now: float, boot: str) -> bool:
    return any(mark[2] != boot or mark[1] > now for mark in markers_of(text))


def read_tags(db: sqlite3.Connection, tags: TagSet) -> Versions:
    """As they are now, inside a transaction."""
    found = db.execute(tags_sql(len(tags.ids)), tags.ids).fetchall()
    known = Known.of(found[0])
    known.learn(known.rows, tags.ids, found[1:])
    return Versions(tags, known, known.rows)


def holds(db: sqlite3.Connection, token: DiskToken, now: float, boot: str) -> bool:
    """Whether a token is good for a fill, inside a transaction."""
    found = read_tags(db, token.tags)
    return found.of(token) and not found.blocked(now, boot)


def mark_of(db: sqlite3.Connection) -> Mark:
    """Inside a transaction."""
    file_id, moved, _ = db.execute(FLOOR_SQL).fetchone()
    return file_id, moved


def floor_of(db: sqlite3.Connection) -> tuple[bytes, bytes]:
    """The version of absent tags, and the file's id."""
    version, file_id = db.execute("SELECT version, fence FROM tags WHERE id=?", (FLOOR,)).fetchone()
    return version, file_id


_PUT = "INSERT OR REPLACE INTO tags VALUES (?,?,?,?,?,?)"
_GET = "SELECT version, writer, markers FROM tags WHERE id=?"


def move(db: sqlite3.Connection, ids: Iterable[bytes], writer: str | None, tick: int) -> None:
    """A new version and fence each; markers of others stay."""
    fresh = nonce()
    for name in dict.fromkeys(ids):
        row = db.execute(_GET, (name,)).fetchone()
        db.execute(_PUT, (name, fresh, fresh, row[2] if row else None, writer, tick))


def begin(db: sqlite3.Connection, window: DiskWindow, now: float, lease: float, boot: str, tick: int) -> None:
    """Move the tags and leave a marker on each. Nonces of its own on every attempt."""
    fresh = nonce()
    floor, window.file_id = floor_of(db)
    window.mine, window.name, window.before = fresh, nonce().hex(), {}
    for name in dict.fromkeys(window.ids):
        row = db.execute(_GET, (name,)).fetchone()
        window.before[name] = (row[0], row[1]) if row else (floor, None)
        markers = [m for m in markers_of(row[2] if row else None) if m[2] == boot and m[1] > now]
        markers.append([window.name, now + lease, boot])
        db.execute(_PUT, (name, fresh, fresh, _written(markers), window.writer, tick))


def renew(db: sqlite3.Connection, window: DiskWindow, now: float, lease: float, boot: str, tick: int) -> bool:
    """Put the markers' end off. Returns False if one was lost: then the tags were moved and marked anew."""
    _, file_id = floor_of(db)
    fresh, kept = nonce(), True
    for name in dict.fromkeys(window.ids):
        row = db.execute(_GET, (name,)).fetchone()
        markers = [m for m in markers_of(row[2] if row else None) if m[2] == boot and m[1] > now]
        mine = [m for m in markers if m[0] == window.name]
        if mine and file_id == window.file_id:
            mine[0][1] = now + lease
            db.execute("UPDATE tags SET markers=? WHERE id=?", (_written(markers), name))
            continue
        kept = False
        others = [m for m in markers if m[0] != window.name]
        db.execute(
            _PUT, (name, fresh, fresh, _written([*others, [window.name, now + lease, boot]]), window.writer, tick)
        )
    if not kept:
        window.lost, window.file_id = True, file_id
    return kept


@dataclass(frozen=True, slots=True)
class Ending:
    """How a window ends."""

    settle: float
    """Seconds for which it goes on refusing fills."""
    no_effect: bool
    narrowed: tuple[bytes, ...] | None = None
    """The tags that were written after all, by their names; None: all of the window's."""

    @property
    def written(self) -> tuple[bytes, ...] | None:
        """What moves at the end; None: everything."""
        if self.no_effect:
            return ()
        return self.narrowed


def end(db: sqlite3.Connection, window: DiskWindow, how: Ending, now: float, boot: str, tick: int) -> None:
    """New versions and fences; or, of what was not written after all, each old version that nobody else has moved.

    What was written and is not the window's moves first.
    """
    _, file_id = floor_of(db)
    fresh, written = nonce(), how.written
    move(db, [name for name in written or () if name not in window.ids], window.writer, tick)
    for name in dict.fromkeys(window.ids):
        row = db.execute(_GET, (name,)).fetchone()
        markers = markers_of(row[2] if row else None)
        alive = any(m[0] == window.name and m[2] == boot and m[1] > now for m in markers)
        markers = [m for m in markers if m[0] != window.name and m[2] == boot and m[1] > now]
        if how.settle:
            markers.append([window.name, now + how.settle, boot])
        version: bytes = fresh
        writer: str | None = window.writer
        untouched = row is not None and row[0] == window.mine and file_id == window.file_id
        if written is not None and name not in written and alive and untouched and not window.lost:
            version, writer = window.before[name]
        db.execute(_PUT, (name, version, fresh, _written(markers), writer, tick))


def forget_other_boots(db: sqlite3.Connection, boot: str, tick: int) -> int:
    """Markers of another boot: who left them is gone. Their tags are moved and the markers dropped."""
    rows = db.execute("SELECT id, writer, markers FROM tags WHERE markers IS NOT NULL").fetchall()
    count = 0
    for name, writer, text in rows:
        markers = markers_of(text)
        kept = [m for m in markers if m[2] == boot]
        if len(kept) != len(markers):
            fresh = nonce()
            db.execute(_PUT, (name, fresh, fresh, _written(kept), writer, tick))
            count += 1
    return count
