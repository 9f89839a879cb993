"""Whether a cache file is sound: SQLite's own check, the sums that triggers keep, the tags' rows.

Nothing is changed unless it is asked for. An entry's own soundness is looked at by whoever scans.
"""

from __future__ import annotations

import glob
import json
import sqlite3
from pathlib import Path
from typing import Any

from agent_cache.backends.base import Finding
from agent_cache.backends.disk import files
from agent_cache.backends.disk.reading import NotReady
from agent_cache.backends.disk.schema import FLOOR
from agent_cache.backends.disk.store import EntryStore
from agent_cache.backends.disk.writer import Job
from agent_cache.clock import nonce

__all__ = ["mend_job", "sound"]

_NONCE = 12
_MOST = 20
_SUMS = "SELECT grp, count(*), total(size) FROM entries GROUP BY grp"
_REPAIR = "integrity_check(repair=True)"


def sound(store: EntryStore) -> list[Finding]:
    """What is found, on a thread of its own. Raises NotReady, BackendError."""
    handle = store._reader()
    try:
        with handle.lock:
            db = handle.db
            told = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({_MOST})").fetchall()]
            if told != ["ok"]:
                return [_damaged("; ".join(told)[:500])]
            return [Finding("ok", "file", "SQLite finds nothing wrong"), _sums(db), _tags(db), _aside(store.path)]
    except sqlite3.Error as error:
        if not files.is_damage(error):
            raise store._failed(error, handle) from error
        return [_damaged(str(error))]


def _damaged(text: str) -> Finding:
    return Finding("error", "file", text, f"{_REPAIR} sets the file aside and begins an empty one")


def _sums(db: sqlite3.Connection) -> Finding:
    kept = {name: (entries, size) for name, entries, size in db.execute("SELECT name, entries, bytes FROM groups")}
    counted = {name: (many, int(size)) for name, many, size in db.execute(_SUMS)}
    wrong = [name for name in {*kept, *counted} if kept.get(name, (0, 0)) != counted.get(name, (0, 0))]
    if wrong:
        return Finding("error", "sums", f"{len(wrong)} tools' entries are counted wrongly", f"{_REPAIR} counts anew")
    return Finding("ok", "sums", f"{sum(many for many, _ in counted.values())} entries add up")


def _tags(db: sqlite3.Connection) -> Finding:
    many = 0
    wrong = 0
    for row in db.execute("SELECT id, version, fence, markers FROM tags"):
        many += 1
        wrong += not _is_tag(row)
    if wrong:
        return Finding("error", "rows", f"{wrong} of {many} rows are not ours", f"{_REPAIR} drops them and all entries")
    return Finding("ok", "rows", f"{many} rows")


def _aside(path: str) -> Finding:
    """A file that is found to be damaged when it is opened, or read, is set aside at once."""
    place = Path(files.real(path))
    many = sum(
        1
        for each in place.parent.glob(f"{glob.escape(place.name)}.corrupt-*")
        if not each.name.endswith(("-wal", "-shm"))
    )
    if many:
        return Finding(
            "warning", "set aside", f"{many} damaged files stand beside it", "look into them, or delete them"
        )
    return Finding("ok", "set aside", "none")


def _is_tag(row: tuple[Any, ...]) -> bool:
    name, version, fence, markers = row
    if not all(isinstance(part, bytes) for part in (name, version, fence)):
        return False
    if len(version) != _NONCE or len(fence) != _NONCE or (name != FLOOR and len(name) != 16):
        return False
    try:
        marks = json.loads(markers) if markers else []
        return all(
            isinstance(mark[0], str) and isinstance(mark[1], (int, float)) and isinstance(mark[2], str)
            for mark in marks
        )
    except (TypeError, ValueError, LookupError):
        return False


def mend_job(store: EntryStore, findings: list[Finding]) -> Job | None:
    """What mends it, for the writer thread; None: nothing to do."""
    wrong = {finding.check for finding in findings if finding.level == "error"}
    if "file" in wrong:
        ready = store._ready
        return None if ready is None else store.ready_job(NotReady(ready))
    if not wrong:
        return None

    def mend(db: sqlite3.Connection) -> None:
        if "rows" in wrong:
            rows = db.execute("SELECT id, version, fence, markers FROM tags").fetchall()
            for row in rows:
                if row[0] != FLOOR and not _is_tag(row):
                    db.execute("DELETE FROM tags WHERE id=?", (row[0],))
            # what depended on a tag without a row must not come back under the floor's version, nor any load be kept
            db.execute("UPDATE tags SET version=?, fence=? WHERE id=?", (nonce(), nonce(), FLOOR))
            db.execute("DELETE FROM entries")
        if "sums" in wrong:
            db.execute("DELETE FROM groups")
            db.execute(f"INSERT INTO groups {_SUMS}")

    return Job(mend, durable=True, after=store._cool)
