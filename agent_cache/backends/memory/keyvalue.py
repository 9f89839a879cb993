"""A plain key-value cache beside the tools' entries: its keys are text, theirs are digests."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from agent_cache.backends.base import NewEntry
from agent_cache.backends.memory.records import (
    Entry,
    Snapshot,
    Token,
)
from agent_cache.backends.memory.store import EntryStore
from agent_cache.bounds import refuse_larger
from agent_cache.clock import nonce, seconds
from agent_cache.errors import UnstorableResultError
from agent_cache.policy import checked_items, checked_key, checked_keys, checked_pattern

__all__ = ["KeyValueStore"]

_KEY_VALUE = "key-value"


class KeyValueStore(EntryStore):
    """Text to values."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value, the caller's own; ``default`` when there is none or it has expired."""
        with self._lock:
            entry = self._live(key)
            if entry is None:
                self._misses += 1
                return default
            self._hits += 1
            entry.visited = True
            stored = entry.stored
        return stored.fresh()

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store a copy. ``ttl`` in seconds; without one the backend's ``default_ttl``.

        Raises:
            UnstorableResultError: the value would not come back equal, or is too large.
        """
        self.set_many({key: value}, ttl)

    def delete(self, key: str) -> bool:
        """Remove one key; tells whether it was there."""
        with self._lock:
            entry = self._live(key)
            if entry is not None:
                self._remove(entry)
            return entry is not None

    def exists(self, key: str) -> bool:
        with self._lock:
            return self._live(key) is not None

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of ``keys`` that are there."""
        missing = object()
        found = {key: self.get(key, missing) for key in checked_keys(keys)}
        return {key: value for key, value in found.items() if value is not missing}

    def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        """Store copies of all of them; none where a value is refused."""
        frozen = {key: self._codec.freeze(value) for key, value in checked_items(items).items()}
        for stored in frozen.values():
            refuse_larger(stored.size, self.max_entry_bytes)
        lives = seconds(ttl, "ttl") if ttl is not None else self.default_ttl
        with self._lock:
            for key, stored in frozen.items():
                token = Token(Snapshot((), self._epoch), (), 0, 0, self._last)
                new = NewEntry(key, stored, lives, 0.0, _KEY_VALUE, None, ())
                if not self._insert(self._entry_type(self, token, new, self.clock()), None):
                    raise UnstorableResultError("too_large", f"{stored.size} bytes, more than its quota has room for")
        if self._is_to_be_swept:
            self._ask_to_be_swept()

    def keys(self) -> list[str]:
        with self._lock:
            return [key for key in list(self._entries) if isinstance(key, str) and self._live(key) is not None]

    def delete_pattern(self, pattern: str) -> int:
        """Remove keys matching a glob (``*``, ``?``, ``[abc]``; ``[*]`` is a literal star); returns how many."""
        glob = checked_pattern(pattern)
        return sum(self.delete(key) for key in self.keys() if fnmatch.fnmatchcase(key, glob))

    def count(self) -> int:
        return len(self.keys())

    def clear(self) -> None:
        """Drop every entry, tools' and key-value ones. Loads under way are not kept."""
        with self._lock:
            self._epoch = nonce()
            for entry in list(self._entries.values()):
                self._remove(entry)
            self.generation = object()

    def stats(self) -> dict[str, Any]:
        """``entries``, ``bytes`` (estimated), ``evictions``, the key-value surface's ``hits`` and ``misses``, and for each
        namespace with a quota what it takes up (``quotas``)."""
        entries, size, evictions = self.sizes()
        with self._lock:
            quotas = {name: share.figures() for name, share in self._shares.items()}
        return {
            "backend": "memory",
            "entries": entries,
            "bytes": size,
            "evictions": evictions,
            "hits": self._hits,
            "misses": self._misses,
            "quotas": quotas,
        }

    def _live(self, key: str) -> Entry | None:
        entry = self._entries.get(checked_key(key))
        if entry is not None and self.clock() >= entry.deadline:
            self._remove(entry)
            return None
        return entry
