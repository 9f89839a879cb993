"""The consistency rules on tag rows: plain functions over one connection, inside a transaction of the caller's.

What belongs here: versions, fences, markers, stamps, tokens. What does not: threads, files, entries' room.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_cache.backends.disk.leases import DiskWindow
from agent_cache.backends.disk.names import TagSet
from agent_cache.backends.disk.schema import FLOOR, tags_sql
from agent_cache.clock import nonce

__all__ = ["DiskToken", "Snapshot", "begin", "end", "is_open", "move", "read_tags", "renew", "snapshot_of"]

Marker = list[Any]
"""``[window, expires, boot]``"""


@dataclass(frozen=True, slots=True)
class DiskToken:
    """Stamp and fences of a load, under which tags."""

    stamp: bytes
    fences: bytes
    tags: TagSet = field(compare=False, repr=False)
    seen: object = field(default=None, compare=False, repr=False)
    """By which connection, at which version of the file it was handed out, or an earlier one."""

    @property
    def whole(self) -> bytes:
        return self.stamp + self.fences


@dataclass(slots=True)
class Snapshot:
    """The tags of one set as of one moment."""

    token: DiskToken
    blocked: bool
    foreign: bool
    """A marker of another boot is there: its tags have to be moved before anything is believed."""
    writers: list[str | None]

    def dropped_by(self, stamp: bytes) -> str | None:
        """Who moved the first tag in which ``stamp`` differs."""
        now = self.token.stamp
        if len(stamp) != len(now) or stamp[:20] != now[:20]:
            return "clear"
        for index, writer in enumerate(self.writers):
            at = 20 + 12 * index
            if stamp[at : at + 12] != now[at : at + 12]:
                return writer
        return None


def markers_of(text: str | None) -> list[Marker]:
    return json.loads(text) if text else []


def _written(markers: list[Marker]) -> str | None:
    return json.dumps(markers) if markers else None


def is_open(text: str | None, now: float, boot: str) -> bool:
    return any(mark[2] != boot or mark[1] > now for mark in markers_of(text))


def snapshot_of(tags: TagSet, rows: Iterable[Sequence[Any]], now: float, boot: str, seen: object = None) -> Snapshot:
    """Stamp and fences out of rows ``(id, version, fence, markers, writer, …)``, the floor among them."""
    known = {row[0]: row for row in rows}
    floor = known[FLOOR]
    versions: list[bytes] = [floor[2], tags.digest]
    fences: list[bytes] = []
    writers: list[str | None] = []
    blocked = foreign = False
    absent = floor[1]
    for name in tags.ids:
        row = known.get(name)
        if row is None:
            versions.append(absent)
            fences.append(absent)
            writers.append(None)
            continue
        versions.append(row[1])
        fences.append(row[2])
        writers.append(row[4])
        if row[3]:
            blocked = blocked or is_open(row[3], now, boot)
            foreign = foreign or any(mark[2] != boot for mark in markers_of(row[3]))
    return Snapshot(DiskToken(b"".join(versions), b"".join(fences), tags, seen), blocked, foreign, writers)


def read_tags(db: sqlite3.Connection, tags: TagSet, now: float, boot: str) -> Snapshot:
    rows = db.execute(tags_sql(tags.marks), (FLOOR, *tags.unique)).fetchall()
    return snapshot_of(tags, rows, now, boot)


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


def end(db: sqlite3.Connection, window: DiskWindow, how: Ending, now: float, boot: str, tick: int) -> None:
    """New versions and fences; or, for a write without effect, each old version that nobody else has moved."""
    _, file_id = floor_of(db)
    fresh = nonce()
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
        if how.no_effect and alive and untouched and not window.lost:
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
