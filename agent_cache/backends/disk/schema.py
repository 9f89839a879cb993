"""The tables, as SQL text. A change of them raises ``VERSION``; files of a newer version are set aside."""

from __future__ import annotations

__all__ = ["APPLICATION", "FLOOR", "TABLES", "VERSION", "lookup_sql", "tags_sql"]

APPLICATION = 0x41674361
VERSION = 1
FLOOR = b""
"""The row of ``tags`` that holds, as version, what every tag without a row has, and as fence the file's id."""

TABLES = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE tags (
    id BLOB PRIMARY KEY, version BLOB NOT NULL, fence BLOB NOT NULL, markers TEXT, writer TEXT, moved INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE entries (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, grp BLOB NOT NULL, chain BLOB, size INTEGER NOT NULL,
    used INTEGER NOT NULL, stamp BLOB NOT NULL, boot BLOB NOT NULL, created REAL NOT NULL, deadline REAL,
    shift REAL NOT NULL, load_seconds REAL NOT NULL, seal BLOB, payload BLOB NOT NULL
);
CREATE INDEX entries_used ON entries (used);
CREATE INDEX entries_group ON entries (grp, used);
CREATE INDEX entries_chain ON entries (chain) WHERE chain IS NOT NULL;
CREATE INDEX entries_deadline ON entries (deadline + shift) WHERE deadline IS NOT NULL;
CREATE TABLE groups (
    name BLOB PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE leads (key BLOB PRIMARY KEY, token BLOB NOT NULL, holder BLOB NOT NULL, boot BLOB NOT NULL,
    expires REAL NOT NULL) WITHOUT ROWID;
CREATE TRIGGER entries_added AFTER INSERT ON entries BEGIN
    INSERT OR IGNORE INTO groups VALUES (new.grp, 0, 0);
    UPDATE groups SET entries = entries + 1, bytes = bytes + new.size WHERE name = new.grp;
END;
CREATE TRIGGER entries_gone AFTER DELETE ON entries BEGIN
    UPDATE groups SET entries = entries - 1, bytes = bytes - old.size WHERE name = old.grp;
END;
COMMIT;
"""

_ENTRY = "NULL, stamp, payload, seal, boot, created, deadline, shift, load_seconds"
_TAG = "id, version, fence, markers, writer, NULL, NULL, NULL, NULL"
_LIMIT = 64 * 1024 * 1024  # a row larger than this is not ours: not read
_READ = _ENTRY.replace("payload", f"CASE WHEN length(payload) <= {_LIMIT} THEN payload END")


def lookup_sql(marks: str) -> str:
    """One entry and its tags, as of one moment."""
    return f"SELECT {_READ} FROM entries WHERE key=? UNION ALL SELECT {_TAG} FROM tags WHERE id IN ({marks})"  # noqa: S608


def tags_sql(marks: str) -> str:
    return f"SELECT {_TAG} FROM tags WHERE id IN ({marks})"  # noqa: S608
