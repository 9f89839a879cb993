"""Physically out of the file: SQLite's free pages and its log keep what was deleted until they are written again.

``VACUUM`` copies what lives into a temporary database and back, so nothing else is in the file afterwards, whenever it was
deleted; a checkpoint that truncates leaves the log empty. What is deleted is decided elsewhere.
"""

from __future__ import annotations

import glob
import sqlite3
from pathlib import Path

from agent_cache.backends.disk import files
from agent_cache.backends.disk.writer import Job

__all__ = ["PAUSES", "aside", "cut_job", "rewrite_job"]

PAUSES = (0.01, 0.05, 0.1, 0.25, 0.5)
"""Seconds between tries to cut the log off."""


def rewrite_job() -> Job:
    """For the writer thread, outside a transaction. Others wait with their writes, and go on reading."""

    def work(db: sqlite3.Connection) -> None:
        db.execute("VACUUM").fetchall()

    return Job(work, plain=True)


def cut_job() -> Job:
    """The log into the file and its length to nothing; tells whether nobody was in the way."""

    def work(db: sqlite3.Connection) -> bool:
        busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    return Job(work, plain=True)


def aside(path: str) -> dict[str, int]:
    """Damaged files that were set aside: what is in them nobody can say."""
    place = Path(files.real(path))
    many = len([*place.parent.glob(f"{glob.escape(place.name)}.corrupt-*")])
    return {"set_aside": many} if many else {}
