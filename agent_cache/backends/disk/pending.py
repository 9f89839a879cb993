"""Fills that are not in the file yet: bounded, served to lookups like stored entries, written in small batches."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

from agent_cache.backends.disk.leases import DiskLead
from agent_cache.backends.disk.tagrows import DiskToken

__all__ = ["Pending", "Row"]

_MAX_ENTRIES, _MAX_BYTES = 4_096, 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Row:
    """An entry as it goes into the file."""

    key: bytes
    group: bytes
    chain: bytes | None
    size: int
    stamp: bytes
    boot: bytes
    created: float
    deadline: float | None
    shift: float
    load_seconds: float
    seal: bytes | None
    payload: bytes
    token: DiskToken
    maxsize: int | None = None
    lead: DiskLead | None = None


class Pending:
    """By key, oldest first. ``doomed`` are stored keys that make room for pending ones of their group."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: dict[bytes, Row] = {}
        self.doomed: dict[bytes, bytes] = {}
        self.bytes = 0

    def add(self, row: Row, stored: int) -> int:
        """Take it in. -1: no room. Else how many more stored entries of its group have to make room."""
        with self.lock:
            if len(self.rows) >= _MAX_ENTRIES or self.bytes + len(row.payload) > _MAX_BYTES:
                return -1
            self._pop(row.key)
            self.doomed.pop(row.key, None)
            self.rows[row.key] = row
            self.bytes += len(row.payload)
            if row.maxsize is None:
                return 0
            mine = [other for other in self.rows.values() if other.group == row.group]
            for old in mine[: max(0, len(mine) - row.maxsize)]:
                self._pop(old.key)
            doomed = sum(group == row.group for group in self.doomed.values())
            return max(0, stored + min(len(mine), row.maxsize) - row.maxsize - doomed)

    def doom(self, keys: list[bytes], group: bytes) -> None:
        with self.lock:
            self.doomed.update({key: group for key in keys if key not in self.rows})

    def _pop(self, key: bytes) -> None:
        row = self.rows.pop(key, None)
        if row is not None:
            self.bytes -= len(row.payload)

    def batch(self, limit: int, ids: Collection[bytes] = ()) -> tuple[list[Row], list[bytes]]:
        """The oldest; with ``ids`` of those that depend on one of these tags."""
        with self.lock:
            rows = [row for row in self.rows.values() if not ids or not set(row.token.tags.ids).isdisjoint(ids)]
            return rows[:limit], list(self.doomed)

    def done(self, rows: list[Row], doomed: list[bytes]) -> None:
        """They are in the file, or were refused."""
        with self.lock:
            for row in rows:
                if self.rows.get(row.key) is row:
                    self._pop(row.key)
            for key in doomed:
                self.doomed.pop(key, None)

    def drop(self, chain: bytes | None, *, everything: bool = False) -> list[Row]:
        with self.lock:
            gone = [row for row in self.rows.values() if everything or row.chain == chain]
            for row in gone:
                self._pop(row.key)
            if everything:
                self.doomed.clear()
            return gone
