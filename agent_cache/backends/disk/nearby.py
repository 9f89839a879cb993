"""Entries that were read a moment ago, decoded: what they cost is not paid again while they are what the file holds.

What belongs here: keeping some of them, within bounds. Whether one is current is decided by whoever asks
(:mod:`.store`); :mod:`.watch` tells when the file has changed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

from agent_cache.backends.disk.names import TagSet
from agent_cache.backends.disk.watch import State, Watch
from agent_cache.codecs import Stored, ToolCodec, codec_for

__all__ = ["Near", "Nearby"]

_MOST_BYTES = 32 * 1024 * 1024
_LARGEST = _MOST_BYTES // 32
_EACH = 1_024  # bytes of what is kept beside payload and value: the entry, its columns, the names of its tags
_GONE: Stored = codec_for(Any).freeze(None)


class Near:
    """One of them. ``row`` is as it was read: while the file holds the same, decoding it again gives the same."""

    __slots__ = (
        "codec", "created", "deadline", "home", "key", "load_seconds", "names", "row", "state", "stored", "visited",
    )  # fmt: skip

    stored: Stored
    deadline: float

    def __init__(
        self, home: Watch, key: bytes, names: TagSet, codec: ToolCodec, row: Sequence[Any], stored: Stored
    ) -> None:
        _, _, _, _, self.created, deadline, _, self.load_seconds, _ = row
        self.home = home
        self.key = key
        self.names = names
        self.codec = codec
        self.row = row
        self.stored = stored
        self.deadline = math.inf if deadline is None else deadline
        self.visited = False
        self.state: State | None = None
        """In which state of the file it was found there."""

    @property
    def size(self) -> int:
        return len(self.row[1]) + self.stored.size + _EACH


class Nearby:
    """By key, the oldest goes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0
        self.entries: dict[bytes, Near] = {}

    def add(self, near: Near) -> None:
        if near.size > _LARGEST:
            return
        with self._lock:
            self._drop(near.key)
            self.entries[near.key] = near
            self._bytes += near.size
            while self._bytes > _MOST_BYTES:
                self._drop(next(iter(self.entries)))

    def _drop(self, key: bytes) -> None:
        near = self.entries.pop(key, None)
        if near is not None:
            self._bytes -= near.size
            near.deadline = -math.inf  # before the value: who serves it takes the value first
            near.stored = _GONE
            near.row = (None, b"", None, None, 0.0, None, 0.0, 0.0, 0.0)

    def clear(self) -> None:
        with self._lock:
            for key in list(self.entries):
                self._drop(key)

    def visited(self) -> list[bytes]:
        """Those that were served without asking since this was called last."""
        with self._lock:
            found = [near for near in self.entries.values() if near.visited]
        for near in found:
            near.visited = False
        return [near.key for near in found]
