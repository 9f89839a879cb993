"""Keeping the file within its bounds: evicting, sweeping what is over, reaping tags, checkpointing.

Runs on the writer thread. Which values are current is not decided here.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable

from agent_cache.backends.disk.names import GROUP
from agent_cache.backends.disk.schema import FLOOR
from agent_cache.bounds import Quota
from agent_cache.clock import nonce

__all__ = [
    "LOG_LIMIT",
    "TAG_LIMIT",
    "can_expire",
    "cost",
    "evict",
    "evict_group",
    "held",
    "is_over",
    "reap_tags",
    "shrink",
    "sweep",
    "touch",
    "within",
]

TAG_LIMIT = 200_000
_REAPED = 10_000
_PAGE = 4_080
_LOG_BYTES = 4 * 1024 * 1024
LOG_LIMIT = 16 * _LOG_BYTES
"""Bytes of the log from which on nothing is stored until it can be cut off."""


def cost(payload: int, stamp: int) -> int:
    """Bytes a row takes in the file, page by page, its share of the indexes included."""
    body = payload + stamp + 160
    if body > _PAGE:
        return (body + _PAGE - 1) // _PAGE * 4_096 + 300
    return 4_096 // (_PAGE // body) + 200


def within(space: bytes | None, column: str) -> tuple[str, tuple[bytes, ...]]:
    """Which groups are meant: those of one namespace, those without (``b""``), or all (None)."""
    if space is None:
        return "1", ()
    if not space:
        return f"length({column})={GROUP}", ()
    return f"{column} BETWEEN ? AND ?", (space, space + b"\xff" * GROUP)


def held(db: sqlite3.Connection, space: bytes | None) -> tuple[int, int]:
    """Entries and bytes of one namespace, or of all."""
    where, limits = within(space, "name")
    sql = f"SELECT total(entries), total(bytes) FROM groups WHERE {where}"  # noqa: S608
    entries, size = db.execute(sql, limits).fetchone()
    return int(entries), int(size)


def evict(db: sqlite3.Connection, quota: Quota, space: bytes | None = None) -> int:
    """Drop what was not used for longest, of one namespace or of all, until it fits; and some more, so that this is rare."""
    where, limits = within(space, "grp")
    oldest = f"SELECT number, size FROM entries WHERE {where} ORDER BY used LIMIT 1000"  # noqa: S608
    dropped = 0
    while True:
        entries, size = held(db, space)
        if not _is_over(entries, size, quota):
            return dropped
        too_many = _over(entries, quota.entries, room=16)
        too_much = _over(size, quota.bytes, room=16)
        numbers = []
        for number, its_size in db.execute(oldest, limits):
            numbers.append((number,))
            too_many -= 1
            too_much -= its_size
            if too_many <= 0 and too_much <= 0:
                break
        if not numbers:
            return dropped
        db.executemany("DELETE FROM entries WHERE number=?", numbers)
        dropped += len(numbers)


def is_over(db: sqlite3.Connection, quota: Quota, space: bytes | None) -> bool:
    return _is_over(*held(db, space), quota)


def _is_over(entries: int, size: int, quota: Quota) -> bool:
    return _over(entries, quota.entries) > 0 or _over(size, quota.bytes) > 0


def _over(held: int, limit: int | None, room: int = 0) -> int:
    """How much is too much, with a sixteenth (``room``) to spare."""
    if limit is None:
        return 0
    return held - (limit - limit // room if room else limit)


def evict_group(db: sqlite3.Connection, group: bytes, maxsize: int) -> int:
    row = db.execute("SELECT entries FROM groups WHERE name=?", (group,)).fetchone()
    over = (row[0] if row else 0) - maxsize
    if over <= 0:
        return 0
    oldest = "DELETE FROM entries WHERE number IN (SELECT number FROM entries WHERE grp=? ORDER BY used LIMIT ?)"
    return db.execute(oldest, (group, over)).rowcount


def touch(db: sqlite3.Connection, keys: Iterable[bytes], tick: int) -> None:
    db.executemany("UPDATE entries SET used=? WHERE key=?", [(tick, key) for key in keys])


def sweep(db: sqlite3.Connection, now: float, wall: float, boot: bytes) -> int:
    """Delete expired entries whose grace is over."""
    db.execute("DELETE FROM groups WHERE entries<=0")
    over = (
        "DELETE FROM entries WHERE number IN (SELECT number FROM entries WHERE deadline IS NOT NULL"
        " AND deadline+grace+shift<=? AND (boot<>? OR deadline+grace<=?) LIMIT 2000)"
    )
    return db.execute(over, (wall, boot, now)).rowcount


def can_expire(db: sqlite3.Connection) -> bool:
    """Whether there is an entry that will be over one day."""
    return db.execute("SELECT 1 FROM entries WHERE deadline IS NOT NULL LIMIT 1").fetchone() is not None


def reap_tags(db: sqlite3.Connection, limit: int, *, going_on: bool = False) -> bool:
    """Forget the tags written longest ago, some at a time: everybody waits meanwhile. Tells whether there are more to forget.

    What depends on tags without a row is dropped with them.
    """
    many, enough = db.execute("SELECT count(*) FROM tags").fetchone()[0], limit // 2
    if many <= (enough if going_on else limit):
        return False
    oldest = "DELETE FROM tags WHERE id IN (SELECT id FROM tags WHERE id<>? AND markers IS NULL ORDER BY moved LIMIT ?)"
    gone = db.execute(oldest, (FLOOR, min(many - enough, _REAPED))).rowcount
    if gone:
        db.execute("UPDATE tags SET version=? WHERE id=?", (nonce(), FLOOR))
    return bool(gone) and many - gone > enough


def shrink(db: sqlite3.Connection, path: str) -> int:
    """Outside a transaction: give free pages back and copy the log into the file when it has grown.

    Returns the log's bytes, if it could not be cut off though it should be; else 0. ``path``: where the file really is.
    """
    free = db.execute("PRAGMA freelist_count").fetchone()[0]
    if free > 256:
        db.execute(f"PRAGMA incremental_vacuum({min(free - 64, 2048)})").fetchall()
    try:
        size = os.stat(path + "-wal").st_size  # noqa: PTH116 - text in, number out
    except OSError:
        return 0
    if size > _LOG_BYTES:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return size if size > 4 * _LOG_BYTES and not _cut(db) else 0


def _cut(db: sqlite3.Connection) -> bool:
    """The log's length to nothing, unless somebody reads from it: who does is not waited for, for others wait meanwhile."""
    patience = db.execute("PRAGMA busy_timeout").fetchone()[0]
    db.execute("PRAGMA busy_timeout=0").fetchall()
    try:
        busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        db.execute(f"PRAGMA busy_timeout={int(patience)}").fetchall()
    return not busy
