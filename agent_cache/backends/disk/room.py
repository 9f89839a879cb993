"""Keeping the file within its bounds: evicting, sweeping what is over, reaping tags, checkpointing.

Runs on the writer thread. Which values are current is not decided here.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable

from agent_cache.backends.disk.schema import FLOOR
from agent_cache.clock import nonce

__all__ = ["TAG_LIMIT", "cost", "evict", "evict_group", "reap_tags", "shrink", "sweep", "touch"]

TAG_LIMIT = 200_000
_PAGE = 4_080
_LOG_BYTES = 4 * 1024 * 1024


def cost(payload: int, stamp: int) -> int:
    """Bytes a row takes in the file, page by page, its share of the indexes included."""
    body = payload + stamp + 160
    if body > _PAGE:
        return (body + _PAGE - 1) // _PAGE * 4_096 + 300
    return 4_096 // (_PAGE // body) + 200


def evict(db: sqlite3.Connection, max_bytes: int) -> int:
    """Drop what was not used for longest until all fits."""
    dropped = 0
    while True:
        held = db.execute("SELECT total(bytes) FROM groups").fetchone()[0]
        if held <= max_bytes:
            return dropped
        over = held - max_bytes * 15 // 16
        numbers = []
        for number, size in db.execute("SELECT number, size FROM entries ORDER BY used LIMIT 1000"):
            numbers.append((number,))
            over -= size
            if over <= 0:
                break
        if not numbers:
            return dropped
        db.executemany("DELETE FROM entries WHERE number=?", numbers)
        dropped += len(numbers)


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


def reap_tags(db: sqlite3.Connection, limit: int) -> int:
    """Forget the tags written longest ago; what depends on tags without a row is dropped with them."""
    many = db.execute("SELECT count(*) FROM tags").fetchone()[0]
    if many <= limit:
        return 0
    oldest = "DELETE FROM tags WHERE id IN (SELECT id FROM tags WHERE id<>? AND markers IS NULL ORDER BY moved LIMIT ?)"
    gone = db.execute(oldest, (FLOOR, many - limit // 2)).rowcount
    if gone:
        db.execute("UPDATE tags SET version=? WHERE id=?", (nonce(), FLOOR))
    return gone


def shrink(db: sqlite3.Connection, path: str) -> None:
    """Outside a transaction: give free pages back and copy the log into the file when it has grown."""
    free = db.execute("PRAGMA freelist_count").fetchone()[0]
    if free > 256:
        db.execute(f"PRAGMA incremental_vacuum({min(free - 64, 2048)})").fetchall()
    try:
        size = os.stat(path + "-wal").st_size  # noqa: PTH116 - text in, number out
    except OSError:
        return
    if size > _LOG_BYTES:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    if size > 4 * _LOG_BYTES:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
