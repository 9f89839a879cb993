"""Entries as they were when they were opened: what comes from Redis byte for byte as it came before is not opened again.

What a call returned is a pure function of the bytes of its entry, so nothing here can be stale: whether an entry is
current is decided anew for each read, by the stamp. Only so much is kept (bytes as they came; what was made of them takes
about as much again).
"""

from __future__ import annotations

from agent_cache.backends.redis.plans import Plan
from agent_cache.backends.redis.records import EntryRecord
from agent_cache.codecs import Stored, ToolCodec

__all__ = ["Opened", "Recent"]

_MOST_BYTES = 4 << 20
_LARGEST = 64 << 10
_OVERHEAD = 500  # bytes of an entry beside its own


class Opened:
    """What was made of a read. ``stamp``: what an entry must have been loaded under to be current; ``stored``: of a hit."""

    __slots__ = ("codec", "entry", "plan", "raw", "stamp", "stored")

    def __init__(self, raw: object, plan: Plan, codec: ToolCodec, stamp: bytes | None) -> None:
        self.raw = raw
        self.plan = plan
        self.codec = codec
        self.stamp = stamp
        self.entry: EntryRecord | None = None
        self.stored: Stored | None = None


class Recent:
    """The hits opened last, by their calls' keys. Several threads may use it."""

    def __init__(self) -> None:
        self._held: dict[bytes, Opened] = {}
        self._bytes = 0

    def get(self, key: bytes, raw: object, plan: Plan, codec: ToolCodec, stamp: bytes | None) -> Opened | None:
        """The same entry under the same key, tags and codec, opened before."""
        held = self._held.get(key)
        if held is None or held.stamp != stamp or held.raw != raw or held.plan is not plan or held.codec is not codec:
            return None
        return held

    def put(self, key: bytes, opened: Opened) -> None:
        """Keep a hit, if it is no giant."""
        raw = opened.raw
        if not isinstance(raw, bytes) or _size(opened) > _LARGEST:
            return
        if self._bytes > _MOST_BYTES:
            self.clear()
        former = self._held.get(key)
        self._bytes += _size(opened) + _OVERHEAD - (0 if former is None else _size(former) + _OVERHEAD)
        self._held[key] = opened

    def clear(self) -> None:
        self._held.clear()
        self._bytes = 0


def _size(opened: Opened) -> int:
    """Bytes: as it came, or if it was packed what was in it."""
    raw, stored = opened.raw, opened.stored
    return max(len(raw) if isinstance(raw, bytes) else 0, stored.size if stored is not None else 0)
