"""Fills that are not in the file yet: bounded, served to lookups like stored entries, written in small batches."""

from __future__ import annotations

import threading
from collections.abc import Collection
from itertools import islice
from typing import Any

from agent_cache.backends.base import NewEntry
from agent_cache.backends.disk.leases import DiskLead
from agent_cache.backends.disk.tagrows import DiskToken

__all__ = ["Pending", "Row"]

Columns = tuple[bytes, bytes, bytes | None, bytes, float, float | None, float, float, float]
"""``stamp, payload, seal, boot, created, deadline, shift, load_seconds, grace``"""
_MAX_ENTRIES, _MAX_BYTES = 4_096, 16 * 1024 * 1024


class Row:
    """An entry as it goes into the file."""

    __slots__ = ("chain", "columns", "entry", "group", "key", "label", "lead", "maxsize", "size", "token")

    def __init__(self, key: bytes, size: int, group: bytes, token: DiskToken, columns: Columns) -> None:
        self.key = key
        self.size = size
        self.group = group
        self.token = token
        self.columns = columns
        self.chain: bytes | None = None
        self.maxsize: int | None = None
        self.lead: DiskLead | None = None
        self.label: bytes | None = None
        self.entry: NewEntry | None = None
        """What is still to be labelled."""

    @property
    def stamp(self) -> bytes:
        return self.columns[0]

    @property
    def payload(self) -> bytes:
        return self.columns[1]

    def values(self, used: int) -> tuple[Any, ...]:
        """What the file holds of it, but for its number."""
        stamp, payload, seal, boot, created, deadline, shift, load_seconds, grace = self.columns
        return (
            self.key, self.group, self.chain, self.size, used,
            stamp, boot, created, deadline, shift, load_seconds, grace, seal, self.label, payload,
        )  # fmt: skip


class Pending:
    """By key, oldest first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: dict[bytes, Row] = {}
        self.bytes = 0

    def add(self, row: Row) -> bool:
        """Take it in; False where there is no room."""
        key, size, rows = row.key, len(row.columns[1]), self.rows
        with self.lock:
            too_much = self.bytes + size > _MAX_BYTES and rows  # one alone may be larger
            if len(rows) >= _MAX_ENTRIES or too_much:
                return False
            if key in rows:
                self._pop(key)  # the new one is the newest
            rows[key] = row
            self.bytes += size
            return True

    def _pop(self, key: bytes) -> None:
        row = self.rows.pop(key, None)
        if row is not None:
            self.bytes -= len(row.payload)

    def batch(self, limit: int, ids: Collection[bytes] = ()) -> list[Row]:
        """The oldest; with ``ids`` of those that depend on one of these tags."""
        with self.lock:
            if not ids:
                return list(islice(self.rows.values(), limit))
            return [row for row in self.rows.values() if not set(row.token.tags.ids).isdisjoint(ids)][:limit]

    def done(self, rows: list[Row]) -> None:
        """They are in the file, or were refused."""
        with self.lock:
            for row in rows:
                if self.rows.get(row.key) is row:
                    self._pop(row.key)

    def drop(self, chain: bytes | None, *, everything: bool = False) -> list[Row]:
        with self.lock:
            gone = [row for row in self.rows.values() if everything or row.chain == chain]
            for row in gone:
                self._pop(row.key)
            return gone
