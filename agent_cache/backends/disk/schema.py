"""The tables, as SQL text. A change of them raises ``VERSION``; files of another version are set aside: what they hold can be loaded again."""

from __future__ import annotations

from functools import cache

__all__ = [
    "APPLICATION",
    "FLOOR",
    "FLOOR_SQL",
    "TABLES",
    "TRIGGERS",
    "VERSION",
    "delete_sql",
    "insert_sql",
    "lookup_sql",
    "tags_sql",
]

APPLICATION = 0x41674361
VERSION = 4
FLOOR = b""
"""The row of ``tags`` that holds, as version, what every tag without a row has; as fence the file's id; and in ``moved``
how often any tag changed. That is counted by triggers, so it is whoever changes them."""
TRIGGERS = ("entries_added", "entries_gone", "tags_added", "tags_changed", "tags_gone")

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
    shift REAL NOT NULL, load_seconds REAL NOT NULL, grace REAL NOT NULL, seal BLOB, label BLOB, payload BLOB NOT NULL
);
CREATE INDEX entries_used ON entries (used);
CREATE INDEX entries_group ON entries (grp, used);
CREATE INDEX entries_chain ON entries (chain) WHERE chain IS NOT NULL;
CREATE INDEX entries_deadline ON entries (deadline + grace + shift) WHERE deadline IS NOT NULL;
CREATE TABLE groups (
    name BLOB PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER entries_added AFTER INSERT ON entries BEGIN
    INSERT OR IGNORE INTO groups VALUES (new.grp, 0, 0);
    UPDATE groups SET entries = entries + 1, bytes = bytes + new.size WHERE name = new.grp;
END;
CREATE TRIGGER entries_gone AFTER DELETE ON entries BEGIN
    UPDATE groups SET entries = entries - 1, bytes = bytes - old.size WHERE name = old.grp;
END;
CREATE TRIGGER tags_added AFTER INSERT ON tags WHEN new.id<>x'' BEGIN
    UPDATE tags SET moved = moved + 1 WHERE id=x'';
END;
CREATE TRIGGER tags_changed AFTER UPDATE OF id, version, fence, markers, writer ON tags BEGIN
    UPDATE tags SET moved = moved + 1 WHERE id=x'';
END;
CREATE TRIGGER tags_gone AFTER DELETE ON tags BEGIN
    UPDATE tags SET moved = moved + 1 WHERE id=x'';
END;
COMMIT;
"""

_LIMIT = 64 * 1024 * 1024  # a row larger than this is not ours: not read
_PAYLOAD = f"CASE WHEN length(e.payload) <= {_LIMIT} THEN e.payload END"
_ENTRY = f"e.stamp, {_PAYLOAD}, e.seal, e.boot, e.created, e.deadline, e.shift, e.load_seconds, e.grace"
_FLOOR = "SELECT t.fence, t.moved, t.version"
_COLUMNS = 15
FLOOR_SQL = f"{_FLOOR} FROM tags t WHERE t.id=x''"


def _tag_rows(many: int, blanks: int) -> str:
    marks, nothing = ",".join("?" * many), ", NULL" * blanks
    return f" UNION ALL SELECT id, version, fence, markers, writer{nothing} FROM tags WHERE id IN ({marks})"  # noqa: S608


@cache
def lookup_sql(many: int) -> str:
    """The floor with one entry (its key comes first), then so many tags, as of one moment."""
    floor = f"{_FLOOR}, {_ENTRY} FROM tags t LEFT JOIN entries e ON e.key=? WHERE t.id=x''"
    return floor + _tag_rows(many, 7) if many else floor


@cache
def tags_sql(many: int) -> str:
    """The floor, then so many tags, as of one moment."""
    return f"{_FLOOR}, NULL, NULL FROM tags t WHERE t.id=x''" + (_tag_rows(many, 0) if many else "")


@cache
def insert_sql(many: int) -> str:
    """So many entries; the number comes of itself."""
    one = "(NULL" + ",?" * _COLUMNS + ")"
    return "INSERT INTO entries VALUES " + ",".join([one] * many)  # noqa: S608


@cache
def delete_sql(many: int) -> str:
    """So many entries by key."""
    return f"DELETE FROM entries WHERE key IN ({','.join('?' * many)})"  # noqa: S608
