"""Looking through a cache file, page by page: for people and for moving entries, never on the way of a call.

Each page is a statement of its own, so no read transaction is held from one to the next and writers go on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from agent_cache.backends.base import StoredEntry
from agent_cache.backends.disk.names import TagSet
from agent_cache.backends.disk.store import EntryStore
from agent_cache.backends.disk.writer import Job
from agent_cache.backends.labels import Label, read_label

__all__ = ["last", "page", "remove_job"]

_SEAL = 16
_PAGE, _PAGE_OF_PAYLOADS = 200, 20
_LARGEST = 64 * 1024 * 1024


def _blob(name: str) -> str:
    """A column as it should be; NULL for a text, which may be none."""
    return f"CASE WHEN typeof({name})='blob' THEN {name} END"


_FITS = f"typeof(payload)='blob' AND length(payload) <= {_LARGEST}"
_COLUMNS = (
    f"number, {_blob('key')}, size, {_blob('stamp')}, {_blob('boot')}, created, deadline, shift, load_seconds, grace, "
    f"{_blob('seal')}, {_blob('label')}, {_FITS}"
)


def last(store: EntryStore) -> int:
    """The number beyond which nothing was stored before now. Raises NotReady, BackendError."""
    return int(store._select("SELECT coalesce(max(number), 0) FROM entries", ())[0][0])


def page(store: EntryStore, after: int, until: int, payloads: bool) -> list[StoredEntry]:
    """The next entries beyond the one numbered ``after``; none: that was all. Raises NotReady, BackendError."""
    payload = f"CASE WHEN {_FITS} THEN payload END" if payloads else "NULL"
    sql = f"SELECT {_COLUMNS}, {payload} FROM entries WHERE number > ? AND number <= ? ORDER BY number LIMIT ?"  # noqa: S608
    rows = store._select(sql, (after, until, _PAGE_OF_PAYLOADS if payloads else _PAGE))
    if rows:
        store._same_file()
    return [_described(store, row) for row in rows]


def _described(store: EntryStore, row: Sequence[Any]) -> StoredEntry:
    try:
        return _sound(store, row)
    except (TypeError, ValueError) as error:
        key = row[1] if isinstance(row[1], bytes) else b""
        return StoredEntry(
            key, 0, None, None, problem=f"not a row of ours: {type(error).__name__}", where=(row[0], row[1])
        )


def _sound(store: EntryStore, row: Sequence[Any]) -> StoredEntry:
    number, key, size, stamp, boot, created, deadline, shift, load_seconds, grace, _, raw, fits, payload = row
    if key is None or stamp is None or boot is None:
        raise TypeError
    where = number, key
    now = store.clock() if boot == store._boot else store.wall() - shift
    left = None if deadline is None else max(0.0, deadline - now)
    age = max(0.0, now - created)
    expired = deadline is not None and now >= deadline
    problem = "" if fits else "its payload is no blob, or too large"
    kind, rest = key[:1], key[1:]
    if kind == b"k":
        text = rest.decode("utf-8", "surrogatepass")
        if payload is not None and not problem and not _holds(store, row, TagSet(())):
            problem = "not sealed with this secret"
        return StoredEntry(
            text,
            size,
            age,
            left,
            load_seconds,
            not expired and not problem,
            payload=payload,
            problem=problem,
            where=where,
        )
    if kind != b"t":
        raise ValueError(kind)
    label = _label(store, key, stamp, raw)
    if label is None:
        if raw:
            problem = problem or "its label cannot be read"
        return StoredEntry(rest, size, age, left, load_seconds, payload=payload, problem=problem, where=where)
    names = TagSet(tuple([store._names.tag(tag) for tag in label.tags]))
    _, versions, _ = store._fetch(None, names, store._glance().known)
    current = not expired and versions.stamp == stamp
    if payload is not None and not problem and not _holds(store, row, names):
        problem = "not sealed with this secret"
    return StoredEntry(
        rest,
        size,
        age,
        left,
        load_seconds,
        current and not problem,
        label.group,
        label.tool,
        label.resource,
        label.namespace,
        label.tags,
        payload,
        grace,
        problem,
        where,
        label.arguments,
    )


def _label(store: EntryStore, key: bytes, stamp: bytes, raw: bytes | None) -> Label | None:
    if not raw:
        return None
    if store._names.sealed:
        seal, raw = raw[:_SEAL], raw[_SEAL:]
        if not store._names.holds(seal, key, stamp, raw):
            return None
    return read_label(raw)


def _holds(store: EntryStore, row: Sequence[Any], names: TagSet) -> bool:
    _, key, _, stamp, boot, created, deadline, shift, load_seconds, grace, seal, _, _, payload = row
    times = repr((created, deadline, shift, load_seconds, grace)).encode()
    return store._names.holds(seal, key, names.digest, stamp, boot, times, payload)


def remove_job(entry: StoredEntry) -> Job:
    """Take one entry out, if it is still the one that stands there."""

    def work(db: sqlite3.Connection) -> bool:
        return (
            db.execute("DELETE FROM entries WHERE number=? AND (key=? OR typeof(key)<>'blob')", entry.where).rowcount
            > 0
        )

    return Job(work)
